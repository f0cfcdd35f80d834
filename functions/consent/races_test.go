package consent

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sluis.internal/shared/domain"
)

// race runs every fn at once and returns their errors. None commits before all have read, so that they really meet.
func (h *home) race(fns ...func() error) []error {
	var met, done sync.WaitGroup
	var arrived atomic.Int64
	met.Add(len(fns))
	h.store.yield = func() {
		if arrived.Add(1) <= int64(len(fns)) {
			met.Done()
			met.Wait()
		}
	}
	errs := make([]error, len(fns))
	for i, fn := range fns {
		done.Go(func() { errs[i] = fn() })
	}
	done.Wait()
	h.store.yield = nil
	return errs
}

// times makes n of fn.
func times(n int, fn func(i int) error) []func() error {
	fns := make([]func() error, n)
	for i := range fns {
		fns[i] = func() error { return fn(i) }
	}
	return fns
}

// won counts those without an error; the others must have lost in one of the ways said.
func won(t *testing.T, errs []error, codes ...string) int {
	t.Helper()
	n := 0
	for _, err := range errs {
		lost := false
		for _, code := range codes {
			lost = lost || err != nil && domain.CodeOf(err) == code
		}
		if err == nil {
			n++
		} else if !lost {
			t.Errorf("lost with %v, want one of %v", err, codes)
		}
	}
	return n
}

func TestRedeemedByManyAtOnce(t *testing.T) {
	h := newHome(t)
	_, token := h.ask(asked)
	errs := h.race(times(10, func(i int) error {
		_, _, err := h.Redeem(context.Background(), token, strings.Repeat(strconv.Itoa(i), 43), "")
		return err
	})...)
	if n := won(t, errs, "link_used"); n != 1 || h.store.count("visit") != 1 {
		t.Errorf("%d redeemed, %d visits, want one", n, h.store.count("visit"))
	}
	wantOutcomes(t, h, "link.redeemed", 1, 9)
}

// Clicks of one browser all land in the visit that the first of them began.
func TestRedeemedByOneBrowserManyTimesAtOnce(t *testing.T) {
	h := newHome(t)
	_, token := h.ask(asked)
	var cookies sync.Map
	errs := h.race(times(10, func(int) error {
		cookie, _, err := h.Redeem(context.Background(), token, browser, "")
		cookies.Store(cookie, true)
		return err
	})...)
	n, distinct := won(t, errs, ""), 0
	cookies.Range(func(any, any) bool { distinct++; return true })
	if n != 10 || distinct != 1 || h.store.count("visit") != 1 {
		t.Errorf("%d redeemed with %d cookies, %d visits, want one visit for all", n, distinct, h.store.count("visit"))
	}
}

// wantOutcomes counts the entries of an action.
func wantOutcomes(t *testing.T, h *home, action string, allowed, denied int) {
	t.Helper()
	got := map[domain.Outcome]int{}
	for _, e := range h.store.entries(action) {
		got[e.Data.Outcome]++
	}
	if got[domain.OutcomeAllowed] != allowed || got[domain.OutcomeDenied] != denied {
		t.Errorf("%s: %v, want %d allowed and %d denied", action, got, allowed, denied)
	}
}

func TestGrantedForTwoCustodiansAtOnce(t *testing.T) {
	h := newHome(t)
	id, token := h.ask(asked)
	v := h.visit(token)
	errs := h.race(times(10, func(i int) error { return h.Grant(context.Background(), v, h.Custodians[i%2].ID, read, "") })...)
	if n := won(t, errs, "consent_granted"); n != 5 { // the winner, and those who chose the same
		t.Errorf("%d granted, want 5", n)
	}
	c, con := h.consent(id), h.connection(id)
	for i, err := range errs {
		if (err == nil) != (h.Custodians[i%2].ID == c.Custodian) {
			t.Errorf("grant for %s: %v, though the consent is for %s", h.Custodians[i%2].ID, err, c.Custodian)
		}
	}
	if c.State != domain.ConsentValid || con.Custodian != c.Custodian || con.Sequence != 1 || h.store.emitted(domain.TopicNotice) != 1 {
		t.Errorf("consent %+v, connection %+v", c, con)
	}
	wantOutcomes(t, h, "consent.granted", 5, 5)
}

func TestGrantAgainstDeny(t *testing.T) {
	h := newHome(t)
	for range 20 {
		id, token := h.ask(asked)
		v := h.visit(token)
		notices := h.store.count("notice")
		errs := h.race(
			func() error { return h.Grant(context.Background(), v, "comdirect", read, "") },
			func() error { return h.Deny(context.Background(), v, "") })
		if n := won(t, errs, "consent_valid", "consent_rejected"); n != 1 {
			t.Fatalf("%d won: %v", n, errs)
		}
		want, conn := domain.ConsentValid, domain.ConnectionAwaiting
		if errs[0] != nil {
			want, conn = domain.ConsentRejected, domain.ConnectionRemoved
		}
		if h.consent(id).State != want || h.connection(id).State != conn || h.store.count("notice") != notices+1 {
			t.Fatalf("consent %s, connection %s", h.consent(id).State, h.connection(id).State)
		}
	}
}

