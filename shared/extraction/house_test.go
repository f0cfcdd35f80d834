package extraction_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/memory"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/extraction"
)

var keysDir string

// keys are made once: an RSA-4096 key takes its time.
var keys = sync.OnceValue(func() *envelope.Keys {
	k, err := envelope.LocalKeys(keysDir)
	if err != nil {
		panic(err)
	}
	return k
})

func TestMain(m *testing.M) {
	parent, err := os.MkdirTemp("", "extraction")
	if err != nil {
		panic(err)
	}
	keysDir = filepath.Join(parent, "keys")
	code := m.Run()
	_ = os.RemoveAll(parent) // a leftover in the temporary directory harms nobody
	os.Exit(code)
}

// house is a store on disk, with a clock that only moves when told to, and a fault that can be planted in any commit.
// Each scenario of a test has connections of its own in it.
type house struct {
	shards  memory.Shards
	t       testing.TB
	path    string
	backend *sql.Backend
	env     domain.Env

	mu      sync.Mutex
	now     time.Time
	ticks   func() time.Time // instead of now, where time passes by itself
	fault   func(point string) error
	tap     *tap // of the transaction under way
	emitted []domain.Event
	puts    []domain.Document // of every commit that took effect
}

func build(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), path: filepath.Join(t.TempDir(), "db")}
	h.env = domain.Env{Clock: h.clock, Region: "local"}
	options := sql.Options{Env: h.env, Fault: h.faulty}
	unmarshal(t, "indexes.json", &options.Indexes)
	var kinds []struct {
		Kind domain.DocumentKind `json:"kind"`
	}
	unmarshal(t, "retention.json", &kinds)
	for _, k := range kinds {
		options.Kinds = append(options.Kinds, k.Kind)
	}
	var err error
	if h.backend, err = sql.Open(t.Context(), "sqlite:"+h.path, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.backend.Close() })
	return h
}

func unmarshal(t testing.TB, name string, v any) {
	t.Helper()
	raw, err := schemas.FS.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ticks != nil {
		return h.ticks()
	}
	return h.now
}

func (h *house) advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// faulty is asked under the writer's lock, so that h.tap is that of the commit it is asked about.
func (h *house) faulty(point string) error {
	h.mu.Lock()
	fault, tap := h.fault, h.tap
	if point == "after-commit" && tap != nil {
		h.emitted, h.puts = append(h.emitted, tap.events...), append(h.puts, tap.puts...)
	}
	h.mu.Unlock()
	if fault == nil || tap == nil {
		return nil
	}
	return fault(point)
}

// plant sets the fault; nil removes it.
func (h *house) plant(fault func(point string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault = fault
}

// tap remembers what a transaction writes.
type tap struct {
	domain.Tx
	events []domain.Event
	puts   []domain.Document
}

func (x *tap) Put(d domain.Document) error { x.puts = append(x.puts, d); return x.Tx.Put(d) }
func (x *tap) Emit(e domain.Event) error   { x.events = append(x.events, e); return x.Tx.Emit(e) }

var errDied = errors.New("the process died")

// process is the store as one process sees it: once dead, it reaches nothing any more.
type process struct {
	*house
	dead   atomic.Bool
	moment func() // called before each commit
}

func (p *process) Get(ctx context.Context, docs ...domain.Document) error {
	if p.dead.Load() {
		return errDied
	}
	return p.backend.Get(ctx, docs...)
}

func (p *process) List(ctx context.Context, q domain.Query) (domain.Page, error) {
	if p.dead.Load() {
		return domain.Page{}, errDied
	}
	return p.backend.List(ctx, q)
}

func (p *process) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	if p.moment != nil {
		p.moment()
	}
	return p.backend.Commit(ctx, func(tx domain.Tx) error {
		if p.dead.Load() {
			return errDied
		}
		x := &tap{Tx: tx}
		p.mu.Lock()
		p.tap = x
		p.mu.Unlock()
		return fn(x)
	})
}

// world is one investor's connection at one bank, the process that serves it, and the queue that brings it events.
type world struct {
	*house
	t       testing.TB
	bank    *bank
	process *process
	engine  *extraction.Engine
	kek     *countedKey
	consent domain.ConsentID
	conn    domain.ConnectionID
	session domain.SessionID // the newest
	queue   []queued
	dead    []queued // given up
	ctx     context.Context
	moment  func() // called before each commit of the engine, and at each point the bank's hook is told of
}

// queued is an event on its way.
type queued struct {
	event    domain.Event
	due      time.Time
	failures int
	last     error
}

