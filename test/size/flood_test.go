package size

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/consent"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/test/house"
)

// Bounds of a flood. The house works off eight sessions at once; everything else follows from that.
const (
	sessions   = 8   // at the bank at once
	goroutines = 250 // of a house that works on so many
	openFiles  = 100
	floodKiB   = 256 << 10
)

// crowd is a client with many connections, all due. Its login at the bank tells it apart there.
type crowd struct {
	login  string
	size   int
	queued int // of them, whose sessions wait in the queue already
	id     domain.ClientID
	conns  []domain.ConnectionID
}

// TestFlood has all connections of four clients due at once, nine tenths of them one client's, which have waited
// longest, most of them in the queue since before the house stopped; and ten each of two others. Each is read exactly once. The small clients are not held up by the large one,
// nor is an investor who comes in the middle of it; the bank, and the house itself, never see more than so many at once.
func TestFlood(t *testing.T) {
	t.Logf("seed %d", *house.Seed)
	n, pace := 600, 4*time.Millisecond // faster than the house reads
	if *house.Long {
		n = 10_000
	}
	w := &watch{}
	h := open(t, house.Options{Sweep: time.Second, Pace: pace, BankOptions: bank.Options{OnRequest: w.see}})
	w.bank = h.Bank
	crowds := []*crowd{{login: "20000005", size: n - n/12 - 20, queued: n / 2}, {login: "20000044", size: n / 12}, {login: "20000043", size: 10}, {login: "20000049", size: 10}}
	must(t, h.Stop())
	lay(t, h, crowds)
	must(t, h.Start())
	begun := time.Now()
	late := visitor(t, h, w)
	w.await(t, h, n+1)
	t.Logf("%d sessions in %v", n, time.Since(begun))
	t.Logf("at most: %d sessions at the bank, %d goroutines, %d files, %d MiB", w.most, w.goroutines, w.files, status(t, h, "VmHWM")>>10)

	// A sweep looks at twenty of each client, turn by turn, and the queue takes turns for each that waits.
	bound := len(crowds)*(20+10) + 2*sessions
	for _, c := range crowds[2:] {
		if last := w.last(c.login); last > bound {
			t.Errorf("the last of %d connections of a small client begins as number %d, after more than %d", c.size, last, bound)
		}
	}
	if late > 2*sessions {
		t.Errorf("%d sessions began before that of an investor who waits at the page", late)
	}
	w.check(t, status(t, h, "VmHWM"))
	must(t, h.Stop()) // and with it whatever was not noted yet
	refreshedOnce(t, h, crowds)
	for _, c := range crowds {
		if visits := h.Bank.Visits(c.login); visits != c.size {
			t.Errorf("the bank saw %d sessions of %s, want %d", visits, c.login, c.size)
		}
	}
}

// TestSpread has few connections due at once, which the house could read in a moment. At its usual pace it begins one
// after the other, so that tomorrow they are due one after the other.
func TestSpread(t *testing.T) {
	w := &watch{}
	h := open(t, house.Options{Sweep: time.Second, BankOptions: bank.Options{OnRequest: w.see}})
	w.bank = h.Bank
	crowds := []*crowd{{login: "20000005", size: 32}}
	must(t, h.Stop())
	lay(t, h, crowds)
	must(t, h.Start())
	w.await(t, h, 32)
	must(t, h.Stop())
	next := refreshedOnce(t, h, crowds)
	if over := next[len(next)-1].Sub(next[0]); over < 5*time.Second {
		t.Errorf("the next readings lie within %v, want them spread over eight seconds", over)
	}
}

// watch is what is seen of a flood, at the bank and of the house.
type watch struct {
	mu                      sync.Mutex
	bank                    *bank.Bank
	order                   []string // logins, as they begin
	most, goroutines, files int
}

// see hears of every request at the bank. A session asks once for what the bank wants of it.
func (w *watch) see(login, method, path string) {
	if method != "GET" || path != "/api/session/clients/{user}/v1/sessions" {
		return
	}
	open := w.bank.OpenSessions("")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.order, w.most = append(w.order, login), max(w.most, open)
}

