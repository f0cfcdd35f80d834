// Package leak shows that nothing leaks: no code, password, token, key, name, number or figure is ever found where it
// has no business.
//
// It works with canaries: values that occur nowhere else. Players type canaries as passwords and codes; what the bank
// hands out (tokens, names, account numbers, amounts) and what the house hands out (links, cookies, keys) becomes
// canaries as it passes by. Then every byte of every place is searched: files, logs, answers, webhooks, the process's
// arguments, environment and memory, and the plaintext of all that is sealed.
//
//	canary.go     what is looked for, by class
//	forms.go      in which spellings it might be written: base64, hex, escaped, UTF-16 …
//	search.go     finds all spellings of all canaries in a run of bytes, also within gzip, zlib and base64
//	play.go       what is played: journeys with canaries in them, and people and programs who stumble
//	witness.go    stands before the bank: turns what players typed into what the bank knows, and learns what it hands out
//	traffic.go    stands before the house: keeps every request and answer, and learns what the house hands out
//	places.go     where is looked, and which class may be found there
//	documents.go  every document of the store, and what opens of it with the keys
//	keys.go       the keys themselves
//	memory.go     the memory of a running process
//
// A [Place] is no more than a name, what may be found there and a reader of its bytes, so that the same search serves
// other homes: a bucket, a topic, the logs of a project.
package leak

import (
	"math/rand/v2"
	"strings"
	"sync"
)

// Class is what a canary is, and so what may become of it.
type Class string

const (
	Code      Class = "SCA code"           // nowhere at all, not even sealed
	Password  Class = "password"           // only behind both gates
	Username  Class = "user name"          // only behind both gates
	Token     Class = "bank token"         // only in a session's sealed state
	Shown     Class = "challenge"          // what a challenge shows: only sealed, and to the investor
	Personal  Class = "portfolio data"     // only sealed, and to the client
	APIKey    Class = "API key"            // only as a hash, and once to the client
	Link      Class = "link token"         // only as a hash, and to the client
	Cookie    Class = "visit cookie"       // only as a hash, and to the browser
	Signing   Class = "webhook secret"     // only sealed, and once to the client
	Reference Class = "investor reference" // the client's own opaque name: stored, and told to the client
	Stray     Class = "stray text"         // what callers put where it does not belong, and browsers say of themselves: nowhere
	Sealed    Class = "ciphertext"         // of what has been erased: nowhere
	Answer    Class = "sealed code"        // a code as the browser has sealed it: nowhere either
	Inner     Class = "sealed credential"  // a credential as the browser has sealed it: only behind the outer gate
	Key       Class = "key"                // the house's own: only where keys are kept; a connection's: only wrapped
)

// Canary is one value that is looked for.
type Canary struct {
	Class Class
	Name  string // where it comes from, for a report
	Text  string
}

// Nest makes canaries that no other run has, and remembers them all.
type Nest struct {
	search *Searcher

	mu     sync.Mutex
	random *rand.Rand
	count  map[Class]int
}

// NewNest makes canaries from a seed, to be found by s.
func NewNest(seed uint64, s *Searcher) *Nest {
	return &Nest{search: s, random: rand.New(rand.NewPCG(seed, 0x51_75_15)), count: map[Class]int{}}
}

const plain = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"

// Lay makes a new canary of n letters and digits, with marks in its middle where there are any.
func (n *Nest) Lay(class Class, name, marks string, length int) string {
	n.mu.Lock()
	text := make([]byte, length-len(marks))
	for i := range text {
		text[i] = plain[n.random.IntN(len(plain))]
	}
	n.mu.Unlock()
	half := len(text) / 2
	laid := string(text[:half]) + marks + string(text[half:])
	n.Learn(Canary{class, name, laid})
	return laid
}

// LayNumber makes a new canary of n digits, as a bank's access number is, that can be told from chance. Its first digit is
// none that a login of the sandbox begins with.
func (n *Nest) LayNumber(class Class, name string, length int) string {
	for {
		n.mu.Lock()
		text := []byte{byte('3' + n.random.IntN(7))}
		for len(text) < length {
			text = append(text, byte('0'+n.random.IntN(10)))
		}
		n.mu.Unlock()
		before := n.Count(class)
		if n.Learn(Canary{class, name, string(text)}); n.Count(class) > before {
			return string(text)
		}
	}
}

// Learn takes a value that somebody handed out as a canary. Values too short or too plain to be told from chance are
// passed over.
func (n *Nest) Learn(c Canary) {
	if len(c.Text) < shortest || variety(c.Text) < 4 {
		return
	}
	if n.search.Add(c) {
		n.mu.Lock()
		n.count[c.Class]++
		n.mu.Unlock()
	}
}

// Count is how many canaries of a class there are.
func (n *Nest) Count(c Class) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count[c]
}

// variety is how many different bytes there are, leading sign and zeroes apart.
func variety(s string) int {
	seen := [256]bool{}
	n := 0
	for _, b := range []byte(strings.TrimLeft(s, "-0.")) {
		if !seen[b] {
			seen[b] = true
			n++
		}
	}
	return n
}
