package sql_test

import (
	"bufio"
	"bytes"
	"context"
	dbsql "database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
)

// note is the document of these tests.
type note struct {
	ID   string `json:"id"`
	Tag  string `json:"tag"`
	N    int    `json:"n"`
	Text string `json:"text,omitempty"`
}

func (*note) Kind() domain.DocumentKind { return "note" }
func (n *note) Key() string             { return n.ID }

var notes = sql.Options{Indexes: []domain.Index{{Name: "notes_by_tag", Of: "note", Equal: []string{"tag"}, Order: "asc"}}}

func openFile(t testing.TB, path string, o sql.Options) *sql.Backend {
	t.Helper()
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	b, err := sql.Open(context.Background(), "sqlite:"+path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return b
}

func record(tx domain.Tx, subject string) error {
	return tx.Record(domain.Note(domain.Env{}, "test", "test.act", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", subject, nil))
}

func commit(t testing.TB, b *sql.Backend, fn func(domain.Tx) error) {
	t.Helper()
	if err := b.Commit(context.Background(), func(tx domain.Tx) error { return errors.Join(fn(tx), record(tx, "x")) }); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	index := func(change func(*domain.Index)) sql.Options {
		ix := notes.Indexes[0]
		change(&ix)
		return sql.Options{Indexes: []domain.Index{ix}}
	}
	for name, c := range map[string]struct {
		dsn  string
		opts sql.Options
	}{
		"no scheme":       {dsn: filepath.Join(dir, "a.db")},
		"unknown scheme":  {dsn: "oracle:x"},
		"no path":         {dsn: "sqlite:"},
		"memory":          {dsn: "sqlite::memory:"},
		"kind":            {dsn: "sqlite:" + dir + "/a.db", opts: sql.Options{Kinds: []domain.DocumentKind{"x; DROP TABLE y"}}},
		"order":           {dsn: "sqlite:" + dir + "/a.db", opts: index(func(ix *domain.Index) { ix.Order = "" })},
		"field":           {dsn: "sqlite:" + dir + "/a.db", opts: index(func(ix *domain.Index) { ix.Equal = []string{"a.b"} })},
		"range":           {dsn: "sqlite:" + dir + "/a.db", opts: index(func(ix *domain.Index) { ix.Range = "a'b" })},
		"index's name":    {dsn: "sqlite:" + dir + "/a.db", opts: index(func(ix *domain.Index) { ix.Name = `a"b` })},
		"same name twice": {dsn: "sqlite:" + dir + "/a.db", opts: sql.Options{Indexes: append(notes.Indexes, notes.Indexes...)}},
	} {
		if b, err := sql.Open(context.Background(), c.dsn, c.opts); domain.KindOf(err) != domain.Invalid {
			t.Errorf("%s: got %v, %v, want Invalid", name, b, err)
		}
	}
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	later, other := filepath.Join(t.TempDir(), "later.db"), filepath.Join(t.TempDir(), "other.db")
	db, err := dbsql.Open("sqlite", later)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA user_version = 4"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Close(), os.WriteFile(other, bytes.Repeat([]byte("no database "), 1000), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := sql.Open(context.Background(), "sqlite:"+later, notes); domain.CodeOf(err) != "database_version" {
		t.Errorf("a later version: %v", err)
	}
	if _, err := sql.Open(context.Background(), "sqlite:"+other, notes); err == nil {
		t.Error("a file that is no database: no error")
	}
}

func TestUndeclaredKind(t *testing.T) {
	b := openFile(t, filepath.Join(t.TempDir(), "a.db"), sql.Options{})
	if err := b.Get(context.Background(), &note{ID: "a"}); err == nil || errors.Is(err, domain.ErrNotFound) {
		t.Errorf("got %v, want an error that is not ErrNotFound", err)
	}
}

func TestFilesAreTheOwners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "odd ?#%41 name")
	path := filepath.Join(dir, "a&b=c.db")
	b := openFile(t, path, notes)
	commit(t, b, func(tx domain.Tx) error { return tx.Put(&note{ID: "a"}) })
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("files: %v, %v, want the database, its log and its shared memory", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 || !strings.HasPrefix(f.Name(), "a&b=c.db") {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestPragmas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	b := openFile(t, path, notes)
	for pragma, want := range map[string][2]string{ // of the durable and of the relaxed connection
		"journal_mode": {"wal", "wal"}, "synchronous": {"2", "1"}, "secure_delete": {"1", "1"}, "temp_store": {"2", "2"},
	} {
		if durable, relaxed := b.Pragma(t, pragma); durable != want[0] || relaxed != want[1] {
			t.Errorf("%s: got %s and %s, want %v", pragma, durable, relaxed, want)
		}
	}
}

// TestPlans asks the database how it would read each index of indexes.json, in every form of query: it must never
// scan a table or sort.
func TestPlans(t *testing.T) {
	raw, err := schemas.FS.ReadFile("indexes.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []domain.Index
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	b := openFile(t, filepath.Join(t.TempDir(), "a.db"), sql.Options{Indexes: all})
	for _, ix := range all {
		for _, plan := range b.Plans(t, ix) {
			seeks := strings.HasPrefix(plan, "SEARCH ") || len(ix.Equal) == 0 && strings.HasPrefix(plan, "SCAN ")
			if !seeks || !strings.Contains(plan, "USING INDEX") || strings.Contains(plan, "TEMP B-TREE") {
				t.Errorf("%s: %s", ix.Name, plan)
			}
		}
	}
}

// TestUpgrade opens a file of the first version: events that wait in it are delivered, in a lane of their own.
func TestUpgrade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	b := openFile(t, path, notes)
	commit(t, b, func(tx domain.Tx) error { return tx.Emit(domain.Event{Topic: "old", Subject: "a"}) })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := dbsql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, ddl := range []string{"DROP INDEX outbox_turns", "ALTER TABLE outbox DROP COLUMN lane", "ALTER TABLE outbox DROP COLUMN trace", "PRAGMA user_version = 1",
		"CREATE INDEX outbox_due ON outbox (topic, due) WHERE dead IS NULL"} {
		if _, err := db.Exec(ddl); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b = openFile(t, path, notes)
	ctx, cancel := context.WithCancel(t.Context())
	if err := b.Run(ctx, map[domain.Topic]domain.Handler{"old": func(context.Context, domain.Event) error { cancel(); return nil }}); err != nil {
		t.Fatal(err)
	}
	if version, left := scalar(t, path, "PRAGMA user_version"), scalar(t, path, "SELECT COUNT(*) FROM outbox"); version != 3 || left != 0 {
		t.Errorf("version %d, %d events", version, left)
	}
}

// TestTurns asks the database how it finds whose turn it is: step by step through an index,
// never past all that waits.
func TestTurns(t *testing.T) {
	b := openFile(t, filepath.Join(t.TempDir(), "a.db"), notes)
	for _, line := range b.TurnPlan(t) {
		waits := strings.Contains(line, " o") || strings.Contains(line, "outbox")
		if waits && (!strings.HasPrefix(line, "SEARCH") || !strings.Contains(line, "USING INDEX outbox_turns")) || strings.Contains(line, "TEMP B-TREE") {
			t.Error(line)
		}
	}
}

// TestStaleIndexes opens a file with other indexes: the old ones are gone, and cost nothing any more.
func TestStaleIndexes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	if err := openFile(t, path, notes).Close(); err != nil {
		t.Fatal(err)
	}
	openFile(t, path, sql.Options{Indexes: []domain.Index{{Name: "other", Of: "note", Equal: []string{"n"}, Order: "asc"}}})
	const ours = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'index' AND name LIKE 'ix!_%' ESCAPE '!' AND name "
	if old, now := scalar(t, path, ours+"LIKE '%notes%'"), scalar(t, path, ours+"LIKE '%other%'"); old != 0 || now != 1 {
		t.Errorf("%d old indexes and %d new ones, want 0 and 1", old, now)
	}
}

func TestPageFitsInMemory(t *testing.T) {
	b := openFile(t, filepath.Join(t.TempDir(), "a.db"), notes)
	for n := range 12 {
		commit(t, b, func(tx domain.Tx) error {
			return tx.Put(&note{ID: fmt.Sprint(n), Tag: "large", Text: strings.Repeat("x", 1<<20-100)})
		})
	}
	page, err := b.List(context.Background(), domain.Query{Index: "notes_by_tag", Match: []string{"large"}, Limit: 1000})
	if err != nil || len(page.Documents) != 8 || page.Next == "" {
		t.Errorf("%d documents of a mebibyte in a page, next %q, %v; want 8 and more to come", len(page.Documents), page.Next, err)
	}
}

func TestCloseEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openFile(t, filepath.Join(t.TempDir(), "a.db"), notes)
		done := make(chan error)
		go func() { done <- b.Run(context.Background(), nil) }()
		synctest.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-done:
			if !errors.Is(err, backend.ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		case <-time.After(time.Minute):
			t.Error("Run goes on")
		}
	})
}

