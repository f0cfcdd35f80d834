package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/journey"
)

type demoCommand struct {
	JSON      bool   `name:"json" help:"One JSON object a line, for machines."`
	Only      string `help:"Only the journeys whose name contains this."`
	Exchanges string `help:"Also write every API answer, webhook and event to this file, one JSON object a line." type:"path"`
}

// Run plays every journey in a process of its own ports. Without --data it works in a directory of its own, which it
// removes.
func (d demoCommand) Run(ctx context.Context, o *options) (err error) {
	if o.Data == "" {
		dir, err := os.MkdirTemp("", "sluis-demo-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		o.Data = dir
	}
	var record *journey.Recorder
	if d.Exchanges != "" {
		f, err := os.Create(d.Exchanges)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		record = journey.NewRecorder(f)
	}
	stage, err := journey.OpenStage(ctx, o.settings(), record)
	if err != nil {
		return err
	}
	failed, err := d.perform(ctx, stage)
	if err = errors.Join(err, stage.Close()); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d journeys failed", failed)
	}
	return nil
}

// perform plays the journeys one after the other.
func (d demoCommand) perform(ctx context.Context, s *journey.Stage) (failed int, err error) {
	passed := 0
	all, err := journey.All()
	if err != nil {
		return 0, err
	}
	for _, l := range bank.Logins() {
		s.Home.Bank.Unlock(l.Number) // an earlier demo on the same data may have come close to a lock
	}
	say := teller(os.Stdout, d.JSON)
	for _, j := range all {
		if !strings.Contains(j.Name, d.Only) {
			continue
		}
		if !d.JSON {
			fmt.Printf("%s  (%s)\n", j.Title, j.Name)
		}
		if s.Perform(ctx, j, say) {
			passed++
		} else {
			failed++
		}
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
	}
	if d.JSON {
		return failed, json.NewEncoder(os.Stdout).Encode(map[string]int{"passed": passed, "failed": failed})
	}
	fmt.Printf("%d journeys passed, %d failed\n", passed, failed)
	return failed, nil
}

// teller prints the steps.
func teller(w io.Writer, asJSON bool) func(journey.Line) {
	e := json.NewEncoder(w)
	return func(l journey.Line) {
		switch {
		case asJSON:
			_ = e.Encode(l) // to standard output: nobody is there to be told of a failure
		case l.Records > 0:
			fmt.Fprintf(w, "        … %d records read\n", l.Records)
		case l.OK:
			fmt.Fprintf(w, "  ok    %-60s %6d ms\n", l.Step, l.Milliseconds)
		default:
			fmt.Fprintf(w, "  FAIL  %-60s %s\n", l.Step, l.Error)
		}
	}
}
