package sql

import (
	"context"
	dbsql "database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"

	"sluis.internal/shared/domain"
)

// maxBody is the largest document, in bytes of JSON: as much as Firestore takes.
const maxBody = 1 << 20

var entryKind = (*domain.Entry)(nil).Kind()

var (
	_ domain.Store = (*Backend)(nil)
	_ domain.Queue = (*Backend)(nil)
)

// Get implements domain.Store. Nothing of what doc held before is left, except its kind and key.
func (b *Backend) Get(ctx context.Context, doc domain.Document) error {
	t, key, err := b.locate(doc)
	if err != nil {
		return err
	}
	return b.reading(ctx, func(s *statements) error { return get(ctx, s, t, key, doc) })
}

// reading runs do outside of any transaction.
func (b *Backend) reading(ctx context.Context, do func(*statements) error) error {
	select {
	case <-b.closed:
		return ErrClosed
	default:
	}
	err := do(b.read)
	if err != nil && ctx.Err() != nil {
		return busy(ctx)
	}
	return err
}

func get(ctx context.Context, s *statements, t table, key string, doc domain.Document) error {
	var body []byte
	err := s.row(ctx, t.get, []any{key}, &body)
	if errors.Is(err, dbsql.ErrNoRows) {
		return domain.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", doc.Kind(), err)
	}
	// Unmarshal alone would leave the fields that the stored document lacks as the caller had them.
	reflect.ValueOf(doc).Elem().SetZero()
	if err := json.Unmarshal(body, doc); err != nil {
		return fmt.Errorf("reading %s: %w", t.name, err)
	}
	return nil
}

// locate finds a document's table and checks its key.
func (b *Backend) locate(doc domain.Document) (table, string, error) {
	v := reflect.ValueOf(doc)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return table{}, "", fmt.Errorf("a document is a pointer to a struct, not %T", doc)
	}
	t, ok := b.tables[doc.Kind()]
	if !ok {
		return table{}, "", fmt.Errorf("kind %q is not declared in this database's options", doc.Kind())
	}
	key := doc.Key()
	if err := checkKey("key", key); err != nil {
		return table{}, "", err
	}
	return t, key, nil
}

// checkKey refuses what is no key here or none in Firestore, which keeps ".", ".." and "__x__" for itself.
func checkKey(field, key string) error {
	reserved := key == "." || key == ".." || len(key) >= 4 && strings.HasPrefix(key, "__") && strings.HasSuffix(key, "__")
	if !keyShape.MatchString(key) || reserved {
		return domain.Invalidf(field, "want 1 to 200 letters, digits and _ - .")
	}
	return nil
}

// Commit implements domain.Store.
func (b *Backend) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	return b.write(ctx, func(w *writer) (bool, error) {
		if ctx.Err() != nil {
			return false, busy(ctx)
		}
		return b.attempt(ctx, w.durable, fn)
	})
}

// attempt runs one transaction; again says that others were in the way and nothing happened.
func (b *Backend) attempt(ctx context.Context, s *statements, fn func(domain.Tx) error) (again bool, err error) {
	tx := &transaction{b: b, s: s}
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
	if tx.deleted {
		b.erased.Store(true)
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

	wrote, recorded, emitted, deleted bool

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
		return ErrNoRecord
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
		return 0, ErrTxDone
	}
	t.wrote = true
	n, err := t.s.exec(t.ctx(), query, args...)
	if err != nil {
		return 0, t.fail(fmt.Errorf("%s: %w", act, err))
	}
	return n, nil
}

// Get implements domain.Tx.
func (t *transaction) Get(doc domain.Document) error {
	if t.done.Load() {
		return ErrTxDone
	}
	if t.wrote {
		return t.fail(ErrReadAfterWrite)
	}
	tab, key, err := t.b.locate(doc)
	if err != nil {
		return err
	}
	err = get(t.ctx(), t.s, tab, key, doc)
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
	_, err = t.write("writing "+tab.name, tab.put, key, body)
	return err
}

// Delete implements domain.Tx. Deleting what does not exist is no error.
func (t *transaction) Delete(doc domain.Document) error {
	tab, key, err := t.b.locate(doc)
	if err == nil {
		err = notEntry(doc)
	}
	if err != nil {
		return t.fail(err)
	}
	t.deleted = true
	_, err = t.write("deleting "+tab.name, tab.delete, key)
	return err
}

// encode is a document as a row.
func (t *transaction) encode(doc domain.Document) (tab table, key, body string, err error) {
	tab, key, err = t.b.locate(doc)
	if err == nil {
		err = notEntry(doc)
	}
	if err == nil {
		body, err = marshal(doc)
	}
	return tab, key, body, err
}

// notEntry keeps the audit log append-only.
func notEntry(doc domain.Document) error {
	if doc.Kind() == entryKind {
		return errors.New("audit entries are recorded, never changed or deleted")
	}
	return nil
}

func marshal(doc domain.Document) (string, error) {
	body, err := json.Marshal(doc)
	switch {
	case err != nil:
		return "", fmt.Errorf("writing %s: %w", doc.Kind(), err)
	case body[0] != '{':
		return "", fmt.Errorf("writing %s: a document is a JSON object", doc.Kind())
	case len(body) > maxBody:
		return "", &domain.Error{Kind: domain.TooLarge, Code: "document_too_large",
			Message: fmt.Sprintf("a document has at most %d bytes; split it", maxBody)}
	}
	return string(body), nil
}

// Record implements domain.Tx. An entry with this id must not exist.
func (t *transaction) Record(e *domain.Entry) error {
	tab, key, err := t.b.locate(e)
	if err != nil {
		return t.fail(err)
	}
	body, err := marshal(e)
	if err != nil {
		return t.fail(err)
	}
	if _, err = t.write("recording", tab.insert, key, body); err != nil {
		if t.b.dialect.duplicate(err) {
			return &domain.Error{Kind: domain.Conflict, Code: "entry_exists", Message: "an audit entry is recorded once", Err: err}
		}
		return err
	}
	t.recorded = true
	return nil
}

// Emit implements domain.Tx.
func (t *transaction) Emit(e domain.Event) error {
	err := checkKey("topic", string(e.Topic))
	if err == nil {
		err = checkKey("subject", e.Subject)
	}
	if err == nil && e.Custodian != "" {
		err = checkKey("custodian", string(e.Custodian))
	}
	if err != nil {
		return t.fail(fmt.Errorf("emitting: %w", err))
	}
	now := t.b.env.Now()
	due := now
	if e.NotBefore.After(now) {
		due = e.NotBefore
	}
	_, err = t.write("emitting", insertEvent, string(domain.NewID[domain.EventID](t.b.env)), string(e.Topic), e.Subject,
		string(e.Custodian), e.NotBefore.String(), now.UnixMilli(), due.UnixMilli())
	t.emitted = t.emitted || err == nil
	return err
}
