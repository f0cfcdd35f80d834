//go:build unix

package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// placeOf tells a file from a copy of it.
func placeOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprint(owner(info).Ino)
}

func owner(info fs.FileInfo) *syscall.Stat_t {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s
	}
	return &syscall.Stat_t{}
}

// checkOwn refuses what somebody else may exchange or change: a link, another user's file or directory, or one that others
// may write to. What is not there is not refused.
func checkOwn(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mode := 0o600
	if info.IsDir() {
		mode = 0o700
	}
	switch me := os.Geteuid(); {
	case info.Mode()&fs.ModeSymlink != 0:
		return refused(path, "is a symbolic link, and whoever can change it decides where the data goes; name the place itself")
	case int(owner(info).Uid) != me:
		return refused(path, fmt.Sprintf("belongs to the user with number %d, and this program runs as %d; run it as that user, or: chown %[2]d %[3]s", owner(info).Uid, me, path))
	case info.Mode().Perm()&0o022 != 0:
		return refused(path, fmt.Sprintf("has mode %04o, so that others can write to it; run: chmod %o %s", info.Mode().Perm(), mode, path))
	}
	return nil
}

// checkParents refuses a directory above that others may write to: they could put another one in the place of ours. A sticky
// one keeps them from that, and a group that is a user's own, as Linux distributions make one for each, is nobody else.
func checkParents(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && info.Mode()&fs.ModeSticky == 0 && writable(info) {
			return refused(dir, fmt.Sprintf("has mode %04o, so that others can put something else in the place of %s; run: chmod go-w %[3]s, or choose a directory of your own (mode 0700) with --data", info.Mode().Perm(), path, dir))
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func writable(info fs.FileInfo) bool {
	s, mode := owner(info), info.Mode().Perm()
	private := s.Uid != 0 && s.Gid == s.Uid && int(s.Uid) == os.Geteuid()
	return mode&0o002 != 0 || mode&0o020 != 0 && !private
}
