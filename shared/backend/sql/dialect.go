package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"sync"
)

// dialect is all that differs between databases.
type dialect struct {
	open       func(ctx context.Context, address string, b *Backend) error // sets b.closers, b.read and b.writers
	bind       func(query string) string                                   // from ? to the database's placeholders
	text       string                                                      // the type of a column whose texts compare by their bytes
	field      func(name string) string                                    // the text of a top-level field of body, for indexes and queries
	from       func(table, index string) string                            // reads table by index
	embedded   bool                                                        // the database is in this process: no network can be slow
	begin      string                                                      // a serialisable transaction
	lockRows   string                                                      // ends the sub-select that claims rows
	indexNames string                                                      // query for the names of indexes like "ix\_%"
	contended  func(error) bool                                            // the same transaction may succeed if repeated
	duplicate  func(error) bool                                            // the primary key exists
	checkpoint func(*writer) error                                         // see Backend.Checkpoint; errBusy
}

// dialects by the scheme of the DSN.
var dialects = map[string]*dialect{"sqlite": &sqlite}

// preparer is a connection, or a pool of them.
type preparer interface {
	PrepareContext(ctx context.Context, query string) (*dbsql.Stmt, error)
}

// statements runs queries on a connection or a pool, and prepares each text once. The texts are few: they depend on
// the schema only.
type statements struct {
	on   preparer
	bind func(string) string

	mu    sync.Mutex
	ready map[string]*dbsql.Stmt
}

func newStatements(on preparer, d *dialect) *statements {
	return &statements{on: on, bind: d.bind, ready: map[string]*dbsql.Stmt{}}
}

func (s *statements) prepare(ctx context.Context, query string) (*dbsql.Stmt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.ready[query]; st != nil {
		return st, nil
	}
	st, err := s.on.PrepareContext(ctx, s.bind(query))
	if err != nil {
		return nil, err
	}
	s.ready[query] = st
	return st, nil
}

// Close lets go of what was prepared. Nobody else does for a single connection, which would then stay open.
func (s *statements) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, st := range s.ready {
		errs = append(errs, st.Close())
	}
	clear(s.ready)
	return errors.Join(errs...)
}

// exec runs a statement and says how many rows it changed.
func (s *statements) exec(ctx context.Context, query string, args ...any) (int64, error) {
	st, err := s.prepare(ctx, query)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// once runs a statement that changes the schema or is not worth keeping.
func (s *statements) once(ctx context.Context, query string) error {
	st, err := s.on.PrepareContext(ctx, s.bind(query))
	if err != nil {
		return err
	}
	defer st.Close()
	_, err = st.ExecContext(ctx)
	return err
}

// row reads the only row of a query into dest; dbsql.ErrNoRows if there is none.
func (s *statements) row(ctx context.Context, query string, args []any, dest ...any) error {
	st, err := s.prepare(ctx, query)
	if err != nil {
		return err
	}
	return st.QueryRowContext(ctx, args...).Scan(dest...)
}

// rows calls each for every row until it returns false.
func (s *statements) rows(ctx context.Context, query string, args []any, each func(scan func(...any) error) (bool, error)) (err error) {
	st, err := s.prepare(ctx, query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer func() {
		if closing := rows.Close(); err == nil {
			err = closing
		}
	}()
	for rows.Next() {
		more, err := each(rows.Scan)
		if err != nil || !more {
			return err
		}
	}
	return rows.Err()
}

// migrate makes the tables and indexes of the declaration, and drops indexes that are no longer in it or whose
// definition changed: an index's name ends with a digest of its definition.
func (b *Backend) migrate(ctx context.Context) error {
	return b.write(ctx, func(w *writer) (bool, error) {
		err := b.migrateOn(context.WithoutCancel(ctx), w.durable)
		return b.dialect.contended(err), err
	})
}

func (b *Backend) migrateOn(ctx context.Context, s *statements) (err error) {
	if err := s.once(ctx, b.dialect.begin); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.once(ctx, "ROLLBACK") // its failure adds nothing: the connection has no transaction then
		}
	}()
	for _, ddl := range b.schema() {
		if err := s.once(ctx, ddl); err != nil {
			return fmt.Errorf("%s: %w", firstWords(ddl), err)
		}
	}
	if err := b.migrateIndexes(ctx, s); err != nil {
		return err
	}
	return s.once(ctx, "COMMIT")
}

func (b *Backend) migrateIndexes(ctx context.Context, s *statements) error {
	wanted := map[string]string{}
	for _, ix := range b.indexes {
		if ddl := ix.create(); ddl != "" {
			wanted[ix.name] = ddl
		}
	}
	var stale []string
	err := s.rows(ctx, b.dialect.indexNames, nil, func(scan func(...any) error) (bool, error) {
		var name string
		err := scan(&name)
		if _, ok := wanted[name]; !ok {
			stale = append(stale, name)
		}
		delete(wanted, name)
		return true, err
	})
	if err != nil {
		return fmt.Errorf("reading the indexes: %w", err)
	}
	for _, name := range stale {
		if err := s.once(ctx, `DROP INDEX "`+name+`"`); err != nil {
			return fmt.Errorf("dropping index %s: %w", name, err)
		}
	}
	for name, ddl := range wanted {
		if err := s.once(ctx, ddl); err != nil {
			return fmt.Errorf("making index %s: %w", name, err)
		}
	}
	return nil
}

// firstWords names a statement in an error.
func firstWords(ddl string) string { return ddl[:min(len(ddl), 48)] }
