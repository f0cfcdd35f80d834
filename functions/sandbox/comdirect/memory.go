package comdirect

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
)

// memory is what the bank must not forget when it restarts. Of a changed PIN only a keyed digest is kept.
type memory struct {
	Key      []byte              `json:"key"`
	People   map[string]*person  `json:"people"`   // by login number
	Sessions map[string]*session `json:"sessions"` // by identifier
}

// person is what the bank knows of a login beyond the table.
type person struct {
	PINMark   string      `json:"pin_mark,omitempty"` // set once the PIN was changed
	Accepted  bool        `json:"accepted,omitempty"` // conditions
	Visits    int         `json:"visits"`             // sessions so far
	Attempts  int         `json:"attempts"`           // logins tried
	Refused   int         `json:"refused"`            // logins refused for their PIN
	InRow     int         `json:"refused_in_row"`     // refused logins since the last that was taken
	Open      int         `json:"open_challenges"`    // challenges since the last right TAN
	Wrong     int         `json:"wrong_tans"`         // wrong TANs since the last right one
	Locked    bool        `json:"locked,omitempty"`
	ChangedAt domain.Time `json:"changed_at"` // when InRow, Open, Wrong or Locked last changed
}

// locks are the rules by which the bank locks, as its row of custodians.json says for whoever asks it: 2.3, 2.4.
var locks = sync.OnceValue(func() map[domain.BankCount]domain.LockRule {
	contracts, err := domain.ReadContracts(schemas.FS)
	if err != nil {
		panic(err) // the files are part of the program
	}
	return contracts.Custodian(CustodianID).Rules.Locks
})

// CustodianID is the row of custodians.json that this bank plays.
const CustodianID domain.CustodianID = "sandbox-comdirect"

// strike counts one more towards locking an access, and says whether that locked it. The caller holds the lock.
func (b *Bank) strike(number string, c domain.BankCount) (locked bool) {
	p := b.person(number)
	of := p.counter(c)
	*of++
	p.ChangedAt = b.opts.Env.Now()
	if at := locks()[c].At; at > 0 && *of >= at {
		b.lock(number, p)
		return true
	}
	return false
}

// right sets back what one right answer sets back.
func (p *person) right(c domain.BankCount, now domain.Time) {
	for other, rule := range locks() {
		if rule.ResetBy == c {
			*p.counter(other), p.ChangedAt = 0, now
		}
	}
}

func (p *person) counter(c domain.BankCount) *int {
	switch c {
	case domain.CountLogin:
		return &p.InRow
	case domain.CountCode:
		return &p.Wrong
	}
	return &p.Open
}

// session is one session at the bank.
type session struct {
	Login      string      `json:"login"`
	Visit      int         `json:"visit"`
	OpenedAt   domain.Time `json:"opened_at"`
	Until      domain.Time `json:"until"` // when the newest refresh token ends (chapter 2.4)
	TANActive  bool        `json:"tan_active"`
	Ended      bool        `json:"ended,omitempty"`
	Generation int         `json:"generation"` // of the newest refresh token: older ones are used up
	Challenges int         `json:"challenges"`
	Challenge  *challenge  `json:"challenge,omitempty"` // the newest
}

// challenge is one request for a TAN.
type challenge struct {
	ID             string      `json:"id"`
	Authentication string      `json:"authentication,omitempty"` // where a push is asked after
	Method         string      `json:"method"`
	IssuedAt       domain.Time `json:"issued_at"`
	Polls          int         `json:"polls,omitempty"`
	Push           string      `json:"push,omitempty"` // what the investor did in the app
}

// States of a push. AUTHENTICATED and PENDING are the real bank's; the others are ours.
const (
	StatusPending       = "PENDING"
	StatusAuthenticated = "AUTHENTICATED"
	StatusRejected      = "REJECTED"
	StatusExpired       = "EXPIRED"
)

// recall reads the state file, or begins anew.
func (b *Bank) recall() memory {
	var m memory
	if b.opts.StateFile != "" {
		raw, err := os.ReadFile(b.opts.StateFile)
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.opts.Log.Warn("reading the sandbox bank's state: beginning anew", "error", err)
			m = memory{}
		}
	}
	m.mend()
	if b.opts.Key != nil {
		m.Key = b.opts.Key
	}
	if m.Key == nil {
		m.Key = b.opts.Env.Random(32)
	}
	return m
}

