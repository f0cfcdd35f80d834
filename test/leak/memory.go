package leak

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"sluis.internal/test/house"
)

var remembrance []byte

// A house that is told to collect throws away what it no longer needs: a sync.Pool lets go at the second collection. One
// that is told to remember something does.
func init() {
	house.Commands["remember"] = func(what string) error {
		remembrance = append(remembrance, what...)
		return nil
	}
	house.Commands["collect"] = func(string) error {
		for range 4 {
			runtime.GC()
		}
		debug.FreeOSMemory()
		return nil
	}
}

const (
	memoryChunk   = 1 << 20
	memoryOverlap = 1 << 10
	largestRegion = 4 << 30 // what is larger is reserved, not used: the race detector's shadow, which holds no data
)

// Memory is everything that a process could write to, as the kernel shows it to the process's parent. The process should
// be stopped meanwhile. The error says where that is not permitted.
func Memory(pid int) Pieces {
	return func(each func(string, []byte)) error {
		maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			return err
		}
		defer maps.Close()
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return err
		}
		defer mem.Close()
		pages, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
		if err != nil {
			return err
		}
		defer pages.Close()
		lines := bufio.NewScanner(maps)
		for lines.Scan() {
			from, to, ok := writable(lines.Text())
			if !ok || to-from > largestRegion {
				continue
			}
			if err := region(mem, pages, from, to, each); err != nil {
				return err
			}
		}
		return lines.Err()
	}
}

// writable reads a line of /proc/PID/maps.
func writable(line string) (from, to int64, ok bool) {
	f := strings.Fields(line)
	if len(f) < 2 || !strings.HasPrefix(f[1], "rw") {
		return 0, 0, false
	}
	low, high, _ := strings.Cut(f[0], "-")
	from, err := strconv.ParseInt(low, 16, 64)
	if err != nil {
		return 0, 0, false
	}
	to, err = strconv.ParseInt(high, 16, 64)
	return from, to, err == nil
}

// region reads the parts of a region that are there: most of a large one was only reserved.
func region(mem, pages io.ReaderAt, from, to int64, each func(string, []byte)) error {
	buf := make([]byte, memoryChunk+memoryOverlap)
	for at := from; at < to; at += memoryChunk {
		if !present(pages, at, min(at+memoryChunk, to)) {
			continue
		}
		n, err := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
		if n == 0 && err != nil {
			return fmt.Errorf("reading memory: %w", err)
		}
		if !bytes.Equal(buf[:n], nothing[:n]) {
			each(fmt.Sprintf("%x", at), buf[:n])
		}
	}
	return nil
}

// present says whether any page between two addresses is in memory or was swapped out: bits 63 and 62 of its entry in
// /proc/PID/pagemap. What cannot be told counts as present.
func present(pages io.ReaderAt, from, to int64) bool {
	const entry, mark = 8, 3 << 62
	size := int64(os.Getpagesize())
	entries := make([]byte, (to-from)/size*entry)
	if n, _ := pages.ReadAt(entries, from/size*entry); n < len(entries) {
		return true
	}
	for ; len(entries) > 0; entries = entries[entry:] {
		if binary.NativeEndian.Uint64(entries)&mark != 0 {
			return true
		}
	}
	return false
}

// nothing is memory that was never used, or was given back.
var nothing [memoryChunk + memoryOverlap]byte
