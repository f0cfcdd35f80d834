package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"sluis.internal/functions/consent"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/shared/domain"
)

type demoCommand struct {
	JSON      bool   `name:"json" help:"One JSON object a line, for machines."`
	Only      string `help:"Only the journeys whose name contains this."`
	Exchanges string `help:"Also write every API answer, webhook and event to this file, one JSON object a line." type:"path"`
}

// stepTime bounds one step; the largest portfolio takes a good part of it on a slow machine.
const stepTime = 3 * time.Minute

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
	var record *recorder
	if d.Exchanges != "" {
		f, err := os.Create(d.Exchanges)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		record = newRecorder(f)
	}
	stage, err := openStage(ctx, o, record)
	if err != nil {
		return err
	}
	failed, err := stage.perform(ctx, d)
	if err = errors.Join(err, stage.close()); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d journeys failed", failed)
	}
	return nil
}

// stage is a running home with a client of its own, for journeys to be played on.
type stage struct {
	home   *home
	inbox  *inbox
	token  string
	record *recorder
}

// openStage starts a home on free ports, adds a client, and has its webhooks sent to an inbox.
func openStage(ctx context.Context, o *options, record *recorder) (*stage, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &stage{inbox: newInbox(l, record), record: record}
	go func() { _ = s.inbox.serve() }() // ends with its listener
	if err := s.start(ctx, o); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := s.client(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// start runs a home on o's data until stop or close.
func (s *stage) start(ctx context.Context, o *options) error {
	receiver, err := netip.ParseAddrPort(s.inbox.listener.Addr().String())
	if err != nil {
		return err
	}
	free := "127.0.0.1:0"
	s.home, err = openHome(ctx, o, settings{API: free, Pages: free, Bank: free, Webhooks: []netip.AddrPort{receiver},
		PerMinute: 100_000, Interval: time.Millisecond, BankOptions: bank.Options{Slow: 200 * time.Millisecond, RetryAfter: time.Second}})
	if err != nil {
		return err
	}
	if s.record != nil {
		s.record.events(s.home.handlers)
	}
	s.home.begin(ctx)
	return nil
}

// stop ends the home as an interrupted process does; start may follow.
func (s *stage) stop() error {
	s.home.cancel(nil)
	return errors.Join(s.home.wait(), s.home.close())
}

// client adds the client whose journeys these are, and its endpoint.
func (s *stage) client(ctx context.Context) error {
	c, err := consent.AddClient(ctx, s.home, s.home.env, "Demo Wealth", consent.Terms{})
	if err != nil {
		return err
	}
	_, token, err := consent.IssueKey(ctx, s.home, s.home.env, c.ID, domain.RoleClient, "", "demo")
	if err != nil {
		return err
	}
	s.token = string(token.Reveal())
	var made struct {
		Secret string `json:"secret"`
	}
	if err := s.app("").do(ctx, http.MethodPost, "/v1/endpoints", map[string]string{"url": s.inbox.url()}, &made); err != nil {
		return err
	}
	return s.inbox.trust(made.Secret)
}

func (s *stage) app(name string) *app {
	return &app{api: s.home.apiURL(), token: s.token, http: http.DefaultClient, inbox: s.inbox, record: s.record, name: name}
}

func (s *stage) player(name string) *player {
	stay := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &player{app: s.app(name), bank: s.home.bank,
		investor: &investor{pages: s.home.pagesURL(), http: stay, record: s.record, custodian: "sandbox-comdirect"}}
}

func (s *stage) close() error { return errors.Join(s.stop(), s.inbox.listener.Close()) }

// line is one step as --json prints it.
type line struct {
	Journey      string `json:"journey"`
	Step         string `json:"step"`
	OK           bool   `json:"ok"`
	Milliseconds int64  `json:"ms"`
	Records      int    `json:"records,omitzero"` // read so far, of a step that is still going on
	Error        string `json:"error,omitempty"`
}

// perform plays the journeys one after the other.
func (s *stage) perform(ctx context.Context, d demoCommand) (failed int, err error) {
	passed := 0
	all, err := journeys()
	if err != nil {
		return 0, err
	}
	for _, l := range bank.Logins() {
		s.home.bank.Unlock(l.Number) // an earlier demo on the same data may have come close to a lock
	}
	say := teller(os.Stdout, d.JSON)
	for _, j := range all {
		if !strings.Contains(j.Name, d.Only) {
			continue
		}
		if s.journey(ctx, j, say) {
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

// journey plays one journey until its end or its first failure.
func (s *stage) journey(ctx context.Context, j journey, say func(journey, *line)) bool {
	say(j, nil)
	p := s.player("demo-" + j.Name)
	p.investor.progress = func(records int) { say(j, &line{Journey: j.Name, Step: "reading", OK: true, Records: records}) }
	for _, words := range j.Steps {
		begun := time.Now()
		limited, done := context.WithTimeout(ctx, stepTime)
		err := p.play(limited, words)
		done()
		l := &line{Journey: j.Name, Step: words, OK: err == nil, Milliseconds: time.Since(begun).Milliseconds()}
		if err != nil {
			l.Error = err.Error()
		}
		say(j, l)
		if err != nil {
			return false
		}
	}
	return true
}

// teller prints a journey's title when its line is nil, and its steps after that.
func teller(w io.Writer, asJSON bool) func(journey, *line) {
	e := json.NewEncoder(w)
	return func(j journey, l *line) {
		switch {
		case asJSON && l != nil:
			_ = e.Encode(l) // to standard output: nobody is there to be told of a failure
		case asJSON:
		case l == nil:
			fmt.Fprintf(w, "%s  (%s)\n", j.Title, j.Name)
		case l.Records > 0:
			fmt.Fprintf(w, "        … %d records read\n", l.Records)
		case l.OK:
			fmt.Fprintf(w, "  ok    %-60s %6d ms\n", l.Step, l.Milliseconds)
		default:
			fmt.Fprintf(w, "  FAIL  %-60s %s\n", l.Step, l.Error)
		}
	}
}
