package sql

import (
	"context"
	dbsql "database/sql"
	"fmt"
	"os"

	sqlite3 "modernc.org/sqlite/lib"

	"sluis.internal/shared/domain"
)

// Snapshot writes the database as it is at this moment into a new file, while others go on reading and writing: SQLite's
// VACUUM INTO, within one reading transaction. Nothing of what was deleted is in it. It is on disk when Snapshot returns.
func (b *Backend) Snapshot(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) // SQLite takes an empty file, and leaves its mode
	if err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	if err := b.aside(ctx, func(db *dbsql.DB) error {
		_, err := db.ExecContext(ctx, "VACUUM INTO ?", path)
		return err
	}); err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	return syncFile(path)
}

// Check has SQLite look for damage, and lists what it finds. A thorough check also holds every index against its documents;
// both read the whole file.
func (b *Backend) Check(ctx context.Context, thorough bool) (damage []string, err error) {
	query := "PRAGMA quick_check(20)"
	if thorough {
		query = "PRAGMA integrity_check(20)"
	}
	err = b.aside(ctx, func(db *dbsql.DB) error {
		rows, err := db.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				return err
			}
			if line != "ok" {
				damage = append(damage, line)
			}
		}
		return rows.Err()
	})
	if torn(err) {
		return []string{err.Error()}, nil
	}
	return damage, err
}

// aside works on a connection of its own, which waits for nobody.
func (b *Backend) aside(ctx context.Context, do func(*dbsql.DB) error) error {
	if b.path == "" {
		return &domain.Error{Kind: domain.Invalid, Code: "not_a_file", Field: "backend", Message: "this works on a database in a file; copy another one by its own means"}
	}
	db, err := dbsql.Open("sqlite", sqliteName(b.path, b.opts.Disk, []string{"busy_timeout(5000)"}))
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	return do(db)
}

// torn reports whether err says that the file is damaged, or is no database.
func torn(err error) bool {
	code := sqliteCode(err)
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}

// damaged names the remedy where the file is damaged.
func damaged(path string, err error) error {
	if !torn(err) {
		return err
	}
	return &domain.Error{Kind: domain.Conflict, Code: "database_damaged", Field: "backend", Err: err,
		Message: "the database file " + path + " is damaged: it, or its -wal, was copied while a process wrote, or the disk failed. Restore it from a backup: sluis restore"}
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
