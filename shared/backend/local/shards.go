// Package local keeps in files what a cloud has services for: on one machine, shards.
package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"

	"sluis.internal/shared/domain"
)

// Shards keeps each shard in a file of its own, in a directory that is not backed up with the database. Safe for concurrent
// use, by several processes too.
//
// A shard is on disk when Make returns it. Destroy overwrites it where it lies, and has that on disk before the name goes.
// What a file system keeps besides (older blocks where it copies on writing, cells that a flash disk has put aside), no
// program reaches: who must be sure of that too keeps the directory on an encrypted volume of its own.
type Shards struct{ root *os.Root }

// OpenShards opens the directory dir, and makes it if there is none. Its mode must be 0700. Close it after use.
func OpenShards(dir string) (*Shards, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making shards directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening shards directory: %w", err)
	}
	info, err := root.Stat(".")
	if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s has mode %04o, so that others can touch it; run: chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening shards directory: %w", err), root.Close())
	}
	return &Shards{root}, nil
}

// Close lets go of the directory.
func (s *Shards) Close() error { return s.root.Close() }

// place is the folder and the file of a shard: one folder for each last letter of a name.
func place(id domain.ShardID) (folder, file string, err error) {
	if _, err := domain.ParseID[domain.ShardID](string(id)); err != nil {
		return "", "", fmt.Errorf("naming shard: %w", err)
	}
	folder = string(id[len(id)-1:])
	return folder, path.Join(folder, string(id)), nil
}

// Make implements domain.ShardMaker. A process that dies meanwhile may leave a file that is too short to be a shard.
func (s *Shards) Make(_ context.Context, id domain.ShardID) (domain.Secret, error) {
	folder, file, err := place(id)
	if err != nil {
		return domain.Secret{}, err
	}
	if err := s.folder(folder); err != nil {
		return domain.Secret{}, fmt.Errorf("making shard: %w", err)
	}
	f, err := s.root.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return domain.Secret{}, &domain.Error{Kind: domain.Conflict, Code: "shard_exists", Message: "there is such a shard"}
	}
	if err != nil {
		return domain.Secret{}, fmt.Errorf("making shard: %w", err)
	}
	bits := make([]byte, domain.ShardSize)
	rand.Read(bits) // never fails
	_, err = f.Write(bits)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return domain.Secret{}, errors.Join(fmt.Errorf("making shard: %w", err), s.root.Remove(file))
	}
	return domain.NewSecret(bits), s.sync(folder)
}

// folder makes a folder of shards.
func (s *Shards) folder(name string) error {
	err := s.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return errors.Join(err, s.sync("."))
}

// Get implements domain.ShardReader. A file of zeroes is a shard whose destruction broke off.
func (s *Shards) Get(_ context.Context, id domain.ShardID) (domain.Secret, error) {
	_, file, err := place(id)
	if err != nil {
		return domain.Secret{}, err
	}
	f, err := s.root.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return domain.Secret{}, domain.ErrShardGone
	}
	if err != nil {
		return domain.Secret{}, fmt.Errorf("reading shard: %w", err)
	}
	defer f.Close()
	var bits [domain.ShardSize]byte
	switch n, err := io.ReadFull(f, bits[:]); {
	case n < domain.ShardSize && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)), bits == [domain.ShardSize]byte{}:
		return domain.Secret{}, domain.ErrShardGone
	case err != nil:
		return domain.Secret{}, fmt.Errorf("reading shard: %w", err)
	}
	defer clear(bits[:])
	return domain.NewSecret(append([]byte(nil), bits[:]...)), nil
}

// Destroy implements domain.ShardDestroyer.
func (s *Shards) Destroy(_ context.Context, id domain.ShardID) error {
	folder, file, err := place(id)
	if err != nil {
		return err
	}
	f, err := s.root.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("destroying shard: %w", err)
	}
	_, err = f.WriteAt(make([]byte, domain.ShardSize), 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("destroying shard: %w", err)
	}
	if err := s.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("destroying shard: %w", err)
	}
	return s.sync(folder)
}

// sync makes the names in a folder durable. Windows cannot and need not.
func (s *Shards) sync(folder string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := s.root.Open(folder)
	if err != nil {
		return fmt.Errorf("syncing shards: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing shards: %w", err)
	}
	return nil
}
