package backendtest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

// List checks queries, and that every index of schemas/indexes.json works.
func List(t *testing.T, open func(t *testing.T, o Opts) Backend) {
	t.Run("order", func(t *testing.T) { order(t, open) })
	t.Run("limits", func(t *testing.T) { limits(t, open) })
	t.Run("wrong", func(t *testing.T) { wrongQueries(t, open) })
	t.Run("cursors", func(t *testing.T) { cursors(t, open) })
	t.Run("large", func(t *testing.T) { largePages(t, open) })
	t.Run("changed", func(t *testing.T) { changedIndexes(t, open) })
	all := schemaIndexes(t)
	for _, ix := range all {
		t.Run(ix.Name, func(t *testing.T) { oneIndex(t, open, all, ix) })
	}
}

func order(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	put(t, b, &item{ID: "d", Group: "g", At: "1"}, &item{ID: "a", Group: "g", At: "2"}, &item{ID: "c", Group: "g", At: "2"},
		&item{ID: "b", Group: "g", At: "3"}, &item{ID: "B", Group: "g"}, &item{ID: "e", Group: "other", At: "2"}, &item{ID: "f"})
	for _, c := range []struct {
		name string
		q    domain.Query
		want []string
	}{
		{"by key, bytewise", domain.Query{Index: "items"}, []string{"B", "a", "b", "c", "d", "e", "f"}},
		{"by key down", domain.Query{Index: "items_down"}, []string{"f", "e", "d", "c", "b", "a", "B"}},
		{"of a group by key", domain.Query{Index: "items_by_group", Match: []string{"g"}}, []string{"B", "a", "b", "c", "d"}},
		{"by time then key, without those that have none", domain.Query{Index: "items_by_time", Match: []string{"g"}}, []string{"d", "a", "c", "b"}},
		{"by time then key down", domain.Query{Index: "items_by_time_down", Match: []string{"g"}}, []string{"b", "c", "a", "d"}},
		{"from, inclusive", domain.Query{Index: "items_by_time", Match: []string{"g"}, From: "2"}, []string{"a", "c", "b"}},
		{"to, exclusive", domain.Query{Index: "items_by_time", Match: []string{"g"}, To: "2"}, []string{"d"}},
		{"from and to", domain.Query{Index: "items_by_time_down", Match: []string{"g"}, From: "2", To: "3"}, []string{"c", "a"}},
		{"nothing between", domain.Query{Index: "items_by_time", Match: []string{"g"}, From: "3", To: "2"}, []string{}},
		{"of nobody", domain.Query{Index: "items_by_group", Match: []string{"nobody"}}, []string{}},
		{"quotes are only text", domain.Query{Index: "items_by_group", Match: []string{"g' OR '1'='1"}}, []string{}},
	} {
		for _, limit := range []int{0, 1, 2, 3, 1000} {
			c.q.Limit = limit
			equal(t, fmt.Sprintf("%s, %d a page", c.name, limit), list(t, b, c.q), c.want)
		}
	}
	commit(t, b, func(tx domain.Tx) error { return tx.Delete(&item{ID: "a"}) })
	put(t, b, &item{ID: "c", Group: "other", At: "9"})
	equal(t, "after changes", list(t, b, domain.Query{Index: "items_by_time", Match: []string{"g"}}), []string{"d", "b"})
}

func limits(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	var docs []domain.Document
	for n := range 101 {
		docs = append(docs, &item{ID: fmt.Sprintf("%03d", n)})
	}
	put(t, b, docs...)
	for _, c := range []struct {
		limit, want int
		more        bool
	}{{0, 100, true}, {1, 1, true}, {100, 100, true}, {101, 101, false}, {1000, 101, false}} {
		page, err := b.List(context.Background(), domain.Query{Index: "items", Limit: c.limit})
		if err != nil || len(page.Documents) != c.want || (page.Next != "") != c.more {
			t.Errorf("limit %d: %d documents, next %q, %v", c.limit, len(page.Documents), page.Next, err)
		}
	}
}

