package domain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"testing"
	"time"
)

// ledger is a Store in memory, one commit at a time, that keeps the port's promises and breaks on demand.
type ledger struct {
	mu      sync.Mutex
	docs    map[string][]byte
	events  []Event
	entries []*Entry
	commits int
	fault   func(commit int) (before, after error) // of the nth commit, from 1
	reruns  int                                    // how often fn runs in vain before it counts, as under contention
}

func newLedger(docs ...Document) *ledger {
	l := &ledger{docs: map[string][]byte{}}
	for _, d := range append([]Document{&Client{ID: "cli_1", State: ClientActive}}, docs...) {
		l.docs[place(d)], _ = json.Marshal(d)
	}
	return l
}

func place(d Document) string { return string(d.Kind()) + "/" + d.Key() }

func (l *ledger) load(d Document) error {
	body, ok := l.docs[place(d)]
	if !ok {
		return fmt.Errorf("reading: %w", ErrNotFound)
	}
	return json.Unmarshal(body, d)
}

func (l *ledger) Get(_ context.Context, docs ...Document) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Each(docs, l.load)
}

func (l *ledger) List(context.Context, Query) (Page, error) {
	return Page{}, errors.New("no lists here")
}

func (l *ledger) Commit(_ context.Context, fn func(Tx) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range l.reruns {
		if err := fn(&ledgerTx{l: l, docs: map[string][]byte{}}); err != nil {
			return err
		}
	}
	tx := &ledgerTx{l: l, docs: map[string][]byte{}}
	if err := fn(tx); err != nil {
		return err
	}
	l.commits++
	var before, after error
	if l.fault != nil {
		before, after = l.fault(l.commits)
	}
	if before != nil {
		return before
	}
	if len(tx.entries) == 0 && len(tx.docs)+len(tx.events) > 0 {
		return errors.New("no entry")
	}
	maps.Copy(l.docs, tx.docs)
	l.events, l.entries = append(l.events, tx.events...), append(l.entries, tx.entries...)
	return after
}

type ledgerTx struct {
	l       *ledger
	docs    map[string][]byte
	events  []Event
	entries []*Entry
}

func (tx *ledgerTx) Get(docs ...Document) error {
	if len(tx.docs)+len(tx.events)+len(tx.entries) > 0 {
		return errors.New("read after a write")
	}
	return Each(docs, tx.l.load)
}
func (tx *ledgerTx) Put(d Document) (err error) { tx.docs[place(d)], err = json.Marshal(d); return err }
func (tx *ledgerTx) Delete(d Document) error    { delete(tx.docs, place(d)); return nil }
func (tx *ledgerTx) Emit(e Event) error         { tx.events = append(tx.events, e); return nil }
func (tx *ledgerTx) Record(e *Entry) error      { tx.entries = append(tx.entries, e); return nil }

var ctx = context.Background()

func reads() Act {
	return Act{Action: "portfolio.read", Function: "portfolio", Actor: Actor{Kind: ActorClient, ID: "cli_1", Key: "key_1"},
		ConsentID: "con_1", ClientID: "cli_1", Origin: "origin", Details: map[string]string{"given": "1"}}
}

func TestPerformActsAndRecordsInOneCommit(t *testing.T) {
	l := newLedger(full())
	a := reads()
	err := Perform(ctx, still, l, a, func(tx Tx, c *Consent, act *Act) error {
		act.Subject, act.Details["count"] = "pf_1", "7"
		c.Language = "fr"
		if err := tx.Emit(Event{Topic: TopicNotice, Subject: "evt_1"}); err != nil {
			return err
		}
		return tx.Put(c)
	})
	if err != nil || l.commits != 1 || len(l.entries) != 1 || len(l.events) != 1 {
		t.Fatalf("%v; %d commits, %d entries, %d events", err, l.commits, len(l.entries), len(l.events))
	}
	e := *l.entries[0]
	if _, err := ParseID[EntryID](string(e.ID)); err != nil {
		t.Error(err)
	}
	e.ID = ""
	want := Entry{SpecVersion: "1.0", Source: "/functions/portfolio", Type: "sluis.portfolio.read", Subject: "pf_1", Time: noon,
		ClientID: "cli_1", Data: EntryData{Actor: a.Actor, ConsentID: "con_1", ConnectionID: "conn_1", Custodian: "comdirect",
			Purpose: "tax", Outcome: OutcomeAllowed, Origin: "origin", Details: map[string]string{"given": "1", "count": "7"}}}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("entry %+v\nwant  %+v", e, want)
	}
	if len(a.Details) != 1 || a.Subject != "" {
		t.Errorf("the caller's act was changed: %+v", a)
	}
	kept := &Consent{ID: "con_1"}
	if err := l.Get(ctx, kept); err != nil || kept.Language != "fr" {
		t.Errorf("%v, %+v", err, kept)
	}
}

