package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// Use is what a command wants of the data on this machine.
type Use int

const (
	Work  Use = iota // change something: an installation must be there, and its directories must be its own
	Look             // read only: an installation must be there, whole or not
	Found            // serve, or prepare to: where nothing is, an installation is founded
)

// errNone says that nothing was founded in a directory yet.
func errNone(data string) error {
	return &domain.Error{Kind: domain.NotFound, Code: "no_installation",
		Message: "there is no installation in " + data + "; name its directory with --data. `sluis serve` or `sluis client add` found a new one"}
}

// prepare reads what the database says of itself, and founds an installation where none is and use allows it.
func (b *Backend) prepare(ctx context.Context, use Use) error {
	b.installation = &domain.Installation{Name: domain.ThisInstallation}
	err := b.Get(ctx, b.installation)
	switch {
	case err == nil:
	case domain.KindOf(err) != domain.NotFound:
		return err
	default:
		if err := b.adopt(ctx, use); err != nil {
			return err
		}
	}
	if use == Look {
		return nil
	}
	if err := b.belongs(); err != nil || use == Work {
		return err
	}
	return b.openKeys(ctx)
}

// belongs refuses a directory of keys or shards that is another installation's.
func (b *Backend) belongs() error {
	for _, dir := range []string{KeysIn(b.data), b.shards} {
		owner, err := envelope.Owner(dir)
		if err != nil {
			return err
		}
		if owner != "" && owner != b.installation.ID {
			return envelope.Mixed(dir, owner, b.installation.ID)
		}
	}
	return nil
}

// adopt gives a database its Installation: a new one, or one of a program that wrote none yet, whose keys must all be
// there then.
func (b *Backend) adopt(ctx context.Context, use Use) error {
	entries, err := b.List(ctx, domain.Query{Index: "entries_by_time", Limit: 1})
	if err != nil {
		return err
	}
	fresh := len(entries.Documents) == 0
	switch {
	case fresh && use != Found:
		return errNone(b.data)
	case use != Found:
		return nil // its next start does it
	}
	if err := b.refuseOwned(); err != nil {
		return err
	}
	if !fresh {
		if err := b.checkUnnoted(ctx); err != nil {
			return err
		}
	}
	b.Founded = fresh
	b.installation, err = b.note(ctx, "installation.founded", func(i *domain.Installation) bool { return i.ID == "" })
	return err
}

// orphaned refuses keys whose database is gone, before another file is made in its place.
func (b *Backend) orphaned() error {
	if _, err := os.Stat(b.database); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return b.refuseOwned()
}

// refuseOwned refuses keys that belong to an installation, as the database belongs to none.
func (b *Backend) refuseOwned() error {
	owner, err := envelope.Owner(KeysIn(b.data))
	if err == nil && owner != "" {
		err = fmt.Errorf("%s belongs to installation %s, whose database is not here: a new one would not know what its keys closed.\n"+
			"Put the database back (`sluis restore` from a backup), or choose another directory with --data", KeysIn(b.data), owner)
	}
	return err
}

// checkUnnoted looks at everything that was closed, as nobody noted what closed it.
func (b *Backend) checkUnnoted(ctx context.Context) error {
	there, err := envelope.Inventory(KeysIn(b.data))
	if err != nil {
		return err
	}
	needed, err := b.needed(ctx, rotating)
	if err != nil {
		return err
	}
	return b.lost(there, nil, needed)
}

// note changes the Installation in a transaction, unless change says that there is nothing to change.
func (b *Backend) note(ctx context.Context, action string, change func(*domain.Installation) bool) (now *domain.Installation, err error) {
	err = b.Commit(ctx, func(tx domain.Tx) error {
		now = &domain.Installation{Name: domain.ThisInstallation}
		there, err := domain.Find(tx, now)
		if err != nil || !change(now) {
			return err
		}
		now.UpdatedAt = b.Env.Now()
		if !there {
			now.ID, now.FoundedAt = domain.NewID[domain.InstallationID](b.Env), now.UpdatedAt
		}
		operator := domain.Actor{Kind: domain.ActorOperator, ID: "operator"}
		return errors.Join(tx.Put(now), tx.Record(domain.Note(b.Env, "sluis", action, operator, "", string(now.ID), nil)))
	})
	return now, err
}

// noteVersion notes a version of a key before anybody uses it. A database that was not adopted yet has everything looked at
// when it is.
func (b *Backend) noteVersion(v domain.KeyVersion) error {
	_, err := b.note(context.Background(), "key.noted", func(i *domain.Installation) bool { return i.ID != "" && i.Hold(v) })
	return err
}

