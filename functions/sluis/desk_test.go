package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMain makes of the test's binary the command itself, if the environment says so.
func TestMain(m *testing.M) {
	if os.Getenv("SLUIS_TEST_COMMAND") == "1" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// desk is where an operator sits: the flags say what they work on.
type desk struct {
	t     *testing.T
	place []string
	who   string // as whom, on Google Cloud
}

// run runs a command as the operator, and gives what it printed.
func (d desk) run(in string, args ...string) (string, error) {
	cmd := exec.CommandContext(d.t.Context(), os.Args[0], slices.Concat(d.place, args)...)
	cmd.Dir, cmd.Stdin = d.t.TempDir(), strings.NewReader(in)
	cmd.Env = append(os.Environ(), "SLUIS_TEST_COMMAND=1", "SLUIS_IDENTITY="+d.who)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if files, _ := os.ReadDir(cmd.Dir); len(files) > 0 {
		d.t.Errorf("%q left %v on this machine", args, files)
	}
	return out.String(), err
}

// prints runs a command that must work, and print something.
func (d desk) prints(want, in string, args ...string) []string {
	d.t.Helper()
	out, err := d.run(in, args...)
	found := regexp.MustCompile(want).FindStringSubmatch(out)
	if err != nil || found == nil {
		d.t.Fatalf("%q: %v, want %s:\n%s", args, err, want, out)
	}
	return found
}

// refuses runs a command that must fail, and say why.
func (d desk) refuses(want, in string, args ...string) {
	d.t.Helper()
	if out, err := d.run(in, args...); err == nil || !regexp.MustCompile(want).MatchString(out) {
		d.t.Errorf("%q: %v, want %s:\n%s", args, err, want, out)
	}
}
