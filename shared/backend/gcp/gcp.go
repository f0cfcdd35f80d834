// Package gcp keeps documents, events and keys in Google Cloud's own services: Firestore, Pub/Sub, Cloud KMS and Secret
// Manager.
//
// A kind of document is a collection; a document holds its JSON body, and beside it the fields that indexes.json names,
// as Firestore cannot look into the body. Firestore's transactions are serialisable; whoever comes in another's way is
// tried again with jitter.
//
// Events are documents of the collection "outbox", written in the transaction that emits them. Right after the commit
// they are published to the topic of their name, and the function that handled one deletes its document. So the
// document is the truth and Pub/Sub the doorbell: what was never published (the process died just then), what is to
// come later, and what failed, is found in the outbox by [Backend.Pump] and published when it is due. A handler's
// failures, delays and the end as a dead letter are noted there too, and are the same as in the other backends;
// Pub/Sub's own redelivery and dead-letter topics catch what dies before it could note anything.
package gcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/pubsub/v2"
	"google.golang.org/api/option"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// Options says where the data lies and how events are delivered.
type Options struct {
	Env      domain.Env
	Project  string // the runtime project
	Database string // of Firestore; empty means "(default)"
	Indexes  []domain.Index
	Kinds    []domain.DocumentKind          // kinds without an index of their own
	Ends     map[domain.DocumentKind]string // the field that says when a document's life ends, for Firestore's TTL

	Concurrency map[domain.Topic]int // handlers at once in Run; 8 for a topic that is missing
	MaxAttempts int                  // failures until an event becomes a dead letter; 10
	Grace       time.Duration        // how long handlers may go on after Run was told to stop; 10 s
	Log         *slog.Logger         // slog.Default
	Client      []option.ClientOption

	// Fault, in tests, is asked at before-commit, after-commit and before-settle; an error is played as if the
	// process had died there, or the service's answer been lost. Nil in production.
	Fault func(point string) error
}

func (o Options) withDefaults() Options {
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

// Backend is a domain.Store and a domain.Queue on Firestore and Pub/Sub. It is safe for concurrent use.
type Backend struct {
	opts    Options
	env     domain.Env
	store   *firestore.Client
	bus     *pubsub.Client
	kinds   map[domain.DocumentKind][]string // the fields that indexes of the kind name
	indexes map[string]domain.Index

	mu         sync.Mutex
	publishers map[domain.Topic]*pubsub.Publisher

	closed    chan struct{}
	closeOnce sync.Once
}

// New makes the clients; the first request connects them. Close it after use.
func New(ctx context.Context, o Options) (*Backend, error) {
	b := &Backend{opts: o.withDefaults(), env: o.Env, publishers: map[domain.Topic]*pubsub.Publisher{}, closed: make(chan struct{})}
	if o.Project == "" {
		return nil, domain.Invalidf("project", "want the runtime project's id")
	}
	if err := b.declare(); err != nil {
		return nil, err
	}
	var err error
	if o.Database == "" || o.Database == firestore.DefaultDatabaseID {
		b.store, err = firestore.NewClient(ctx, o.Project, o.Client...)
	} else {
		b.store, err = firestore.NewClientWithDatabase(ctx, o.Project, o.Database, o.Client...)
	}
	if err != nil {
		return nil, fmt.Errorf("opening Firestore: %w", err)
	}
	if b.bus, err = pubsub.NewClient(ctx, o.Project, o.Client...); err != nil {
		return nil, errors.Join(fmt.Errorf("opening Pub/Sub: %w", err), b.store.Close())
	}
	return b, nil
}

// declare turns Options into the fields that are kept beside each kind's body.
func (b *Backend) declare() error {
	b.kinds, b.indexes = map[domain.DocumentKind][]string{}, map[string]domain.Index{}
	for _, k := range append([]domain.DocumentKind{(*domain.Entry)(nil).Kind()}, b.opts.Kinds...) {
		b.kinds[k] = nil
	}
	for _, ix := range b.opts.Indexes {
		if err := backend.CheckIndex(ix); err != nil {
			return err
		}
		if _, twice := b.indexes[ix.Name]; twice {
			return domain.Invalidf("indexes", "there are two indexes %s", ix.Name)
		}
		b.indexes[ix.Name] = ix
		b.kinds[ix.Of] = append(b.kinds[ix.Of], ix.Equal...)
		if ix.Range != "" {
			b.kinds[ix.Of] = append(b.kinds[ix.Of], ix.Range)
		}
	}
	for k := range b.kinds {
		if err := backend.CheckName("kinds", string(k)); err != nil {
			return err
		}
		if string(k) == outbox {
			return domain.Invalidf("kinds", "the kind %s is the backend's own", k)
		}
	}
	return nil
}

// Close publishes what waits and closes the clients.
func (b *Backend) Close() error {
	var err error
	b.closeOnce.Do(func() {
		close(b.closed)
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, p := range b.publishers {
			p.Stop()
		}
		err = errors.Join(b.bus.Close(), b.store.Close())
	})
	return err
}

func (b *Backend) open() error {
	select {
	case <-b.closed:
		return backend.ErrClosed
	default:
		return nil
	}
}