func TestRevokedAndTerminatedAtOnce(t *testing.T) {
	h := newHome(t)
	for range 20 {
		id, v := h.granted(asked)
		erasures := h.store.emitted(domain.TopicErasure)
		errs := h.race(
			func() error { return h.Revoke(context.Background(), v, id, "") },
			func() error { return h.tried("DELETE", "/v1/consents/"+string(id), "") })
		if n := won(t, errs, "consent_revoked", "consent_terminated"); n != 1 {
			t.Fatalf("%d won: %v", n, errs)
		}
		if h.store.emitted(domain.TopicErasure) != erasures+1 || h.connection(id).Sequence != 2 {
			t.Fatal("told or erased twice")
		}
	}
}

// tried sends a request as the client and gives its problem as an error.
func (h *home) tried(method, path, body string, headers ...string) error {
	r := h.as(h.key, method, path, body, headers...)
	if r.status < 300 {
		return nil
	}
	return &domain.Error{Kind: domain.Internal, Code: r.text("code"), Message: r.raw}
}

func TestGrantAgainstTerminate(t *testing.T) {
	h := newHome(t)
	for range 20 {
		id, token := h.ask(asked)
		v := h.visit(token)
		errs := h.race(
			func() error { return h.Grant(context.Background(), v, "comdirect", read, "") },
			func() error { return h.tried("DELETE", "/v1/consents/"+string(id), "") })
		if errs[1] != nil || errs[0] != nil && domain.CodeOf(errs[0]) != "consent_terminated" {
			t.Fatal(errs)
		}
		if h.consent(id).State != domain.ConsentTerminated || h.connection(id).State != domain.ConnectionRemoved {
			t.Fatalf("consent %s, connection %s", h.consent(id).State, h.connection(id).State)
		}
	}
}

func TestTwoNewInvitationsAtOnceLeaveOneOpen(t *testing.T) {
	h := newHome(t)
	id, first := h.ask(asked)
	var tokens [5]string
	h.race(times(len(tokens), func(i int) error {
		r := h.as(h.key, "POST", "/v1/consents/"+string(id)+"/links", `{"purpose":"consent"}`)
		tokens[i] = tokenOf(t, r)
		return nil
	})...)
	open := 0
	for _, token := range append(tokens[:], first) {
		if _, _, err := h.Redeem(context.Background(), token, browser, ""); err == nil {
			open++
		}
	}
	if open != 1 {
		t.Errorf("%d invitations are open, want 1", open)
	}
}

func TestRotatedByManyAtOnce(t *testing.T) {
	h := newHome(t)
	id := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"reviewer"}`).text("id")
	before := h.store.count("api_key")
	errs := h.race(times(6, func(int) error { return h.tried("POST", "/v1/keys/"+id+"/rotate", "") })...)
	if n := won(t, errs, "key_over"); n != 1 || h.store.count("api_key") != before+1 {
		t.Errorf("%d rotated, %d new keys, want one", n, h.store.count("api_key")-before)
	}
	wantOutcomes(t, h, "key.rotated", 1, 5)
}

func TestTheSameRequestByManyAtOnce(t *testing.T) {
	h := newHome(t)
	ids := make([]string, 8)
	links := make([]string, 8)
	h.race(times(len(ids), func(i int) error {
		r := h.as(h.key, "POST", "/v1/consents", asked, "Idempotency-Key", "k")
		ids[i], links[i] = r.text("id"), tokenOf(t, r)
		return nil
	})...)
	for i := range ids {
		if ids[i] != ids[0] || links[i] != links[0] || ids[i] == "" {
			t.Errorf("answer %d is %s %s, the first %s %s", i, ids[i], links[i], ids[0], links[0])
		}
	}
	if h.store.count("consent") != 1 || h.store.count("connection") != 1 || h.store.count("link") != 2 {
		t.Errorf("made %v", fmt.Sprint(h.census()))
	}
}

func TestNarrowedFromTwoSides(t *testing.T) {
	h := newHome(t)
	id, _ := h.ask(asked)
	h.race(
		func() error { return h.tried("PATCH", "/v1/consents/"+string(id), `{"products":["accounts","cash"]}`) },
		func() error { return h.tried("PATCH", "/v1/consents/"+string(id), `{"products":["cash"]}`) })
	if got := join(h.consent(id).Products); got != "cash" { // in either order: the narrower one stays
		t.Errorf("products %s, want cash", got)
	}
}
