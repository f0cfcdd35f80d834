package backendtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"sluis.internal/shared/domain"
)

// Store checks documents and transactions.
func Store(t *testing.T, open func(t *testing.T, o Opts) Backend) {
	for name, test := range map[string]func(*testing.T, opener){
		"documents":           documents,
		"get_forgets":         getForgets,
		"keys":                keys,
		"several":             several,
		"size":                size,
		"failing_act":         failingAct,
		"panicking_act":       panickingAct,
		"ignored_failure":     ignoredFailure,
		"fault_before_commit": faultBeforeCommit,
		"fault_after_commit":  faultAfterCommit,
		"record":              record,
		"reads_before_writes": readsBeforeWrites,
		"transaction_is_over": transactionIsOver,
		"context":             contextEnds,
		"events_are_checked":  eventsAreChecked,
		"counter":             counter,
		"write_skew":          writeSkew,
		"reopen":              reopen,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

func documents(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	if got := read(t, b, "a"); got != nil {
		t.Fatalf("a store is empty at first; got %+v", got)
	}
	put(t, b, &item{ID: "a", N: 1, Text: "<é\u0000\"> \u2028"}, &item{ID: "b", N: 2})
	if got := read(t, b, "a"); got == nil || *got != (item{ID: "a", N: 1, Text: "<é\u0000\"> \u2028"}) {
		t.Errorf("got %+v", got)
	}
	put(t, b, &item{ID: "a", N: 3})
	if got := read(t, b, "a"); got == nil || *got != (item{ID: "a", N: 3}) {
		t.Errorf("after replacing: %+v", got)
	}
	for range 2 { // deleting what is gone is no error
		commit(t, b, func(tx domain.Tx) error { return tx.Delete(&item{ID: "a"}) })
	}
	if got := read(t, b, "a"); got != nil {
		t.Errorf("after deleting: %+v", got)
	}
	if got := read(t, b, "b"); got == nil || got.N != 2 {
		t.Errorf("another document: %+v", got)
	}
	err := b.Commit(context.Background(), func(tx domain.Tx) error { return tx.Get(&item{ID: "a"}) })
	if !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("in a transaction: got %v, want ErrNotFound", err)
	}
}

func getForgets(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	put(t, b, &item{ID: "a", N: 1})
	got := &item{ID: "a", Group: "stale", Text: "stale"}
	if err := b.Get(context.Background(), got); err != nil || *got != (item{ID: "a", N: 1}) {
		t.Errorf("outside: %+v, %v", got, err)
	}
	commit(t, b, func(tx domain.Tx) error {
		got = &item{ID: "a", Group: "stale", Text: "stale"}
		return tx.Get(got)
	})
	if *got != (item{ID: "a", N: 1}) {
		t.Errorf("in a transaction: %+v", got)
	}
}

func several(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	put(t, b, &item{ID: "a", N: 1}, &item{ID: "c", N: 3})
	check := func(where string, get func(...domain.Document) error) {
		t.Helper()
		x, y, z := &item{ID: "c", Text: "stale"}, &item{ID: "b", Text: "stale"}, &item{ID: "a"}
		err := get(x, y, z)
		if !errors.Is(err, domain.ErrNotFound) || *x != (item{ID: "c", N: 3}) || *y != (item{ID: "b", Text: "stale"}) || *z != (item{ID: "a", N: 1}) {
			t.Errorf("%s: %+v, %+v, %+v, %v", where, *x, *y, *z, err)
		}
		if err := get(x, z); err != nil {
			t.Errorf("%s, again: %v", where, err)
		}
		if err := get(x, &item{ID: "/"}); domain.KindOf(err) != domain.Invalid {
			t.Errorf("%s, a key that is none: %v", where, err)
		}
	}
	check("outside", func(docs ...domain.Document) error { return b.Get(context.Background(), docs...) })
	if err := b.Commit(context.Background(), func(tx domain.Tx) error {
		check("in a transaction", tx.Get)
		return nil
	}); err != nil && domain.KindOf(err) != domain.Invalid {
		t.Error(err)
	}
	commit(t, b, func(tx domain.Tx) error { // what is missing does not spoil a transaction
		if err := tx.Get(&item{ID: "a"}, &item{ID: "b"}); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("before a write: %v", err)
		}
		return tx.Put(&item{ID: "b"})
	})
}

