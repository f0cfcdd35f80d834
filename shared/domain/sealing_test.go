package domain

import (
	"strings"
	"testing"
	"time"
)

// TestNonces: a nonce is good for what it was issued for, in the visit that it was issued to, under the key that it was
// issued with, for NonceLife, as it was spelt.
func TestNonces(t *testing.T) {
	key, now := NewSecret([]byte(strings.Repeat("k", 32))), At(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	v := &Visit{Hash: "visit"}
	good := v.Issue(key, Sealing{Subject: "conn_1", Credential: "cred_1", Generation: 2}, now)
	if len(good.Nonce) != 43 || !v.issued(key, good, now) || !v.issued(key, good, now.Add(NonceLife-time.Second)) {
		t.Fatalf("%+v is not taken in its life", good)
	}
	if again := v.Issue(key, good, now.Add(time.Second)); again.Nonce == good.Nonce {
		t.Error("a nonce comes twice")
	}
	with := func(change func(*Sealing)) Sealing { s := good; change(&s); return s }
	for name, c := range map[string]struct {
		visit *Visit
		key   Secret
		s     Sealing
		at    Time
	}{
		"another visit":       {&Visit{Hash: "other"}, key, good, now},
		"another key":         {v, NewSecret([]byte("other")), good, now},
		"another connection":  {v, key, with(func(s *Sealing) { s.Subject = "conn_2" }), now},
		"another credential":  {v, key, with(func(s *Sealing) { s.Credential = "cred_2" }), now},
		"a code":              {v, key, with(func(s *Sealing) { s.Credential = "" }), now},
		"another generation":  {v, key, with(func(s *Sealing) { s.Generation++ }), now},
		"over":                {v, key, good, now.Add(NonceLife)},
		"a longer life":       {v, key, with(func(s *Sealing) { s.Nonce = "_" + s.Nonce[1:] }), now},
		"cut off":             {v, key, with(func(s *Sealing) { s.Nonce = s.Nonce[:40] }), now},
		"none":                {v, key, with(func(s *Sealing) { s.Nonce = "" }), now},
		"with a line break":   {v, key, with(func(s *Sealing) { s.Nonce += "\n" }), now},
		"in another alphabet": {v, key, with(func(s *Sealing) { s.Nonce = strings.Repeat("+", 43) }), now},
	} {
		if c.visit.issued(c.key, c.s, c.at) {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestSealingsAreCounted: a number is taken once and in order, of connections and of challenges.
func TestSealingsAreCounted(t *testing.T) {
	conn := &Connection{ID: "conn_1"}
	for n := range int64(3) {
		next := conn.NextSealing(Env{})
		if next.Generation != n+1 || next.Subject != "conn_1" || conn.take(next) != nil || conn.take(next) != ErrSealingUsed {
			t.Errorf("number %d: %+v of %+v", n, next, conn)
		}
	}
	c := &Challenge{ID: "chal_1"}
	if err := c.Admit(""); err != ErrSealingUsed {
		t.Errorf("a code is admitted before there is one: %v", err)
	}
	for range MaxCodes {
		next := c.NextSealing()
		next.Nonce = "n"
		if err := c.take(next); err != nil {
			t.Fatal(err)
		}
		if err := c.Admit("other"); err != ErrSealingUsed {
			t.Errorf("another one is admitted: %v", err)
		}
		if err := c.Admit("n"); err != nil {
			t.Error(err)
		}
		if err := c.Admit("n"); err != ErrSealingUsed {
			t.Errorf("admitted twice: %v", err)
		}
	}
	if err := c.take(c.NextSealing()); err != ErrCodes {
		t.Errorf("one code more: %v", err)
	}
}
