// Package backendtest is the contract that every backend passes: what domain.Store, domain.Tx and domain.Queue
// promise, as tests. A backend's own test calls Run; what is special to it (files, processes, plans) it tests itself.
//
// The store's part runs in real time and asserts nothing about it. The queue's part runs in testing/synctest bubbles,
// where hours pass at once and exactly; so the backend must live within one process, or have no goroutine that waits
// for the network while it is idle. No order of events is promised, and none is tested.
package backendtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sluis.internal/shared/domain"
)

// Backend is an open backend.
type Backend struct {
	domain.Store
	domain.Queue
	Close func() error
}

// Opts says how a backend is to be opened.
type Opts struct {
	Place       string     // an empty directory's path at first; opened again, or twice at once, the same data is there
	Env         domain.Env // its clock, where the test moves it
	Indexes     []domain.Index
	Kinds       []domain.DocumentKind
	Concurrency map[domain.Topic]int
	MaxAttempts int

	// Fault is asked at before-commit, after-commit and before-settle (a handler has returned, and the queue is about
	// to note that). On an error the backend acts as if its process died there; a Commit returns the error.
	Fault func(point string) error
}

// Run checks the whole contract. The backend that open returns is closed by the test.
func Run(t *testing.T, open func(t *testing.T, o Opts) Backend) {
	t.Run("store", func(t *testing.T) { Store(t, open) })
	t.Run("list", func(t *testing.T) { List(t, open) })
	t.Run("queue", func(t *testing.T) { Queue(t, open) })
}

// opener opens backends for one test.
type opener func(t *testing.T, o Opts) Backend

// at opens a backend with the contract's own kinds, at a new place unless o says otherwise.
func (open opener) at(t *testing.T, o Opts) Backend {
	t.Helper()
	if o.Place == "" {
		o.Place = t.TempDir()
	}
	if o.Indexes == nil {
		o.Indexes = itemIndexes
	}
	b := open(t, o)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return b
}

// item is the contract's document.
type item struct {
	ID    string `json:"id"`
	Group string `json:"group,omitempty"`
	At    string `json:"at,omitempty"`
	N     int    `json:"n,omitempty"`
	Text  string `json:"text,omitempty"`
}

func (*item) Kind() domain.DocumentKind { return "contract_item" }
func (i *item) Key() string             { return i.ID }

var itemIndexes = []domain.Index{
	{Name: "items", Of: "contract_item", Order: "asc"},
	{Name: "items_down", Of: "contract_item", Order: "desc"},
	{Name: "items_by_group", Of: "contract_item", Equal: []string{"group"}, Order: "asc"},
	{Name: "items_by_time", Of: "contract_item", Equal: []string{"group"}, Range: "at", Order: "asc"},
	{Name: "items_by_time_down", Of: "contract_item", Equal: []string{"group"}, Range: "at", Order: "desc"},
}

// entry is an audit entry for a test's act.
func entry(subject string) *domain.Entry {
	actor := domain.Actor{Kind: domain.ActorSystem, ID: "contract"}
	return domain.Note(domain.Env{}, "contract", "contract.act", actor, "", subject, nil)
}

// put commits documents.
func put(t *testing.T, s domain.Store, docs ...domain.Document) {
	t.Helper()
	commit(t, s, func(tx domain.Tx) error {
		for _, d := range docs {
			if err := tx.Put(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// commit commits fn's effects with a Record.
func commit(t *testing.T, s domain.Store, fn func(domain.Tx) error) {
	t.Helper()
	err := s.Commit(context.Background(), func(tx domain.Tx) error {
		return errors.Join(fn(tx), tx.Record(entry("contract")))
	})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// emit commits events.
func emit(t *testing.T, s domain.Store, events ...domain.Event) {
	t.Helper()
	commit(t, s, func(tx domain.Tx) error {
		for _, e := range events {
			if err := tx.Emit(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// read gets an item; nil if there is none.
func read(t *testing.T, s domain.Store, id string) *item {
	t.Helper()
	i := &item{ID: id}
	err := s.Get(context.Background(), i)
	if errors.Is(err, domain.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatalf("get %s: %v", id, err)
	}
	return i
}

// list reads all pages of a query, and checks that no page is longer than it may be.
func list(t *testing.T, s domain.Store, q domain.Query) []string {
	t.Helper()
	ids := []string{}
	for {
		page, err := s.List(context.Background(), q)
		if err != nil {
			t.Fatalf("list %+v: %v", q, err)
		}
		if q.Limit > 0 && len(page.Documents) > q.Limit {
			t.Fatalf("list %+v: a page of %d", q, len(page.Documents))
		}
		for _, raw := range page.Documents {
			var doc struct{ ID string }
			if err := json.Unmarshal(raw, &doc); err != nil {
				t.Fatalf("list %+v: %v", q, err)
			}
			ids = append(ids, doc.ID)
		}
		if page.Next == "" {
			return ids
		}
		q.Cursor = page.Next
	}
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// schemaIndexes reads schemas/indexes.json. Backends must not import schemas, so it looks for the module's root.
func schemaIndexes(t *testing.T) []domain.Index {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the test does not run within the module")
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "schemas", "indexes.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []domain.Index
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("indexes.json is empty")
	}
	return all
}

// faults is a Fault that fails at one point, as often as it is armed.
type faults struct {
	point string
	times chan struct{}
}

var errFault = errors.New("played fault")

func newFaults(point string) *faults { return &faults{point, make(chan struct{}, 100)} }

func (f *faults) arm() { f.times <- struct{}{} }

func (f *faults) ask(point string) error {
	if point != f.point {
		return nil
	}
	select {
	case <-f.times:
		return fmt.Errorf("%s: %w", point, errFault)
	default:
		return nil
	}
}