const marker = "jN4bWq8RzT"

// TestErasure looks for the bytes of deleted and replaced documents, and of their index entries, in every file.
func TestErasure(t *testing.T) {
	changes := map[string]func(tx domain.Tx, n int) error{
		"deleted":  func(tx domain.Tx, n int) error { return tx.Delete(&note{ID: fmt.Sprint(n)}) },
		"replaced": func(tx domain.Tx, n int) error { return tx.Put(&note{ID: fmt.Sprint(n), Tag: "other"}) },
	}
	changes["both"] = func(tx domain.Tx, n int) error { return changes[[]string{"deleted", "replaced"}[n%2]](tx, n) }
	for way, clean := range map[string]func(t *testing.T, b *sql.Backend, dir string) error{
		"checkpoint": func(_ *testing.T, b *sql.Backend, _ string) error { return b.Checkpoint(context.Background()) },
		"close":      func(_ *testing.T, b *sql.Backend, _ string) error { return b.Close() },
		"run":        func(t *testing.T, b *sql.Backend, _ string) error { return runAWhile(t, b) },
		"run by another, which begins now": func(t *testing.T, _ *sql.Backend, dir string) error {
			return runAWhile(t, openFile(t, filepath.Join(dir, "a.db"), notes))
		},
	} {
		for what, change := range changes {
			t.Run(what+", "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dir := t.TempDir()
					b := marked(t, dir)
					for n := range 100 {
						commit(t, b, func(tx domain.Tx) error { return change(tx, n) })
					}
					if err := clean(t, b, dir); err != nil {
						t.Fatal(err)
					}
					if n := occurrences(t, dir, marker); n != 0 {
						t.Errorf("the marker is still found %d times", n)
					}
				})
			})
		}
	}
}