var allProducts = domain.Products

// settle makes a world: a valid consent and a connection that waits for credentials.
func (h *house) settle(t testing.TB, change ...func(*domain.Consent)) *world {
	t.Helper()
	w := &world{house: h, t: t, ctx: t.Context(), kek: &countedKey{WrappingKey: keys().PortfolioKey()}}
	now := h.env.Now()
	c := &domain.Consent{ID: domain.NewID[domain.ConsentID](h.env), ClientID: domain.NewID[domain.ClientID](h.env),
		ConnectionID: domain.NewID[domain.ConnectionID](h.env), InvestorRef: "inv-1", Products: slices.Clone(allProducts),
		Purpose: domain.Purpose{Code: "wealth_overview"}, Custodian: custodian.ID, Access: domain.AccessRecurring,
		ExpiresAt: now.Add(90 * 24 * time.Hour), Language: "fr", State: domain.ConsentValid, CreatedAt: now, DecidedAt: now}
	for _, f := range change {
		f(c)
	}
	w.consent, w.conn = c.ID, c.ConnectionID
	w.write(c, &domain.Client{ID: c.ClientID, State: domain.ClientActive}, &domain.Connection{ID: c.ConnectionID, ClientID: c.ClientID, ConsentID: c.ID, InvestorRef: c.InvestorRef,
		Custodian: c.Custodian, State: domain.ConnectionAwaiting, CreatedAt: now, UpdatedAt: now})
	w.bank = newBank(w)
	w.restart()
	return w
}

// restart replaces the process by a new one.
func (w *world) restart() {
	w.process = &process{house: w.house, moment: func() {
		if w.moment != nil {
			w.moment()
		}
	}}
	w.ctx = w.t.Context()
	w.engine = w.newEngine(w.process)
}

func (w *world) newEngine(p *process) *extraction.Engine {
	k := keys()
	return &extraction.Engine{Store: p, Env: w.env, Custodian: custodian, Connector: &visitor{w.bank, p},
		Network: noNetwork{}, Secrets: noSecrets{}, Opener: envelope.NewOpener(k.Decrypter(envelope.KeyOuter), k.InnerDecrypters),
		State: struct {
			domain.Encrypter
			domain.Decrypter
		}{k.Encrypter(envelope.KeySession), k.Decrypter(envelope.KeySession)},
		Display: k.Encrypter(envelope.KeyDisplay), Portfolio: envelope.NewCloser(w.kek, &w.shards, w.env), Shards: &w.shards, Pseudonym: k.Pseudonym()}
}

// countedKey counts what is asked of the portfolio key.
type countedKey struct {
	envelope.WrappingKey
	calls atomic.Int64
}

func (k *countedKey) Encrypt(plain, label []byte) ([]byte, error) {
	k.calls.Add(1)
	return k.WrappingKey.Encrypt(plain, label)
}

func (k *countedKey) Decrypt(sealed, label []byte) ([]byte, error) {
	k.calls.Add(1)
	return k.WrappingKey.Decrypt(sealed, label)
}

type noSecrets struct{}

func (noSecrets) Secret(context.Context, string) (domain.Secret, error) {
	return domain.Secret{}, domain.ErrNotFound
}

