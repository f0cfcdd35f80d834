package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/backend/gcp/gcptest"
)

// TestRotationDay rotates every key of a running instance, on one machine and on Google Cloud: what is kept for long is
// closed anew, versions that nothing needs are disabled and those that something needs are not, and all goes on.
func TestRotationDay(t *testing.T) {
	t.Run("local", func(t *testing.T) {
		data := filepath.Join(t.TempDir(), "data")
		rotationDay(t, desk{t, []string{"--data", data}, operator}, home.Settings{Data: data})
	})
	t.Run("gcp", func(t *testing.T) {
		p := newProject(t)
		p.vault.Grant(operator, gcptest.PublicKeyViewer, p.key("inner"))
		rotationDay(t, p.desk, p.settings())
		if n := p.vault.Calls("UpdateCryptoKeyVersion"); n != 5 {
			t.Errorf("%d versions were disabled", n)
		}
	})
}

func rotationDay(t *testing.T, d desk, set home.Settings) {
	s, err := journey.OpenStage(context.Background(), set, nil)
	if err != nil {
		t.Fatal(err)
	}
	player := s.Player("rotation")
	play := func(steps ...string) {
		t.Helper()
		for _, words := range steps {
			if err := player.Play(t.Context(), words); err != nil {
				t.Fatalf("%s: %v", words, err)
			}
		}
	}
	play("ask", "open", "grant", "login 20000043", "done", "read positions complete")
	kept := []string{"inner", "outer", "portfolio", "webhook"}
	for _, key := range kept {
		d.needs(key, 1, 1)
	}
	if got := d.prints(`(?s).*`, "", "versions", "list", "webhook", "outer", "outer")[0]; strings.Count(got, "\n") != 3 || !strings.Contains(got, "outer ") || !strings.Contains(got, "webhook ") {
		d.t.Errorf("the versions of two keys are\n%s", got)
	}
	d.refuses(`no such key rotates; want inner, outer, `, "", "versions", "list", "certificate")
	d.refuses(`it is the one that closes; rotate first`, "", "versions", "disable", "portfolio", "1")
	d.refuses(`there is none`, "", "versions", "disable", "portfolio", "2")
	for _, key := range []string{"inner", "outer", "session", "display", "portfolio", "webhook", "certificate"} {
		d.prints(`is used from now on`, "", "rotate", key)
	}
	if err := s.Stop(); err != nil { // as README says, of local keys
		t.Fatal(err)
	}
	if err := s.Start(context.Background(), set); err != nil {
		t.Fatal(err)
	}
	for _, key := range kept {
		d.needs(key, 1, 1)
		d.refuses(`1 documents open with nothing else`, "", "versions", "disable", key, "1")
	}
	d.prints(`^2 documents are being looked at`, "", "versions", "rewrap")
	d.needs("portfolio", 1, 0)
	d.needs("webhook", 1, 0)
	d.needs("portfolio", 2, 1)
	d.needs("webhook", 2, 1)
	for _, key := range []string{"session", "display", "portfolio", "webhook"} {
		d.prints(`^$`, "", "versions", "disable", key, "1")
	}
	play("refresh", "version 2", "read positions complete", "webhooks consent.granted connection.active portfolio.updated portfolio.updated")
	d.refuses(`1 documents open with nothing else`, "", "versions", "disable", "outer", "1")
	play("erase credentials")
	d.needs("outer", 1, 0)
	d.prints(`^$`, "", "versions", "disable", "outer", "1")
	play("read positions complete")
	d.prints(`"type":"sluis.data_key.rewrapped"`, "", "audit")
	d.prints(`"type":"sluis.endpoint.secret_rewrapped"`, "", "audit")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// needs waits until so many documents need a version of a key.
func (d desk) needs(key string, version, want int) {
	d.t.Helper()
	line := fmt.Sprintf(`(?m)^%s +%d +ENABLED +(?:yes)? +(\d+)$`, key, version)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		got := d.prints(line, "", "versions", "list")[1]
		if got == strconv.Itoa(want) {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("version %d of %s is needed by %s, want %d", version, key, got, want)
		}
	}
}