func keys(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	for name, key := range map[string]string{"empty": "", "slash": "a/b", "long": strings.Repeat("a", 201), "dot": ".",
		"dots": "..", "reserved": "__a__", "space": "a b", "quote": "a'b", "not_ascii": "é", "newline": "a\n", "nul": "a\x00"} {
		t.Run(name, func(t *testing.T) {
			if err := b.Get(context.Background(), &item{ID: key}); domain.KindOf(err) != domain.Invalid {
				t.Errorf("get: got %v, want Invalid", err)
			}
			for act, fn := range map[string]func(domain.Tx) error{
				"put":    func(tx domain.Tx) error { return tx.Put(&item{ID: key}) },
				"delete": func(tx domain.Tx) error { return tx.Delete(&item{ID: key}) },
			} {
				if err := b.Commit(context.Background(), fn); domain.KindOf(err) != domain.Invalid {
					t.Errorf("%s: got %v, want Invalid", act, err)
				}
			}
		})
	}
	for _, key := range []string{strings.Repeat("a", 200), "A-b_c.9", "_", "...", "__", "___"} {
		put(t, b, &item{ID: key})
		if read(t, b, key) == nil {
			t.Errorf("key %q is lost", key)
		}
	}
}

func size(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	room := 1<<20 - len(`{"id":"a","text":""}`)
	put(t, b, &item{ID: "a", Text: strings.Repeat("x", room)})
	if got := read(t, b, "a"); got == nil || len(got.Text) != room {
		t.Error("a document of 1 MiB is not kept")
	}
	err := b.Commit(context.Background(), func(tx domain.Tx) error {
		return errors.Join(tx.Put(&item{ID: "a", Text: strings.Repeat("x", room+1)}), tx.Record(entry("a")))
	})
	if domain.KindOf(err) != domain.TooLarge {
		t.Errorf("1 MiB and a byte: got %v, want TooLarge", err)
	}
}

// attempts everything a transaction can do, and then end.
func everything(end func() error) func(domain.Tx) error {
	return func(tx domain.Tx) error {
		for _, err := range []error{tx.Put(&item{ID: "new"}), tx.Put(&item{ID: "old", N: 2}), tx.Delete(&item{ID: "gone"}),
			tx.Emit(domain.Event{Topic: "contract", Subject: "everything"}), tx.Record(everythingEntry)} {
			if err != nil {
				return err
			}
		}
		return end()
	}
}

var everythingEntry = entry("everything")

// nothing checks that a transaction of everything had no effect, or, if happened is set, all of them.
func nothing(t *testing.T, b Backend, happened bool) {
	t.Helper()
	if got := read(t, b, "new"); (got != nil) != happened {
		t.Errorf("the new document: %+v", got)
	}
	if got := read(t, b, "old"); (got.N == 2) != happened {
		t.Errorf("the replaced document: %+v", got)
	}
	if got := read(t, b, "gone"); (got == nil) != happened {
		t.Errorf("the deleted document: %+v", got)
	}
	err := b.Get(context.Background(), &domain.Entry{ID: everythingEntry.ID})
	if (err == nil) != happened {
		t.Errorf("the audit entry: %v", err)
	}
}

func prepared(t *testing.T, open opener, o Opts) Backend {
	b := open.at(t, o)
	put(t, b, &item{ID: "old", N: 1}, &item{ID: "gone"})
	return b
}

func failingAct(t *testing.T, open opener) {
	b := prepared(t, open, Opts{})
	want := fmt.Errorf("wrapped: %w", errors.New("no"))
	if err := b.Commit(context.Background(), everything(func() error { return want })); err != want {
		t.Errorf("got %v, want the act's error as it is", err)
	}
	nothing(t, b, false)
}

func panickingAct(t *testing.T, open opener) {
	b := prepared(t, open, Opts{})
	func() {
		defer func() {
			if recover() != "boom" {
				t.Error("the panic did not come through")
			}
		}()
		_ = b.Commit(context.Background(), everything(func() error { panic("boom") }))
	}()
	nothing(t, b, false)
	put(t, b, &item{ID: "new"}) // and the store still works
}

