package consent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
)

// memory is a domain.Store that keeps the port's promises in memory, the strict ones of every backend: serialisable
// commits by optimistic concurrency (so that contention really runs fn again), reads before writes, no effect without
// an entry, entries created once, queries by declared indexes only. It breaks on demand.
type memory struct {
	fault func(point string) error // "before" or "after" a commit takes effect; nil means never
	yield func()                   // called between fn and the commit, to let others in; nil means not

	mu      sync.Mutex
	version int64
	docs    map[domain.DocumentKind]map[string]stored
	events  []domain.Event
	indexes map[string]domain.Index
}

type stored struct {
	version int64 // 0: there is none
	body    []byte
}

var errBroken = errors.New("the store broke off")

func newMemory(t testing.TB) *memory {
	t.Helper()
	raw, err := schemas.FS.ReadFile("indexes.json")
	if err != nil {
		t.Fatal(err)
	}
	var indexes []domain.Index
	if err := json.Unmarshal(raw, &indexes); err != nil {
		t.Fatal(err)
	}
	m := &memory{docs: map[domain.DocumentKind]map[string]stored{}, indexes: map[string]domain.Index{}}
	for _, index := range indexes {
		m.indexes[index.Name] = index
	}
	return m
}

var keyShape = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,200}$`)

func (m *memory) read(d domain.Document) (stored, error) {
	if !keyShape.MatchString(d.Key()) {
		return stored{}, fmt.Errorf("key %q of %s has not the shape of one", d.Key(), d.Kind())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.docs[d.Kind()][d.Key()], nil
}

func load(d domain.Document, s stored) error {
	if s.version == 0 {
		return fmt.Errorf("reading %s: %w", d.Kind(), domain.ErrNotFound)
	}
	return json.Unmarshal(s.body, d)
}

func (m *memory) Get(ctx context.Context, docs ...domain.Document) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return domain.Each(docs, func(d domain.Document) error {
		s, err := m.read(d)
		if err != nil {
			return err
		}
		return load(d, s)
	})
}

// Commit runs fn until what it read is still true when it ends.
func (m *memory) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		tx := &memoryTx{m: m, read: map[string]domain.Document{}, seen: map[string]int64{}, put: map[string]domain.Document{}}
		failed := fn(tx)
		tx.over = true
		if m.yield != nil {
			m.yield()
		}
		done, err := m.apply(tx, failed)
		if done {
			return err
		}
	}
}

// apply commits tx, or says that it must run again. A failure of fn counts only if what fn had read was true.
func (m *memory) apply(tx *memoryTx, failed error) (bool, error) {
	if err := m.broken("before"); err != nil && failed == nil {
		return true, err
	}
	m.mu.Lock()
	for at, d := range tx.read {
		if m.docs[d.Kind()][d.Key()].version != tx.seen[at] {
			m.mu.Unlock()
			return false, nil
		}
	}
	if failed == nil {
		failed = m.write(tx)
	}
	m.mu.Unlock()
	if failed != nil {
		return true, failed
	}
	return true, m.broken("after")
}

func (m *memory) broken(point string) error {
	if m.fault == nil {
		return nil
	}
	return m.fault(point)
}

func (m *memory) write(tx *memoryTx) error {
	if len(tx.entries) == 0 && (len(tx.put) > 0 || len(tx.events) > 0) {
		return errors.New("commit without an audit entry")
	}
	for _, e := range tx.entries {
		if m.docs[e.Kind()][e.Key()].version != 0 {
			return errors.New("audit entry exists already")
		}
		tx.put[at(e)] = e
	}
	m.version++
	for _, d := range tx.put {
		if m.docs[d.Kind()] == nil {
			m.docs[d.Kind()] = map[string]stored{}
		}
		if gone, ok := d.(deleted); ok {
			delete(m.docs[d.Kind()], gone.Key())
			continue
		}
		body, err := json.Marshal(d)
		if err != nil {
			return err
		}
		m.docs[d.Kind()][d.Key()] = stored{m.version, body}
	}
	m.events = append(m.events, tx.events...)
	return nil
}

// deleted marks a document that a transaction takes away.
type deleted struct{ domain.Document }

type memoryTx struct {
	m       *memory
	read    map[string]domain.Document
	seen    map[string]int64
	put     map[string]domain.Document
	events  []domain.Event
	entries []*domain.Entry
	over    bool
}

var _ domain.Store = (*memory)(nil)
var _ domain.Tx = (*memoryTx)(nil)

func at(d domain.Document) string { return string(d.Kind()) + "/" + d.Key() }

func (tx *memoryTx) Get(docs ...domain.Document) error {
	if tx.over || len(tx.put)+len(tx.events)+len(tx.entries) > 0 {
		return errors.New("read after a write, or after the end")
	}
	return domain.Each(docs, tx.get)
}

func (tx *memoryTx) get(d domain.Document) error {
	s, err := tx.m.read(d)
	if err != nil {
		return err
	}
	if _, again := tx.seen[at(d)]; !again {
		tx.read[at(d)], tx.seen[at(d)] = named{d.Kind(), d.Key()}, s.version
	}
	return load(d, s)
}

// named is a document's name alone: what was read may change under the reader's hands.
type named struct {
	kind domain.DocumentKind
	key  string
}

func (n named) Kind() domain.DocumentKind { return n.kind }
func (n named) Key() string               { return n.key }

func (tx *memoryTx) Put(d domain.Document) error {
	if tx.over || !keyShape.MatchString(d.Key()) {
		return fmt.Errorf("put of %s with key %q", d.Kind(), d.Key())
	}
	tx.put[at(d)] = d
	return nil
}

func (tx *memoryTx) Delete(d domain.Document) error {
	if tx.over || !keyShape.MatchString(d.Key()) {
		return fmt.Errorf("deletion of %s with key %q", d.Kind(), d.Key())
	}
	tx.put[at(d)] = deleted{named{d.Kind(), d.Key()}}
	return nil
}

func (tx *memoryTx) Emit(e domain.Event) error {
	if tx.over || e.Topic == "" || e.Subject == "" {
		return errors.New("event without topic or subject")
	}
	tx.events = append(tx.events, e)
	return nil
}

func (tx *memoryTx) Record(e *domain.Entry) error {
	if tx.over {
		return errors.New("entry after the end")
	}
	kept := *e
	kept.Data.Details = maps.Clone(e.Data.Details)
	tx.entries = append(tx.entries, &kept)
	return nil
}

// List reads a page by an index of indexes.json.
func (m *memory) List(_ context.Context, q domain.Query) (domain.Page, error) {
	index, known := m.indexes[q.Index]
	if !known || len(q.Match) != len(index.Equal) || index.Range == "" && q.From+q.To != "" {
		return domain.Page{}, fmt.Errorf("query does not fit index %q", q.Index)
	}
	after, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	if err != nil {
		return domain.Page{}, domain.Invalidf("cursor", "use the cursor of the page before, unchanged")
	}
	rows := m.rows(index, q)
	places := slices.Sorted(maps.Keys(rows))
	if index.Order == "desc" {
		slices.Reverse(places)
	}
	limit := q.Limit
	if limit == 0 {
		limit = 100
	}
	page := domain.Page{}
	last := ""
	for _, place := range places {
		if len(after) > 0 && (place == string(after) || (place < string(after)) != (index.Order == "desc")) {
			continue
		}
		if len(page.Documents) == limit {
			page.Next = base64.RawURLEncoding.EncodeToString([]byte(last))
			break
		}
		page.Documents, last = append(page.Documents, rows[place]), place
	}
	return page, nil
}

// rows finds what a query matches, by its place in the index's order.
func (m *memory) rows(index domain.Index, q domain.Query) map[string]json.RawMessage {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows := map[string]json.RawMessage{}
	for key, s := range m.docs[index.Of] {
		var fields map[string]any
		if err := json.Unmarshal(s.body, &fields); err != nil {
			panic(err)
		}
		matches := true
		for i, field := range index.Equal {
			text, _ := fields[field].(string)
			matches = matches && text == q.Match[i]
		}
		bound := ""
		if index.Range != "" {
			bound, _ = fields[index.Range].(string)
			matches = matches && bound != "" && bound >= q.From && (q.To == "" || bound < q.To)
		}
		if matches {
			rows[bound+"\n"+key] = s.body
		}
	}
	return rows
}

// entries lists the audit log, of one action ("consent.granted") or of all (""), in the order of its identifiers.
func (m *memory) entries(action string) []domain.Entry {
	page, err := m.List(context.Background(), domain.Query{Index: "entries_by_time", Limit: 1 << 20})
	if err != nil {
		panic(err)
	}
	var out []domain.Entry
	for _, raw := range page.Documents {
		var e domain.Entry
		if err := json.Unmarshal(raw, &e); err != nil {
			panic(err)
		}
		if action == "" || e.Type == "sluis."+action {
			out = append(out, e)
		}
	}
	return out
}

// count counts documents of a kind.
func (m *memory) count(kind domain.DocumentKind) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.docs[kind])
}

// emitted counts events of a topic.
func (m *memory) emitted(topic domain.Topic) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, e := range m.events {
		if e.Topic == topic {
			n++
		}
	}
	return n
}

// breakAt makes the next n commits fail at point, and none after them.
func (m *memory) breakAt(point string, n int) {
	var mu sync.Mutex
	m.fault = func(here string) error {
		mu.Lock()
		defer mu.Unlock()
		if here != point || n == 0 {
			return nil
		}
		n--
		return errBroken
	}
}

func TestMemoryKeepsThePort(t *testing.T) {
	ctx := context.Background()
	client := &domain.Client{ID: "cli_1", Name: "before"}
	entry := func(id domain.EntryID) *domain.Entry { return &domain.Entry{ID: id, Time: domain.Env{}.Now()} }
	cases := []struct {
		name string
		fn   func(domain.Tx) error
		want string // part of the error
	}{
		{"no entry", func(tx domain.Tx) error { return tx.Put(client) }, "without an audit entry"},
		{"read after write", func(tx domain.Tx) error { tx.Put(client); return tx.Get(client) }, "read after a write"},
		{"entry twice", func(tx domain.Tx) error { return tx.Record(entry("aud_1")) }, "exists already"},
		{"bad key", func(tx domain.Tx) error { return tx.Put(&domain.Client{ID: "a/b"}) }, "key"},
	}
	m := newMemory(t)
	if err := m.Commit(ctx, func(tx domain.Tx) error { return tx.Record(entry("aud_1")) }); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := m.Commit(ctx, c.fn); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	if n := m.count("client"); n != 0 {
		t.Errorf("%d documents after refused commits, want none", n)
	}
	runs := 0
	err := m.Commit(ctx, func(tx domain.Tx) error {
		if runs++; runs == 1 { // somebody else writes what this transaction reads
			defer m.Commit(ctx, func(tx domain.Tx) error { tx.Put(client); return tx.Record(entry("aud_2")) })
		}
		if err := tx.Get(&domain.Client{ID: "cli_1"}); domain.KindOf(err) == domain.NotFound {
			return err
		}
		return tx.Record(entry("aud_3"))
	})
	if err != nil || runs != 2 {
		t.Errorf("contention: %d runs, error %v; want 2 runs and none", runs, err)
	}
}
