package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

var (
	_ domain.Store = (*Backend)(nil)
	_ domain.Queue = (*Backend)(nil)
)

// Get implements domain.Store. Nothing of what a document held before is left, except its kind and key.
func (b *Backend) Get(ctx context.Context, docs ...domain.Document) error {
	return b.reading(ctx, func(s *statements) error {
		return domain.Each(docs, func(doc domain.Document) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return b.get(b.briefly(ctx), s, doc)
		})
	})
}

// briefly is ctx for reading one row. Of an embedded database that takes less than watching ctx meanwhile.
func (b *Backend) briefly(ctx context.Context) context.Context {
	if b.dialect.embedded {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// reading runs do outside of any transaction.
func (b *Backend) reading(ctx context.Context, do func(*statements) error) error {
	select {
	case <-b.closed:
		return backend.ErrClosed
	default:
	}
	err := do(b.read)
	if err != nil && ctx.Err() != nil {
		return busy(ctx)
	}
	return err
}

func (b *Backend) get(ctx context.Context, s *statements, doc domain.Document) error {
	t, key, err := b.locate(doc)
	if err != nil {
		return err
	}
	var body []byte
	err = s.row(ctx, t.get, []any{key}, &body)
	if errors.Is(err, dbsql.ErrNoRows) {
		return domain.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", doc.Kind(), err)
	}
	return backend.Decode(body, doc)
}

// locate finds a document's table and checks its key.
func (b *Backend) locate(doc domain.Document) (table, string, error) {
	if err := backend.CheckDocument(doc); err != nil {
		return table{}, "", err
	}
	t, ok := b.tables[doc.Kind()]
	if !ok {
		return table{}, "", fmt.Errorf("kind %q is not declared in this database's options", doc.Kind())
	}
	return t, doc.Key(), nil
}

// Commit implements domain.Store.
func (b *Backend) Commit(ctx context.Context, fn func(domain.Tx) error) (failed error) {
	ctx, span := observe.Within(ctx, observe.Inside, "commit")
	defer func() { span.End(failed) }()
	return b.write(ctx, func(w *writer) (bool, error) {
		if ctx.Err() != nil {
			return false, busy(ctx)
		}
		return b.attempt(ctx, w.durable, fn)
	})
}

// attempt runs one transaction; again says that others were in the way and nothing happened.
func (b *Backend) attempt(ctx context.Context, s *statements, fn func(domain.Tx) error) (again bool, err error) {
	tx := &transaction{b: b, s: s, trace: observe.Traceparent(ctx)}
	// Its statements are short and run to their end: one that is interrupted would leave more to clean up.
	if _, err := s.exec(tx.ctx(), b.dialect.begin); err != nil {
		return b.dialect.contended(err), fmt.Errorf("beginning a transaction: %w", err)
	}
	committed := false
	defer func() { // also if fn panics or ends its goroutine
		tx.done.Store(true)
		if !committed {
			_, _ = s.exec(tx.ctx(), "ROLLBACK") // fails only where the database has already rolled back
		}
	}()
	err = fn(tx)
	tx.done.Store(true)
	if err := tx.verdict(ctx, err); err != nil || !tx.wrote {
		return tx.contended, err
	}
	if err := b.opts.Fault("before-commit"); err != nil {
		return false, err
	}
	if _, err := s.exec(tx.ctx(), "COMMIT"); err != nil {
		return b.dialect.contended(err), fmt.Errorf("committing: %w", err)
	}
	committed = true
	observe.Committed(ctx, tx.entries)
	if tx.stale {
		b.stale.Store(true)
	}
	if tx.emitted {
		b.wake()
	}
	return false, b.opts.Fault("after-commit")
}

// transaction implements domain.Tx.
type transaction struct {
	b *Backend
	s *statements

	trace   string // of the act, for the events that it emits
	entries []*domain.Entry

	wrote, recorded, emitted, stale bool

	failed    error // the first failure of a write or a misuse: the transaction cannot commit any more
	contended bool
	done      atomic.Bool
}

func (t *transaction) ctx() context.Context { return context.Background() }

// verdict says why the transaction must not commit: fn's own error first, as it is.
func (t *transaction) verdict(ctx context.Context, err error) error {
	switch {
	case err != nil:
		return err
	case t.failed != nil:
		return t.failed
	case t.wrote && !t.recorded:
		return backend.ErrNoRecord
	case ctx.Err() != nil:
		return busy(ctx)
	}
	return nil
}

// fail remembers the first failure, so that a transaction whose fn overlooked it does not commit.
func (t *transaction) fail(err error) error {
	if err != nil && t.failed == nil {
		t.failed = err
	}
	if t.b.dialect.contended(err) {
		t.contended = true
	}
	return err
}

// write runs a statement that changes something.
func (t *transaction) write(act, query string, args ...any) (int64, error) {
	if t.done.Load() {
		return 0, backend.ErrTxDone
	}
	t.wrote = true
	n, err := t.s.exec(t.ctx(), query, args...)
	if err != nil {
		return 0, t.fail(fmt.Errorf("%s: %w", act, err))
	}
	return n, nil
}

// Get implements domain.Tx.
func (t *transaction) Get(docs ...domain.Document) error {
	if t.done.Load() {
		return backend.ErrTxDone
	}
	if t.wrote {
		return t.fail(backend.ErrReadAfterWrite)
	}
	err := domain.Each(docs, func(doc domain.Document) error { return t.b.get(t.ctx(), t.s, doc) })
	if domain.KindOf(err) == domain.NotFound {
		return err
	}
	return t.fail(err)
}

// Put implements domain.Tx.
func (t *transaction) Put(doc domain.Document) error {
	tab, key, body, err := t.encode(doc)
	if err != nil {
		return t.fail(err)
	}
	t.stale = true // maybe: nobody looked whether there was one before
	_, err = t.write("writing "+tab.name, tab.put, key, body)
	return err
}

// Delete implements domain.Tx. Deleting what does not exist is no error.
func (t *transaction) Delete(doc domain.Document) error {
	tab, key, err := t.b.locate(doc)
	if err == nil {
		err = backend.Changeable(doc)
	}
	if err != nil {
		return t.fail(err)
	}
	t.stale = true
	_, err = t.write("deleting "+tab.name, tab.delete, key)
	return err
}

// encode is a document as a row.
func (t *transaction) encode(doc domain.Document) (tab table, key, body string, err error) {
	tab, key, err = t.b.locate(doc)
	if err == nil {
		err = backend.Changeable(doc)
	}
	if err == nil {
		body, err = encode(doc)
	}
	return tab, key, body, err
}

// encode is a document's body as a column takes it.
func encode(doc domain.Document) (string, error) {
	body, err := backend.Encode(doc)
	return string(body), err
}

// Record implements domain.Tx. An entry with this id must not exist.
func (t *transaction) Record(e *domain.Entry) error {
	tab, key, err := t.b.locate(e)
	if err != nil {
		return t.fail(err)
	}
	body, err := encode(e)
	if err != nil {
		return t.fail(err)
	}
	if _, err = t.write("recording", tab.insert, key, body); err != nil {
		if t.b.dialect.duplicate(err) {
			return backend.ErrRecorded(err)
		}
		return err
	}
	t.recorded, t.entries = true, append(t.entries, e)
	return nil
}

// Emit implements domain.Tx.
func (t *transaction) Emit(e domain.Event) error {
	if err := backend.CheckEvent(e); err != nil {
		return t.fail(err)
	}
	now := t.b.env.Now()
	due := now
	if e.NotBefore.After(now) {
		due = e.NotBefore
	}
	_, err := t.write("emitting", insertEvent, string(domain.NewID[domain.EventID](t.b.env)), string(e.Topic), e.Subject,
		string(e.Custodian), e.Lane, e.NotBefore.String(), now.UnixMilli(), due.UnixMilli(), t.trace)
	t.emitted = t.emitted || err == nil
	return err
}
