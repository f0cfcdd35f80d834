package sql_test

import (
	"context"
	dbsql "database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
)

// BenchmarkCommit measures a Commit as functions make it (read, write 2 KiB, emit, record) and, in turns, the yardstick:
// the same bytes written into the same tables by nothing but prepared statements. ×bare is their ratio; we want
// at most 1.5.
func BenchmarkCommit(b *testing.B) {
	dir := b.TempDir()
	backend := openFile(b, filepath.Join(dir, "a.db"), notes)
	bare := openBare(b, filepath.Join(dir, "bare.db"))
	var ours, theirs time.Duration
	n := 0
	for b.Loop() {
		n++
		doc := &note{ID: fmt.Sprint("note-", n%1000), Tag: "bench", N: n, Text: strings.Repeat("x", 2000)}
		start := time.Now()
		commit(b, backend, func(tx domain.Tx) error {
			if err := tx.Get(&note{ID: doc.ID}); err != nil && !errors.Is(err, domain.ErrNotFound) {
				return err
			}
			return errors.Join(tx.Put(doc), tx.Emit(domain.Event{Topic: "bench", Subject: doc.ID}))
		})
		between := time.Now()
		bare.commit(b, doc, n)
		ours, theirs = ours+between.Sub(start), theirs+time.Since(between)
	}
	b.ReportMetric(float64(ours.Microseconds())/float64(n), "us/commit")
	b.ReportMetric(float64(theirs.Microseconds())/float64(n), "us/bare")
	b.ReportMetric(float64(ours)/float64(theirs), "×bare")
}

// bare is SQLite without us.
type bare struct{ begin, get, put, entry, event, commitIt *dbsql.Stmt }

func openBare(b *testing.B, path string) *bare {
	b.Helper()
	made, err := sql.Open(context.Background(), "sqlite:"+path, notes) // the same tables and indexes
	if err == nil {
		err = made.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	db, err := dbsql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=secure_delete(1)&_pragma=cache_size(-8000)")
	if err != nil {
		b.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	b.Cleanup(func() { db.Close() })
	prepare := func(query string) *dbsql.Stmt {
		st, err := db.Prepare(query)
		if err != nil {
			b.Fatal(err)
		}
		return st
	}
	return &bare{begin: prepare("BEGIN IMMEDIATE"), get: prepare("SELECT body FROM doc_note WHERE key = ?"),
		put:   prepare("INSERT INTO doc_note (key, body) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body"),
		entry: prepare("INSERT INTO doc_audit_entry (key, body) VALUES (?, ?)"),
		event: prepare(`INSERT INTO outbox (id, topic, subject, custodian, not_before, created, due)
			VALUES (?, 'bench', ?, '', '', 1767225600000, 1767225600000)`),
		commitIt: prepare("COMMIT")}
}

func (p *bare) commit(b *testing.B, doc *note, n int) {
	b.Helper()
	body, err := json.Marshal(doc)
	if err != nil {
		b.Fatal(err)
	}
	e := domain.Note(domain.Env{}, "test", "test.act", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", "x", nil)
	entry, err := json.Marshal(e)
	if err != nil {
		b.Fatal(err)
	}
	var old string
	run := func(st *dbsql.Stmt, args ...any) {
		if _, err := st.Exec(args...); err != nil {
			b.Fatal(err)
		}
	}
	run(p.begin)
	if err := p.get.QueryRow(doc.ID).Scan(&old); err != nil && !errors.Is(err, dbsql.ErrNoRows) {
		b.Fatal(err)
	}
	run(p.put, doc.ID, string(body))
	run(p.event, fmt.Sprintf("msg_%026d", n), doc.ID)
	run(p.entry, string(e.ID), string(entry))
	run(p.commitIt)
}

// BenchmarkDelivery measures an event's way: emitted (a thousand in each Commit), claimed, handled, acknowledged.
func BenchmarkDelivery(b *testing.B) {
	backend := openFile(b, filepath.Join(b.TempDir(), "a.db"), notes)
	handled := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- backend.Run(ctx, map[domain.Topic]domain.Handler{"bench": func(context.Context, domain.Event) error {
			handled <- struct{}{}
			return nil
		}})
	}()
	n := 0
	for b.Loop() {
		if n%1000 == 0 {
			commit(b, backend, func(tx domain.Tx) (err error) {
				for range 1000 {
					err = errors.Join(err, tx.Emit(domain.Event{Topic: "bench", Subject: "x"}))
				}
				return err
			})
		}
		<-handled
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
