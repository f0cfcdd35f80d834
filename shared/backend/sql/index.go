package sql

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sluis.internal/shared/domain"
)

// table is one kind of documents.
type table struct{ name, get, put, insert, delete string }

var (
	nameShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)
	keyShape  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,200}$`)
)

// declare turns Options into the tables and indexes of the database.
func (b *Backend) declare() error {
	b.tables, b.indexes = map[domain.DocumentKind]table{}, map[string]*index{}
	kinds := append(slices.Clone(b.opts.Kinds), entryKind)
	for _, def := range b.opts.Indexes {
		kinds = append(kinds, def.Of)
		ix, err := newIndex(b.dialect, def)
		if err != nil {
			return err
		}
		if b.indexes[def.Name] != nil {
			return domain.Invalidf("indexes", "there are two indexes %s", def.Name)
		}
		b.indexes[def.Name] = ix
	}
	for _, kind := range kinds {
		if !nameShape.MatchString(string(kind)) {
			return domain.Invalidf("kinds", "kind %q: want small letters, digits and _", kind)
		}
		name := tableName(kind)
		b.tables[kind] = table{
			name:   name,
			get:    "SELECT body FROM " + name + " WHERE key = ?",
			put:    "INSERT INTO " + name + " (key, body) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body",
			insert: "INSERT INTO " + name + " (key, body) VALUES (?, ?)",
			delete: "DELETE FROM " + name + " WHERE key = ?",
		}
	}
	return nil
}

func tableName(kind domain.DocumentKind) string { return "doc_" + string(kind) }

// schema is what makes the tables, if they are not there.
func (b *Backend) schema() []string {
	var ddl []string
	for _, t := range b.tables {
		ddl = append(ddl, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (key %s PRIMARY KEY NOT NULL, body %[2]s NOT NULL)",
			t.name, b.dialect.text))
	}
	slices.Sort(ddl)
	return append(ddl, outboxSchema(b.dialect.text)...)
}

// index is a domain.Index as the database has it.
type index struct {
	domain.Index
	dialect *dialect
	name    string // in the database; empty where the primary key is index enough
	equal   []string
	order   string // expression of the range field, or empty
}

func newIndex(d *dialect, def domain.Index) (*index, error) {
	ix := &index{Index: def, dialect: d}
	if def.Order != "asc" && def.Order != "desc" {
		return nil, domain.Invalidf("indexes", "index %s: order is asc or desc", def.Name)
	}
	fields := append(slices.Clone(def.Equal), def.Name)
	if def.Range != "" {
		fields = append(fields, def.Range)
		ix.order = d.field(def.Range)
	}
	for _, f := range fields {
		if !nameShape.MatchString(f) {
			return nil, domain.Invalidf("indexes", "index %s: %q is no name of a top-level field", def.Name, f)
		}
	}
	for _, f := range def.Equal {
		ix.equal = append(ix.equal, d.field(f))
	}
	if len(fields) > 1 {
		digest := sha256.Sum256([]byte(ix.definition()))
		ix.name = "ix_" + def.Name[:min(len(def.Name), 40)] + "_" + hex.EncodeToString(digest[:6])
	}
	return ix, nil
}

// definition is the table, the columns, and the condition that leaves out documents without the range field.
func (ix *index) definition() string {
	columns := slices.Clone(ix.equal)
	where := ""
	if ix.order != "" {
		columns = append(columns, ix.order)
		where = " WHERE " + ix.order + " > ''"
	}
	columns = append(columns, "key")
	return tableName(ix.Of) + " (" + strings.Join(columns, ", ") + ")" + where
}

// create is the statement that makes the index, or "" where it needs none.
func (ix *index) create() string {
	if ix.name == "" {
		return ""
	}
	return `CREATE INDEX "` + ix.name + `" ON ` + ix.definition()
}

// position is where a page ended: the range field's value, if the index has one, and the key.
type position struct{ order, key string }

// query is the statement that reads one page, and its arguments.
func (ix *index) query(q domain.Query, after *position, limit int) (string, []any) {
	direction, past := " ASC", " > "
	if ix.Order == "desc" {
		direction, past = " DESC", " < "
	}
	var where []string
	var args []any
	and := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	for i, e := range ix.equal {
		and(e+" = ?", q.Match[i])
	}
	columns, order := "key, '', body", "key"+direction
	if ix.order != "" {
		columns, order = "key, "+ix.order+", body", ix.order+direction+", key"+direction
		and(ix.order + " > ''")
	}
	if q.From != "" {
		and(ix.order+" >= ?", q.From)
	}
	if q.To != "" {
		and(ix.order+" < ?", q.To)
	}
	switch {
	case after != nil && ix.order != "":
		and("("+ix.order+", key)"+past+"(?, ?)", after.order, after.key)
	case after != nil:
		and("key"+past+"?", after.key)
	}
	from := tableName(ix.Of)
	if ix.name != "" {
		from = ix.dialect.from(from, ix.name)
	}
	text := "SELECT " + columns + " FROM " + from
	if len(where) > 0 {
		text += " WHERE " + strings.Join(where, " AND ")
	}
	return text + " ORDER BY " + order + " LIMIT ?", append(args, limit)
}

const (
	maxValue  = 1000    // bytes of a Match, From or To
	maxCursor = 4 << 10 // bytes
	maxPage   = 8 << 20 // bytes of documents, so that a page of large documents fits in memory; one always fits
)

// check refuses a query that does not fit the index.
func (ix *index) check(q domain.Query) error {
	switch {
	case len(q.Match) != len(ix.equal):
		return domain.Invalidf("match", "index %s wants %d values to match, not %d", ix.Name, len(ix.equal), len(q.Match))
	case ix.order == "" && (q.From != "" || q.To != ""):
		return domain.Invalidf("from", "index %s has no range", ix.Name)
	case q.Limit < 0 || q.Limit > 1000:
		return domain.Invalidf("limit", "want 1 to 1000")
	}
	for _, v := range append(slices.Clone(q.Match), q.From, q.To) {
		if len(v) > maxValue {
			return domain.Invalidf("match", "want values of at most %d bytes", maxValue)
		}
	}
	return nil
}

// List implements domain.Store. A page ends early where its documents come to 8 MiB; Next says whether more follow.
func (b *Backend) List(ctx context.Context, q domain.Query) (domain.Page, error) {
	ix := b.indexes[q.Index]
	if ix == nil {
		return domain.Page{}, fmt.Errorf("listing: there is no index %q", q.Index)
	}
	if err := ix.check(q); err != nil {
		return domain.Page{}, err
	}
	after, err := ix.open(q)
	if err != nil {
		return domain.Page{}, err
	}
	limit := q.Limit
	if limit == 0 {
		limit = 100
	}
	var page domain.Page
	var last position
	size := 0
	text, args := ix.query(q, after, limit+1)
	err = b.reading(ctx, func(s *statements) error {
		page, last, size = domain.Page{}, position{}, 0
		return s.rows(ctx, text, args, func(scan func(...any) error) (bool, error) {
			var at position
			var body []byte
			if err := scan(&at.key, &at.order, &body); err != nil {
				return false, err
			}
			size += len(body)
			if len(page.Documents) == limit || len(page.Documents) > 0 && size > maxPage {
				page.Next = ix.cursor(q, last)
				return false, nil
			}
			page.Documents, last = append(page.Documents, body), at
			return true, nil
		})
	})
	if err != nil {
		return domain.Page{}, fmt.Errorf("listing %s: %w", q.Index, err)
	}
	return page, nil
}

// cursor is a position as text: base64url of a digest and the position as JSON. The digest ties it to the query's
// index and values, so that a cursor that was cut, changed or taken from elsewhere is noticed. It is no secret and
// gives no right: a query shows nothing but its own documents wherever it begins.
func (ix *index) cursor(q domain.Query, at position) string {
	body, err := json.Marshal([]string{at.order, at.key})
	if err != nil {
		panic("a list of strings is JSON: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(append(ix.digest(q, body), body...))
}

const digestLen = 8

func (ix *index) digest(q domain.Query, body []byte) []byte {
	sum := sha256.Sum256(append(domain.Name(append([]string{ix.Name}, q.Match...)...), body...))
	return sum[:digestLen]
}

// open reads the query's cursor; nil if it has none.
func (ix *index) open(q domain.Query) (*position, error) {
	if q.Cursor == "" {
		return nil, nil
	}
	bad := domain.Invalidf("cursor", "take the cursor of the page before, unchanged, with the same query")
	if len(q.Cursor) > maxCursor {
		return nil, bad
	}
	raw, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	if err != nil || len(raw) < digestLen || base64.RawURLEncoding.EncodeToString(raw) != q.Cursor {
		return nil, bad
	}
	var at []string
	body := raw[digestLen:]
	if !bytes.Equal(raw[:digestLen], ix.digest(q, body)) || json.Unmarshal(body, &at) != nil || len(at) != 2 {
		return nil, bad
	}
	return &position{order: at[0], key: at[1]}, nil
}