// marked is a database of documents that hold the marker.
func marked(t *testing.T, dir string) *sql.Backend {
	t.Helper()
	b := openFile(t, filepath.Join(dir, "a.db"), notes)
	for n := range 100 {
		commit(t, b, func(tx domain.Tx) error {
			return tx.Put(&note{ID: fmt.Sprint(n), Tag: marker, Text: strings.Repeat(marker, 1+n*n)})
		})
	}
	if n := occurrences(t, dir, marker); n == 0 {
		t.Fatal("the marker is not found even before: this test cannot fail")
	}
	return b
}

// runAWhile lets the worker's housekeeping do it.
func runAWhile(t *testing.T, b *sql.Backend) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return b.Run(ctx, nil)
}

func occurrences(t *testing.T, dir, marker string) int {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		n += bytes.Count(content, []byte(marker))
	}
	return n
}

// TestWakes checks that an event of the same process waits for no timer at all.
func TestWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openFile(t, filepath.Join(t.TempDir(), "a.db"), notes)
		ctx, cancel := context.WithCancel(context.Background())
		handled := make(chan time.Time, 1)
		done := make(chan error)
		go func() {
			done <- b.Run(ctx, map[domain.Topic]domain.Handler{"t": func(context.Context, domain.Event) error {
				handled <- time.Now()
				return nil
			}})
		}()
		time.Sleep(1234567 * time.Microsecond)
		start := time.Now()
		commit(t, b, func(tx domain.Tx) error { return tx.Emit(domain.Event{Topic: "t", Subject: "a"}) })
		if at := <-handled; !at.Equal(start) {
			t.Errorf("it waited %v", at.Sub(start))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestStocks(t *testing.T) {
	b := openFile(t, filepath.Join(t.TempDir(), "a.db"), notes)
	commit(t, b, func(tx domain.Tx) error {
		return errors.Join(tx.Put(&note{ID: "a", Text: "xx"}), tx.Put(&note{ID: "b"}))
	})
	commit(t, b, func(tx domain.Tx) error { return tx.Delete(&note{ID: "b"}) })
	all, err := b.Stocks(t.Context())
	if err != nil || len(all) != 2 || all[0].Of != "audit_entry" || all[0].Count != 2 || all[0].Bytes < 200 || all[1].Of != "note" || all[1].Count != 1 || all[1].Bytes < 20 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openFile(t, filepath.Join(t.TempDir(), "a.db"), sql.Options{MaxAttempts: 1, Concurrency: map[domain.Topic]int{"slow": 1}})
		commit(t, b, func(tx domain.Tx) error {
			return errors.Join(tx.Emit(domain.Event{Topic: "slow", Subject: "a"}), tx.Emit(domain.Event{Topic: "slow", Subject: "b"}),
				tx.Emit(domain.Event{Topic: "bad", Subject: "c"}),
				tx.Emit(domain.Event{Topic: "slow", Subject: "d", NotBefore: domain.At(time.Now().Add(time.Hour))}))
		})
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		done := make(chan error)
		go func() {
			done <- b.Run(ctx, map[domain.Topic]domain.Handler{
				"slow": func(context.Context, domain.Event) error { time.Sleep(4 * time.Second); return nil },
				"bad":  func(context.Context, domain.Event) error { return errors.New("no") },
			})
		}()
		time.Sleep(2 * time.Second)
		got, err := b.Pending(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if want := "[{bad dead 1 2s} {slow delayed 1 2s} {slow due 1 2s} {slow leased 1 2s}]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestLostLease plays a machine that sleeps: another worker gets the event. The first handler is told, and whether it
// heard it or was quicker, it must not acknowledge what is another worker's now.
func TestLostLease(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told=%v", told), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { loseLease(t, told) })
		})
	}
}

