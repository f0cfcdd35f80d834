// Package disk lets the disk under SQLite fail on demand. It is for tests alone, and no program links it.
//
// A [Disk] is a VFS, SQLite's own port to the operating system: it passes everything on to the machine's real files, and
// asks the test before each write, sync and truncation. The test may have it fail, as a broken or a full disk does. And
// it may have the power fail: a disk promises nothing of what was written since the last sync, so any of it may be
// missing, and a write may be there in part. [Disk.PowerFails] draws one of those outcomes.
//
// What is not played: a file that was created or removed but whose directory was not synced, and disks that say that they
// have synced and have not.
package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// Kind is what is asked of a disk.
type Kind string

const (
	Write    Kind = "write"
	Sync     Kind = "sync"
	Truncate Kind = "truncate"
)

// Op is one request, before it is done.
type Op struct {
	Kind Kind
	File string // its path
	Size int    // bytes to write, or of the file once it is truncated
}

// How a disk may fail. Half of a write that fails is done.
var (
	ErrBroken = errors.New("input/output error")
	ErrFull   = errors.New("no space left on device")
)

// Disk is a registered VFS.
type Disk struct {
	mu      sync.Mutex
	before  func(Op) error
	handles map[uintptr]string // open files by their sqlite3_file
	loose   map[string][]change
}

// change is something done to a file since its last sync.
type change struct {
	at      int64  // of a write
	was     []byte // what stood there; of a truncation, what was cut off
	is      []byte // nil of a truncation
	size    int64  // of the file before
	shorter int64  // of the file after a truncation
}

// disks are all that were made, by their VFS, and machine the VFS below them.
var (
	registry sync.Mutex
	disks    = map[uintptr]*Disk{}
	machine  uintptr
)

// New registers a disk under a name, which sql.Options.Disk refers to. before is asked at each request, while nothing
// else is done to any of the disk's files; nil lets everything pass.
func New(name string, before func(Op) error) (*Disk, error) {
	registry.Lock()
	defer registry.Unlock()
	tls := libc.NewTLS()
	defer tls.Close()
	if machine == 0 {
		machine = sqlite3.Xsqlite3_vfs_find(tls, 0)
		if err := prepare(tls); err != nil {
			return nil, err
		}
	}
	self, err := memory[sqlite3.Tsqlite3_vfs](tls)
	if err != nil {
		return nil, err
	}
	vfs := at[sqlite3.Tsqlite3_vfs](self)
	*vfs = *at[sqlite3.Tsqlite3_vfs](machine)
	if vfs.FzName, err = libc.CString(name); err != nil {
		return nil, err
	}
	vfs.FszOsFile += head
	*(*func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32)(unsafe.Pointer(&vfs.FxOpen)) = open
	d := &Disk{before: before, handles: map[uintptr]string{}, loose: map[string][]change{}}
	disks[self] = d // and so it lives as long as SQLite may use it
	if rc := sqlite3.Xsqlite3_vfs_register(tls, self, 0); rc != sqlite3.SQLITE_OK {
		return nil, fmt.Errorf("registering disk %s: code %d", name, rc)
	}
	return d, nil
}

// PowerFails writes into dir what a power failure at this moment could leave of the disk's files, under their own names.
// It may be called by the function given to New, and by nobody else.
func (d *Disk) PowerFails(dir string, random *rand.Rand) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	done := map[string]bool{}
	for handle, path := range d.handles {
		if done[path] {
			continue
		}
		done[path] = true
		content, err := whole(handle)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), survive(content, d.loose[path], random), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Settle makes certain what was written so far: another process, which reaches the files without this disk, has synced
// them. What it changed of them meanwhile would else be taken back with what this disk holds for loose.
func (d *Disk) Settle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.loose)
}

// sector is what a disk writes whole or not at all.
const sector = 512

// survive takes back the changes since the last sync, and does some of them again: none, all, the first ones with the
// next torn, or any.
func survive(content []byte, changes []change, random *rand.Rand) []byte {
	for i := len(changes) - 1; i >= 0; i-- {
		content = changes[i].undo(content)
	}
	lasts, kept := random.IntN(len(changes)+1), 0.0
	switch random.IntN(4) {
	case 0:
		lasts = 0
	case 1:
		lasts = len(changes)
	case 2:
		kept = 0.5
	}
	for i, c := range changes {
		switch {
		case i < lasts:
			content = c.redo(content, random, 1)
		case i == lasts:
			content = c.redo(content, random, 0.5)
		default:
			content = c.redo(content, random, kept)
		}
	}
	return content
}

func (c *change) undo(content []byte) []byte {
	if c.is == nil {
		return append(sized(content, c.shorter), c.was...)
	}
	copy(content[c.at:], c.was)
	return sized(content, c.size)
}

// redo does a change again, each of its sectors with the given chance.
func (c *change) redo(content []byte, random *rand.Rand, chance float64) []byte {
	if c.is == nil {
		if random.Float64() < chance {
			return sized(content, c.shorter)
		}
		return content
	}
	for from := 0; from < len(c.is); from += sector {
		if random.Float64() >= chance {
			continue
		}
		piece := c.is[from:min(from+sector, len(c.is))]
		begin := c.at + int64(from)
		content = sized(content, max(int64(len(content)), begin+int64(len(piece))))
		copy(content[begin:], piece)
	}
	return content
}

// sized cuts content, or fills it up with zeroes.
func sized(content []byte, size int64) []byte {
	if size <= int64(len(content)) {
		return content[:size]
	}
	return append(content, make([]byte, size-int64(len(content)))...)
}

// Ask replaces the function given to New.
func (d *Disk) Ask(before func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = before
}