func TestPerformSaysWhatTheConsentSays(t *testing.T) {
	l := newLedger(full())
	if err := Perform(ctx, still, l, reads(), func(Tx, *Consent, *Act) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := l.entries[0].Subject; got != "con_1" {
		t.Errorf("an act without a subject is about %q, want the consent", got)
	}
}

func TestPerformRefusesAndRecordsTheRefusal(t *testing.T) {
	ended := full()
	ended.State = ConsentRevoked
	lost := full()
	lost.ClientID = "cli_lost"
	for _, c := range []struct {
		name   string
		store  *ledger
		act    func(*Act)
		kind   Kind
		code   string
		client ClientID // in whose log it stands
	}{
		{"ended", newLedger(ended), func(*Act) {}, Forbidden, "consent_revoked", "cli_1"},
		{"another's", newLedger(full()), func(a *Act) { a.ClientID = "cli_2" }, Forbidden, "consent_not_yours", "cli_1"},
		{"beyond its scope", newLedger(full()), func(a *Act) { a.Product = ProductOrders }, Forbidden, "consent_scope", "cli_1"},
		{"unknown", newLedger(), func(*Act) {}, NotFound, "consent_unknown", "cli_1"},
		{"of a suspended client", newLedger(full(), &Client{ID: "cli_1", State: ClientSuspended}), func(*Act) {}, Forbidden, "client_suspended", "cli_1"},
		{"of a closed client", newLedger(full(), &Client{ID: "cli_1", State: ClientClosed}), func(*Act) {}, Forbidden, "client_suspended", "cli_1"},
		{"of an unknown client", newLedger(lost), func(a *Act) { a.ClientID = "" }, Forbidden, "client_suspended", "cli_lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := reads()
			c.act(&a)
			ran := false
			err := Perform(ctx, still, c.store, a, func(Tx, *Consent, *Act) error { ran = true; return nil })
			if ran || KindOf(err) != c.kind || CodeOf(err) != c.code {
				t.Errorf("ran %v, %v", ran, err)
			}
			if len(c.store.entries) != 1 || len(c.store.events) != 0 {
				t.Fatalf("entries %v", c.store.entries)
			}
			e := c.store.entries[0]
			if e.Data.Outcome != OutcomeDenied || e.Data.Reason != c.code || e.ClientID != c.client || e.Type != "sluis.portfolio.read" ||
				e.Data.Actor != a.Actor || e.Data.ConsentID != "con_1" || e.Data.Origin != "origin" {
				t.Errorf("entry %+v", e)
			}
		})
	}
}

func TestPerformAbortsWithTheEffect(t *testing.T) {
	l := newLedger(full())
	failure := errors.New("the effect failed")
	err := Perform(ctx, still, l, reads(), func(tx Tx, c *Consent, _ *Act) error {
		if err := tx.Put(c); err != nil {
			return err
		}
		return failure
	})
	if !errors.Is(err, failure) || len(l.entries) != 0 || l.commits != 0 {
		t.Errorf("%v, %d entries, %d commits", err, len(l.entries), l.commits)
	}
}

// What fn forbids is a refusal like the consent's own. Any other error of fn is no refusal: the state does not allow the
// act, or something that it needs is not there.
func TestPerformRecordsWhatFnForbids(t *testing.T) {
	for code, wanted := range map[string]struct {
		err      error
		recorded int
	}{
		"mine":      {refusal("mine", "not now"), 1},
		"over":      {&Error{Kind: Conflict, Code: "over"}, 0},
		"not_found": {ErrNotFound, 0},
		"internal":  {errors.New("broken"), 0},
	} {
		l := newLedger(full())
		err := Perform(ctx, still, l, reads(), func(_ Tx, c *Consent, _ *Act) error {
			c.Custodian = "changed in vain"
			return fmt.Errorf("acting: %w", wanted.err)
		})
		if CodeOf(err) != code || len(l.entries) != wanted.recorded {
			t.Errorf("%s: %v, entries %v", code, err, l.entries)
		}
		for _, e := range l.entries {
			if e.Data.Outcome != OutcomeDenied || e.Data.Reason != code || e.Data.Custodian != "comdirect" || e.ClientID != "cli_1" {
				t.Errorf("entry %+v", e)
			}
		}
	}
}