func loseLease(t *testing.T, told bool) {
	path := filepath.Join(t.TempDir(), "a.db")
	b := openFile(t, path, notes)
	finish, finished := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- b.Run(ctx, map[domain.Topic]domain.Handler{"t": func(ctx context.Context, _ domain.Event) error {
			select {
			case <-ctx.Done():
			case <-finish:
			}
			finished <- ctx.Err()
			return nil
		}})
	}()
	commit(t, b, func(tx domain.Tx) error { return tx.Emit(domain.Event{Topic: "t", Subject: "a"}) })
	time.Sleep(time.Second)
	execute(t, path, fmt.Sprintf("UPDATE outbox SET owner = 'another', due = %d", time.Now().Add(time.Hour).UnixMilli()))
	if !told {
		close(finish)
	}
	time.Sleep(3 * time.Second)
	select {
	case err := <-finished:
		if (err != nil) != told {
			t.Errorf("the handler's context says %v", err)
		}
	default:
		close(finish)
		t.Error("nobody told the handler")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left, err := b.Pending(context.Background()); err != nil || len(left) != 1 || left[0].State != "leased" {
		t.Errorf("pending: %v, %v, want the other worker's event", left, err)
	}
}

// TestCrashLoop gives up an event over which processes die, but late.
func TestCrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.db")
		b := openFile(t, path, sql.Options{MaxAttempts: 2})
		commit(t, b, func(tx domain.Tx) error { return tx.Emit(domain.Event{Topic: "t", Subject: "a"}) })
		for attempts, want := range map[int]int{19: 0, 20: 1} { // 20 is allowed, the next is too many
			execute(t, path, fmt.Sprintf("UPDATE outbox SET attempts = %d, failures = 0, due = 0, dead = NULL", attempts))
			ctx, cancel := context.WithTimeout(context.Background(), time.Second/2)
			failing := func(context.Context, domain.Event) error { return errors.New("no") }
			if err := b.Run(ctx, map[domain.Topic]domain.Handler{"t": failing}); err != nil {
				t.Error(err)
			}
			cancel()
			letters, err := b.DeadLetters(context.Background(), 0)
			if err != nil || len(letters) != want || want == 1 && letters[0].Reason != "interrupted" {
				t.Errorf("after %d attempts: %v, %v", attempts, letters, err)
			}
		}
	})
}

