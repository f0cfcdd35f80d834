package gcp

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

var (
	_ domain.Store = (*Backend)(nil)
	_ domain.Queue = (*Backend)(nil)
)

const (
	// attempts of a transaction under contention. The client waits between them, longer each time and with jitter, and
	// tells Firestore that it is the same one, which then goes before younger ones. Shorter pauses made it worse.
	attempts = 64

	// Firestore takes documents of up to 1 MiB, names included. Bodies beyond plain are compressed: what is large is
	// ciphertext in base64, of which a quarter goes.
	plain = 800 << 10
	room  = 1<<20 - 16<<10

	// together is what the bodies of one commit may come to: Firestore takes requests of up to 10 MiB.
	together = 9 << 20
)

// Fields of every document beside its top-level texts, whose names hold no capital. All short texts are there, so that
// a new index needs no document to be written again.
const (
	maxField    = 1000     // bytes
	fieldBody   = "Body"   // JSON as text
	fieldPacked = "Packed" // or JSON, deflated (RFC 1951)
	fieldKey    = "Key"    // the document's id once more: Firestore does not go through ids backwards
	fieldEnd    = "End"    // Firestore's TTL policy deletes the document at some time after this
)

// afterlife is what Firestore's TTL leaves to sweep, which deletes in time and with an entry in the audit log.
const afterlife = 48 * time.Hour

// ref finds a document's place.
func (b *Backend) ref(doc domain.Document) (*firestore.DocumentRef, error) {
	if err := backend.CheckDocument(doc); err != nil {
		return nil, err
	}
	if _, ok := b.kinds[doc.Kind()]; !ok {
		return nil, fmt.Errorf("kind %q is not declared in this backend's options", doc.Kind())
	}
	return b.store.Collection(string(doc.Kind())).Doc(doc.Key()), nil
}

// Get implements domain.Store.
func (b *Backend) Get(ctx context.Context, docs ...domain.Document) error {
	if err := b.open(); err != nil {
		return err
	}
	refs, err := b.refs(docs)
	if err != nil {
		return err
	}
	snaps, err := b.store.GetAll(ctx, refs)
	if err != nil {
		return fault(ctx, "reading "+kinds(docs), err)
	}
	found := map[string][]byte{}
	if err := keep(found, snaps); err != nil {
		return err
	}
	return b.fill(docs, found)
}

// refs finds documents' places.
func (b *Backend) refs(docs []domain.Document) ([]*firestore.DocumentRef, error) {
	refs := make([]*firestore.DocumentRef, len(docs))
	for i, doc := range docs {
		var err error
		if refs[i], err = b.ref(doc); err != nil {
			return nil, err
		}
	}
	return refs, nil
}

// kinds names documents in an error.
func kinds(docs []domain.Document) string {
	var names []string
	for _, doc := range docs {
		names = append(names, string(doc.Kind()))
	}
	return strings.Join(names, ", ")
}

// keep adds the bodies of the documents that exist to found, by their paths.
func keep(found map[string][]byte, snaps []*firestore.DocumentSnapshot) error {
	for _, snap := range snaps {
		if !snap.Exists() {
			continue
		}
		body, err := unpack(snap)
		if err != nil {
			return fmt.Errorf("reading %s: %w", snap.Ref.Parent.ID, err)
		}
		found[snap.Ref.Path] = body
	}
	return nil
}

// fill fills documents with what was found.
func (b *Backend) fill(docs []domain.Document, found map[string][]byte) error {
	return domain.Each(docs, func(doc domain.Document) error {
		ref, err := b.ref(doc)
		if err != nil {
			return err
		}
		body, there := found[ref.Path]
		if !there {
			return domain.ErrNotFound
		}
		return backend.Decode(body, doc)
	})
}

func unpack(snap *firestore.DocumentSnapshot) ([]byte, error) {
	data := snap.Data()
	if text, ok := data[fieldBody].(string); ok {
		return []byte(text), nil
	}
	packed, ok := data[fieldPacked].([]byte)
	if !ok {
		return nil, errors.New("the document has no body")
	}
	return io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), backend.MaxBody+1))
}

// fault turns an error of Firestore's into one of ours. What the service says may name projects and documents: it is
// for the log.
func fault(ctx context.Context, act string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return backend.ErrBusy(context.Cause(ctx))
	}
	switch status.Code(err) {
	case codes.NotFound:
		return domain.ErrNotFound
	case codes.AlreadyExists:
		return backend.ErrRecorded(err)
	case codes.Aborted, codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", act, backend.ErrBusy(err))
	}
	return fmt.Errorf("%s: %w", act, err)
}

