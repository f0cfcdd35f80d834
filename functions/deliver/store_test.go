package deliver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
)

// memory is a Store that keeps the port's promises, for one process and not for long. To prove that a transaction has
// no effect but through its Tx, it runs each twice and forgets the first. It breaks on demand: fault is asked at each
// commit, and may have it fail before it applies, or fail although it applied.
type memory struct {
	mu      sync.Mutex
	docs    map[string][]byte // by kind and key
	events  []domain.Event
	entries []*domain.Entry
	commits int
	fault   func(commit int) fault
}

type fault int

const (
	sound fault = iota
	failsBefore
	failsAfter
)

var errBroken = &domain.Error{Kind: domain.Unavailable, Code: "store_broken"}

func newMemory() *memory { return &memory{docs: map[string][]byte{}} }

func name(d domain.Document) string { return string(d.Kind()) + "/" + d.Key() }

func (m *memory) Get(_ context.Context, docs ...domain.Document) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return domain.Each(docs, m.load)
}

func (m *memory) load(d domain.Document) error { return fill(m.docs[name(d)], d) }

func fill(raw []byte, d domain.Document) error {
	if raw == nil {
		return domain.ErrNotFound
	}
	return json.Unmarshal(raw, d)
}

func (m *memory) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var tx *memoryTx
	for range 2 {
		tx = &memoryTx{store: m, writes: map[string][]byte{}}
		if err := fn(tx); err != nil {
			return err
		}
		if len(tx.writes)+len(tx.events) > 0 && len(tx.entries) == 0 {
			return errors.New("a change without an audit entry")
		}
	}
	if len(tx.entries) == 0 {
		return nil
	}
	how := sound
	if m.commits++; m.fault != nil {
		how = m.fault(m.commits)
	}
	if how == failsBefore {
		return errBroken
	}
	for key, raw := range tx.writes {
		m.docs[key] = raw
	}
	m.events, m.entries = append(m.events, tx.events...), append(m.entries, tx.entries...)
	if how == failsAfter {
		return errBroken
	}
	return nil
}

type memoryTx struct {
	store   *memory
	writes  map[string][]byte
	events  []domain.Event
	entries []*domain.Entry
}

func (tx *memoryTx) Get(docs ...domain.Document) error {
	if len(tx.writes)+len(tx.events)+len(tx.entries) > 0 {
		return errors.New("a read after a write")
	}
	return domain.Each(docs, tx.store.load)
}

func (tx *memoryTx) Put(d domain.Document) error {
	raw, err := json.Marshal(d)
	if err == nil && len(raw) > 1<<20 {
		err = errors.New("a document above 1 MiB")
	}
	tx.writes[name(d)] = raw
	return err
}

func (tx *memoryTx) Delete(d domain.Document) error { tx.writes[name(d)] = nil; return nil }

func (tx *memoryTx) Emit(e domain.Event) error {
	e.ID = domain.NewID[domain.EventID](domain.Env{})
	tx.events = append(tx.events, e)
	return nil
}

func (tx *memoryTx) Record(e *domain.Entry) error { tx.entries = append(tx.entries, e); return nil }

// indexes are the declared ones, so that no query is made without.
var indexes = func() map[string]domain.Index {
	raw, err := schemas.FS.ReadFile("indexes.json")
	if err != nil {
		panic(err)
	}
	var rows []domain.Index
	if err := json.Unmarshal(raw, &rows); err != nil {
		panic(err)
	}
	out := map[string]domain.Index{}
	for _, row := range rows {
		out[row.Name] = row
	}
	return out
}()

// List pages by position: good enough where nothing is added before the cursor.
func (m *memory) List(_ context.Context, q domain.Query) (domain.Page, error) {
	index, ok := indexes[q.Index]
	if !ok || len(index.Equal) != len(q.Match) {
		return domain.Page{}, errors.New("no such index: " + q.Index)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	type row struct {
		sort string
		raw  []byte
	}
	var rows []row
	for key, raw := range m.docs {
		if raw == nil || !bytes.HasPrefix([]byte(key), []byte(string(index.Of)+"/")) {
			continue
		}
		var fields map[string]any
		if err := json.Unmarshal(raw, &fields); err != nil {
			return domain.Page{}, err
		}
		value, _ := fields[index.Range].(string)
		if matches(index, q, fields) && (q.From == "" || value >= q.From) && (q.To == "" || value < q.To) {
			rows = append(rows, row{value + "\x00" + key, raw})
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		if index.Order == "desc" {
			a, b = b, a
		}
		return cmp.Compare(a.sort, b.sort)
	})
	start, _ := strconv.Atoi(q.Cursor)
	end := min(len(rows), start+cmp.Or(q.Limit, 100))
	page := domain.Page{}
	for _, r := range rows[min(start, end):end] {
		page.Documents = append(page.Documents, r.raw)
	}
	if end < len(rows) {
		page.Next = strconv.Itoa(end)
	}
	return page, nil
}

func matches(index domain.Index, q domain.Query, fields map[string]any) bool {
	for i, field := range index.Equal {
		if fields[field] != q.Match[i] {
			return false
		}
	}
	return true
}

// take removes and returns the event that is due first.
func (m *memory) take() (domain.Event, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.events) == 0 {
		return domain.Event{}, false
	}
	first := 0
	for i, e := range m.events {
		if e.NotBefore.Before(m.events[first].NotBefore) {
			first = i
		}
	}
	e := m.events[first]
	m.events = slices.Delete(m.events, first, first+1)
	return e, true
}

// give puts an event back.
func (m *memory) give(e domain.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, e)
}

// seed puts documents without ceremony.
func (m *memory) seed(docs ...domain.Document) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range docs {
		raw, err := json.Marshal(d)
		if err != nil {
			panic(err)
		}
		m.docs[name(d)] = raw
	}
}

// all returns the documents of one kind.
func all[T any, P interface {
	*T
	domain.Document
}](m *memory) []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []T
	for _, key := range slices.Sorted(maps.Keys(m.docs)) {
		var d T
		if bytes.HasPrefix([]byte(key), []byte(string(P(&d).Kind())+"/")) && m.docs[key] != nil {
			if err := json.Unmarshal(m.docs[key], &d); err != nil {
				panic(err)
			}
			out = append(out, d)
		}
	}
	return out
}
