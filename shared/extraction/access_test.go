package extraction_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/extraction"
)

var sequences = flag.Int("sequences", 60, "random sequences to drive against a bank that counts")

// counted is the custodian whose rules the tests play: those of comdirect, as data.
var counted = sync.OnceValue(func() domain.Custodian {
	contracts, err := domain.ReadContracts(schemas.FS)
	if err != nil {
		panic(err)
	}
	c := contracts.Custodian("comdirect")
	c.Endpoints = map[string]string{"api": "https://api.bank.example"}
	return c
})

const (
	accessNumber = "12345678"
	rightPIN     = "right-pin"
	rightCode    = "246810"
)

// strictBank counts as a real bank does, by its rules alone, and forgives nothing but what these say. It stands behind
// the egress guard: it counts requests, not intentions.
type strictBank struct {
	t     testing.TB
	clock func() domain.Time
	rules domain.BankRules

	count    map[domain.BankCount]int
	locked   bool
	logins   int
	readings []domain.Time     // unattended
	lose     func(string) bool // whether an answer to this path is lost on its way, after it was counted
	after    func(string)      // told of each request once it was counted
}

func newStrictBank(t testing.TB, clock func() domain.Time) *strictBank {
	return &strictBank{t: t, clock: clock, rules: counted().Rules, count: map[domain.BankCount]int{},
		lose: func(string) bool { return false }, after: func(string) {}}
}

func (b *strictBank) strike(c domain.BankCount) {
	if b.count[c]++; b.count[c] >= b.rules.Locks[c].At {
		b.locked = true
	}
}

func (b *strictBank) right(c domain.BankCount) {
	for other, rule := range b.rules.Locks {
		if rule.ResetBy == c {
			b.count[other] = 0
		}
	}
}

