package sql

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// table is one kind of documents.
type table struct{ name, get, put, insert, delete string }

// declare turns Options into the tables and indexes of the database.
func (b *Backend) declare() error {
	b.tables, b.indexes = map[domain.DocumentKind]table{}, map[string]*index{}
	kinds := append(slices.Clone(b.opts.Kinds), (*domain.Entry)(nil).Kind())
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
		if err := backend.CheckName("kinds", string(kind)); err != nil {
			return err
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
	if err := backend.CheckIndex(def); err != nil {
		return nil, err
	}
	ix := &index{Index: def, dialect: d}
	if def.Range != "" {
		ix.order = d.field(def.Range)
	}
	for _, f := range def.Equal {
		ix.equal = append(ix.equal, d.field(f))
	}
	if len(def.Equal) > 0 || def.Range != "" {
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

// query is the statement that reads one page, and its arguments.
func (ix *index) query(q domain.Query, after *backend.Position, limit int) (string, []any) {
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
		and("("+ix.order+", key)"+past+"(?, ?)", after.Order, after.Key)
	case after != nil:
		and("key"+past+"?", after.Key)
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

// List implements domain.Store. A page ends early where its documents come to 8 MiB; Next says whether more follow.
func (b *Backend) List(ctx context.Context, q domain.Query) (domain.Page, error) {
	ix := b.indexes[q.Index]
	if ix == nil {
		return domain.Page{}, fmt.Errorf("listing: there is no index %q", q.Index)
	}
	if err := backend.CheckQuery(ix.Index, &q); err != nil {
		return domain.Page{}, err
	}
	after, err := backend.Begin(q)
	if err != nil {
		return domain.Page{}, err
	}
	var page domain.Page
	var last backend.Position
	size := 0
	text, args := ix.query(q, after, q.Limit+1)
	err = b.reading(ctx, func(s *statements) error {
		page, last, size = domain.Page{}, backend.Position{}, 0
		return s.rows(ctx, text, args, func(scan func(...any) error) (bool, error) {
			var at backend.Position
			var body []byte
			if err := scan(&at.Key, &at.Order, &body); err != nil {
				return false, err
			}
			size += len(body)
			if len(page.Documents) == q.Limit || len(page.Documents) > 0 && size > backend.MaxPage {
				page.Next = backend.Cursor(q, last)
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
