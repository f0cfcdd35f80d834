package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCommands: what each command says first, and how it ends.
func TestCommands(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	d := desk{t, []string{"--data", data}, operator}
	client := d.prints(`client (cli_\w+)\n`, "", "client", "add", "One")[1]
	nobody := "cli_00000000000000000000000000"
	for _, c := range []struct {
		args string
		code int
		want string // of the output
	}{
		{"--version", 0, `^sluis .*, go1\.`},
		{"--help", 0, `^Usage: sluis `},
		{"statsu", 2, `^sluis: unexpected argument statsu\nDid you mean status\?\nsluis --help .*\n$`},
		{"client lst", 2, `Did you mean list\?`},
		{"dead-leters list", 2, `Did you mean dead-letters\?`},
		{"serve --per-minut 3", 2, `Did you mean --per-minute\?`},
		{"--dat x status", 2, `Did you mean --data\?`},
		{"zzzzzzzzzz", 2, `^sluis: unexpected argument zzzzzzzzzz\nsluis --help .*\n$`},
		{"serve --pace 0s", 2, `^sluis: .*--pace: want more than no time`},
		{"serve --pace -1s", 2, `--pace`},
		{"serve --per-minute 0", 2, `--per-minute: want 1 or more`},
		{"serve --per-minute=-5", 2, `--per-minute: want 1 or more`},
		{"serve --allow-webhook nowhere", 2, `^sluis: .*allow-webhook`},
		{"demo --only nomatch", 1, `^sluis: no journey has "nomatch" in its name`},
		{"client list", 0, `^ID +NAME +STATE +ADDED\ncli_`},
		{"key list " + client, 0, `^ID +LINE +ROLE`},
		{"key list " + nobody, 1, `^sluis: listing keys of cli_0+ \(client list shows all clients\): not_found`},
		{"key issue " + nobody, 1, `not_found`},
		{"key issue " + client + " --role king", 2, `^sluis: --role must be one of`},
		{"key revoke key_00000000000000000000000000", 1, `not_found`},
		{"status", 0, `^KIND +DOCUMENTS +BYTES\n`},
		{"dead-letters list", 0, `^EVENT +TOPIC`},
		{"dead-letters list --limit 0", 2, `--limit: want 1 to 1000`},
		{"dead-letters list --limit=-1", 2, `--limit: want 1 to 1000`},
		{"dead-letters redrive", 1, `name the events, or say --all`},
		{"dead-letters redrive --all", 1, `^sluis: there is no dead letter to put back`},
		{"dead-letters redrive msg_00000000000000000000000000", 1, `not_found`},
		{"audit", 0, `^{"specversion"`},
		{"audit --from yesterday", 1, `^sluis: --from: `},
		{"secret set comdirect/client_ID", 1, `no custodian has a secret "comdirect/client_ID"; those of custodians.json are: comdirect/client_id, `},
		{"secret set comdirect/client_id", 0, `^$`},
		{"rotate everything", 2, `^sluis: <key> must be one of`},
		{"rotate outer", 0, `a new version is used from now on`},
		{"versions list", 0, `^KEY +VERSION`},
		{"versions list nothing", 1, `no such key rotates`},
		{"versions disable outer 9", 1, `there is none`},
		{"versions rewrap", 0, `documents are being looked at`},
		{"verify", 0, `(?s)^LOOKED AT +COUNT\n.*\nno faults\n$`},
		{"verify " + data, 1, `is no backup`},
		{"backup " + data, 1, `a backup is never written over`},
		{"backup " + data + "-b --shards-life -1d", 2, ``},
		{"backup " + data + "-b --shards-life 0d", 1, `--shards-life 0d: want days`},
		{"restore " + data + "-none", 1, `is no backup`},
		{"flow", 0, `^flowchart LR`},
	} {
		t.Run(strings.ReplaceAll(c.args, "/", " "), func(t *testing.T) {
			out, err := desk{t, d.place, operator}.run("secret", strings.Fields(c.args)...)
			code := 0
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != c.code || !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("it ended with %d, want %d and %s:\n%s", code, c.code, c.want, out)
			}
			if code == 2 && strings.Count(out, "\n") > 3 {
				t.Errorf("more than three lines:\n%s", out)
			}
		})
	}
}

// TestExposed: whoever listens to others without TLS is told.
func TestExposed(t *testing.T) {
	got := strings.Join(exposed("127.0.0.1:1", "[::1]:2", "localhost:3", "0.0.0.0:4", ":5", "10.0.0.1:6", "sluis.example:7", ""), " ")
	if got != "0.0.0.0:4 :5 10.0.0.1:6 sluis.example:7" {
		t.Error(got)
	}
	if w := warnOpen([]string{"0.0.0.0:4"}); !strings.Contains(w, "OTHERS CAN REACH 0.0.0.0:4") || warnOpen(nil) != "" {
		t.Error(w)
	}
}