func wrongQueries(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	for name, q := range map[string]domain.Query{
		"unknown index":        {Index: "nowhere"},
		"no index":             {},
		"too few values":       {Index: "items_by_group"},
		"too many values":      {Index: "items_by_group", Match: []string{"a", "b"}},
		"values without equal": {Index: "items", Match: []string{"a"}},
		"from without range":   {Index: "items", From: "a"},
		"to without range":     {Index: "items_by_group", Match: []string{"a"}, To: "a"},
		"negative limit":       {Index: "items", Limit: -1},
		"large limit":          {Index: "items", Limit: 1001},
		"large value":          {Index: "items_by_group", Match: []string{strings.Repeat("a", 1001)}},
	} {
		if _, err := b.List(context.Background(), q); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func cursors(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	put(t, b, &item{ID: "a", Group: "g", At: "1"}, &item{ID: "b", Group: "g", At: "2"}, &item{ID: "c", Group: "h", At: "3"})
	q := domain.Query{Index: "items_by_time", Match: []string{"g"}, Limit: 1}
	page, err := b.List(context.Background(), q)
	if err != nil || page.Next == "" {
		t.Fatalf("got %+v, %v", page, err)
	}
	good := page.Next
	if _, err := base64.RawURLEncoding.DecodeString(good); err != nil {
		t.Errorf("a cursor is base64url: %v", err)
	}
	refused := func(name string, q domain.Query) {
		t.Helper()
		_, err := b.List(context.Background(), q)
		var e *domain.Error
		if !errors.As(err, &e) || e.Kind != domain.Invalid || e.Field != "cursor" {
			t.Errorf("%s: got %v, want Invalid in the field cursor", name, err)
		}
	}
	for i := range good {
		changed := []byte(good)
		if changed[i]++; good[i] == 'z' {
			changed[i] = 'a'
		}
		q.Cursor = string(changed)
		refused(fmt.Sprintf("character %d changed", i), q)
		if q.Cursor = good[:i]; i > 0 {
			refused(fmt.Sprintf("cut after %d", i), q)
		}
	}
	for name, cursor := range map[string]string{"no base64": "!", "padded": good + "=", "longer": good + "AAAA",
		"huge": strings.Repeat("A", 10_000), "newline": good + "\n"} {
		q.Cursor = cursor
		refused(name, q)
	}
	refused("of another index", domain.Query{Index: "items_by_group", Match: []string{"g"}, Cursor: good})
	refused("of other values", domain.Query{Index: "items_by_time", Match: []string{"h"}, Cursor: good})
}

// largePages checks that a page of large documents may be short, and that nothing is left out by that.
func largePages(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	var want []string
	for n := range 12 {
		id := fmt.Sprintf("%02d", n)
		put(t, b, &item{ID: id, Text: strings.Repeat("x", 1<<20-100)})
		want = append(want, id)
	}
	equal(t, "all pages", list(t, b, domain.Query{Index: "items", Limit: 1000}), want)
}

// changedIndexes opens the same data with other indexes.
func changedIndexes(t *testing.T, open opener) {
	place := t.TempDir()
	b := open.at(t, Opts{Place: place})
	put(t, b, &item{ID: "a", Group: "g", At: "2", Text: "1"}, &item{ID: "b", Group: "g", At: "1", Text: "2"})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	changed := slices.Clone(itemIndexes)
	for i := range changed {
		if changed[i].Name == "items_by_time" {
			changed[i].Range = "text"
		}
	}
	b = open.at(t, Opts{Place: place, Indexes: append(changed[1:], domain.Index{Name: "items_by_text", Of: "contract_item", Equal: []string{"text"}, Order: "asc"})})
	equal(t, "the changed index", list(t, b, domain.Query{Index: "items_by_time", Match: []string{"g"}}), []string{"a", "b"})
	equal(t, "the new index", list(t, b, domain.Query{Index: "items_by_text", Match: []string{"2"}}), []string{"b"})
	if _, err := b.List(context.Background(), domain.Query{Index: "items"}); err == nil {
		t.Error("the removed index still answers")
	}
}

// sample is a document of any kind with the fields of one index.
type sample struct {
	kind   domain.DocumentKind
	fields map[string]string
}

func (s *sample) Kind() domain.DocumentKind    { return s.kind }
func (s *sample) Key() string                  { return s.fields["id"] }
func (s *sample) MarshalJSON() ([]byte, error) { return json.Marshal(s.fields) }

// oneIndex lists documents made for ix: three that match, with a tie in the range field, one that does not match, and
// one without the range field.
func oneIndex(t *testing.T, open opener, all []domain.Index, ix domain.Index) {
	b := open.at(t, Opts{Indexes: all})
	ids := []string{"doc-1", "doc-2", "doc-3"}
	times := []string{"2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z", "2026-01-02T00:00:00.000Z"}
	for n, id := range ids {
		keep(t, b, ix, id, "match", times[n])
	}
	if len(ix.Equal) > 0 {
		keep(t, b, ix, "doc-4", "other", times[0])
	}
	if ix.Range != "" && ix.Of != "audit_entry" { // an entry always has its time
		keep(t, b, ix, "doc-5", "match", "")
	}
	if ix.Order == "desc" {
		slices.Reverse(ids)
	}
	q := domain.Query{Index: ix.Name, Match: slices.Repeat([]string{"match"}, len(ix.Equal)), Limit: 1}
	equal(t, "one by one", list(t, b, q), ids)
	q.Limit = 0
	equal(t, "in one page", list(t, b, q), ids)
	if ix.Range == "" {
		return
	}
	q.From, q.To = times[1], "2026-01-03T00:00:00.000Z"
	late := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "doc-1" })
	equal(t, "bounded", list(t, b, q), late)
	q.From, q.To = "", times[1]
	equal(t, "bounded above", list(t, b, q), []string{"doc-1"})
}

func keep(t *testing.T, b Backend, ix domain.Index, id, match, at string) {
	t.Helper()
	if ix.Of == "audit_entry" {
		e := entry("contract")
		e.ID, e.ClientID = domain.EntryID(id), domain.ClientID(match)
		if err := e.Time.UnmarshalText([]byte(at)); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(context.Background(), func(tx domain.Tx) error { return tx.Record(e) }); err != nil {
			t.Fatal(err)
		}
		return
	}
	s := &sample{kind: ix.Of, fields: map[string]string{}}
	for _, f := range ix.Equal {
		s.fields[f] = match
	}
	if ix.Range != "" && at != "" {
		s.fields[ix.Range] = at
	}
	s.fields["id"] = id
	put(t, b, s)
}
