package extraction_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/extraction"
)

// older is a portfolio key to which everything was wrapped by an older version of it.
type older struct {
	w      *world
	asked  int
	during func() // while it is being asked
	err    error
}

func (o *older) Rewrap(sealed, label []byte) ([]byte, error) {
	o.asked++
	if o.during != nil {
		o.during()
	}
	if o.err != nil {
		return nil, o.err
	}
	plain, err := o.w.kek.Decrypt(sealed, label)
	if err != nil {
		return nil, err
	}
	return o.w.kek.Encrypt(plain, label)
}

// rotated is a connection whose portfolio was read before the portfolio key was rotated.
func rotated(t *testing.T) (*world, *older) {
	t.Helper()
	w := first(build(t).settle(t), "")
	w.rest()
	key := &older{w: w}
	w.engine.Rewrapper = key
	return w, key
}

func (w *world) wrapped() []byte { return get(w, &domain.DataKey{ConnectionID: w.conn}).Wrapped }

func (w *world) look() error {
	return w.engine.Run(w.ctx, domain.Event{Topic: domain.TopicSession, Subject: string(w.conn), Custodian: custodian.ID})
}

// rewrapped says how often the log tells of it.
func (w *world) rewrapped() (n int) {
	for _, e := range w.entries("data_key.rewrapped") {
		if e.Data.Outcome == domain.OutcomeAllowed && e.Data.ConsentID == w.consent && e.Data.ConnectionID == w.conn {
			n++
		}
	}
	return n
}

// TestRewrap: the keyset is wrapped anew and stays the same, so that all that was read before opens, and what is read
// afterwards as well.
func TestRewrap(t *testing.T) {
	w, key := rotated(t)
	before := w.wrapped()
	w.must(w.look())
	if bytes.Equal(before, w.wrapped()) || w.rewrapped() != 1 {
		t.Errorf("wrapped anew: %t, told %d times", !bytes.Equal(before, w.wrapped()), w.rewrapped())
	}
	w.sound() // which reads all of it
	w.advance(time.Hour)
	w.refresh()
	w.expect("versions", len(w.versions()), 2)
	w.sound()
	w.engine.Rewrapper = nothingOlder{}
	before = w.wrapped()
	w.must(w.look())
	if !bytes.Equal(before, w.wrapped()) || w.rewrapped() != 1 {
		t.Error("what the newest version wrapped is written again")
	}
	w.expect("asked", key.asked, 1)
}

type nothingOlder struct{}

func (nothingOlder) Rewrap(_, _ []byte) ([]byte, error) { return nil, nil }

// TestRewrapDies: a process that dies just before or just after the commit is followed by one that does what is left.
func TestRewrapDies(t *testing.T) {
	for _, point := range []string{"before-commit", "after-commit"} {
		t.Run(point, func(t *testing.T) {
			w, key := rotated(t)
			w.plant(func(at string) error {
				if at != point {
					return nil
				}
				w.process.dead.Store(true)
				return errDied
			})
			if err := w.look(); err == nil {
				t.Fatal("it did not die")
			}
			w.plant(nil)
			w.restart()
			w.engine.Rewrapper = key
			w.must(w.look())
			w.expect("told", w.rewrapped(), map[string]int{"before-commit": 1, "after-commit": 2}[point]) // the second key finds all older
			w.sound()
		})
	}
}

// TestRewrapBesides: whatever happens to the keyset while the keys are being asked, an older state of it never comes back.
func TestRewrapBesides(t *testing.T) {
	drop := func(w *world) func(domain.Tx) error {
		return func(tx domain.Tx) error { return tx.Delete(&domain.DataKey{ConnectionID: w.conn}) }
	}
	t.Run("erased", func(t *testing.T) {
		w, key := rotated(t)
		key.during = func() { w.alter(drop(w)) }
		w.must(w.look())
		if get(w, &domain.DataKey{ConnectionID: w.conn}) != nil || w.rewrapped() != 0 {
			t.Error("a keyset that was erased is there again")
		}
	})
	t.Run("erased and made anew", func(t *testing.T) {
		w, key := rotated(t)
		id, shard := w.shard()
		fresh, err := envelope.NewCloser(w.kek, &w.shards, w.env).NewDataKey(w.connection().Binding(), id, shard)
		w.must(err)
		key.during = func() { w.write(fresh) }
		w.must(w.look())
		if !bytes.Equal(w.wrapped(), fresh.Wrapped) || w.rewrapped() != 0 {
			t.Error("the keyset before the erasure is there again")
		}
	})
	t.Run("twice at once", func(t *testing.T) {
		w, key := rotated(t)
		second := w.newEngine(w.process)
		second.Rewrapper = &older{w: w}
		key.during = func() {
			w.must(second.Run(w.ctx, domain.Event{Topic: domain.TopicSession, Subject: string(w.conn), Custodian: custodian.ID}))
		}
		w.must(w.look())
		w.expect("told", w.rewrapped(), 1)
		w.sound()
	})
	t.Run("erased before", func(t *testing.T) {
		w, key := rotated(t)
		w.alter(drop(w))
		w.must(w.look())
		w.expect("asked", key.asked, 0)
	})
	t.Run("revoked meanwhile", func(t *testing.T) {
		w, key := rotated(t)
		before := w.wrapped()
		key.during = func() { change(w, w.theConsent(), func(c *domain.Consent) { c.State = domain.ConsentRevoked }) }
		w.must(w.look())
		if !bytes.Equal(before, w.wrapped()) || !slices.Contains(w.denied(), "consent_revoked") {
			t.Errorf("it was wrapped anew without a consent; refused were %q", w.denied())
		}
	})
}

// TestRewrapNeedsConsent: without a consent the keys are not asked, and the refusal is told.
func TestRewrapNeedsConsent(t *testing.T) {
	w, key := rotated(t)
	before := w.wrapped()
	change(w, w.theConsent(), func(c *domain.Consent) { c.State = domain.ConsentExpired })
	w.must(w.look())
	if key.asked > 0 || !bytes.Equal(before, w.wrapped()) || !slices.Contains(w.denied(), "consent_expired") {
		t.Errorf("the keys were asked %d times; refused were %q", key.asked, w.denied())
	}
}

// TestRewrapFails: keys that cannot be had leave all as it is, and the event comes again. Another custodian's function
// touches nothing.
func TestRewrapFails(t *testing.T) {
	w, key := rotated(t)
	before := w.wrapped()
	key.err = &domain.Error{Kind: domain.Unavailable, Code: "keys_unavailable"}
	if err := w.look(); domain.KindOf(err) != domain.Unavailable || !bytes.Equal(before, w.wrapped()) {
		t.Errorf("it came to %v", err)
	}
	key.err = nil
	w.engine.Custodian.ID = "another"
	if err := w.look(); domain.CodeOf(err) != "custodian_foreign" || key.asked != 1 {
		t.Errorf("another custodian's function does it: %v", err)
	}
}

// TestRewrapWhileReading: a reading that began under the keyset as it was wrapped before goes on, and nothing is lost.
func TestRewrapWhileReading(t *testing.T) {
	extraction.StageEach(t)
	w := build(t).settle(t)
	w.engine.Rewrapper = &older{w: w}
	w.bank.many(domain.ProductOrders, 3, 300<<10)
	var once sync.Once
	w.bank.hook = func(_ context.Context, _ extraction.Session, at string) error {
		if at == "read orders 2" {
			once.Do(func() { w.must(w.look()) })
		}
		return nil
	}
	first(w, "")
	w.rest()
	w.expect("told", w.rewrapped(), 1)
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("steps", w.bank.steps(), "login end")
	w.sound()
}
