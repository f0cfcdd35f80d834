package disk

import (
	"errors"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// file is the beginning of our sqlite3_file. The machine's own follows it at once, as SQLite gives us room for both.
type file struct {
	methods uintptr // of ours
	disk    uintptr // the VFS it was opened by
}

const head = int32(unsafe.Sizeof(file{}))

// memory is some for a T, outside of Go's, as SQLite's is: it is never given back.
func memory[T any](t *libc.TLS) (uintptr, error) {
	var v T
	p := libc.Xcalloc(t, 1, libc.Tsize_t(unsafe.Sizeof(v)))
	if p == 0 {
		return 0, errors.New("no memory for SQLite")
	}
	return p, nil
}

// at reads an address outside of Go's memory.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// inner is the machine's file within ours.
func inner(f uintptr) uintptr { return f + uintptr(head) }

// below are the methods of the machine's file.
func below(f uintptr) *sqlite3.Tsqlite3_io_methods {
	return at[sqlite3.Tsqlite3_io_methods](at[sqlite3.Tsqlite3_file](inner(f)).FpMethods)
}

// function makes a C function's address callable.
func function[F any](address uintptr) F { return *(*F)(unsafe.Pointer(&struct{ f uintptr }{address})) }

// The shapes of SQLite's methods.
type (
	plain  = func(*libc.TLS, uintptr) int32
	number = func(*libc.TLS, uintptr, int32) int32
	place  = func(*libc.TLS, uintptr, uintptr) int32
	length = func(*libc.TLS, uintptr, int64) int32
	data   = func(*libc.TLS, uintptr, uintptr, int32, int64) int32
	tell   = func(*libc.TLS, uintptr, int32, uintptr) int32
	region = func(*libc.TLS, uintptr, int32, int32, int32, uintptr) int32
	locks  = func(*libc.TLS, uintptr, int32, int32, int32) int32
	fence  = func(*libc.TLS, uintptr)
)

// methods is where those of our files stand.
var methods uintptr

// prepare makes them. Version 2: no memory maps, so that every write passes by.
func prepare(t *libc.TLS) (err error) {
	if methods, err = memory[sqlite3.Tsqlite3_io_methods](t); err != nil {
		return err
	}
	m := at[sqlite3.Tsqlite3_io_methods](methods)
	m.FiVersion = 2
	*(*plain)(unsafe.Pointer(&m.FxClose)) = closeFile
	*(*data)(unsafe.Pointer(&m.FxRead)) = func(t *libc.TLS, f, to uintptr, n int32, at int64) int32 {
		return function[data](below(f).FxRead)(t, inner(f), to, n, at)
	}
	*(*data)(unsafe.Pointer(&m.FxWrite)) = write
	*(*length)(unsafe.Pointer(&m.FxTruncate)) = truncate
	*(*number)(unsafe.Pointer(&m.FxSync)) = synchronise
	*(*place)(unsafe.Pointer(&m.FxFileSize)) = func(t *libc.TLS, f, to uintptr) int32 {
		return function[place](below(f).FxFileSize)(t, inner(f), to)
	}
	*(*number)(unsafe.Pointer(&m.FxLock)) = func(t *libc.TLS, f uintptr, n int32) int32 {
		return function[number](below(f).FxLock)(t, inner(f), n)
	}
	*(*number)(unsafe.Pointer(&m.FxUnlock)) = func(t *libc.TLS, f uintptr, n int32) int32 {
		return function[number](below(f).FxUnlock)(t, inner(f), n)
	}
	*(*place)(unsafe.Pointer(&m.FxCheckReservedLock)) = func(t *libc.TLS, f, to uintptr) int32 {
		return function[place](below(f).FxCheckReservedLock)(t, inner(f), to)
	}
	*(*tell)(unsafe.Pointer(&m.FxFileControl)) = func(t *libc.TLS, f uintptr, n int32, arg uintptr) int32 {
		return function[tell](below(f).FxFileControl)(t, inner(f), n, arg)
	}
	*(*plain)(unsafe.Pointer(&m.FxSectorSize)) = func(t *libc.TLS, f uintptr) int32 {
		return function[plain](below(f).FxSectorSize)(t, inner(f))
	}
	*(*plain)(unsafe.Pointer(&m.FxDeviceCharacteristics)) = func(t *libc.TLS, f uintptr) int32 {
		return function[plain](below(f).FxDeviceCharacteristics)(t, inner(f))
	}
	shared(m)
	return nil
}

// shared are the methods of the memory that the users of a write-ahead log share. It is no file on the disk.
func shared(m *sqlite3.Tsqlite3_io_methods) {
	*(*region)(unsafe.Pointer(&m.FxShmMap)) = func(t *libc.TLS, f uintptr, i, n, extend int32, to uintptr) int32 {
		return function[region](below(f).FxShmMap)(t, inner(f), i, n, extend, to)
	}
	*(*locks)(unsafe.Pointer(&m.FxShmLock)) = func(t *libc.TLS, f uintptr, i, n, flags int32) int32 {
		return function[locks](below(f).FxShmLock)(t, inner(f), i, n, flags)
	}
	*(*fence)(unsafe.Pointer(&m.FxShmBarrier)) = func(t *libc.TLS, f uintptr) {
		function[fence](below(f).FxShmBarrier)(t, inner(f))
	}
	*(*number)(unsafe.Pointer(&m.FxShmUnmap)) = func(t *libc.TLS, f uintptr, n int32) int32 {
		return function[number](below(f).FxShmUnmap)(t, inner(f), n)
	}
}

// diskOf finds the disk that a VFS is.
func diskOf(vfs uintptr) *Disk {
	registry.Lock()
	defer registry.Unlock()
	return disks[vfs]
}

func open(t *libc.TLS, vfs, name, f uintptr, flags int32, out uintptr) int32 {
	*at[file](f) = file{}
	rc := function[func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32](at[sqlite3.Tsqlite3_vfs](machine).FxOpen)(t, machine, name, inner(f), flags, out)
	if at[sqlite3.Tsqlite3_file](inner(f)).FpMethods == 0 {
		return rc
	}
	*at[file](f) = file{methods: methods, disk: vfs}
	if d := diskOf(vfs); rc == sqlite3.SQLITE_OK && name != 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.handles[f] = libc.GoString(name)
	}
	return rc
}