// execute changes the database behind the backend's back.
func execute(t *testing.T, path, query string) {
	t.Helper()
	db, err := dbsql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

// TestBusyEndsWithContext holds the write lock as another process would.
func TestBusyEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	b := openFile(t, path, notes)
	db, err := dbsql.Open("sqlite", path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	err = b.Commit(ctx, func(domain.Tx) error { t.Error("it ran"); return nil })
	if domain.CodeOf(err) != "store_busy" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want store_busy for the deadline", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	commit(t, b, func(tx domain.Tx) error { return tx.Put(&note{ID: "a"}) })
}

const crashDir = "SLUIS_TEST_CRASH_DIR"

// TestMain is also the process that TestKilledProcess kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crash(dir)
		return
	}
	os.Exit(m.Run())
}

// crash counts for ever, telling each number once it is committed, and handles events without ever finishing.
func crash(dir string) {
	b, err := sql.Open(context.Background(), "sqlite:"+filepath.Join(dir, "a.db"), notes)
	if err != nil {
		panic(err)
	}
	go func() {
		_ = b.Run(context.Background(), map[domain.Topic]domain.Handler{
			"t": func(context.Context, domain.Event) error { select {} }})
	}()
	for {
		n, err := count(b)
		if err != nil {
			panic(err)
		}
		fmt.Println(n)
	}
}

func count(b *sql.Backend) (int, error) {
	n := &note{ID: "counter"}
	err := b.Commit(context.Background(), func(tx domain.Tx) error {
		*n = note{ID: "counter"}
		if err := tx.Get(n); err != nil && !errors.Is(err, domain.ErrNotFound) {
			return err
		}
		n.N++
		n.Text = strings.Repeat("x", n.N%5000)
		return errors.Join(tx.Put(n), tx.Emit(domain.Event{Topic: "t", Subject: fmt.Sprint(n.N)}), record(tx, fmt.Sprint(n.N)))
	})
	return n.N, err
}

