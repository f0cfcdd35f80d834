package home

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// Folders and files of a backup. The keys lie apart from what they open, so that they can be kept apart.
const (
	manifestFile   = "manifest.json"
	databaseFolder = "database"
	databaseFile   = "sluis.db"
	keysFolder     = "keys"
	shardsFolder   = "shards"
	partialMark    = ".partial"
)

// Manifest says what a backup holds. It is written last: a folder without one is no backup.
type Manifest struct {
	Format       int                   `json:"format"` // 1
	Installation domain.InstallationID `json:"installation"`
	MadeAt       domain.Time           `json:"made_at"`
	ShardsUntil  domain.Time           `json:"shards_until,omitzero"` // when the copies of the shards end; zero where they were left out
	Files        []copied              `json:"files"`
}

// Backup copies database and keys into the new folder dir, while a server goes on; and the shards, if they are given a life
// there. They come in this order, as a document never comes before its key and its shard: what was erased after the
// first copy lacks its shard in the last one, as it must. The folder gets its name when all is in it and on the disk.
func (b *Backend) Backup(ctx context.Context, dir string, shardsLife time.Duration) (m Manifest, err error) {
	db, local := b.Store.(*sql.Backend)
	if !local {
		return m, errors.New("backing up: this copies what lies on this machine; in Google Cloud, Firestore's own backups do it (terraform/README.md)")
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("backing up: there is a %s already, and a backup is never written over; name a new folder", dir)
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o700); err != nil {
		return m, fmt.Errorf("backing up: %w", err)
	}
	partial := filepath.Clean(dir) + partialMark
	if err := os.Mkdir(partial, 0o700); err != nil {
		return m, fmt.Errorf("backing up: %s is there: another backup is being made, or one was broken off; then remove it and begin again: %w", partial, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("backing up: %w", err), os.RemoveAll(partial))
		}
	}()
	m = Manifest{Format: 1, MadeAt: b.Env.Now()}
	if shardsLife > 0 {
		m.ShardsUntil = m.MadeAt.Add(shardsLife)
	}
	if m.Installation, err = b.declareBackup(ctx, m.ShardsUntil); err != nil {
		return m, err
	}
	if err := b.fill(ctx, db, partial, shardsLife > 0); err != nil {
		return m, err
	}
	if m.Files, err = digests(partial); err != nil {
		return m, err
	}
	return m, errors.Join(m.write(partial), os.Rename(partial, dir), syncDir(filepath.Dir(filepath.Clean(dir))))
}

// declareBackup records the act, and until when copies of shards may be, before there is any: certificates of erasure name it.
func (b *Backend) declareBackup(ctx context.Context, until domain.Time) (domain.InstallationID, error) {
	i, err := b.note(ctx, "backup.begun", func(i *domain.Installation) bool {
		if i.CopiesUntil.Before(until) {
			i.CopiesUntil = until
		}
		return i.ID != ""
	})
	if err == nil && i.ID == "" {
		err = errors.New("the data is of an older program; start `sluis serve` once, so that it notes which keys belong to it")
	}
	return i.ID, err
}

func (b *Backend) fill(ctx context.Context, db *sql.Backend, partial string, shards bool) error {
	if err := os.Mkdir(filepath.Join(partial, databaseFolder), 0o700); err != nil {
		return err
	}
	if err := db.Snapshot(ctx, filepath.Join(partial, databaseFolder, databaseFile)); err != nil {
		return err
	}
	if err := copyTree(KeysIn(b.data), filepath.Join(partial, keysFolder)); err != nil {
		return err
	}
	if shards {
		if err := copyShards(b.shards, filepath.Join(partial, shardsFolder)); err != nil {
			return err
		}
	}
	return syncTree(partial)
}

// copyShards copies a directory of shards, in which there need not be any yet.
func copyShards(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return os.Mkdir(to, 0o700)
	}
	return copyTree(from, to)
}

func (m Manifest) write(dir string) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, manifestFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	return errors.Join(err, f.Sync(), f.Close(), syncDir(dir))
}

