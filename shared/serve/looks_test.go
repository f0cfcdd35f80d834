package serve_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// seen are the entries of looks, oldest first.
func (b *bed) seen() (out []domain.Entry) {
	b.t.Helper()
	all, _, err := domain.List[domain.Entry](b.t.Context(), b.tap.Store, domain.Query{Index: "entries_by_time", Limit: 1000})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range all {
		if strings.HasSuffix(e.Type, ".looked") {
			out = append(out, e)
		}
	}
	return out
}

// TestLooksAreRecorded: of one key, kind and minute there is one entry, in all processes; the next one says how often was
// looked meanwhile. Another key, kind or minute has its own.
func TestLooksAreRecorded(t *testing.T) {
	b := newBed(t, 0)
	route := func(d *serve.Door, mux *http.ServeMux) {
		d.API(mux, "GET /things", roles, d.Looking("test", "things", give("things")))
		d.API(mux, "GET /others", roles, d.Looking("test", "others", give("others")))
	}
	route(b.door, b.mux)
	second := *b
	second.mux = http.NewServeMux()
	route(&serve.Door{Store: b.tap, Env: b.env, Salt: domain.NewSecret([]byte("salt"))}, second.mux)
	client := b.client()
	_, one := b.key(client.ID, domain.RoleClient, "")
	_, two := b.key(client.ID, domain.RoleReviewer, "")
	look := func(b *bed, path, token string) {
		t.Helper()
		if w := b.ask("GET", path, "", "Authorization", "Bearer "+token); w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	for range 20 {
		look(b, "/things", one)
		look(&second, "/things", one)
	}
	if got := b.seen(); len(got) != 1 || got[0].Type != "sluis.things.looked" || got[0].Data.Details["looks"] != "1" || got[0].ClientID != client.ID ||
		got[0].Data.Actor.Kind != domain.ActorClient || got[0].Data.Origin == "" {
		t.Fatalf("recorded %+v", got)
	}
	look(b, "/things", two)
	look(b, "/others", one)
	if got := b.seen(); len(got) != 3 {
		t.Errorf("%d entries for another key and another kind", len(got)-1)
	}
	b.now = b.now.Add(time.Minute)
	look(b, "/things", one)
	if got := b.seen(); len(got) != 4 || got[3].Data.Details["looks"] != "20" {
		t.Errorf("a minute later: %+v", got[3:])
	}
}

// TestNoEntryNoLook: what cannot be recorded is not shown; and one who is refused has seen nothing.
func TestNoEntryNoLook(t *testing.T) {
	b := newBed(t, 0)
	b.door.API(b.mux, "GET /things", roles, b.door.Looking("test", "things", give("things")))
	b.door.API(b.mux, "GET /none", roles, b.door.Looking("test", "none", func(context.Context, *serve.Call) (serve.Answer, error) {
		return serve.Answer{}, domain.ErrNotFound
	}))
	_, token := b.key(b.client().ID, domain.RoleClient, "")
	b.tap.commit = errors.New("disk full")
	if w := b.ask("GET", "/things", "", "Authorization", "Bearer "+token); w.Code != 500 || strings.Contains(w.Body.String(), "things") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	b.tap.commit = nil
	b.ask("GET", "/none", "", "Authorization", "Bearer "+token)
	if got := b.seen(); len(got) != 0 {
		t.Errorf("recorded %+v", got)
	}
	b.ask("GET", "/things", "", "Authorization", "Bearer "+token)
	if got := b.seen(); len(got) != 1 || got[0].Data.Details["looks"] != "2" {
		t.Errorf("recorded %+v", got)
	}
}

// TestPseudonyms: an investor has one name in the log under one consent, and another one under another consent, for another
// client, or by another key; the client's reference is not in it.
func TestPseudonyms(t *testing.T) {
	d := &serve.Door{Salt: domain.NewSecret([]byte("salt"))}
	all := map[domain.Pseudonym]bool{}
	for _, p := range []domain.Pseudonym{d.Pseudonym("cli_1", "con_1", "anna-1"), d.Pseudonym("cli_1", "con_2", "anna-1"), d.Pseudonym("cli_2", "con_1", "anna-1"),
		d.Pseudonym("cli_1", "con_1", "anna-2"), (&serve.Door{Salt: domain.NewSecret([]byte("other"))}).Pseudonym("cli_1", "con_1", "anna-1")} {
		if all[p] = true; len(p) != len("inv_")+22 || strings.Contains(string(p), "anna") {
			t.Errorf("%s", p)
		}
	}
	if again := d.Pseudonym("cli_1", "con_1", "anna-1"); len(all) != 5 || !all[again] {
		t.Errorf("%v", all)
	}
	b := newBed(t, 0)
	b.door.Investor(b.mux, "GET /visit", func(_ context.Context, c *serve.Call) (serve.Answer, error) {
		return serve.Answer{Body: c.Visit.Actor().ID}, nil
	})
	if w := b.ask("GET", "/visit", "", "Cookie", "__Host-sluis="+b.visit(time.Hour)); !strings.HasPrefix(w.Body.String(), `"inv_`) || len(w.Body.String()) != 28 {
		t.Errorf("the visit is %s", w.Body)
	}
}