// TestKilledProcess kills two processes that share a database, several times, and then looks: every number they told
// is there, each with its entry and its event, and every event is delivered.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	told := 0
	for round := range 3 {
		first, second := counting(t, dir), counting(t, dir)
		told = max(told, first(10+7*round), second(10+3*round))
	}
	b := openFile(t, filepath.Join(dir, "a.db"), notes)
	n := &note{ID: "counter"}
	if err := b.Get(context.Background(), n); err != nil || n.N < told {
		t.Fatalf("the counter is at %d, %v; but %d was told", n.N, err, told)
	}
	delivered := map[string]bool{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := b.Run(ctx, map[domain.Topic]domain.Handler{"t": handlerOf(func(e domain.Event) {
		delivered[e.Subject] = true
		if len(delivered) == n.N {
			cancel()
		}
	})})
	if err != nil || len(delivered) != n.N {
		t.Errorf("%d events of %d were delivered, %v", len(delivered), n.N, err)
	}
	if entries := scalar(t, filepath.Join(dir, "a.db"), "SELECT COUNT(*) FROM doc_audit_entry"); entries != n.N {
		t.Errorf("%d audit entries for %d acts", entries, n.N)
	}
}

func handlerOf(fn func(domain.Event)) domain.Handler {
	lock := make(chan struct{}, 1)
	return func(_ context.Context, e domain.Event) error {
		lock <- struct{}{}
		defer func() { <-lock }()
		fn(e)
		return nil
	}
}

func scalar(t *testing.T, path, query string) (n int) {
	t.Helper()
	db, err := dbsql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// counting starts a process that counts; the function it returns kills it after some lines and says the last number.
func counting(t *testing.T, dir string) func(lines int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func(lines int) int {
		last := 0
		in := bufio.NewScanner(out)
		for i := 0; in.Scan(); i++ {
			if i == lines { // it goes on while we kill it, so read what it still tells
				_ = cmd.Process.Kill()
			}
			if _, err := fmt.Sscan(in.Text(), &last); err != nil {
				t.Errorf("the process said %q", in.Text())
			}
		}
		_ = cmd.Wait() // it was killed
		return last
	}
}

// TestCloseLetsGo: of a database that nobody has open, SQLite leaves one file.
func TestCloseLetsGo(t *testing.T) {
	dir := t.TempDir()
	b := openFile(t, filepath.Join(dir, "sluis.db"), notes)
	commit(t, b, func(tx domain.Tx) error { return errors.Join(tx.Put(&note{ID: "a"}), record(tx, "a")) })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
}

// TestForeign: what another program made, what a newer one knows and this one does not, and what somebody else put into
// our file are refused, by name, before anything in it changes.
func TestForeign(t *testing.T) {
	for name, c := range map[string]struct {
		of   string // the statement, on a database of ours
		want string
	}{
		"a table of another program": {`CREATE TABLE invoices (id)`, "table invoices that is not ours"},
		"a kind of a newer one":      {`CREATE TABLE doc_later (key TEXT PRIMARY KEY NOT NULL, body TEXT NOT NULL)`, "use the newer program"},
		"a trigger":                  {`CREATE TRIGGER t AFTER DELETE ON outbox BEGIN SELECT 1; END`, "trigger t that is not ours"},
		"a view":                     {`CREATE VIEW v AS SELECT 1`, "view v that is not ours"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			open := func() (*sql.Backend, error) {
				return sql.Open(t.Context(), "sqlite:"+path, notes)
			}
			b, err := open()
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			db, err := dbsql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(c.of); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if b, err := open(); err == nil || domain.CodeOf(err) != "database_foreign" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, %v", b, err)
			}
		})
	}
}

// TestChangedIndex: an index whose name is ours and whose definition is not would give wrong pages.
func TestChangedIndex(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b := openFile(t, path, notes)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := dbsql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if err := db.QueryRow(`SELECT name FROM sqlite_master WHERE name LIKE 'ix\_%' ESCAPE '\'`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	for _, ddl := range []string{`DROP INDEX "` + name + `"`, `CREATE INDEX "` + name + `" ON doc_note (key)`} {
		if _, err := db.Exec(ddl); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sql.Open(t.Context(), "sqlite:"+path, notes); err == nil || !strings.Contains(err.Error(), name+" of the database is not what its name says") {
		t.Error(err)
	}
}