func ignoredFailure(t *testing.T, open opener) {
	b := prepared(t, open, Opts{})
	err := b.Commit(context.Background(), everything(func() error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	for name, fail := range map[string]func(domain.Tx) error{
		"put":    func(tx domain.Tx) error { return tx.Put(&item{ID: "", N: 1}) },
		"delete": func(tx domain.Tx) error { return tx.Delete(&item{ID: ""}) },
		"emit":   func(tx domain.Tx) error { return tx.Emit(domain.Event{}) },
		"record": func(tx domain.Tx) error { return tx.Record(everythingEntry) },
	} {
		t.Run(name, func(t *testing.T) {
			err := b.Commit(context.Background(), func(tx domain.Tx) error {
				if err := errors.Join(tx.Put(&item{ID: "half"}), tx.Record(entry("half"))); err != nil {
					t.Fatal(err)
				}
				_ = fail(tx) // overlooked; a backend may notice only when it commits
				return nil
			})
			if err == nil || read(t, b, "half") != nil {
				t.Errorf("half of the transaction was committed; the error is %v", err)
			}
		})
	}
}

func faultBeforeCommit(t *testing.T, open opener) {
	f := newFaults("before-commit")
	b := prepared(t, open, Opts{Fault: f.ask})
	f.arm()
	if err := b.Commit(context.Background(), everything(func() error { return nil })); !errors.Is(err, errFault) {
		t.Fatalf("got %v, want the fault", err)
	}
	nothing(t, b, false)
	if err := b.Commit(context.Background(), everything(func() error { return nil })); err != nil {
		t.Fatal(err)
	}
	nothing(t, b, true)
}

func faultAfterCommit(t *testing.T, open opener) {
	f := newFaults("after-commit")
	b := prepared(t, open, Opts{Fault: f.ask})
	f.arm()
	if err := b.Commit(context.Background(), everything(func() error { return nil })); !errors.Is(err, errFault) {
		t.Fatalf("got %v, want the fault", err)
	}
	nothing(t, b, true)
}

func record(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	ctx := context.Background()
	put(t, b, &item{ID: "a"})
	for name, fn := range map[string]func(domain.Tx) error{
		"put":    func(tx domain.Tx) error { return tx.Put(&item{ID: "b"}) },
		"delete": func(tx domain.Tx) error { return tx.Delete(&item{ID: "a"}) },
		"emit":   func(tx domain.Tx) error { return tx.Emit(domain.Event{Topic: "contract", Subject: "a"}) },
	} {
		if err := b.Commit(ctx, fn); err == nil || domain.KindOf(err) != domain.Internal {
			t.Errorf("%s without a record: got %v, want an error of kind Internal", name, err)
		}
	}
	if read(t, b, "b") != nil || read(t, b, "a") == nil {
		t.Error("a change without a record happened")
	}
	if err := b.Commit(ctx, func(tx domain.Tx) error { return tx.Get(&item{ID: "a"}) }); err != nil {
		t.Errorf("a transaction that only reads needs no record: %v", err)
	}
	e := entry("once")
	if err := b.Commit(ctx, func(tx domain.Tx) error { return tx.Record(e) }); err != nil {
		t.Errorf("a record alone: %v", err)
	}
	changed := *e
	changed.Subject = "changed"
	for name, fn := range map[string]func(domain.Tx) error{
		"recording again": func(tx domain.Tx) error { return tx.Record(&changed) },
		"putting":         func(tx domain.Tx) error { return errors.Join(tx.Put(&changed), tx.Record(entry("x"))) },
		"deleting":        func(tx domain.Tx) error { return errors.Join(tx.Delete(&changed), tx.Record(entry("x"))) },
	} {
		if err := b.Commit(ctx, fn); err == nil {
			t.Errorf("%s an audit entry: no error", name)
		}
	}
	got := &domain.Entry{ID: e.ID}
	if err := b.Get(ctx, got); err != nil || got.Subject != "once" {
		t.Errorf("the entry is not as recorded: %+v, %v", got, err)
	}
}

func readsBeforeWrites(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	put(t, b, &item{ID: "a"})
	for name, write := range map[string]func(domain.Tx) error{
		"put":    func(tx domain.Tx) error { return tx.Put(&item{ID: "b"}) },
		"delete": func(tx domain.Tx) error { return tx.Delete(&item{ID: "b"}) },
		"emit":   func(tx domain.Tx) error { return tx.Emit(domain.Event{Topic: "contract", Subject: "b"}) },
		"record": func(tx domain.Tx) error { return tx.Record(entry("b")) },
	} {
		err := b.Commit(context.Background(), func(tx domain.Tx) error {
			if err := tx.Get(&item{ID: "a"}); err != nil {
				return err
			}
			if err := write(tx); err != nil {
				return err
			}
			if tx.Get(&item{ID: "a"}) == nil {
				t.Errorf("after %s: a read passed", name)
			}
			return tx.Record(entry("b"))
		})
		if err == nil {
			t.Errorf("after %s: the transaction passed", name)
		}
	}
	if read(t, b, "b") != nil {
		t.Error("a transaction in the wrong order was committed")
	}
}

func transactionIsOver(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	var leaked domain.Tx
	commit(t, b, func(tx domain.Tx) error { leaked = tx; return tx.Put(&item{ID: "a"}) })
	for name, err := range map[string]error{
		"get":    leaked.Get(&item{ID: "a"}),
		"put":    leaked.Put(&item{ID: "b"}),
		"delete": leaked.Delete(&item{ID: "a"}),
		"emit":   leaked.Emit(domain.Event{Topic: "contract", Subject: "a"}),
		"record": leaked.Record(entry("a")),
	} {
		if err == nil {
			t.Errorf("%s after the end: no error", name)
		}
	}
	if read(t, b, "a") == nil || read(t, b, "b") != nil {
		t.Error("a transaction that was over had an effect")
	}
}

func contextEnds(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	ctx, cancel := context.WithCancel(context.Background())
	err := b.Commit(ctx, func(tx domain.Tx) error {
		cancel()
		return errors.Join(tx.Put(&item{ID: "a"}), tx.Record(entry("a")))
	})
	if !errors.Is(err, context.Canceled) || read(t, b, "a") != nil {
		t.Errorf("ended within the act: %v", err)
	}
	err = b.Commit(ctx, func(tx domain.Tx) error { t.Error("the act ran"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended before: %v", err)
	}
	if err := b.Get(ctx, &item{ID: "a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := b.List(ctx, domain.Query{Index: "items"}); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
}

func eventsAreChecked(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	for name, e := range map[string]domain.Event{
		"no topic":         {Subject: "a"},
		"no subject":       {Topic: "contract"},
		"not identifier":   {Topic: "contract", Subject: "Jane Doe <jane@example.org>"},
		"long":             {Topic: "contract", Subject: strings.Repeat("a", 201)},
		"custodian's name": {Topic: "contract", Subject: "a", Custodian: "a bank"},
	} {
		err := b.Commit(context.Background(), func(tx domain.Tx) error { return errors.Join(tx.Record(entry("a")), tx.Emit(e)) })
		if domain.KindOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
}

const writers = 50

// counter lets many add to one number, through two open backends.
func counter(t *testing.T, open opener) {
	place := t.TempDir()
	both := []Backend{open.at(t, Opts{Place: place}), open.at(t, Opts{Place: place})}
	put(t, both[0], &item{ID: "counter"})
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for range 4 {
				err := both[n%2].Commit(context.Background(), func(tx domain.Tx) error {
					i := &item{ID: "counter"}
					if err := tx.Get(i); err != nil {
						return err
					}
					i.N++
					return errors.Join(tx.Put(i), tx.Record(entry("counter")))
				})
				if err != nil {
					t.Errorf("writer %d: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	if got := read(t, both[0], "counter"); got.N != 4*writers {
		t.Errorf("got %d, want %d: updates were lost", got.N, 4*writers)
	}
}

// writeSkew lets everybody leave unless they would be the last: each writes only their own document, having read all.
func writeSkew(t *testing.T, open opener) {
	place := t.TempDir()
	both := []Backend{open.at(t, Opts{Place: place}), open.at(t, Opts{Place: place})}
	ids := make([]string, writers)
	for n := range ids {
		ids[n] = fmt.Sprintf("on-call-%d", n)
		put(t, both[0], &item{ID: ids[n], N: 1})
	}
	leave := func(id string) func(domain.Tx) error {
		return func(tx domain.Tx) error {
			present := 0
			for _, other := range ids {
				i := &item{ID: other}
				if err := tx.Get(i); err != nil {
					return err
				}
				present += i.N
			}
			if present == 1 {
				return nil
			}
			return errors.Join(tx.Put(&item{ID: id}), tx.Record(entry(id)))
		}
	}
	var wg sync.WaitGroup
	for n, id := range ids {
		wg.Go(func() {
			if err := both[n%2].Commit(context.Background(), leave(id)); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	wg.Wait()
	present := 0
	for _, id := range ids {
		present += read(t, both[1], id).N
	}
	if present != 1 {
		t.Errorf("%d stayed, want 1", present)
	}
}

func reopen(t *testing.T, open opener) {
	place := t.TempDir()
	b := open.at(t, Opts{Place: place})
	put(t, b, &item{ID: "a", N: 1})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"get":    b.Get(context.Background(), &item{ID: "a"}),
		"commit": b.Commit(context.Background(), func(domain.Tx) error { return nil }),
	} {
		if err == nil {
			t.Errorf("%s on a closed backend: no error", name)
		}
	}
	if got := read(t, open.at(t, Opts{Place: place}), "a"); got == nil || got.N != 1 {
		t.Errorf("after opening again: %+v", got)
	}
}
