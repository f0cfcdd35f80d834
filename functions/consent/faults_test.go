package consent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

// deed is one thing that this function does, prepared so that do takes effect in a single commit. prepare returns do,
// which says whether it succeeded.
type deed struct {
	name    string
	prepare func(h *home) (do func() error)
}

func deeds() []deed {
	ctx := context.Background()
	over := func(method, path, body string) func(h *home) func() error {
		return func(h *home) func() error {
			made := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"reviewer"}`).text("id")
			advisor := h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Ada"}`).text("id")
			id, _ := h.granted(asked)
			at := strings.NewReplacer("{consent}", string(id), "{key}", made, "{advisor}", advisor).Replace(path)
			return func() error {
				if r := h.as(h.key, method, at, body); r.status >= 300 {
					return fmt.Errorf("status %d: %s", r.status, r.raw)
				}
				return nil
			}
		}
	}
	visiting := func(do func(h *home, v *domain.Visit) error) func(h *home) func() error {
		return func(h *home) func() error {
			_, token := h.ask(asked)
			v := h.visit(token)
			return func() error { return do(h, v) }
		}
	}
	return []deed{
		{"create consent", over("POST", "/v1/consents", asked)},
		{"narrow", over("PATCH", "/v1/consents/{consent}", `{"products":["cash"]}`)},
		{"terminate", over("DELETE", "/v1/consents/{consent}", "")},
		{"create link", over("POST", "/v1/consents/{consent}/links", `{"purpose":"reconnect"}`)},
		{"create advisor", over("POST", "/v1/advisors", `{"name":"Bob"}`)},
		{"remove advisor", over("DELETE", "/v1/advisors/{advisor}", "")},
		{"create key", over("POST", "/v1/keys", `{"role":"client"}`)},
		{"rotate key", over("POST", "/v1/keys/{key}/rotate", "")},
		{"revoke key", over("DELETE", "/v1/keys/{key}", "")},
		{"redeem", func(h *home) func() error {
			_, token := h.ask(asked)
			return func() error {
				cookie, v, err := h.Redeem(ctx, token, browser, "")
				if err == nil && (v.Hash != domain.HashToken(cookie) || v.InvestorRef != "inv-1" || h.store.Get(ctx, &domain.Visit{Hash: v.Hash}) != nil) {
					return errors.New("the visit is not the cookie's")
				}
				return err
			}
		}},
		{"grant", visiting(func(h *home, v *domain.Visit) error { return h.Grant(ctx, v, "comdirect", read, "") })},
		{"confirm", func(h *home) func() error {
			_, v := h.granted(asked)
			return func() error { return h.Confirm(ctx, v, read, "") }
		}},
		{"deny", visiting(func(h *home, v *domain.Visit) error { return h.Deny(ctx, v, "") })},
		{"leave", visiting(func(h *home, v *domain.Visit) error { return h.Leave(ctx, v) })},
		{"revoke", func(h *home) func() error {
			id, v := h.granted(asked)
			return func() error { return h.Revoke(ctx, v, id, "") }
		}},
		{"add client", func(h *home) func() error {
			return func() error { _, err := AddClient(ctx, h.store, h.Env, "Third", Terms{}); return err }
		}},
		{"issue key", func(h *home) func() error {
			return func() error {
				_, token, err := IssueKey(ctx, h.store, h.Env, h.client.ID, KeyTerms{Role: domain.RoleClient})
				if err == nil && h.as(string(token.Reveal()), "GET", "/v1/custodians", "").status != http.StatusOK {
					return errors.New("the key issued opens nothing")
				}
				return err
			}
		}},
	}
}

// census counts documents by kind, without the log, and events.
func (h *home) census() map[string]int {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	out := map[string]int{"events": len(h.store.events)}
	for kind, docs := range h.store.docs {
		if kind != "audit_entry" {
			out[string(kind)] = len(docs)
		}
	}
	return out
}

// A commit that breaks off before it takes effect, or after, ends as if all had been well: once, and in the log.
func TestABrokenCommitTakesEffectOnce(t *testing.T) {
	for _, d := range deeds() {
		clean := newHome(t)
		do := d.prepare(clean)
		if err := do(); err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		want := clean.census()
		for _, point := range []string{"before", "after"} {
			t.Run(d.name+", "+point, func(t *testing.T) {
				h := newHome(t)
				do := d.prepare(h)
				entries := len(h.store.entries(""))
				h.store.breakAt(point, 1)
				if err := do(); err != nil {
					t.Fatal(err)
				}
				if got := h.census(); !maps.Equal(got, want) {
					t.Errorf("left %v, want %v", got, want)
				}
				fresh := len(h.store.entries("")) - entries
				if fresh < 1 || fresh > 2 || point == "before" && fresh != 1 { // an act under a consent may be told twice: done, and repeated
					t.Errorf("%d entries", fresh)
				}
			})
		}
	}
}

// A store that stays broken gives an error and leaves nothing behind: neither effect nor entry.
func TestABrokenStoreLeavesNothing(t *testing.T) {
	for _, d := range deeds() {
		t.Run(d.name, func(t *testing.T) {
			h := newHome(t)
			do := d.prepare(h)
			before, entries := h.census(), len(h.store.entries(""))
			h.store.breakAt("before", 100)
			if err := do(); err == nil {
				t.Error("no error")
			}
			if got := h.census(); !maps.Equal(got, before) || len(h.store.entries("")) != entries {
				t.Errorf("left %v, was %v", got, before)
			}
		})
	}
}

// A process that dies after its commit and before its answer: the client repeats the request with its Idempotency-Key.
func TestTheClientRepeatsAfterACrash(t *testing.T) {
	h := newHome(t)
	id, _ := h.ask(asked)
	for _, c := range []struct {
		path, body string
		kind       domain.DocumentKind
		made       int
	}{
		{"/v1/consents", asked, "consent", 1},
		{"/v1/consents/" + string(id) + "/links", `{"purpose":"manage"}`, "link", 1},
		{"/v1/advisors", `{"name":"Ada"}`, "advisor", 1},
		{"/v1/keys", `{"role":"client"}`, "api_key", 1},
	} {
		t.Run(c.path, func(t *testing.T) {
			before := h.store.count(c.kind)
			h.store.breakAt("after", 2) // so that the act's own repetition breaks off too
			first := h.as(h.key, "POST", c.path, c.body, "Idempotency-Key", c.path)
			h.store.fault = nil
			h.call(http.StatusCreated, "POST", c.path, c.body, "Idempotency-Key", c.path)
			if n := h.store.count(c.kind) - before; n != c.made {
				t.Errorf("%d made, want %d (first answer %d)", n, c.made, first.status)
			}
		})
	}
}

// Every entry tells of who acted, and no commit goes without one: the store refuses it. Here: each deed leaves exactly
// one entry, allowed.
func TestEachDeedLeavesItsEntry(t *testing.T) {
	for _, d := range deeds() {
		t.Run(d.name, func(t *testing.T) {
			h := newHome(t)
			do := d.prepare(h)
			before := map[domain.EntryID]bool{}
			for _, e := range h.store.entries("") {
				before[e.ID] = true
			}
			if err := do(); err != nil {
				t.Fatal(err)
			}
			fresh := slices.DeleteFunc(h.store.entries(""), func(e domain.Entry) bool { return before[e.ID] })
			if len(fresh) != 1 || fresh[0].Data.Outcome != domain.OutcomeAllowed || fresh[0].ClientID == "" || fresh[0].Subject == "" || fresh[0].Data.Actor.ID == "" {
				t.Errorf("entries %+v", fresh)
			}
		})
	}
}