// Whatever only takes away is done for a suspended client's consents too.
func TestPerformTakesAwayWhateverBecameOfTheClient(t *testing.T) {
	l, a := newLedger(full(), &Client{ID: "cli_1", State: ClientSuspended}), reads()
	a.Late = true
	if err := Perform(ctx, still, l, a, func(Tx, *Consent, *Act) error { return nil }); err != nil || len(l.entries) != 1 {
		t.Errorf("%v, entries %v", err, l.entries)
	}
}

func TestPerformUnderContentionRecordsOnce(t *testing.T) {
	l := newLedger(full())
	l.reruns = 3
	runs := 0
	err := Perform(ctx, still, l, reads(), func(_ Tx, _ *Consent, act *Act) error {
		runs++
		if len(act.Details) != 1 || act.Subject != "" {
			t.Errorf("run %d sees what an earlier run left: %+v", runs, act)
		}
		act.Subject, act.Details["run"] = "pf_1", fmt.Sprint(runs)
		return nil
	})
	if err != nil || runs != 4 || len(l.entries) != 1 || l.entries[0].Data.Details["run"] != "4" {
		t.Errorf("%v, %d runs, entries %+v", err, runs, l.entries)
	}
}

func TestPerformWhenTheStoreBreaksOff(t *testing.T) {
	broken := errors.New("broken off")
	t.Run("before", func(t *testing.T) {
		l := newLedger(full())
		l.fault = func(int) (error, error) { return broken, nil }
		err := Perform(ctx, still, l, reads(), func(tx Tx, c *Consent, _ *Act) error { return tx.Put(c) })
		if !errors.Is(err, broken) || len(l.entries) != 0 {
			t.Errorf("%v, entries %v", err, l.entries)
		}
	})
	t.Run("after: applied, yet an error", func(t *testing.T) {
		l := newLedger(full())
		l.fault = func(int) (error, error) { return nil, broken }
		err := Perform(ctx, still, l, reads(), func(tx Tx, c *Consent, _ *Act) error { return tx.Put(c) })
		if !errors.Is(err, broken) || len(l.entries) != 1 || KindOf(err) != Internal {
			t.Errorf("%v, entries %v", err, l.entries)
		}
	})
	t.Run("while a refusal is recorded: refused all the same, and the failure is told", func(t *testing.T) {
		l := newLedger()
		l.fault = func(int) (error, error) { return broken, nil }
		err := Perform(ctx, still, l, reads(), func(Tx, *Consent, *Act) error { t.Error("it ran"); return nil })
		if CodeOf(err) != "consent_unknown" || !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

// Of many who act at once while the consent ends, none acts after its end.
func TestPerformAgainstTheEndOfTheConsent(t *testing.T) {
	l := newLedger(full())
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if i == 10 {
				a := reads()
				a.Action, a.Late = "consent.revoked", true
				if err := Perform(ctx, still, l, a, func(tx Tx, c *Consent, _ *Act) error {
					return errors.Join(c.Move(ConsentRevoked, noon), tx.Put(c))
				}); err != nil {
					t.Error(err)
				}
				return
			}
			err := Perform(ctx, still, l, reads(), func(_ Tx, c *Consent, _ *Act) error {
				if c.State != ConsentValid {
					t.Errorf("acted while %s", c.State)
				}
				return nil
			})
			if err != nil && CodeOf(err) != "consent_revoked" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ended := false
	for _, e := range l.entries {
		ended = ended || e.Type == "sluis.consent.revoked"
		if e.Type == "sluis.portfolio.read" && ended && e.Data.Outcome != OutcomeDenied {
			t.Error("an act was allowed after the consent's end")
		}
	}
	if len(l.entries) != 20 || !ended {
		t.Errorf("%d entries, want 20", len(l.entries))
	}
}

func TestNote(t *testing.T) {
	e := Note(still, "consent", "key.created", Actor{Kind: ActorOperator, ID: "operator"}, "cli_1", "key_1", map[string]string{"role": "client"})
	if _, err := ParseID[EntryID](string(e.ID)); err != nil {
		t.Error(err)
	}
	e.ID = ""
	want := &Entry{SpecVersion: "1.0", Source: "/functions/consent", Type: "sluis.key.created", Subject: "key_1", Time: noon, ClientID: "cli_1",
		Data: EntryData{Actor: Actor{Kind: ActorOperator, ID: "operator"}, Outcome: OutcomeAllowed, Details: map[string]string{"role": "client"}}}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("got %+v", e)
	}
}

func TestTellNumbersNotices(t *testing.T) {
	con := &Connection{ID: "conn_1", ClientID: "cli_1", ConsentID: "con_1", InvestorRef: "inv-1", Custodian: "comdirect",
		State: ConnectionPaused, Reason: ReasonSCARequired, Sequence: 41}
	l := newLedger()
	err := l.Commit(ctx, func(tx Tx) error {
		for range 2 {
			if err := Tell(still, tx, con, NoticeConnectionPaused, "ses_1"); err != nil {
				return err
			}
		}
		return tx.Record(&Entry{})
	})
	if err != nil || con.Sequence != 43 || len(l.events) != 2 {
		t.Fatalf("%v, sequence %d, events %v", err, con.Sequence, l.events)
	}
	for i, event := range l.events {
		n := &Notice{ID: NoticeID(event.Subject)}
		if err := l.Get(ctx, n); err != nil {
			t.Fatal(err)
		}
		want := &Notice{ID: n.ID, ClientID: "cli_1", ConsentID: "con_1", ConnectionID: "conn_1", Custodian: "comdirect", InvestorRef: "inv-1",
			Type: NoticeConnectionPaused, Sequence: int64(42 + i), State: "paused", Reason: ReasonSCARequired, Subject: "ses_1",
			CreatedAt: noon, ExpiresAt: noon.Add(30 * 24 * time.Hour)}
		if *n != *want || event.Topic != TopicNotice {
			t.Errorf("got %+v of %+v", n, event)
		}
	}
}

func TestIdempotent(t *testing.T) {
	made := func(l *ledger, i Idempotent, client ClientID, resource string) (before string, err error) {
		err = l.Commit(ctx, func(tx Tx) error {
			if before, err = i.Before(tx, client); err != nil || before != "" {
				return err
			}
			return errors.Join(i.Remember(still, tx, client, resource), tx.Record(&Entry{}))
		})
		return before, err
	}
	l := newLedger()
	post := Idempotent{Key: "k", Request: []byte("POST /v1/consents\n{}")}
	for _, c := range []struct {
		name, want, code string
		i                Idempotent
		client           ClientID
	}{
		{"the first request", "", "", post, "cli_1"},
		{"the same again", "con_1", "", post, "cli_1"},
		{"another body", "", "idempotency_key_reused", Idempotent{"k", []byte("POST /v1/consents\n{ }")}, "cli_1"},
		{"another client", "", "", post, "cli_2"},
		{"another key", "", "", Idempotent{"l", post.Request}, "cli_1"},
		{"no key", "", "", Idempotent{Request: post.Request}, "cli_1"},
		{"no key again", "", "", Idempotent{Request: post.Request}, "cli_1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := made(l, c.i, c.client, "con_1")
			if got != c.want || c.code != "" && (KindOf(err) != Conflict || CodeOf(err) != c.code) || c.code == "" && err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	kept := post.once("cli_1")
	if err := l.Get(ctx, kept); err != nil || kept.Resource != "con_1" || kept.ExpiresAt != noon.Add(24*time.Hour) {
		t.Errorf("%+v, %v", kept, err)
	}
	if post.once("cli_1").ID == post.once("cli_2").ID || (Idempotent{Key: "b"}).once("a").ID == (Idempotent{Key: ""}).once("a\nb").ID {
		t.Error("keys of two clients meet")
	}
}

// asked counts how often a store is asked.
type asked struct {
	*ledger
	times int
}

func (s *asked) Get(ctx context.Context, docs ...Document) error {
	s.times++
	return s.ledger.Get(ctx, docs...)
}

// TestAllowedAsksOnce: consent, client and what lies beside are one question, as it stands before every request to a bank.
func TestAllowedAsksOnce(t *testing.T) {
	there := &Session{ID: "ses_1", State: SessionRunning}
	s := &asked{ledger: newLedger(full(), there)}
	found, missing := &Session{ID: "ses_1"}, &Session{ID: "ses_2"}
	if c, err := Allowed(ctx, still, s, reads(), missing, found); err != nil || c.ClientID != "cli_1" {
		t.Errorf("%+v, %v", c, err)
	}
	if s.times != 1 || found.State != SessionRunning || missing.State != "" {
		t.Errorf("asked %d times; found %+v, missing %+v", s.times, found, missing)
	}
	anybody := reads()
	anybody.ClientID = "" // the client is the consent's
	if _, err := Allowed(ctx, still, s, anybody); err != nil || s.times != 3 {
		t.Errorf("%v after %d questions, want 3", err, s.times)
	}
	unknown := reads()
	unknown.ConsentID = "con_2"
	if _, err := Allowed(ctx, still, s, unknown, found); !errors.Is(err, errUnknown) {
		t.Errorf("an unknown consent: %v", err)
	}
	delete(s.docs, place(&Client{ID: "cli_1"}))
	for _, a := range []Act{reads(), anybody} {
		if _, err := Allowed(ctx, still, s, a); CodeOf(err) != "client_suspended" {
			t.Errorf("no client: %v", err)
		}
	}
}