// Commit implements domain.Store. An event that is due is published before Commit returns; if that fails, or the
// process dies first, Pump publishes it.
func (b *Backend) Commit(ctx context.Context, fn func(domain.Tx) error) (failed error) {
	ctx, span := observe.Within(ctx, observe.Inside, "commit")
	defer func() { span.End(failed) }()
	if err := b.open(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return backend.ErrBusy(context.Cause(ctx))
	}
	var last *transaction
	var own error // of fn, or of a fault: it is returned as it is
	var thrown any
	err := b.store.RunTransaction(ctx, func(inner context.Context, ft *firestore.Transaction) error {
		last = &transaction{b: b, ft: ft, ctx: inner, seen: map[string][]byte{}}
		thrown, own = last.run(ctx, fn)
		return own
	}, firestore.MaxAttempts(attempts))
	switch {
	case thrown != nil:
		panic(thrown) // the transaction is rolled back, so that nobody waits for its locks
	case own != nil:
		return own
	case err != nil:
		return fault(ctx, "committing", err)
	}
	observe.Committed(ctx, last.entries)
	if err := b.opts.Fault("after-commit"); err != nil {
		return err
	}
	b.publish(ctx, last.events)
	return nil
}

// transaction implements domain.Tx.
type transaction struct {
	b   *Backend
	ft  *firestore.Transaction
	ctx context.Context

	seen            map[string][]byte // the bodies of documents that were read, by their paths
	wrote, recorded bool
	size            int      // of the bodies written, in bytes
	events          []letter // due at once
	entries         []*domain.Entry
	failed          error // the first failure of a write or a misuse: the transaction cannot commit any more
	done            atomic.Bool
}

var errThrown = errors.New("the act panicked")

// run is one attempt: fn, and then the reasons why it must not be committed.
func (t *transaction) run(ctx context.Context, fn func(domain.Tx) error) (thrown any, err error) {
	ended := false
	defer func() {
		t.done.Store(true)
		if thrown = recover(); thrown != nil {
			err = errThrown
		} else if !ended {
			err = errThrown // fn ended its goroutine: nothing may be committed
		}
	}()
	err = fn(t)
	ended = true
	switch {
	case err != nil:
		return nil, err
	case t.failed != nil:
		return nil, t.failed
	case t.wrote && !t.recorded:
		return nil, backend.ErrNoRecord
	case ctx.Err() != nil:
		return nil, backend.ErrBusy(context.Cause(ctx))
	case t.wrote:
		return nil, t.b.opts.Fault("before-commit")
	}
	return nil, nil
}

// fail remembers the first failure, so that a transaction whose fn overlooked it does not commit.
func (t *transaction) fail(err error) error {
	if err != nil && t.failed == nil {
		t.failed = err
	}
	return err
}

// writing begins a write.
func (t *transaction) writing() error {
	if t.done.Load() {
		return backend.ErrTxDone
	}
	t.wrote = true
	return nil
}

// Get implements domain.Tx.
func (t *transaction) Get(docs ...domain.Document) error {
	if t.done.Load() {
		return backend.ErrTxDone
	}
	if t.wrote {
		return t.fail(backend.ErrReadAfterWrite)
	}
	refs, err := t.b.refs(docs)
	if err != nil {
		return err
	}
	if err := t.fetch(docs, refs); err != nil {
		return t.fail(err)
	}
	if err = t.b.fill(docs, t.seen); domain.KindOf(err) == domain.NotFound {
		return err
	}
	return t.fail(err)
}

// fetch reads what this transaction has not seen yet.
func (t *transaction) fetch(docs []domain.Document, refs []*firestore.DocumentRef) error {
	unseen := slices.DeleteFunc(slices.Clone(refs), func(r *firestore.DocumentRef) bool { return t.seen[r.Path] != nil })
	if len(unseen) == 0 {
		return nil
	}
	snaps, err := t.ft.GetAll(unseen)
	if status.Code(err) == codes.Aborted {
		return err // as it is: the client tries the transaction again
	}
	if err != nil {
		return fault(t.ctx, "reading "+kinds(docs), err)
	}
	return keep(t.seen, snaps)
}

