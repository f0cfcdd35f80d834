package envelope

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	maxKeyFile = 1 << 20
	draftMark  = ".draft-"
	draftLife  = time.Hour
)

// privateDir makes dir with mode 0700, or checks that nobody else may enter it.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making keys directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("checking keys directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("checking keys directory: %s is not a directory; choose another place", dir)
	}
	return checkMode(dir, info, 0o700)
}

// checkMode refuses what group or others may touch. Windows keeps no such modes.
func checkMode(path string, info fs.FileInfo, want fs.FileMode) error {
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("checking keys: %s has mode %04o, so that others can touch it; run: chmod %o %s",
			path, info.Mode().Perm(), want, path)
	}
	return nil
}

// readPrivate reads a file that only its owner may touch.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading key: %s is not a plain file; remove it", path)
	}
	if err := checkMode(path, info, 0o600); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("reading key: %s is too large to be a key; restore it from a copy", path)
	}
	return b, nil
}

// createPrivate puts a file with mode 0600 in place, whole or not at all, unless there is one: then it returns
// fs.ErrExist and the caller reads that one. Of two processes at once one wins. The file is on disk when it returns.
func createPrivate(path string, content []byte) error {
	draft, err := writeDraft(path, content)
	if err != nil {
		return err
	}
	defer os.Remove(draft)
	// A hard link is the one step that both appears at once and fails if the name is taken.
	if err := os.Link(draft, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fs.ErrExist
		}
		return fmt.Errorf("writing key: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// replacePrivate puts a file with mode 0600 in place of the one there. The new one is on disk when it returns.
func replacePrivate(path string, content []byte) error {
	draft, err := writeDraft(path, content)
	if err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		os.Remove(draft)
		return fmt.Errorf("replacing %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}

func writeDraft(path string, content []byte) (string, error) {
	draft := filepath.Join(filepath.Dir(path), draftMark+rand.Text())
	f, err := os.OpenFile(draft, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("writing key: %w", err)
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(draft)
		return "", fmt.Errorf("writing key: %w", err)
	}
	return draft, nil
}

// dropDrafts removes what a process that died while writing left behind; younger drafts may be another process's.
func dropDrafts(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), draftMark) && time.Since(info.ModTime()) > draftLife {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// syncDir makes names in dir durable. Windows cannot and need not.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing keys directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing keys directory: %w", err)
	}
	return nil
}
