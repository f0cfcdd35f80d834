package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/domain"
)

type backupCommand struct {
	Dir        string `arg:"" help:"A new folder. It gets its name when everything is in it."`
	ShardsLife string `name:"shards-life" help:"Copy the shards too, and for how long these copies will be kept, such as 7d: certificates of erasure name that day. Left out, the shards are left out." placeholder:"DAYS"`
}

// Run copies database and keys beside a running server.
func (c backupCommand) Run(ctx context.Context, o *options) error {
	life, err := days(c.ShardsLife)
	if err != nil {
		return err
	}
	return withStore(ctx, o, func(b *home.Backend) error {
		m, err := b.Backup(ctx, c.Dir, life)
		if err != nil {
			return err
		}
		fmt.Printf("%d files of installation %s are in %s: the database, and apart from it the keys\n", len(m.Files), m.Installation, c.Dir)
		if life == 0 {
			fmt.Println("The shards were left out: without the living ones, investors must connect again. With --shards-life 7d they are copied, too.")
			return nil
		}
		fmt.Printf("The shards are in there, too: destroy them by %s, as certificates of erasure say.\n", m.ShardsUntil)
		return nil
	})
}

// maxShardsLife bounds how long what was erased may lie in a copy.
const maxShardsLife = 90

// days reads a life such as 7d; 0 where none is declared.
func days(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimSuffix(text, "d"))
	if err != nil || !strings.HasSuffix(text, "d") || n < 1 || n > maxShardsLife {
		return 0, fmt.Errorf("--shards-life %s: want days, 1d to %dd", text, maxShardsLife)
	}
	return time.Duration(n) * 24 * time.Hour, nil
}

type restoreCommand struct {
	Backup string `arg:"" help:"The folder that backup made."`
}

// Run fills the empty data directory.
func (c restoreCommand) Run(o *options) error {
	if o.Backend != "" {
		return fmt.Errorf("restoring: this fills a data directory; leave --backend out and name it with --data")
	}
	r, err := home.Restore(c.Backup, o.data(), o.Shards, domain.Env{}.Now())
	if err != nil {
		return err
	}
	fmt.Printf("installation %s as it was at %s is in %s; %s.\n", r.Installation, r.MadeAt, o.data(), r.Shards)
	fmt.Println("Never run it beside the one that was backed up. Now: sluis verify, then sluis serve.")
	return nil
}

type verifyCommand struct {
	Backup string `arg:"" optional:"" help:"A folder that backup made, instead of the data: its files are held against its manifest."`
}

// Run looks whether everything that is named exists and opens.
func (c verifyCommand) Run(ctx context.Context, o *options) error {
	if c.Backup != "" {
		m, err := home.ReadManifest(c.Backup)
		if err == nil {
			fmt.Printf("%d files of installation %s, made at %s, are as the manifest says\n", len(m.Files), m.Installation, m.MadeAt)
		}
		return err
	}
	return looking(ctx, o, func(b *home.Backend) error {
		v, err := b.Verify(ctx)
		if err != nil {
			return err
		}
		return report(v)
	})
}

// report prints counts, then faults by kind; faults are a failure.
func report(v home.Verdict) error {
	names := slices.Sorted(maps.Keys(v.Counts))
	if err := table("LOOKED AT\tCOUNT", len(names), func(i int) string { return fmt.Sprintf("%s\t%d", names[i], v.Counts[names[i]]) }); err != nil {
		return err
	}
	if len(v.Faults) == 0 {
		fmt.Println("\nno faults")
		return nil
	}
	total := 0
	fmt.Fprintln(os.Stdout)
	err := table("FAULT\tCOUNT\tFIRST", len(v.Faults), func(i int) string {
		f := v.Faults[i]
		total += f.Count
		return fmt.Sprintf("%s\t%d\t%s", f.Kind, f.Count, f.First)
	})
	if err != nil {
		return err
	}
	return fmt.Errorf("%d faults; restore what is missing from a backup: sluis restore", total)
}
