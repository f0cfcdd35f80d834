package leak

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Finding is one canary in one spelling somewhere.
type Finding struct {
	Canary Canary
	Form   string
	Where  string // within the bytes searched: an offset, within what was unpacked
}

func (f Finding) String() string {
	return fmt.Sprintf("%s (%s) %s, %s", f.Canary.Class, f.Canary.Name, f.Form, f.Where)
}

// Searcher finds all canaries at once. It is safe for concurrent use, and takes more canaries at any time.
type Searcher struct {
	mu     sync.RWMutex
	filter []uint64 // one bit for each hash of a head: most places in most bytes are none
	heads  map[uint64][]pattern
	known  map[string]bool
}

type pattern struct {
	text   string
	form   string
	canary Canary
}

const (
	headBytes  = 6
	filterBits = 24
	layers     = 4       // of encodings within one another
	unpackMost = 8 << 20 // bytes of one stream
)

// NewSearcher knows no canary yet.
func NewSearcher() *Searcher {
	return &Searcher{filter: make([]uint64, 1<<filterBits/64), heads: map[uint64][]pattern{}, known: map[string]bool{}}
}

// Add takes one more canary, and says whether it is new.
func (s *Searcher) Add(c Canary) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[c.Text] {
		return false
	}
	s.known[c.Text] = true
	for form, text := range forms(c) {
		head := headOf([]byte(text))
		h := hash(head)
		s.filter[h/64] |= 1 << (h % 64)
		s.heads[head] = append(s.heads[head], pattern{text, form, c})
	}
	return true
}

// headOf is the first headBytes bytes as a number.
func headOf(b []byte) uint64 {
	var head [8]byte
	copy(head[:headBytes], b)
	return binary.LittleEndian.Uint64(head[:])
}

func hash(head uint64) uint64 { return head * 0x9E3779B97F4A7C15 >> (64 - filterBits) }

// Search finds canaries in data, and in whatever can be unpacked from it.
func (s *Searcher) Search(data []byte) []Finding { return s.within(data, "", layers) }

// Plain finds canaries in data as it lies: where there is too much of it to unpack everything that might be packed.
func (s *Searcher) Plain(data []byte) []Finding { return s.within(data, "", 0) }

func (s *Searcher) within(data []byte, where string, depth int) []Finding {
	found := s.scan(data, where)
	if depth == 0 {
		return found
	}
	unpack(data, func(what string, at int, inner []byte) {
		found = append(found, s.within(inner, fmt.Sprintf("%s%s at %d > ", where, what, at), depth-1)...)
	})
	return found
}

// scan compares every place in data with the heads of all patterns. A text is reported once, in its first spelling.
func (s *Searcher) scan(data []byte, where string) (found []Finding) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	seen := map[string]bool{}
	for at := 0; at+headBytes <= len(data); at++ {
		var head uint64
		if at+8 <= len(data) {
			head = binary.LittleEndian.Uint64(data[at:]) & (1<<(8*headBytes) - 1)
		} else {
			head = headOf(data[at : at+headBytes])
		}
		h := hash(head)
		if s.filter[h/64]&(1<<(h%64)) == 0 {
			continue
		}
		for _, p := range s.heads[head] {
			if len(data)-at >= len(p.text) && string(data[at:at+len(p.text)]) == p.text && !seen[p.canary.Text] {
				seen[p.canary.Text] = true
				found = append(found, Finding{p.canary, p.form, fmt.Sprintf("%sat %d", where, at)})
			}
		}
	}
	return found
}

// unpack gives everything in data that is packed in a way that can be recognised.
func unpack(data []byte, each func(what string, at int, inner []byte)) {
	for at := 0; at+2 < len(data); at++ {
		switch {
		case data[at] == 0x1f && data[at+1] == 0x8b && data[at+2] == 8:
			if z, err := gzip.NewReader(bytes.NewReader(data[at:])); err == nil {
				z.Multistream(false)
				inner, _ := io.ReadAll(io.LimitReader(z, unpackMost)) // what comes before its damage is as good as the rest
				each("gzip", at, inner)
			}
		case data[at] == 0x78 && (int(data[at])<<8|int(data[at+1]))%31 == 0:
			inflate("zlib", data, at+2, each)
		}
	}
	inflate("deflate", data, 0, each) // has no mark by which it could be found in the middle of something
	texts(data, each)
}

var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// inflate unpacks one deflate stream as far as it goes. What is none mostly ends within a few bytes.
func inflate(what string, data []byte, at int, each func(string, int, []byte)) {
	z := inflaters.Get().(io.Reader)
	defer inflaters.Put(z)
	if z.(flate.Resetter).Reset(bytes.NewReader(data[at:]), nil) != nil {
		return
	}
	if inner, _ := io.ReadAll(io.LimitReader(z, unpackMost)); len(inner) >= shortest {
		each(what, at, inner)
	}
}

// Runs of letters that are taken for base64 or hex. Where a short one begins may not be where its encoding begins, for a
// letter can stand before it: then all four beginnings are tried.
const (
	shortestRun = 24
	longRun     = 4 << 10
)

// texts decodes runs of base64 and hex.
func texts(data []byte, each func(what string, at int, inner []byte)) {
	for from := 0; from < len(data); from++ {
		to := from
		for to < len(data) && letters[data[to]] {
			to++
		}
		if to-from >= shortestRun {
			decode(data[from:to], from, each)
		}
		from = to
	}
}

func decode(run []byte, at int, each func(what string, at int, inner []byte)) {
	standard := bytes.Map(func(r rune) rune {
		switch r {
		case '-':
			return '+'
		case '_':
			return '/'
		}
		return r
	}, run)
	beginnings := 4
	if len(run) > longRun {
		beginnings = 1
	}
	for skip := range beginnings {
		part := standard[skip:]
		if len(part)%4 == 1 {
			part = part[:len(part)-1]
		}
		inner := make([]byte, base64.RawStdEncoding.DecodedLen(len(part)))
		n, _ := base64.RawStdEncoding.Decode(inner, part)
		each("base64", at+skip, inner[:n])
	}
	if !slices.ContainsFunc(run, func(b byte) bool { return !hexDigits[b] }) {
		inner := make([]byte, len(run)/2)
		n, _ := hex.Decode(inner, run[:len(run)/2*2])
		each("hex", at, inner[:n])
	}
}

var (
	letters   = members("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
	hexDigits = members("0123456789abcdefABCDEF")
)

func members(of string) (set [256]bool) {
	for _, b := range []byte(of) {
		set[b] = true
	}
	return set
}