// RoundTrip answers as the bank: 200 where it goes on, 401 where something was wrong, 423 where the access is locked.
func (b *strictBank) RoundTrip(r *http.Request) (*http.Response, error) {
	body := ""
	if r.Body != nil {
		raw, _ := io.ReadAll(r.Body)
		r.Body.Close()
		body = string(raw)
	}
	status := b.serve(r.URL.Path, body)
	b.after(r.URL.Path)
	if b.lose(r.URL.Path) {
		return nil, errors.New("the connection broke")
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

func (b *strictBank) serve(path, body string) int {
	if path == "/login" {
		b.logins++
		if strings.HasSuffix(body, " unattended") {
			b.readings = append(b.readings, b.clock())
		}
	}
	switch {
	case b.locked:
		return http.StatusLocked
	case path == "/login" && strings.HasPrefix(body, accessNumber+" "+rightPIN+" "):
		b.right(domain.CountLogin)
		return http.StatusOK
	case path == "/login":
		b.strike(domain.CountLogin)
		return http.StatusUnauthorized
	case path == "/challenge":
		b.strike(domain.CountChallenge)
		return http.StatusOK
	case path == "/code" && body == rightCode:
		b.right(domain.CountCode)
		return http.StatusOK
	case path == "/code":
		b.strike(domain.CountCode)
		return http.StatusUnauthorized
	}
	return http.StatusOK
}

// check says what must hold after whatever happens.
func (b *strictBank) check(what string) {
	b.t.Helper()
	for c, rule := range b.rules.Locks {
		if b.count[c] >= rule.At {
			b.t.Fatalf("%s: the bank counted %d of %s, and locks at %d", what, b.count[c], c, rule.At)
		}
	}
	if b.locked {
		b.t.Fatalf("%s: the access got locked", what)
	}
	most, hours := b.rules.Readings.Most, time.Duration(b.rules.Readings.Hours)*time.Hour
	if n := len(b.readings); n > most && b.readings[n-1].Sub(b.readings[n-1-most]) < hours {
		b.t.Fatalf("%s: %d readings without the investor within %s", what, most+1, hours)
	}
}

// counter is a connector to that bank. Without the investor the bank asks for no code.
type counter struct{}

func (counter) Requests() []extraction.Request {
	of := func(path string, counts domain.BankCount) extraction.Request {
		return extraction.Request{Method: "POST", Endpoint: "api", Path: path, Phase: extraction.PhaseLogin, Counts: counts}
	}
	return []extraction.Request{of("/login", domain.CountLogin), of("/challenge", domain.CountChallenge), of("/code", domain.CountCode)}
}

// ask makes one request, and once more where the answer was lost: connectors do.
func (counter) ask(ctx context.Context, s extraction.Session, path, body string, repeat bool) (int, error) {
	for try := 0; ; try++ {
		r, err := http.NewRequestWithContext(ctx, "POST", "https://api.bank.example"+path, strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		resp, err := s.HTTP.Do(r)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusLocked {
				return 0, &extraction.Failure{Reason: domain.ReasonAccountLocked}
			}
			return resp.StatusCode, nil
		}
		var f *extraction.Failure
		if errors.As(err, &f) {
			return 0, f
		}
		if !repeat || try == 2 {
			return 0, &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: repeat, Err: errors.New("no answer")}
		}
	}
}

func (c counter) Step(ctx context.Context, s extraction.Session, in extraction.Input) (extraction.Outcome, error) {
	switch in.Kind {
	case extraction.InputLogin:
		who := " attended"
		if !s.Attended {
			who = " unattended"
		}
		status, err := c.ask(ctx, s, "/login", string(in.Credentials["username"].Reveal())+" "+string(in.Credentials["password"].Reveal())+who, false)
		switch {
		case err != nil:
			return extraction.Outcome{}, err
		case status != http.StatusOK:
			return extraction.Outcome{}, &extraction.Failure{Reason: domain.ReasonCredentialsRefused}
		case !s.Attended:
			return opened(), nil
		}
		out, err := c.challenge(ctx, s)
		var f *extraction.Failure
		if errors.As(err, &f) {
			after := *f
			after.Accepted, err = true, &after
		}
		return out, err
	case extraction.InputRenew:
		return c.challenge(ctx, s)
	case extraction.InputCode:
		status, err := c.ask(ctx, s, "/code", string(in.Code.Reveal()), true)
		if err != nil {
			return extraction.Outcome{}, err
		}
		if status == http.StatusOK {
			return opened(), nil
		}
		return question(domain.SCARejected), nil
	}
	return opened(), nil
}

func (c counter) challenge(ctx context.Context, s extraction.Session) (extraction.Outcome, error) {
	if _, err := c.ask(ctx, s, "/challenge", "", true); err != nil {
		return extraction.Outcome{}, err
	}
	return question(domain.SCAIssued), nil
}

// question claims that the bank allows nine more tries: only the mirror knows better.
func question(status domain.SCAState) extraction.Outcome {
	return extraction.Outcome{Challenge: &extraction.Challenge{Status: status, Flow: domain.FlowCode, Method: "M_TAN", TriesLeft: 9,
		State: []byte("asked"), Lasts: 5 * time.Minute}}
}

func opened() extraction.Outcome {
	return extraction.Outcome{Portfolio: &extraction.Portfolio{State: []byte("open")}}
}

func (counter) End(context.Context, extraction.Session) error { return nil }

// ledger is a store in memory, fast enough for a hundred thousand sequences, that can die before or after a commit.
type ledger struct {
	docs   map[string][]byte
	events []domain.Event
	die    func(after bool) bool
	dead   bool
}

var errGone = &domain.Error{Kind: domain.Gone, Code: "died"}

func name(d domain.Document) string { return string(d.Kind()) + "/" + d.Key() }

func (l *ledger) Get(_ context.Context, docs ...domain.Document) error {
	if l.dead {
		return errGone
	}
	return domain.Each(docs, func(d domain.Document) error {
		raw, ok := l.docs[name(d)]
		if !ok {
			return domain.ErrNotFound
		}
		return json.Unmarshal(raw, d)
	})
}

func (*ledger) List(context.Context, domain.Query) (domain.Page, error) { return domain.Page{}, nil }

func (l *ledger) Commit(_ context.Context, fn func(domain.Tx) error) error {
	if l.dead || l.die(false) {
		l.dead = true
		return errGone
	}
	tx := &draft{ledger: l, puts: map[string][]byte{}}
	if err := fn(tx); err != nil {
		return err
	}
	for k, v := range tx.puts {
		if l.docs[k] = v; v == nil {
			delete(l.docs, k)
		}
	}
	l.events = append(l.events, tx.events...)
	if l.die(true) {
		l.dead = true
		return errGone
	}
	return nil
}

type draft struct {
	*ledger
	puts   map[string][]byte
	events []domain.Event
}

func (d *draft) Get(docs ...domain.Document) error {
	return d.ledger.Get(context.Background(), docs...)
}
func (d *draft) Put(doc domain.Document) error {
	raw, err := json.Marshal(doc)
	d.puts[name(doc)] = raw
	return err
}
func (d *draft) Delete(doc domain.Document) error { d.puts[name(doc)] = nil; return nil }
func (d *draft) Emit(e domain.Event) error        { d.events = append(d.events, e); return nil }
func (d *draft) Record(*domain.Entry) error       { return nil }

// remembered opens with the inner keys, each envelope once: what is tested here is not how long that takes.
type remembered struct{ crypto.Decrypter }

var remembering sync.Map // of what was opened

func (k remembered) Decrypt(random io.Reader, sealed []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	if plain, known := remembering.Load(string(sealed)); known {
		return bytes.Clone(plain.([]byte)), nil
	}
	plain, err := k.Decrypter.Decrypt(random, sealed, opts)
	if err == nil {
		remembering.Store(string(sealed), bytes.Clone(plain))
	}
	return plain, err
}

func innerKeys() (map[string]crypto.Decrypter, error) {
	inner, err := keys().InnerDecrypters()
	fast := map[string]crypto.Decrypter{}
	for kid, key := range inner {
		fast[kid] = remembered{key}
	}
	return fast, err
}

func innerPublic(t testing.TB) envelope.JWK {
	jwk, err := keys().InnerPublic()
	if err != nil {
		t.Fatal(err)
	}
	return jwk
}

// letters are credentials that were sealed before, by connection and PIN.
var letters = map[string]string{}

// town is several clients of one investor with one login at one bank, and the processes that serve them.
type town struct {
	t     testing.TB
	now   time.Time
	env   domain.Env
	store *ledger
	bank  *strictBank
	conns []*domain.Connection
}

func found(t testing.TB, connections int) *town {
	w := &town{t: t, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), store: &ledger{docs: map[string][]byte{}, die: func(bool) bool { return false }}}
	w.env = domain.Env{Clock: func() time.Time { return w.now }, Region: "local"}
	w.bank = newStrictBank(t, w.env.Now)
	for i := range connections {
		now := w.env.Now()
		c := &domain.Consent{ID: domain.ConsentID(fmt.Sprintf("con_%026d", i)), ClientID: domain.ClientID(fmt.Sprintf("cli_%026d", i/2)),
			ConnectionID: domain.ConnectionID(fmt.Sprintf("conn_%026d", i)), InvestorRef: "inv-1", Products: slices.Clone(allProducts),
			Purpose: domain.Purpose{Code: "wealth_overview"}, Custodian: counted().ID, Access: domain.AccessRecurring,
			ExpiresAt: now.Add(179 * 24 * time.Hour), State: domain.ConsentValid, CreatedAt: now, DecidedAt: now}
		conn := &domain.Connection{ID: c.ConnectionID, ClientID: c.ClientID, ConsentID: c.ID, InvestorRef: c.InvestorRef,
			Custodian: c.Custodian, State: domain.ConnectionAwaiting, CreatedAt: now, UpdatedAt: now}
		w.put(c, conn, &domain.Client{ID: c.ClientID, State: domain.ClientActive})
		w.conns = append(w.conns, conn)
	}
	return w
}