// Put implements domain.Tx.
func (t *transaction) Put(doc domain.Document) error {
	ref, err := t.b.ref(doc)
	if err == nil {
		err = backend.Changeable(doc)
	}
	if err != nil {
		return t.fail(err)
	}
	return t.write(doc, func(fields map[string]any) error {
		if text, plain := fields[fieldBody].(string); plain && text == string(t.seen[ref.Path]) {
			return nil // as it was read: there is nothing to write, nor to pay for
		}
		delete(t.seen, ref.Path)
		return t.ft.Set(ref, fields)
	})
}

// Record implements domain.Tx. An entry with this id must not exist.
func (t *transaction) Record(e *domain.Entry) error {
	ref, err := t.b.ref(e)
	if err != nil {
		return t.fail(err)
	}
	err = t.write(e, func(fields map[string]any) error { return t.ft.Create(ref, fields) })
	if err == nil {
		t.recorded, t.entries = true, append(t.entries, e)
	}
	return err
}

func (t *transaction) write(doc domain.Document, put func(map[string]any) error) error {
	fields, err := t.b.fields(doc)
	if err == nil {
		err = t.writing()
	}
	if err == nil {
		err = t.weigh(fields)
	}
	if err == nil {
		err = put(fields)
	}
	if err != nil {
		return t.fail(fmt.Errorf("writing %s: %w", doc.Kind(), err))
	}
	return nil
}

// weigh refuses what would make the commit too large: Google's client would ask for a minute, again and again.
func (t *transaction) weigh(fields map[string]any) error {
	text, _ := fields[fieldBody].(string)
	packed, _ := fields[fieldPacked].([]byte)
	if t.size += len(text) + len(packed); t.size > together {
		return &domain.Error{Kind: domain.TooLarge, Code: "commit_too_large", Message: "a commit takes at most 9 MiB of documents; make several"}
	}
	return nil
}

// Delete implements domain.Tx. Deleting what does not exist is no error.
func (t *transaction) Delete(doc domain.Document) error {
	ref, err := t.b.ref(doc)
	if err == nil {
		err = backend.Changeable(doc)
	}
	if err == nil {
		err = t.writing()
	}
	if err == nil {
		delete(t.seen, ref.Path)
		err = t.ft.Delete(ref)
	}
	return t.fail(err)
}

// Emit implements domain.Tx.
func (t *transaction) Emit(e domain.Event) error {
	err := backend.CheckEvent(e)
	if err == nil {
		err = t.writing()
	}
	if err != nil {
		return t.fail(err)
	}
	e.ID, e.Attempt = domain.NewID[domain.EventID](t.b.env), 0
	now := t.b.env.Now()
	due := e.NotBefore
	if !due.After(now) {
		e.Attempt, due = 1, now.Add(straggling)
	}
	l := letter{e, observe.Traceparent(t.ctx)}
	if e.Attempt > 0 {
		t.events = append(t.events, l)
	}
	return t.fail(t.ft.Create(t.b.store.Collection(outbox).Doc(string(e.ID)), posted(l, now, due)))
}

// fields is a document as Firestore keeps it.
func (b *Backend) fields(doc domain.Document) (map[string]any, error) {
	body, err := backend.Encode(doc)
	if err != nil {
		return nil, err
	}
	var all map[string]any
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, err
	}
	fields := map[string]any{fieldKey: doc.Key()}
	for _, name := range b.kinds[doc.Kind()] {
		fields[name] = ""
	}
	for name, value := range all {
		text, ok := value.(string)
		if _, named := fields[name]; named && !ok {
			return nil, fmt.Errorf("the field %s is in an index, so it must be text", name)
		}
		if ok && len(text) <= maxField {
			fields[name] = text
		}
	}
	if err := b.end(fields, fields[b.opts.Ends[doc.Kind()]]); err != nil {
		return nil, err
	}
	return fields, pack(fields, body)
}

// end sets the time after which Firestore deletes the document by itself.
func (b *Backend) end(fields map[string]any, value any) error {
	text, _ := value.(string)
	var at domain.Time
	if err := at.UnmarshalText([]byte(text)); err != nil {
		return fmt.Errorf("the end of the document's life: %w", err)
	}
	if !at.IsZero() {
		fields[fieldEnd] = at.Add(afterlife).Time
	}
	return nil
}

func pack(fields map[string]any, body []byte) error {
	if len(body) <= plain {
		fields[fieldBody] = string(body)
		return nil
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil && packed.Len() > room {
		err = &domain.Error{Kind: domain.TooLarge, Code: "document_too_large", Message: "a document that cannot be compressed has at most 800 KiB; split it"}
	}
	fields[fieldPacked] = packed.Bytes()
	return err
}
