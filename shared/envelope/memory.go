package envelope

import (
	"crypto/sha256"
	"sync"
	"time"

	"sluis.internal/shared/domain"
)

// Bounds of what is remembered of a KMS's answers.
const (
	KeysetLife = 10 * time.Minute // how long what was erased may still be in the memory of a process
	MaxKeysets = 256
)

// memory keeps what a key opened for a while, because that key may be a KMS that bills and limits every call. Requests
// for one thing at once open it once.
type memory[T any] struct {
	env  domain.Env
	mu   sync.Mutex
	held map[[sha256.Size]byte]*held[T]
}

// held is one thing, opened or about to be.
type held[T any] struct {
	owner domain.ConnectionID // whose it is, if one's alone
	until domain.Time
	timer *time.Timer // drops it in time even if nobody asks again
	open  func() (T, error)
}

func newMemory[T any](env domain.Env) *memory[T] {
	return &memory[T]{env: env, held: map[[sha256.Size]byte]*held[T]{}}
}

// get returns what is remembered under name, or opens it. A failure is not remembered.
func (m *memory[T]) get(name [sha256.Size]byte, owner domain.ConnectionID, open func() (T, error)) (T, error) {
	h := m.hold(name, owner, open)
	opened, err := h.open()
	if err != nil {
		m.drop(name, h)
	}
	return opened, err
}

func (m *memory[T]) hold(name [sha256.Size]byte, owner domain.ConnectionID, open func() (T, error)) *held[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.env.Now()
	if h, ok := m.held[name]; ok && now.Before(h.until) {
		return h
	}
	m.makeRoom(now)
	h := &held[T]{owner: owner, until: now.Add(KeysetLife), open: sync.OnceValues(open)}
	h.timer = time.AfterFunc(KeysetLife, func() { m.drop(name, h) })
	m.held[name] = h
	return h
}

// makeRoom drops what is over and, if that is not enough, what will be over first.
func (m *memory[T]) makeRoom(now domain.Time) {
	for len(m.held) > 0 {
		var oldest [sha256.Size]byte
		var first *held[T]
		for name, h := range m.held {
			if first == nil || h.until.Before(first.until) {
				oldest, first = name, h
			}
		}
		if len(m.held) < MaxKeysets && now.Before(first.until) {
			return
		}
		first.timer.Stop()
		delete(m.held, oldest)
	}
}

func (m *memory[T]) drop(name [sha256.Size]byte, h *held[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h.timer.Stop()
	if m.held[name] == h {
		delete(m.held, name)
	}
}

// forget drops everything of one owner.
func (m *memory[T]) forget(owner domain.ConnectionID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, h := range m.held {
		if h.owner == owner {
			h.timer.Stop()
			delete(m.held, name)
		}
	}
}
