package leak

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"

	"sluis.internal/test/house"
)

func TestMain(m *testing.M) { house.Main(m) }

// canaries to find: letters, marks that every escape treats in another way, and letters beyond ASCII.
var samples = map[string]string{"plain": "Kn4rIqWe92LmNzXy7QpT", "marks": `a%b&c"d<e>f\g/h+i j=k`, "umlauts": "Zitronellä-Ŝanário-Ωmega"}

// plantings are ways in which a program may write a text, made without forms.go.
var plantings = map[string]func(string) []byte{
	"as it is":   func(s string) []byte { return []byte(s) },
	"lower case": func(s string) []byte { return []byte(strings.ToLower(s)) },
	"hex":        func(s string) []byte { return []byte(hex.EncodeToString([]byte(s))) },
	"upper hex":  func(s string) []byte { return fmt.Appendf(nil, "%X", s) },
	"query":      func(s string) []byte { return []byte(url.Values{"q": {s}}.Encode()) },
	"path":       func(s string) []byte { return []byte((&url.URL{Path: "/" + s}).EscapedPath()) },
	"path segment": func(s string) []byte {
		return []byte(url.PathEscape(s))
	},
	"JSON": func(s string) []byte { raw, _ := json.Marshal(map[string]string{"k": s}); return raw },
	"JSON without HTML": func(s string) []byte {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		_ = e.Encode(s)
		return b.Bytes()
	},
	"quoted":        func(s string) []byte { return fmt.Appendf(nil, "%q", s) },
	"quoted ASCII":  func(s string) []byte { return fmt.Appendf(nil, "%+q", s) },
	"bytes printed": func(s string) []byte { return fmt.Appendf(nil, "%v", []byte(s)) },
	"bytes in JSON": func(s string) []byte {
		raw, _ := json.Marshal(struct{ B []int }{ints(s)})
		return raw
	},
	"UTF-16LE": func(s string) []byte {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return b
	},
	"gzip": func(s string) []byte { return packed(s, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }) },
	"zlib": func(s string) []byte { return packed(s, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }) },
	"deflate in hex": func(s string) []byte {
		raw := packed(s, func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, 9); return f })
		return []byte(hex.EncodeToString(raw))
	},
}

func init() {
	for before := range 3 {
		for name, e := range map[string]*base64.Encoding{"base64": base64.StdEncoding, "base64url": base64.RawURLEncoding} {
			plantings[fmt.Sprint(name, " ", before)] = func(s string) []byte {
				return []byte(e.EncodeToString([]byte(strings.Repeat("#", before) + s + strings.Repeat("~", before*2))))
			}
		}
	}
	for inner, outer := range map[string]string{"gzip": "base64 0", "base64 1": "base64url 0", "zlib": "hex", "JSON": "gzip", "hex": "gzip"} {
		in, out := plantings[inner], plantings[outer]
		plantings[inner+" in "+outer] = func(s string) []byte { return out(string(in(s))) }
	}
	whole := plantings["gzip"]
	plantings["gzip cut off"] = func(s string) []byte { b := whole(s + noise(3000)); return b[:len(b)-900] }
}

func packed(s string, with func(io.Writer) io.WriteCloser) []byte {
	var b bytes.Buffer
	w := with(&b)
	_, _ = io.WriteString(w, strings.Repeat("so it goes on and on ", 5)+s)
	_ = w.Close()
	return b.Bytes()
}

func ints(s string) (out []int) {
	for _, b := range []byte(s) {
		out = append(out, int(b))
	}
	return out
}

func noise(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// TestEveryFormIsFound: each way of writing, at every alignment of what stands before it, within noise.
func TestEveryFormIsFound(t *testing.T) {
	for kind, text := range samples {
		s := NewSearcher()
		s.Add(Canary{Personal, kind, text})
		for name, plant := range plantings {
			for before := range 5 {
				data := []byte(noise(500+before) + "\x00" + string(plant(text)) + "\x00" + noise(300))
				if len(s.Search(data)) == 0 {
					t.Errorf("%s %s, with %d bytes before: not found", kind, name, before)
				}
			}
			if len(s.Search(plant(text))) == 0 {
				t.Errorf("%s %s, alone: not found", kind, name)
			}
		}
	}
}

// TestHalfASecretIsFound: a log that cuts secrets off shows too much still.
func TestHalfASecretIsFound(t *testing.T) {
	s := NewSearcher()
	s.Add(Canary{Code, "a code", samples["plain"]})
	for _, part := range []string{samples["plain"][:11] + "…", "…" + samples["plain"][9:]} {
		if len(s.Search([]byte("code="+part))) == 0 {
			t.Errorf("%s: not found", part)
		}
	}
}

// TestNothingIsFoundInNoise: a find is no chance.
func TestNothingIsFoundInNoise(t *testing.T) {
	s := NewSearcher()
	n := NewNest(7, s)
	for range 2000 {
		n.Lay(Personal, "x", "", 12)
	}
	data := []byte(noise(1 << 20))
	data = append(data, base64.StdEncoding.EncodeToString(data)...)
	if found := s.Search(data); len(found) > 0 {
		t.Errorf("%d finds in noise, first %v", len(found), found[0])
	}
}

func BenchmarkSearch(b *testing.B) {
	s := NewSearcher()
	n := NewNest(7, s)
	for range 5000 {
		n.Lay(Personal, "x", "", 12)
	}
	data := []byte(noise(8 << 20))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		s.Search(data)
	}
}
