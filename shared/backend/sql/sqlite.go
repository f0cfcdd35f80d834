package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"sluis.internal/shared/domain"
)

// sqlite is SQLite in write-ahead mode: one writer at a time, readers beside it.
var sqlite = dialect{
	open:       openSQLite,
	bind:       func(query string) string { return query },
	text:       "TEXT",
	field:      func(name string) string { return "json_extract(body, '$." + name + "')" },
	from:       func(table, index string) string { return table + ` INDEXED BY "` + index + `"` },
	embedded:   true,
	begin:      "BEGIN IMMEDIATE",
	indexNames: `SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'ix\_%' ESCAPE '\'`,
	contended:  sqliteBusy,
	duplicate:  func(err error) bool { return sqliteCode(err) == sqlite3.SQLITE_CONSTRAINT },
	checkpoint: checkpointSQLite,
}

// schemaVersion of the tables, kept as user_version; a file of a later version is refused.
const schemaVersion = 3

// upgrades bring the tables of a version, from 1 on, to the next. What is made where it is missing needs none.
var upgrades = [][]string{
	{`ALTER TABLE outbox ADD COLUMN lane TEXT NOT NULL DEFAULT ''`, `DROP INDEX outbox_due`},
	{`ALTER TABLE outbox ADD COLUMN trace TEXT NOT NULL DEFAULT ''`},
}

// readers is how many may read at once, beside the writer.
const readers = 4