// openKeys opens the local keys. Missing ones are made while an installation is being founded, and never again.
func (b *Backend) openKeys(ctx context.Context) (err error) {
	dir := KeysIn(b.data)
	if b.installation.Whole {
		if err := errors.Join(b.checkKeys(ctx), b.checkCopy(ctx)); err != nil {
			return err
		}
	}
	if err := errors.Join(envelope.Claim(dir, b.installation.ID), envelope.Claim(b.shards, b.installation.ID)); err != nil {
		return err
	}
	if b.keys, err = envelope.LocalKeysNoting(dir, b.noteVersion); err != nil {
		return err
	}
	there, err := envelope.Inventory(dir)
	if err != nil {
		return err
	}
	b.installation, err = b.note(ctx, "installation.keys_noted", func(i *domain.Installation) bool {
		news, place := i.Hold(there...), b.place()
		news = news || !i.Whole || i.Place != place
		i.Whole, i.Place = true, place
		return news
	})
	return err
}

// place is what a copy does not take along of where the data lies.
func (b *Backend) place() string { return placeOf(b.database) }

// checkCopy reads all of a database that was put here from elsewhere, once: a copy of a directory in use is torn, which
// SQLite notices only where it happens to look.
func (b *Backend) checkCopy(ctx context.Context) error {
	db, ok := b.Store.(*sql.Backend)
	if !ok || b.installation.Place == b.place() {
		return nil
	}
	slog.Info("the database was copied or restored since it was last used: all of it is read once")
	damage, err := db.Check(ctx, true)
	if err != nil || len(damage) == 0 {
		return err
	}
	return &domain.Error{Kind: domain.Conflict, Code: "database_damaged", Message: "the database in " + b.database +
		" is damaged: it was copied while a process wrote, or the disk failed (" + damage[0] + "). Restore it from a backup: sluis restore BACKUP --data NEW"}
}

// checkKeys refuses to go on without a key that anything needs. What is noted costs one reading to compare; only where a
// version is gone is everything read that it may have closed.
func (b *Backend) checkKeys(ctx context.Context) error {
	there, err := envelope.Inventory(KeysIn(b.data))
	if err != nil {
		return err
	}
	gone := b.installation.Missing(there)
	if len(gone) == 0 {
		return nil
	}
	needed, err := b.needed(ctx, rotating)
	if err != nil {
		return err
	}
	if err := b.lost(there, gone, needed); err != nil {
		return err
	}
	for _, v := range gone {
		slog.Warn("a version of a key is gone; nothing needs it", "key", v.Name, "version", v.Number)
	}
	_, err = b.note(ctx, "key.gone", func(i *domain.Installation) bool {
		before := len(i.Keys)
		i.Keys = slices.DeleteFunc(i.Keys, func(v domain.KeyVersion) bool { return slices.ContainsFunc(gone, v.Same) })
		return len(i.Keys) != before
	})
	return err
}

// lost refuses to go on without versions that cannot be done without.
func (b *Backend) lost(there, gone []domain.KeyVersion, needed map[need]int) error {
	missing := b.missing(there, gone, needed)
	if len(missing) == 0 {
		return nil
	}
	return &domain.Error{Kind: domain.Conflict, Code: "keys_missing", Message: "keys that belong to the data in " + b.data + " are not in " +
		KeysIn(b.data) + ". What they closed opens with nothing else, so nothing was started, made or changed.\n" + describe(missing, needed) +
		"Put those files back from a backup of this installation, or restore all of it into a new directory: sluis restore BACKUP --data NEW"}
}

// missing are the versions that documents need, the last one of a key, and those of a key that has one version alone, from
// which identifiers are derived.
func (b *Backend) missing(there, gone []domain.KeyVersion, needed map[need]int) (missing []domain.KeyVersion) {
	for _, v := range gone {
		others := slices.ContainsFunc(there, func(w domain.KeyVersion) bool { return w.Name == v.Name && !w.Disabled })
		if needed[need{v.Name, v.Mark}] > 0 || !others || !slices.Contains(rotating, v.Name) && v.Name != "certificate" {
			missing = append(missing, v)
		}
	}
	for n := range needed { // what was never noted
		same := func(v domain.KeyVersion) bool { return v.Name == n.key && v.Mark == n.mark && !v.Disabled }
		if !slices.ContainsFunc(there, same) && !slices.ContainsFunc(missing, same) {
			missing = append(missing, domain.KeyVersion{Name: n.key, Mark: n.mark})
		}
	}
	return missing
}

// describe lists versions of keys, a line each, and how many documents need them.
func describe(versions []domain.KeyVersion, needed map[need]int) string {
	slices.SortFunc(versions, func(a, b domain.KeyVersion) int { return strings.Compare(a.Name, b.Name)*10_000 + a.Number - b.Number })
	var text strings.Builder
	for _, v := range versions {
		file := fmt.Sprintf("%s version %d", v.Name, v.Number)
		if v.Number == 0 {
			file = v.Name + ", a version that was never noted"
		}
		what := fmt.Sprintf("%d documents need it", needed[need{v.Name, v.Mark}])
		if !slices.Contains(rotating, v.Name) {
			what = "identifiers, links or signatures are made with it"
		}
		fmt.Fprintf(&text, "  %s: %s\n", file, what)
	}
	return text.String()
}