func (w *watch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.order)
}

// last is as which number the last session of a login begins.
func (w *watch) last(login string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range slices.Backward(w.order) {
		if w.order[i] == login {
			return i + 1
		}
	}
	return len(w.order) + 1
}

// await waits until so many sessions have begun and all have ended, and looks at the house meanwhile.
func (w *watch) await(t *testing.T, h *house.House, n int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute + time.Duration(n)*300*time.Millisecond)
	for w.count() < n || h.Bank.OpenSessions("") > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d sessions have begun, %d are open", w.count(), n, h.Bank.OpenSessions(""))
		}
		time.Sleep(500 * time.Millisecond)
		f := ask(t, h)
		w.goroutines, w.files = max(w.goroutines, f.Goroutines), max(w.files, files(t, h))
	}
}

func (w *watch) check(t *testing.T, kib uint64) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, line := range map[string][2]int{"sessions at the bank": {w.most, sessions + 1}, // and one that the visitor's answer carries on
		"goroutines": {w.goroutines, goroutines}, "open files": {w.files, openFiles}, "KiB of memory": {int(kib), floodKiB}} {
		if line[0] > line[1] {
			t.Errorf("%d %s at once, more than %d", line[0], what, line[1])
		}
	}
	if w.most < sessions/2 || w.files == 0 {
		t.Errorf("nothing was under load: %d sessions at once", w.most)
	}
}

// visitor is an investor of the first client who comes while the flood is on, and says how many sessions began before
// theirs.
func visitor(t *testing.T, h *house.House, w *watch) int {
	t.Helper()
	const login = "20000006"
	for deadline := time.Now().Add(time.Minute); w.count() < 50; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("only %d sessions have begun", w.count())
		}
	}
	p := h.Player("visitor")
	before := 0
	for _, words := range []string{"ask", "open", "grant", "login " + login, "done"} {
		if words == "done" {
			before = w.count()
		}
		ctx, done := context.WithTimeout(t.Context(), time.Minute)
		err := p.Play(ctx, words)
		done()
		if err != nil {
			t.Fatalf("%s: %v", words, err)
		}
	}
	return w.last(login) - before
}

// lay has the store hold the clients with their consented, sealed connections, all of them due.
func lay(t *testing.T, h *house.House, crowds []*crowd) {
	t.Helper()
	keys, err := envelope.LocalKeys(home.KeysIn(h.Data))
	must(t, err)
	public, err := keys.InnerPublic()
	must(t, err)
	sealer := envelope.NewSealer(keys.Encrypter(envelope.KeyOuter))
	random := rand.New(rand.NewPCG(*house.Seed, 0))
	h.WithStore(t, func(b *home.Backend) {
		for i, c := range crowds {
			client, err := consent.AddClient(t.Context(), b, b.Env, fmt.Sprint("Crowd ", i), consent.Terms{})
			must(t, err)
			c.id = client.ID
			for chunk := range slices.Chunk(make([]struct{}, c.size), 100) {
				var docs []domain.Document
				for range chunk {
					due := time.Duration(random.IntN(60)) * time.Second
					if i == 0 {
						due += time.Hour // the flood's have waited longest
					}
					held, err := connected(b.Env, c, public, sealer, due)
					must(t, err)
					docs = append(docs, held...)
					if c.queued > 0 {
						docs = append(docs, queued(b.Env, held[0].(*domain.Connection)))
					}
				}
				must(t, put(t.Context(), b, docs))
				c.queued -= len(chunk)
			}
		}
	})
}