func (w *town) put(docs ...domain.Document) {
	for _, d := range docs {
		raw, err := json.Marshal(d)
		if err != nil {
			w.t.Fatal(err)
		}
		w.store.docs[name(d)] = raw
	}
}

func read[T domain.Document](w *town, doc T) T {
	if raw := w.store.docs[name(doc)]; raw != nil {
		if err := json.Unmarshal(raw, doc); err != nil {
			w.t.Fatal(err)
		}
	}
	return doc
}

func (w *town) engine() *extraction.Engine {
	k := keys()
	return &extraction.Engine{Store: w.store, Env: w.env, Custodian: counted(), Connector: counter{}, Network: w.bank, Secrets: noSecrets{},
		Opener: envelope.NewOpener(k.Decrypter(envelope.KeyOuter), innerKeys),
		State: struct {
			domain.Encrypter
			domain.Decrypter
		}{k.Encrypter(envelope.KeySession), k.Decrypter(envelope.KeySession)},
		Display: k.Encrypter(envelope.KeyDisplay), Portfolio: envelope.NewCloser(k.PortfolioKey(), w.env), Pseudonym: k.Pseudonym()}
}

// seal gives a login to a connection, as an investor does, or a client that redeems its own link.
func (w *town) seal(i int, pin string) {
	conn := read(w, w.conns[i])
	jwk, letter := innerPublic(w.t), string(conn.ID)+pin
	as := domain.Sealing{Subject: string(conn.ID), Credential: "cred_of_a_letter", Generation: 1, Nonce: "n"}
	if letters[letter] == "" {
		jwe, err := jwk.SealCredential(as, map[string]string{"username": accessNumber, "password": pin}, w.env.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		letters[letter] = jwe
	}
	sealed, err := envelope.NewSealer(keys().Encrypter(envelope.KeyOuter)).Seal(letters[letter], conn.Binding(), as)
	if err != nil {
		w.t.Fatal(err)
	}
	conn.Generation = as.Generation
	w.put(conn, &domain.Credential{ID: as.Credential, Generation: as.Generation, Nonce: as.Nonce, ConnectionID: conn.ID, ConsentID: conn.ConsentID,
		ClientID: conn.ClientID, Custodian: conn.Custodian, State: domain.CredentialSealed, InnerKey: jwk.Kid, Sealed: sealed,
		CreatedAt: w.env.Now(), UpdatedAt: w.env.Now()})
}

// begin queues a session, as the functions seal, portfolio and sweep do, whatever was under way before.
func (w *town) begin(i int, cause domain.Cause) {
	conn, now := read(w, w.conns[i]), w.env.Now()
	if before := read(w, &domain.Session{ID: conn.SessionID}); conn.SessionID != "" && !domain.SessionMoves.Final(before.State) {
		before.State = domain.SessionCancelled
		w.put(before)
	}
	if cred := read(w, &domain.Credential{ConnectionID: conn.ID}); cred.State == domain.CredentialTrying {
		cred.State = domain.CredentialUnconfirmed
		w.put(cred)
	}
	conn.State, conn.SessionID = domain.ConnectionBusy, domain.NewID[domain.SessionID](w.env)
	s := &domain.Session{ID: conn.SessionID, ClientID: conn.ClientID, ConsentID: conn.ConsentID, ConnectionID: conn.ID,
		Custodian: conn.Custodian, Cause: cause, State: domain.SessionQueued, CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(domain.SessionLife)}
	w.put(conn, s)
	w.store.events = append(w.store.events, domain.Event{Topic: domain.TopicSession, Subject: s.Key(), Custodian: s.Custodian})
}

// work delivers every event that is due, some more than once, by processes that are replaced when they die.
func (w *town) work() {
	for range 200 {
		i := slices.IndexFunc(w.store.events, func(e domain.Event) bool {
			return e.Topic == domain.TopicSession && !w.env.Now().Before(e.NotBefore)
		})
		if i < 0 {
			return
		}
		e := w.store.events[i]
		w.store.events = slices.Delete(w.store.events, i, i+1)
		err := w.engine().Run(w.t.Context(), e)
		w.revive()
		var again *domain.Error
		if errors.As(err, &again) {
			e.NotBefore = w.env.Now().Add(max(again.RetryAfter, 31*time.Second))
			if e.Attempt++; e.Attempt < 6 {
				w.store.events = append(w.store.events, e)
			}
		}
	}
}

func (w *town) revive() { w.store.dead = false }

// answer is the investor's answer at the page of a connection; nothing where nothing is asked.
func (w *town) answer(i int, kind domain.AnswerKind, code string) error {
	s := read(w, &domain.Session{ID: read(w, w.conns[i]).SessionID})
	if s.State != domain.SessionSuspended {
		return nil
	}
	r := domain.AnswerRequest{SessionID: s.ID, ChallengeID: s.ChallengeID, Kind: kind}
	if kind == domain.AnswerCode {
		asked, err := read(w, &domain.Challenge{ID: s.ChallengeID}), error(nil)
		as := asked.NextSealing()
		as.Nonce = fmt.Sprint("nonce ", as.Generation)
		asked.Codes, asked.Admitted = as.Generation, append(asked.Admitted, as.Nonce)
		w.put(asked)
		if r.SealedCode, err = innerPublic(w.t).SealCode(as, code, w.env.Now()); err != nil {
			w.t.Fatal(err)
		}
	}
	err := w.engine().Answer(w.t.Context(), r)
	w.revive()
	return err
}

func (w *town) pass(d time.Duration) { w.now = w.now.Add(d) }

func (w *town) reason(i int) domain.Reason {
	return read(w, &domain.Session{ID: read(w, w.conns[i]).SessionID}).Reason
}

// login is a visit: a login with the right PIN or another, run as far as it goes.
func (w *town) login(i int, pin string) {
	w.seal(i, pin)
	w.begin(i, domain.CauseReconnect)
	w.work()
}

// TestALockedAccessIsLeftAlone plays an API key that redeems its own links and posts passwords, over many consents.
func TestALockedAccessIsLeftAlone(t *testing.T) {
	w := found(t, 12)
	w.bank.locked = true
	for n := range 648 {
		w.login(n%12, fmt.Sprint("guess-", n))
		w.pass(23 * time.Millisecond)
	}
	if w.bank.logins != 1 {
		t.Errorf("%d logins reached a locked access in 15 seconds, want 1", w.bank.logins)
	}
	if got := w.reason(0); got != domain.ReasonAccessWaits {
		t.Errorf("the last says %q, want that it was not tried", got)
	}
	w.pass(15 * time.Minute)
	w.begin(3, domain.CauseScheduled)
	w.work()
	if w.bank.logins != 1 {
		t.Error("a locked access was tried again without a person")
	}
	for day := range 30 {
		for range 24 * 4 {
			w.login(day%12, "guess")
			w.pass(15 * time.Minute)
		}
	}
	if w.bank.logins > 36 {
		t.Errorf("%d logins reached a locked access in a month", w.bank.logins)
	}
}

func TestRefusedPasswordsCountOverAllConnections(t *testing.T) {
	w := found(t, 12)
	for n := range 60 {
		w.login(n%12, fmt.Sprint("guess-", n))
		w.pass(3 * time.Hour)
		w.bank.check("a guess")
	}
	if w.bank.logins != 2 || w.reason(11) != domain.ReasonAccessResting {
		t.Errorf("%d guesses reached the bank, the last says %q", w.bank.logins, w.reason(11))
	}
}

// TestWrongCodesCountOverSessions gives two wrong codes in two visits; the third visit says the truth.
func TestWrongCodesCountOverSessions(t *testing.T) {
	w := found(t, 2)
	w.login(0, rightPIN)
	if c := read(w, &domain.Challenge{ID: read(w, &domain.Session{ID: read(w, w.conns[0]).SessionID}).ChallengeID}); c.TriesLeft != 2 {
		t.Errorf("the page counts %d tries, want 2 of a bank that locks at 3", c.TriesLeft)
	}
	if err := w.answer(0, domain.AnswerCode, "000000"); err != nil {
		t.Fatal(err)
	}
	if c := read(w, &domain.Challenge{ID: read(w, &domain.Session{ID: read(w, w.conns[0]).SessionID}).ChallengeID}); c.TriesLeft != 1 || c.State != domain.SCARejected {
		t.Errorf("after a wrong code the page counts %d tries, the challenge is %s", c.TriesLeft, c.State)
	}
	w.login(1, rightPIN) // another client, another visit: the bank still counts one
	if c := read(w, &domain.Challenge{ID: read(w, &domain.Session{ID: read(w, w.conns[1]).SessionID}).ChallengeID}); c.TriesLeft != 1 {
		t.Errorf("in the next visit the page counts %d tries, want 1", c.TriesLeft)
	}
	_ = w.answer(1, domain.AnswerCode, "000000")
	w.login(0, rightPIN)
	_ = w.answer(0, domain.AnswerCode, "000000")
	w.bank.check("a third wrong code")
	if w.bank.count[domain.CountCode] != 2 || w.reason(0) != domain.ReasonAccessResting {
		t.Errorf("%d wrong codes reached the bank, the last visit says %q", w.bank.count[domain.CountCode], w.reason(0))
	}
}

func TestAbandonedLoginsLockNothing(t *testing.T) {
	w := found(t, 3)
	for n := range 20 {
		w.login(n%3, rightPIN)
		w.pass(time.Hour)
		w.work()
		w.bank.check("an abandoned login")
	}
	if n := w.bank.count[domain.CountChallenge]; n != 4 {
		t.Errorf("%d challenges were asked for, want 4", n)
	}
}

func TestAnotherChallengeIsRefusedAndTheOneThatStandsIsNot(t *testing.T) {
	w := found(t, 1)
	w.login(0, rightPIN)
	var last error
	for range 10 {
		last = w.answer(0, domain.AnswerRenew, "")
		w.bank.check("a renewal")
	}
	if domain.CodeOf(last) != "challenges_spent" {
		t.Errorf("the last renewal came to %v", last)
	}
	if err := w.answer(0, domain.AnswerCode, rightCode); err != nil {
		t.Fatal(err)
	}
	if w.work(); w.bank.count[domain.CountChallenge] != 0 || read(w, w.conns[0]).State != domain.ConnectionActive {
		t.Errorf("a right answer after it: %s", read(w, w.conns[0]).State)
	}
}

func TestFourReadingsADayHoweverOftenAClientAsks(t *testing.T) {
	w := found(t, 4) // of two clients
	for i := range 4 {
		w.login(i, rightPIN)
		_ = w.answer(i, domain.AnswerCode, rightCode)
		w.work()
	}
	for n := range 3 * 1440 {
		w.begin(n%4, domain.CauseRequested)
		w.work()
		w.pass(time.Minute)
		w.bank.check("a refresh")
	}
	if n := len(w.bank.readings); n != 12 {
		t.Errorf("%d readings without the investor in three days, want 12", n)
	}
}

// TestWhatADeadProcessAskedIsCounted kills the process once the bank has counted, again and again.
func TestWhatADeadProcessAskedIsCounted(t *testing.T) {
	w := found(t, 2)
	w.bank.after = func(string) { w.store.dead = true }
	for n := range 30 {
		w.login(n%2, "wrong")
		w.pass(time.Hour)
		w.work()
		w.bank.check("a death")
	}
	if w.bank.logins != 2 {
		t.Errorf("%d logins reached the bank", w.bank.logins)
	}
}

// TestNeverTheLastTry drives random people, clients, clocks and deaths against the strict bank.
func TestNeverTheLastTry(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	for seed := range uint64(*sequences) {
		rng := rand.New(rand.NewPCG(seed, 13))
		w := found(t, 1+rng.IntN(4))
		w.bank.lose = func(string) bool { return rng.IntN(12) == 0 }
		w.store.die = func(bool) bool { return rng.IntN(40) == 0 }
		var story bytes.Buffer
		for range 25 {
			i := rng.IntN(len(w.conns))
			fmt.Fprintf(&story, " %d:", i)
			w.act(rng, i, &story)
			w.bank.check(fmt.Sprintf("seed %d, after%s", seed, &story))
		}
	}
}

// act is one thing that somebody does.
func (w *town) act(rng *rand.Rand, i int, story io.Writer) {
	say := func(word string) { fmt.Fprint(story, word) }
	switch rng.IntN(12) {
	case 0, 1:
		say("right")
		w.login(i, rightPIN)
	case 2:
		say("wrong")
		w.login(i, "wrong")
	case 3:
		say("again")
		w.begin(i, domain.CauseReconnect)
		w.work()
	case 4:
		say("refresh")
		w.begin(i, domain.CauseRequested)
		w.work()
	case 5, 6:
		say("code")
		_ = w.answer(i, domain.AnswerCode, rightCode)
		w.work()
	case 7:
		say("miss")
		_ = w.answer(i, domain.AnswerCode, "000000")
	case 8:
		say("renew")
		_ = w.answer(i, domain.AnswerRenew, "")
	case 9:
		say("cancel")
		_ = w.answer(i, domain.AnswerCancel, "")
	case 10:
		say("minutes")
		w.pass(time.Duration(rng.IntN(60)) * time.Minute)
		w.work()
	default:
		say("hours")
		w.pass(time.Duration(rng.IntN(40)) * time.Hour)
		w.work()
	}
}