// write puts documents, as other functions would.
func (w *world) write(docs ...domain.Document) {
	w.t.Helper()
	w.alter(func(tx domain.Tx) error {
		for _, d := range docs {
			if err := tx.Put(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// alter is a commit of another process, which no planted fault touches.
func (w *world) alter(fn func(domain.Tx) error) {
	w.t.Helper()
	fault := w.fault
	w.plant(nil)
	defer w.plant(fault)
	p := &process{house: w.house}
	err := p.Commit(w.t.Context(), func(tx domain.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Record(domain.Note(w.env, "test", "world.altered", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", "test", nil))
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// change alters one document of another process's.
func change[T domain.Document](w *world, doc T, f func(T)) {
	w.t.Helper()
	w.alter(func(tx domain.Tx) error {
		if err := tx.Get(doc); err != nil {
			return err
		}
		f(doc)
		return tx.Put(doc)
	})
}

// get reads a document; nil if it is not there.
func get[T domain.Document](w *world, doc T) T {
	w.t.Helper()
	var none T
	if err := w.backend.Get(w.t.Context(), doc); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return none
		}
		w.t.Fatal(err)
	}
	return doc
}

func (w *world) theConsent() *domain.Consent    { return get(w, &domain.Consent{ID: w.consent}) }
func (w *world) connection() *domain.Connection { return get(w, &domain.Connection{ID: w.conn}) }
func (w *world) theSession() *domain.Session    { return get(w, &domain.Session{ID: w.session}) }
func (w *world) credential() *domain.Credential {
	return get(w, &domain.Credential{ConnectionID: w.conn})
}
func (w *world) challenge() *domain.Challenge {
	return get(w, &domain.Challenge{ID: w.theSession().ChallengeID})
}
func (w *world) version(n int) *domain.Portfolio { return w.versions()[n-1] }
func (w *world) versions() (all []*domain.Portfolio) {
	found := listOf[domain.Portfolio](w, "portfolios_by_connection")
	slices.SortFunc(found, func(a, b *domain.Portfolio) int { return int(a.Number - b.Number) })
	return found
}

// listOf lists what the connection has of a kind.
func listOf[T any, P interface {
	*T
	domain.Document
}](w *world, index string, match ...string) (all []P) {
	w.t.Helper()
	if match == nil {
		match = []string{string(w.conn)}
	}
	q := domain.Query{Index: index, Match: match, Limit: 1000}
	for {
		page, next, err := domain.List[T, P](w.t.Context(), w.backend, q)
		if err != nil {
			w.t.Fatal(err)
		}
		for i := range page {
			all = append(all, P(&page[i]))
		}
		if next == "" {
			return all
		}
		q.Cursor = next
	}
}

// entries are the audit entries of an action under the world's consent, or of all actions.
func (w *world) entries(action string) (found []*domain.Entry) {
	w.t.Helper()
	for _, e := range listOf[domain.Entry](w, "entries_by_client", string(w.theConsent().ClientID)) {
		if action == "" || e.Type == "sluis."+action {
			found = append(found, e)
		}
	}
	return found
}

func (w *world) denied() (codes []string) {
	w.t.Helper()
	for _, e := range w.entries("") {
		if e.Data.Outcome == domain.OutcomeDenied {
			codes = append(codes, e.Data.Reason)
		}
	}
	return codes
}

// notices are the types of what the client was told, in their order, which must have no gap.
func (w *world) notices() string {
	w.t.Helper()
	all := listOf[domain.Notice](w, "notices_by_client", string(w.theConsent().ClientID))
	slices.SortFunc(all, func(a, b *domain.Notice) int { return int(a.Sequence - b.Sequence) })
	var types []string
	for i, n := range all {
		if n.Sequence != int64(i+1) {
			w.t.Errorf("notice %d has the sequence number %d", i+1, n.Sequence)
		}
		types = append(types, string(n.Type))
	}
	if got := w.connection().Sequence; got != int64(len(all)) {
		w.t.Errorf("the connection counts %d notices, there are %d", got, len(all))
	}
	return strings.Join(types, " ")
}

// shard makes a shard.
func (w *world) shard() (domain.ShardID, domain.Secret) {
	w.t.Helper()
	id := domain.NewID[domain.ShardID](w.env)
	shard, err := w.shards.Make(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return id, shard
}

// seal gives the connection a credential, as the sealing function would.
func (w *world) seal(password string) {
	w.t.Helper()
	jwk, err := keys().InnerPublic()
	if err != nil {
		w.t.Fatal(err)
	}
	jwe, err := jwk.SealCredential(w.conn, map[string]string{"username": "12345678", "password": password}, w.env.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	conn := w.connection()
	id, shard := w.shard()
	session, _ := w.shard()
	sealed, err := envelope.NewSealer(keys().Encrypter(envelope.KeyOuter)).Under(shard).Seal(jwe, conn.Binding())
	if err != nil {
		w.t.Fatal(err)
	}
	now := w.env.Now()
	w.write(&domain.Credential{ID: domain.NewID[domain.CredentialID](w.env), ConnectionID: conn.ID, ConsentID: conn.ConsentID,
		ClientID: conn.ClientID, Custodian: conn.Custodian, State: domain.CredentialSealed, InnerKey: jwk.Kid, Sealed: sealed, Shard: id, SessionShard: session,
		CreatedAt: now, UpdatedAt: now})
}

// begin queues a session, as the functions seal, portfolio and sweep would.
func (w *world) begin(cause domain.Cause) {
	w.t.Helper()
	conn, now := w.connection(), w.env.Now()
	w.session = domain.NewID[domain.SessionID](w.env)
	attended := cause == domain.CauseFirst || cause == domain.CauseReconnect
	if conn.State != domain.ConnectionBusy && (attended || conn.State != domain.ConnectionActive) {
		if err := conn.Move(domain.ConnectionBusy, "", now); err != nil {
			w.t.Fatal(err)
		}
	}
	conn.SessionID = w.session
	s := &domain.Session{ID: w.session, ClientID: conn.ClientID, ConsentID: conn.ConsentID, ConnectionID: conn.ID,
		Custodian: conn.Custodian, Cause: cause, State: domain.SessionQueued, CreatedAt: now, UpdatedAt: now,
		ExpiresAt: now.Add(domain.SessionLife)}
	w.alter(func(tx domain.Tx) error {
		return errors.Join(tx.Put(s), tx.Put(conn), tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: s.Key(), Custodian: s.Custodian}))
	})
	w.collect()
}

// collect takes what was emitted into the queue.
func (w *world) collect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.emitted {
		if e.Topic == domain.TopicSession {
			w.queue = append(w.queue, queued{event: e, due: e.NotBefore.Time})
		}
	}
	w.emitted = nil
}

// maxFailures is when the real queue gives an event up.
const maxFailures = 10

// deliver hands the events that are due to the engine until none is, and says whether there was any. An event whose
// process died, or was stopped, comes again to a new process.
func (w *world) deliver() (any bool) {
	w.t.Helper()
	for range 500 {
		w.collect()
		now := w.clock()
		i := slices.IndexFunc(w.queue, func(q queued) bool { return !q.due.After(now) })
		if i < 0 {
			return any
		}
		any = true
		q := w.queue[i]
		w.queue = slices.Delete(w.queue, i, i+1)
		q.event.Attempt++
		err := w.engine.Run(w.ctx, q.event)
		w.collect()
		if w.revive() {
			q.due = w.clock()
			w.queue = append(w.queue, q)
		} else if err != nil {
			w.later(q, err)
		}
	}
	w.t.Fatal("the events do not end")
	return any
}

// revive restarts a process that died or was stopped.
func (w *world) revive() bool {
	if !w.process.dead.Load() && w.ctx.Err() == nil {
		return false
	}
	if w.process.dead.Load() {
		w.bank.forget()
	}
	w.restart()
	w.advance(5 * time.Second) // the queue's own lease
	return true
}

func (w *world) later(q queued, err error) {
	q.last = err
	if q.failures++; q.failures >= maxFailures {
		w.dead = append(w.dead, q)
		return
	}
	wait := time.Second << (q.failures - 1)
	var e *domain.Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		wait = e.RetryAfter
	}
	q.due = w.clock().Add(wait)
	w.queue = append(w.queue, q)
}

// rest lets time pass until no event is left.
func (w *world) rest() {
	w.t.Helper()
	for range 200 {
		w.deliver()
		if len(w.queue) == 0 {
			return
		}
		next := slices.MinFunc(w.queue, func(a, b queued) int { return a.due.Compare(b.due) })
		w.advance(next.due.Sub(w.clock()))
	}
	w.t.Fatal("the events do not end")
}

// answer is the investor's, on the challenge that is shown.
func (w *world) answer(kind domain.AnswerKind, text string) error {
	w.t.Helper()
	r := domain.AnswerRequest{SessionID: w.session, ChallengeID: w.theSession().ChallengeID, Kind: kind}
	switch kind {
	case domain.AnswerSelect:
		r.Method = text
	case domain.AnswerCode:
		r.SealedCode = w.sealCode(text)
	}
	err := w.engine.Answer(w.ctx, r)
	w.collect()
	return err
}

func (w *world) sealCode(code string) string {
	w.t.Helper()
	jwk, err := keys().InnerPublic()
	if err != nil {
		w.t.Fatal(err)
	}
	jwe, err := jwk.SealCode(w.theSession().ChallengeID, code, w.env.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return jwe
}

// must is for answers that must be taken.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// records reads one product of a version back, with the key that the portfolio function has.
func (w *world) records(v *domain.Portfolio, p domain.Product) (lines []string) {
	w.t.Helper()
	reader := envelope.NewReader(keys().Decrypter(envelope.KeyPortfolio), &w.shards, w.env)
	key := get(w, &domain.DataKey{ConnectionID: w.conn})
	for _, id := range v.Products[p].Parts {
		part := get(w, &domain.Part{ID: id})
		if part == nil {
			w.t.Fatalf("version %d names a part of %s that is not there", v.Number, p)
		}
		plain, err := reader.Open(key, string(p), id, part.Sealed)
		if err != nil {
			w.t.Fatal(err)
		}
		found := strings.Split(strings.TrimSuffix(string(plain), "\n"), "\n")
		if len(found) != part.Count || part.Product != p {
			w.t.Errorf("a part of %s says %d records of %s, it has %d", p, part.Count, part.Product, len(found))
		}
		lines = append(lines, found...)
	}
	return lines
}

func (w *world) summary(v *domain.Portfolio) (found []domain.Reconciliation) {
	w.t.Helper()
	reader := envelope.NewReader(keys().Decrypter(envelope.KeyPortfolio), &w.shards, w.env)
	plain, err := reader.Open(get(w, &domain.DataKey{ConnectionID: w.conn}), "summary", v.SummaryMark, v.Summary)
	if err == nil {
		err = json.Unmarshal(plain, &found)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

// sound checks what must hold whatever happened, once no event is left.
func (w *world) sound() {
	w.t.Helper()
	for _, q := range w.dead {
		w.t.Errorf("an event became a dead letter: %v", q.last)
	}
	w.notices()
	sessions := listOf[domain.Session](w, "sessions_by_connection")
	w.told(sessions)
	for _, s := range sessions {
		if !domain.SessionMoves.Final(s.State) {
			w.t.Errorf("a session is still %s", s.State)
		}
		if len(s.Sealed) > 0 {
			w.t.Errorf("a session that is %s still holds its state at the bank", s.State)
		}
	}
	for _, c := range listOf[domain.Challenge](w, "challenges_by_connection") {
		if len(c.Display) > 0 {
			w.t.Errorf("a challenge that is %s still shows something", c.State)
		}
	}
	w.complete()
	w.parts()
	w.bank.sound()
}

// parts checks that sweep will find each part that no version needs: one let it go, or the connection says that there may be some.
func (w *world) parts() {
	w.t.Helper()
	known := map[string]bool{}
	for _, v := range w.versions() {
		for _, status := range v.Products {
			for _, part := range status.Parts {
				known[part] = true
			}
		}
		for _, part := range v.LetGo {
			known[part] = true
		}
	}
	for _, part := range listOf[domain.Part](w, "parts_by_connection") {
		if !known[part.ID] && !w.connection().Staged {
			w.t.Errorf("nobody knows of %s of %s", part.ID, part.Product)
		}
	}
}

// told checks that the log tells the end of each session once, and as what it was.
func (w *world) told(sessions []*domain.Session) {
	w.t.Helper()
	ends := map[string]domain.SessionState{"sluis.portfolio.stored": domain.SessionComplete, "sluis.session.failed": domain.SessionFailed,
		"sluis.session.expired": domain.SessionFailed}
	type end struct {
		session string
		state   domain.SessionState
	}
	told := map[end]int{}
	for _, e := range w.entries("") {
		if state := ends[e.Type]; state != "" && e.Data.Outcome == domain.OutcomeAllowed {
			told[end{e.Subject, state}]++
		}
	}
	for _, s := range sessions {
		if s.State != domain.SessionCancelled && told[end{string(s.ID), s.State}] != 1 || s.State == domain.SessionCancelled && told[end{string(s.ID), domain.SessionFailed}] != 0 {
			w.t.Errorf("the log does not tell once that a session is %s: %v", s.State, told)
		}
	}
}

// complete checks that every version can be read, and says what it says of itself.
func (w *world) complete() {
	w.t.Helper()
	versions := w.versions()
	conn := w.connection()
	if conn.Versions != int64(len(versions)) {
		w.t.Errorf("the connection counts %d versions, there are %d", conn.Versions, len(versions))
	}
	sessions := map[domain.SessionID]bool{}
	for i, v := range versions {
		if v.Number != int64(i+1) || sessions[v.SessionID] {
			w.t.Errorf("version %d has the number %d and the session %s", i+1, v.Number, v.SessionID)
		}
		sessions[v.SessionID] = true
		for p, status := range v.Products {
			if lines := w.records(v, p); len(status.Parts) > 0 && len(lines) != status.Count {
				w.t.Errorf("version %d says %d %s, it has %d", v.Number, status.Count, p, len(lines))
			}
		}
	}
	if n := len(versions); n > 0 && conn.PortfolioID != versions[n-1].ID {
		w.t.Error("the connection does not name its newest version")
	}
}

// onDisk says whether the store holds these bytes anywhere.
func (w *world) onDisk(secret string) bool {
	w.t.Helper()
	files, err := filepath.Glob(w.path + "*")
	if err != nil || len(files) == 0 {
		w.t.Fatal("no store on disk", err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			w.t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(secret)) {
			return true
		}
	}
	return false
}