// connected is a connection that was read before, with its consent and its login.
func connected(env domain.Env, c *crowd, public envelope.JWK, sealer *envelope.Sealer, due time.Duration) ([]domain.Document, error) {
	now := env.Now()
	conn := &domain.Connection{ID: domain.NewID[domain.ConnectionID](env), ClientID: c.id, ConsentID: domain.NewID[domain.ConsentID](env),
		InvestorRef: fmt.Sprint("inv-", len(c.conns)), Custodian: "sandbox-comdirect", State: domain.ConnectionActive,
		NextRefreshAt: now.Add(-due), LastRefreshedAt: now.Add(-25 * time.Hour), CreatedAt: now, UpdatedAt: now}
	granted := &domain.Consent{ID: conn.ConsentID, ClientID: c.id, ConnectionID: conn.ID, InvestorRef: conn.InvestorRef,
		Purpose: domain.Purpose{Code: "reporting"}, Products: []domain.Product{domain.ProductAccounts, domain.ProductCash}, Custodian: conn.Custodian,
		Access: domain.AccessRecurring, ExpiresAt: now.Add(90 * 24 * time.Hour), Saving: map[domain.Product]domain.Saving{}, Language: "en",
		State: domain.ConsentValid, CreatedAt: now, DecidedAt: now, UpdatedAt: now}
	t := conn.NextSealing(env)
	t.Nonce = "laid"
	conn.Sealings, conn.Generation = t.Generation, t.Generation
	jwe, err := public.SealCredential(t, map[string]string{"username": c.login, "password": bank.PIN}, now)
	if err != nil {
		return nil, err
	}
	sealed, err := sealer.Seal(jwe, conn.Binding(), t)
	if err != nil {
		return nil, err
	}
	c.conns = append(c.conns, conn.ID)
	return []domain.Document{conn, granted, &domain.Credential{ID: t.Credential, Generation: t.Generation, Nonce: t.Nonce, ConnectionID: conn.ID, ConsentID: conn.ConsentID,
		ClientID: c.id, Custodian: conn.Custodian, State: domain.CredentialAccepted, InnerKey: public.Kid, Sealed: sealed, CreatedAt: now, UpdatedAt: now}}, nil
}

// queued makes the session that a sweep would.
func queued(env domain.Env, conn *domain.Connection) *domain.Session {
	now := env.Now()
	s := &domain.Session{ID: domain.NewID[domain.SessionID](env), ClientID: conn.ClientID, ConsentID: conn.ConsentID, ConnectionID: conn.ID,
		Custodian: conn.Custodian, Cause: domain.CauseScheduled, State: domain.SessionQueued, CreatedAt: now, UpdatedAt: now,
		ExpiresAt: now.Add(domain.SessionLife)}
	conn.SessionID, conn.NextRefreshAt = s.ID, now.Add(time.Hour)
	return s
}

func put(ctx context.Context, b *home.Backend, docs []domain.Document) error {
	return b.Commit(ctx, func(tx domain.Tx) error {
		for _, d := range docs {
			if err := tx.Put(d); err != nil {
				return err
			}
		}
		for _, d := range docs {
			if s, ok := d.(*domain.Session); ok {
				if err := tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: s.Key(), Custodian: s.Custodian, Lane: s.Lane()}); err != nil {
					return err
				}
			}
		}
		return tx.Record(domain.Note(b.Env, "test", "laid", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "flood", nil))
	})
}

// refreshedOnce checks that every connection has exactly one new version, told once, and that nothing was given up. It
// returns when they are due next, in order.
func refreshedOnce(t *testing.T, h *house.House, crowds []*crowd) (next []time.Time) {
	t.Helper()
	h.WithStore(t, func(b *home.Backend) {
		wrong := map[string]int{}
		for _, c := range crowds {
			for _, id := range c.conns {
				conn := &domain.Connection{ID: id}
				must(t, b.Get(t.Context(), conn))
				if conn.State != domain.ConnectionActive || conn.Versions != 1 || conn.Sequence != 1 || conn.Reason != "" {
					wrong[fmt.Sprintf("%s %s with %d versions and %d notices", conn.State, conn.Reason, conn.Versions, conn.Sequence)]++
				}
				next = append(next, conn.NextRefreshAt.Time)
			}
		}
		for _, said := range slices.Sorted(maps.Keys(wrong)) {
			t.Errorf("%d connections are %s", wrong[said], said)
		}
		letters, err := b.DeadLetters(t.Context(), 10)
		must(t, err)
		for _, l := range letters {
			t.Errorf("given up: %s, %s", l.Event.Topic, l.Reason)
		}
	})
	slices.SortFunc(next, time.Time.Compare)
	return next
}
