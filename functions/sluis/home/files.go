package home

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// copied is a file as a manifest names it.
type copied struct {
	Path   string `json:"path"` // with slashes, below the backup's folder
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// copyTree copies the plain files below a directory, each on disk when it returns, and gives what each may be named. What is
// gone meanwhile is left out: keys and shards come and go one by one. Drafts are nobody's yet.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		place := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != from, err == nil && strings.HasPrefix(e.Name(), ".draft-"):
			return nil
		case err != nil:
			return err
		case e.IsDir():
			return os.Mkdir(place, 0o700)
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is not a plain file; remove it", path)
		}
		if err := copyFile(path, place); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// copyFile copies a file, for its owner alone, onto the disk.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// digests lists the files below a directory.
func digests(dir string) (all []copied, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is not a plain file", path)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, f)
		all = append(all, copied{filepath.ToSlash(name), n, hex.EncodeToString(h.Sum(nil))})
		return err
	})
	return all, err
}

// syncTree has the names below a directory on the disk. Windows cannot and need not.
func syncTree(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return syncDir(path)
	})
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// empty reports whether a directory is not there, or holds nothing but what is named.
func empty(dir string, but ...string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	for _, e := range entries {
		known := false
		for _, name := range but {
			known = known || e.Name() == name
		}
		if !known {
			return false, err
		}
	}
	return true, err
}
