// Package sql keeps documents, the outbox and the audit entries in one SQL database: SQLite, embedded, by default.
//
// One database is the point. A document, the event that tells of it and the entry that audits it are rows of the same
// transaction, so that no crash can leave one without the others. Every kind of document has a table of two columns,
// key and body (JSON); every row of indexes.json is an index over expressions on the body. A transaction takes the
// write lock at once, so that transactions happen one after the other, and is on the disk before Commit returns.
//
// Events are rows too. A worker claims those that are due by moving their due time to the end of a short lease, which
// it renews while the handler runs; an event whose worker died is due again when the lease is over. Handling an event
// deletes its row, failing moves it to a later time, and failing too often makes it a dead letter. No order is
// promised. The leases last 5 seconds and are renewed every 1.5, so that a killed process is replaced quickly.
// Claiming and acknowledging need not survive a power failure (the event would only come again), so they do not wait
// for the disk.
//
// We looked at River (MPL-2.0), which keeps queues in SQLite and PostgreSQL, and decided against it: our events are
// identifiers on topics with a due time, as Pub/Sub has them in the cloud, while River has jobs; it frees the jobs of
// a dead worker by a timeout for all and an elected leader instead of by lease; and it brings a clock and a client of
// its own. The outbox table we need anyhow.
//
// What differs between databases stands in dialect.go and sqlite.go; nothing else here knows which one it is.
package sql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// Options says what the database holds and how events are delivered. The zero value of every field but Indexes and
// Kinds is a good choice.
type Options struct {
	Env     domain.Env
	Indexes []domain.Index        // Open makes the database's indexes exactly these
	Kinds   []domain.DocumentKind // kinds without an index of their own; those of Indexes and audit_entry are known

	Existing bool // the database must be there: Open makes none, and gives domain.ErrNotFound

	Concurrency map[domain.Topic]int // handlers at once; 8 for a topic that is missing
	Poll        time.Duration        // how often to look for other processes' events; 200 ms
	MaxAttempts int                  // failures until an event becomes a dead letter; 10
	Grace       time.Duration        // how long handlers may go on after Run was told to stop; 10 s
	Log         *slog.Logger         // slog.Default

	// Fault, in tests, is asked at before-commit, after-commit and before-settle; an error is played as if the
	// process had died there, or the database's answer been lost. Nil in production.
	Fault func(point string) error
	// Disk, in tests, names the SQLite VFS that the files are reached by: see package disk. Empty in production.
	Disk string
}

func (o Options) withDefaults() Options {
	if o.Poll <= 0 {
		o.Poll = 200 * time.Millisecond
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = 10
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Fault == nil {
		o.Fault = func(string) error { return nil }
	}
	return o
}

// Backend is an open database: a domain.Store and a domain.Queue. It is safe for concurrent use.
type Backend struct {
	opts    Options
	env     domain.Env
	dialect *dialect
	path    string // of the file, where the database is one
	tables  map[domain.DocumentKind]table
	indexes map[string]*index

	closers []io.Closer // in the order in which they are to be closed
	read    *statements
	writers chan *writer // holds the writers that are free: taking one out is the lock
	stale   atomic.Bool  // something was deleted or replaced since the last Checkpoint

	closed    chan struct{}
	closeOnce sync.Once

	wakeMu sync.Mutex
	wakes  map[chan struct{}]struct{}
}

// writer is the right to write. Two connections, as they differ in what they wait for: durable commits are on the
// disk when they return, relaxed ones survive the death of the process but maybe not a power failure.
type writer struct{ durable, relaxed *statements }

// Open opens the database of dsn, "sqlite:PATH", and brings its tables and indexes up to date. A new file has mode
// 0600, and a new directory 0700. It returns an Invalid error if dsn or opts are wrong. Close it after use.
func Open(ctx context.Context, dsn string, opts Options) (*Backend, error) {
	scheme, address, _ := strings.Cut(dsn, ":")
	d := dialects[scheme]
	if d == nil {
		return nil, domain.Invalidf("backend", "want sqlite:PATH")
	}
	b := &Backend{opts: opts.withDefaults(), env: opts.Env, dialect: d, closed: make(chan struct{}),
		wakes: map[chan struct{}]struct{}{}}
	if err := b.declare(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := d.open(ctx, address, b); err != nil {
		b.shut()
		return nil, err
	}
	if err := b.migrate(ctx); err != nil {
		b.shut()
		return nil, fmt.Errorf("preparing the database: %w", err)
	}
	b.stale.Store(true) // a process that died may have left something
	return b, nil
}

const openTimeout = 15 * time.Second

// Close waits for the transactions that are under way, cleans up (see Checkpoint) and closes the database. A Run
// that still goes on ends with backend.ErrClosed.
func (b *Backend) Close() error {
	var err error
	b.closeOnce.Do(func() {
		ws := make([]*writer, cap(b.writers))
		for i := range ws {
			ws[i] = <-b.writers
		}
		close(b.closed)
		if !errors.Is(b.dialect.checkpoint(ws[0]), errBusy) {
			b.stale.Store(false)
		}
		err = b.shut()
	})
	return err
}

func (b *Backend) shut() error {
	var errs []error
	for _, c := range b.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Checkpoint moves everything into the database file and empties the write-ahead log, so that no file of ours holds
// bytes of a document that was deleted, or that it had before it was replaced. Run does it by itself soon after. It returns an Unavailable error
// if a reader is in the way. What the disk or a backup still holds is outside its reach.
func (b *Backend) Checkpoint(ctx context.Context) error {
	w, err := b.acquire(ctx)
	if err != nil {
		return err
	}
	defer b.release(w)
	b.stale.Store(false)
	if err := b.dialect.checkpoint(w); err != nil {
		b.stale.Store(true)
		return &domain.Error{Kind: domain.Unavailable, Code: "store_busy", Message: "the database is being read; try again", Err: err}
	}
	return nil
}

var errBusy = errors.New("somebody else uses the database")

// acquire waits for a writer, first come, first served.
func (b *Backend) acquire(ctx context.Context) (*writer, error) {
	select {
	case <-b.closed:
		return nil, backend.ErrClosed
	default:
	}
	select {
	case w := <-b.writers:
		return w, nil
	case <-b.closed:
		return nil, backend.ErrClosed
	case <-ctx.Done():
		return nil, busy(ctx)
	}
}

func (b *Backend) release(w *writer) { b.writers <- w }

// write runs do with a writer, and again as long as it says so: other processes write to the same database.
func (b *Backend) write(ctx context.Context, do func(*writer) (again bool, err error)) error {
	w, err := b.acquire(ctx)
	if err != nil {
		return err
	}
	defer b.release(w)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		again, err := do(w)
		if !again {
			return err
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return busy(ctx)
		}
	}
}

func busy(ctx context.Context) error {
	return backend.ErrBusy(context.Cause(ctx))
}