// ReadManifest reads what a backup holds, and holds its files against it: each there, whole, and no other.
func ReadManifest(dir string) (m Manifest, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s is no backup, or one that was broken off: it has no %s. Choose another one", dir, manifestFile)
	}
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err == nil && m.Format != 1 {
		err = fmt.Errorf("it has format %d; use the newer program that made it", m.Format)
	}
	if err != nil {
		return m, fmt.Errorf("reading %s of %s: %w", manifestFile, dir, err)
	}
	there, err := digests(dir)
	if err != nil {
		return m, fmt.Errorf("reading %s: %w", dir, err)
	}
	there = slices.DeleteFunc(there, func(f copied) bool { return f.Path == manifestFile })
	for _, f := range m.Files {
		if !slices.Contains(there, f) {
			return m, fmt.Errorf("%s is damaged: %s is not as its manifest says. Choose another backup", dir, f.Path)
		}
	}
	if len(there) != len(m.Files) {
		return m, fmt.Errorf("%s holds %d files, and its manifest names %d: something was added. Choose another backup", dir, len(there), len(m.Files))
	}
	return m, nil
}

// restoringFolder stands in a data directory while it is being restored, and stays if that breaks off.
const restoringFolder = ".restoring"

// Restored says what became of the shards.
type Restored struct {
	Manifest
	Shards string
}

// Restore fills an empty data directory from a backup, in the order of need: the database last, without which nothing starts.
// Shards that are there already stay as they are and none is added: what was erased since the backup stays erased.
func Restore(backup, data, shards string, now domain.Time) (r Restored, err error) {
	if r.Manifest, err = ReadManifest(backup); err != nil {
		return r, fmt.Errorf("restoring: %w", err)
	}
	shards = ShardsIn(data, shards)
	if bare, err := empty(data, filepath.Base(ShardsIn(data, ""))); err != nil || !bare {
		return r, errors.Join(err, fmt.Errorf("restoring: %s is not empty, and nothing is written over; name a new directory with --data", data))
	}
	bring, err := r.judgeShards(shards, now)
	if err != nil {
		return r, fmt.Errorf("restoring: %w", err)
	}
	draft := filepath.Join(data, restoringFolder)
	if err := errors.Join(os.MkdirAll(data, 0o700), os.Mkdir(draft, 0o700)); err != nil {
		return r, fmt.Errorf("restoring: %w", err)
	}
	err = errors.Join(copyTree(filepath.Join(backup, keysFolder), filepath.Join(draft, keysFolder)),
		copyFile(filepath.Join(backup, databaseFolder, databaseFile), filepath.Join(draft, databaseFile)))
	if bring && err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(shards), 0o700), copyShards(filepath.Join(backup, shardsFolder), filepath.Join(draft, shardsFolder)))
	}
	if err := errors.Join(err, syncTree(data)); err != nil {
		return r, fmt.Errorf("restoring (remove %s and begin again): %w", data, err)
	}
	moves := [][2]string{{keysFolder, KeysIn(data)}, {databaseFile, filepath.Join(data, databaseFile)}}
	if bring {
		moves = append([][2]string{{shardsFolder, shards}}, moves...)
	}
	for _, move := range moves {
		if err := errors.Join(os.Rename(filepath.Join(draft, move[0]), move[1]), syncDir(filepath.Dir(move[1]))); err != nil {
			return r, fmt.Errorf("restoring (empty %s and begin again): %w", data, err)
		}
	}
	return r, errors.Join(os.Remove(draft), syncDir(data))
}

// judgeShards says whether the backup's shards are to be put in place, and why not.
func (r *Restored) judgeShards(shards string, now domain.Time) (bring bool, err error) {
	bare, err := empty(shards)
	if err != nil {
		return false, err
	}
	switch {
	case !bare:
		owner, err := envelope.Owner(shards)
		if err == nil && owner != "" && owner != r.Installation {
			err = envelope.Mixed(shards, owner, r.Installation)
		}
		r.Shards = "the shards in " + shards + " stay as they are: what was erased since the backup stays erased"
		return false, err
	case r.ShardsUntil.IsZero():
		r.Shards = "the backup holds no shards: put the living ones into " + shards + ", or investors must connect again"
	case !now.Before(r.ShardsUntil):
		r.Shards = "the life of the backup's shards ended at " + r.ShardsUntil.String() + ", so they stay where they are; destroy them. Investors must connect again, unless the living shards are put into " + shards
	default:
		r.Shards = "the shards are as they were at " + r.MadeAt.String() + ": what was erased since then must be erased again"
		return true, nil
	}
	return false, nil
}