// sqliteCode is the primary result code of err, 0 if it has none.
func sqliteCode(err error) int {
	var e *driver.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

func sqliteBusy(err error) bool { return sqliteCode(err) == sqlite3.SQLITE_BUSY }

func openSQLite(ctx context.Context, path string, b *Backend) error {
	path, err := prepareFile(path, b.opts.Existing)
	if err != nil {
		return err
	}
	b.path = path
	pool := func(n int, pragmas ...string) (*dbsql.DB, error) {
		db, err := dbsql.Open("sqlite", sqliteName(path, b.opts.Disk, pragmas))
		if err != nil {
			return nil, fmt.Errorf("opening the database: %w", err)
		}
		db.SetMaxOpenConns(n)
		db.SetMaxIdleConns(n)
		b.closers = append([]io.Closer{db}, b.closers...)
		return db, nil
	}
	w := &writer{}
	for _, c := range []struct {
		to          **statements
		synchronous string
	}{{&w.durable, "synchronous(FULL)"}, {&w.relaxed, "synchronous(NORMAL)"}} {
		// The driver's own wait is short: the longer one, in Backend.write, has jitter and heeds the context.
		db, err := pool(1, "busy_timeout(50)", c.synchronous, "cache_size(-8000)")
		if err != nil {
			return err
		}
		conn, err := connectSQLite(ctx, db)
		if err != nil {
			return damaged(path, err)
		}
		*c.to = newStatements(conn, b.dialect)
		b.closers = append([]io.Closer{*c.to, conn}, b.closers...)
	}
	if err := checkOwn(ctx, w.durable, b); err != nil {
		return damaged(path, err)
	}
	if err := checkVersion(ctx, w.durable); err != nil {
		return damaged(path, err)
	}
	db, err := pool(readers, "busy_timeout(5000)", "query_only(1)")
	if err != nil {
		return err
	}
	b.read = newStatements(db, b.dialect)
	b.writers = make(chan *writer, 1)
	b.writers <- w
	return nil
}

// connectSQLite takes the pool's one connection. Several processes may open a new file at once, and changing to
// write-ahead mode needs it for oneself.
func connectSQLite(ctx context.Context, db *dbsql.DB) (*dbsql.Conn, error) {
	for {
		conn, err := db.Conn(ctx)
		if err == nil {
			return conn, nil
		}
		if !sqliteBusy(err) || ctx.Err() != nil {
			return nil, fmt.Errorf("opening the database: %w", err)
		}
	}
}

// prepareFile makes the file and its directory, for the owner alone: SQLite gives its other files the same mode.
func prepareFile(path string, existing bool) (string, error) {
	if path == "" || path[0] == ':' {
		return "", domain.Invalidf("backend", "want sqlite:PATH, the path of a file")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("finding the database file: %w", err)
	}
	if existing {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("opening the database: there is no file %s: %w", path, domain.ErrNotFound)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("making the database's directory: %w", err)
	}
	// Closing a file drops all of this process's locks on it (POSIX, fcntl), those of another Backend too: an
	// existing file is never opened here, and a new one is closed before anybody else of this process gets at it.
	creating.Lock()
	defer creating.Unlock()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return path, os.Chmod(path, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("making the database file: %w", err)
	}
	return path, f.Close()
}

var creating sync.Mutex

// sqliteName is the driver's name for the file. secure_delete overwrites what is deleted with zeroes; temp_store
// keeps sorting off the disk.
func sqliteName(path, disk string, pragmas []string) string {
	q := url.Values{"_pragma": append(pragmas, "journal_mode(WAL)", "secure_delete(1)", "temp_store(MEMORY)",
		"trusted_schema(0)", "cell_size_check(1)"), "_dqs": {"0"}}
	if disk != "" {
		q.Set("vfs", disk)
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// checkOwn refuses a file that another program made, and what somebody else put into ours: it is asked before anything
// is changed in it.
func checkOwn(ctx context.Context, s *statements, b *Backend) error {
	wanted := map[string]string{}
	for _, ix := range b.indexes {
		wanted[ix.name] = ix.create()
	}
	own := map[string]bool{"outbox": true}
	for _, t := range b.tables {
		own[t.name] = true
	}
	var wrong error
	err := s.rows(ctx, `SELECT type, name, tbl_name, COALESCE(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'`, nil,
		func(scan func(...any) error) (bool, error) {
			var kind, name, table, ddl string
			if err := scan(&kind, &name, &table, &ddl); err != nil {
				return false, err
			}
			wrong = misfit(kind, name, ddl, own[table], wanted[name])
			return wrong == nil, nil
		})
	if err != nil {
		return fmt.Errorf("reading what the database holds: %w", err)
	}
	return wrong
}

// misfit says why something in the database does not belong there; nil if it does. An index that a former or a later
// program declared belongs: it is made of the documents, and goes.
func misfit(kind, name, ddl string, owned bool, wanted string) error {
	foreign := func(text string, args ...any) error {
		return &domain.Error{Kind: domain.Conflict, Code: "database_foreign", Field: "backend", Message: fmt.Sprintf(text, args...)}
	}
	switch {
	case kind == "table" && !owned && strings.HasPrefix(name, tableName("")):
		return foreign("the database holds documents of a kind that this program does not know, in %s; use the newer program that made them", name)
	case kind != "table" && kind != "index" || !owned:
		return foreign("the database holds a %s %s that is not ours; name another file, or restore this one from a backup", kind, name)
	case wanted != "" && ddl != wanted:
		return foreign("the index %s of the database is not what its name says; somebody changed it: restore the database from a backup", name)
	}
	return nil
}

// checkVersion marks a new file and refuses one that a later version made.
func checkVersion(ctx context.Context, s *statements) error {
	var version int
	if err := s.row(ctx, "PRAGMA user_version", nil, &version); err != nil {
		return fmt.Errorf("reading the database's version: %w", err)
	}
	switch {
	case version == schemaVersion:
		return nil
	case version > schemaVersion:
		return &domain.Error{Kind: domain.Conflict, Code: "database_version", Field: "backend",
			Message: fmt.Sprintf("the database has version %d and this program knows %d; use a newer program", version, schemaVersion)}
	}
	for {
		err := upgrade(ctx, s)
		if !sqliteBusy(err) || ctx.Err() != nil {
			return err
		}
	}
}

// upgrade brings the file to this version, unless another process was quicker.
func upgrade(ctx context.Context, s *statements) (err error) {
	if err := s.once(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.once(ctx, "ROLLBACK") // its failure adds nothing: the connection has no transaction then
		}
	}()
	var version int
	if err := s.row(ctx, "PRAGMA user_version", nil, &version); err != nil {
		return err
	}
	for from := version; from > 0 && from < schemaVersion; from++ {
		for _, ddl := range upgrades[from-1] {
			if err := s.once(ctx, ddl); err != nil {
				return fmt.Errorf("bringing the database to version %d: %w", from+1, err)
			}
		}
	}
	if err := s.once(ctx, fmt.Sprintf("PRAGMA user_version = %d", max(version, schemaVersion))); err != nil {
		return err
	}
	return s.once(ctx, "COMMIT")
}

func checkpointSQLite(w *writer) error {
	var blocked, pages, moved int
	err := w.durable.row(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)", nil, &blocked, &pages, &moved)
	if err == nil && blocked != 0 || sqliteBusy(err) {
		return errBusy
	}
	return err
}