func closeFile(t *libc.TLS, f uintptr) int32 {
	d := diskOf(at[file](f).disk)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.handles, f)
	return function[plain](below(f).FxClose)(t, inner(f))
}

// ask has the test decide on a request, with the disk standing still, and does it if it may be done.
func ask(f uintptr, kind Kind, size int, do func(d *Disk, path string, fails bool) int32) int32 {
	d := diskOf(at[file](f).disk)
	d.mu.Lock()
	defer d.mu.Unlock()
	path, named := d.handles[f]
	if !named { // a temporary file, which nobody misses
		return do(d, "", false)
	}
	var err error
	if d.before != nil {
		err = d.before(Op{Kind: kind, File: path, Size: size})
	}
	rc := int32(sqlite3.SQLITE_OK)
	if err == nil || kind == Write {
		rc = do(d, path, err != nil)
	}
	switch {
	case err == nil:
		return rc
	case errors.Is(err, ErrFull):
		return sqlite3.SQLITE_FULL
	case kind == Write:
		return sqlite3.SQLITE_IOERR_WRITE
	case kind == Sync:
		return sqlite3.SQLITE_IOERR_FSYNC
	}
	return sqlite3.SQLITE_IOERR_TRUNCATE
}

func write(t *libc.TLS, f, from uintptr, n int32, offset int64) int32 {
	return ask(f, Write, int(n), func(d *Disk, path string, fails bool) int32 {
		if fails {
			n /= 2
		}
		if path != "" {
			size, rc := sizeOf(t, f)
			if rc != sqlite3.SQLITE_OK {
				return rc
			}
			was := read(t, f, offset, min(int64(n), max(0, size-offset)))
			is := append([]byte{}, unsafe.Slice(at[byte](from), n)...)
			d.loose[path] = append(d.loose[path], change{at: offset, was: was, is: is, size: size})
		}
		return function[data](below(f).FxWrite)(t, inner(f), from, n, offset)
	})
}

func truncate(t *libc.TLS, f uintptr, to int64) int32 {
	return ask(f, Truncate, int(to), func(d *Disk, path string, _ bool) int32 {
		if path != "" {
			size, rc := sizeOf(t, f)
			if rc != sqlite3.SQLITE_OK {
				return rc
			}
			d.loose[path] = append(d.loose[path], change{was: read(t, f, to, max(0, size-to)), size: size, shorter: min(to, size)})
		}
		return function[length](below(f).FxTruncate)(t, inner(f), to)
	})
}

func synchronise(t *libc.TLS, f uintptr, flags int32) int32 {
	return ask(f, Sync, 0, func(d *Disk, path string, _ bool) int32 {
		rc := function[number](below(f).FxSync)(t, inner(f), flags)
		if rc == sqlite3.SQLITE_OK {
			delete(d.loose, path)
		}
		return rc
	})
}

func sizeOf(t *libc.TLS, f uintptr) (size int64, rc int32) {
	to := t.Alloc(8)
	defer t.Free(8)
	rc = function[place](below(f).FxFileSize)(t, inner(f), to)
	return *at[int64](to), rc
}

// read reads what must be there.
func read(t *libc.TLS, f uintptr, offset, n int64) []byte {
	if n <= 0 {
		return nil
	}
	to := libc.Xmalloc(t, libc.Tsize_t(n))
	defer libc.Xfree(t, to)
	if rc := function[data](below(f).FxRead)(t, inner(f), to, int32(n), offset); rc != sqlite3.SQLITE_OK {
		panic("reading what is about to be overwritten failed")
	}
	return append([]byte{}, unsafe.Slice(at[byte](to), n)...)
}

// whole reads a file to its end. It must not be opened for that: to close it would drop SQLite's locks on it.
func whole(f uintptr) ([]byte, error) {
	t := libc.NewTLS()
	defer t.Close()
	size, rc := sizeOf(t, f)
	if rc != sqlite3.SQLITE_OK {
		return nil, errors.New("the file's size is not known")
	}
	return read(t, f, 0, size), nil
}