// mend makes a state whole that was read from a file: an absent map or a null in one is nothing.
func (m *memory) mend() {
	if m.People == nil {
		m.People = map[string]*person{}
	}
	if m.Sessions == nil {
		m.Sessions = map[string]*session{}
	}
	maps.DeleteFunc(m.People, func(_ string, p *person) bool { return p == nil })
	maps.DeleteFunc(m.Sessions, func(_ string, s *session) bool { return s == nil })
}

// save writes the state file. The caller holds the lock. A bank that cannot write goes on from memory.
func (b *Bank) save() {
	if b.opts.StateFile == "" {
		return
	}
	if err := b.write(); err != nil {
		b.opts.Log.Warn("writing the sandbox bank's state", "error", err)
	}
}

// write replaces the file at once, so that a process that dies here leaves the old one or the new one.
func (b *Bank) write() error {
	raw, err := json.Marshal(b.memory)
	if err != nil {
		return fmt.Errorf("marshalling state: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(b.opts.StateFile), 0o700); err != nil {
		return fmt.Errorf("making the state file's directory: %w", err)
	}
	file, err := os.CreateTemp(filepath.Dir(b.opts.StateFile), filepath.Base(b.opts.StateFile)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("creating state file: %w", err)
	}
	_, err = file.Write(raw)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), b.opts.StateFile)
	}
	if err != nil {
		return fmt.Errorf("replacing state file: %w", errors.Join(err, os.Remove(file.Name())))
	}
	return nil
}

// person returns what is known of a login. The caller holds the lock.
func (b *Bank) person(number string) *person {
	p := b.memory.People[number]
	if p == nil {
		p = &person{}
		b.memory.People[number] = p
	}
	if heals := b.opts.Heals; heals > 0 && b.opts.Env.Now().Sub(p.ChangedAt) > heals {
		p.InRow, p.Open, p.Wrong, p.Locked = 0, 0, 0, false
	}
	return p
}

// lock locks an access and ends its sessions. The caller holds the lock.
func (b *Bank) lock(number string, p *person) {
	p.Locked = true
	b.endSessions(number)
}

func (b *Bank) endSessions(number string) {
	for _, s := range b.memory.Sessions {
		if s.Login == number {
			s.Ended = true
		}
	}
}

// alive returns a copy of a session that still is one.
func (b *Bank) alive(id string) (session, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.memory.Sessions[id]
	if s == nil || s.over(b.opts.Env.Now()) {
		return session{}, false
	}
	return *s, true
}

func (s *session) over(now domain.Time) bool { return s.Ended || !now.Before(s.Until) }

// prune forgets sessions that are over. The caller holds the lock.
func (b *Bank) prune() {
	now := b.opts.Env.Now()
	for id, s := range b.memory.Sessions {
		if !s.over(now) {
			continue
		}
		delete(b.memory.Sessions, id)
		for key := range b.seen {
			if strings.HasPrefix(key, id+" ") {
				delete(b.seen, key)
			}
		}
	}
}

// Lives of tokens (chapters 2.1 and 3).
const (
	accessLife  = 599 * time.Second
	refreshLife = 20 * time.Minute
)

// use is what a token is for.
type use string

const (
	useAccess  use = "access"
	useRefresh use = "refresh"
)

// grant is what a token says. Tokens are signed, not kept.
type grant struct {
	Use        use         `json:"u"`
	Login      string      `json:"l"`
	Session    string      `json:"s"`
	Full       bool        `json:"f,omitempty"` // made by the secondary flow
	Generation int         `json:"g"`
	Expires    domain.Time `json:"e"`
}

// sign makes a token of a grant.
func (b *Bank) sign(g grant) string {
	raw, err := json.Marshal(g)
	if err != nil {
		panic("signing token: " + err.Error())
	}
	body := base64.RawURLEncoding.EncodeToString(raw)
	return body + "." + b.mac("token", body)
}

// open reads a token; ok is false if the bank did not make it.
func (b *Bank) open(token string) (g grant, ok bool) {
	body, mac, found := strings.Cut(token, ".")
	if !found || !hmac.Equal([]byte(mac), []byte(b.mac("token", body))) {
		return grant{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || json.Unmarshal(raw, &g) != nil {
		return grant{}, false
	}
	return g, true
}

// mac is a keyed digest of parts. The key never changes once the bank is made, so that no lock is needed.
func (b *Bank) mac(parts ...string) string {
	h := hmac.New(sha256.New, b.memory.Key)
	h.Write(domain.Name(parts...))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// newID makes a fresh identifier in the bank's style: 32 hexadecimal digits.
func (b *Bank) newID() string {
	return strings.ToUpper(hex.EncodeToString(b.opts.Env.Random(16)))
}
