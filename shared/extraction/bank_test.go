package extraction_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

var custodian = domain.Custodian{ID: "bank", Name: "Bank", Protocol: "test", RefreshHour: 24,
	Endpoints: map[string]string{"api": "https://api.bank.example"}, Products: domain.Products}

const (
	password = "right-password"
	code     = "135790"
)

// bank is a bank with one investor, behind a connector. It keeps the rules of both (a password refused thrice locks the
// access, a code is taken once, a session that was closed is closed) and breaks on demand, at any point that hook is
// told of.
type bank struct {
	w *world

	// What the test says.
	ask      string // what login asks for: nothing, code, push or choice
	password string
	code     string
	tries    int // wrong codes allowed
	approved bool
	holdings map[domain.Product][]domain.Record
	records  map[domain.Product]func(context.Context) extraction.Records // instead of holdings
	lasts    time.Duration
	// hook is called before and after each step ("before login", "after login"), for each record ("read cash 0") and
	// before the end of each product ("read cash end"). What it returns is what the connector returns.
	hook func(ctx context.Context, s extraction.Session, at string) error

	// What happened.
	mu        sync.Mutex
	logins    map[string]int // by password
	wrong     int
	locked    bool
	visits    []*visit
	seen      []string // the steps
	given     []domain.Secret
	states    [][]byte
	languages map[string]bool
	products  map[string]bool
}

// visit is one session at the bank.
type visit struct {
	stage string // asked, open or closed
	flow  domain.SCAFlow
	wrong int
	lost  bool // the engine was not told of it
	of    domain.SessionID
}

// state is what the connector keeps in the engine's hands.
type state struct {
	Visit int    `json:"visit"`
	Stage string `json:"stage"`
	Turn  int    `json:"turn"`
}

func newBank(w *world) *bank {
	return &bank{w: w, password: password, code: code, tries: 3, holdings: holdings(), logins: map[string]int{},
		languages: map[string]bool{}, products: map[string]bool{}}
}

// visitor is the connector in one process: once that is dead, it reaches the bank no more.
type visitor struct {
	*bank
	process *process
}

func (*visitor) Requests() []extraction.Request {
	return []extraction.Request{{Method: "POST", Endpoint: "api", Path: "/login", Phase: extraction.PhaseLogin},
		{Method: "GET", Endpoint: "api", Path: "/accounts/{id}", Phase: extraction.PhaseRead},
		{Method: "DELETE", Endpoint: "api", Path: "/login", Phase: extraction.PhaseEnd}}
}

// noNetwork is behind the guard: what passes it is answered with nothing.
type noNetwork struct{}

func (noNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

func (v *visitor) at(ctx context.Context, s extraction.Session, at string) error {
	if v.process.dead.Load() {
		return errDied
	}
	if v.process.moment != nil {
		v.process.moment()
	}
	if v.hook == nil {
		return nil
	}
	err := v.hook(ctx, s, at)
	if v.process.dead.Load() {
		return errDied
	}
	return err
}

func (v *visitor) Step(ctx context.Context, s extraction.Session, in extraction.Input) (extraction.Outcome, error) {
	v.note(s, in)
	if err := v.at(ctx, s, "before "+string(in.Kind)); err != nil {
		return extraction.Outcome{}, err
	}
	n := len(v.visits)
	out, err := v.step(ctx, s, in)
	if lost := v.at(ctx, s, "after "+string(in.Kind)); lost != nil {
		v.mu.Lock()
		for _, visit := range v.visits[n:] {
			visit.lost = true
		}
		v.mu.Unlock()
		return extraction.Outcome{}, lost
	}
	return out, err
}

func (b *bank) note(s extraction.Session, in extraction.Input) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, string(in.Kind))
	for _, secret := range in.Credentials {
		b.given = append(b.given, secret)
	}
	b.given = append(b.given, in.Code)
	b.states = append(b.states, s.State)
	b.languages[s.Language] = true
	b.products[fmt.Sprint(s.Products)] = true
}

func (v *visitor) step(ctx context.Context, s extraction.Session, in extraction.Input) (extraction.Outcome, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if in.Kind == extraction.InputLogin {
		return v.login(ctx, s, in)
	}
	var st state
	if err := json.Unmarshal(s.State, &st); err != nil || st.Visit >= len(v.visits) {
		return extraction.Outcome{}, errors.New("a step with no state of ours")
	}
	visit := v.visits[st.Visit]
	if visit.stage == "closed" {
		return extraction.Outcome{}, &extraction.Failure{Reason: domain.ReasonSCARequired, Err: errors.New("the session is over")}
	}
	if (in.Kind == extraction.InputResume) != (st.Stage == "open") {
		return extraction.Outcome{}, fmt.Errorf("step %s, where the session is %s", in.Kind, st.Stage)
	}
	switch in.Kind {
	case extraction.InputResume:
		return v.open(ctx, s, st), nil
	case extraction.InputCode:
		if string(in.Code.Reveal()) == v.code {
			return v.open(ctx, s, st), nil
		}
		visit.wrong++
		return v.challenge(st, visit, domain.SCARejected), nil
	case extraction.InputPoll:
		if v.approved {
			return v.open(ctx, s, st), nil
		}
		return v.challenge(st, visit, domain.SCAAwaiting), nil
	case extraction.InputSelect:
		visit.flow = map[string]domain.SCAFlow{"TAN": domain.FlowCode, "PUSH": domain.FlowDecoupled}[in.Method]
		if visit.flow == "" {
			return extraction.Outcome{}, domain.Invalidf("/method", "no such method")
		}
	}
	return v.issue(st, visit), nil
}

func (v *visitor) login(ctx context.Context, s extraction.Session, in extraction.Input) (extraction.Outcome, error) {
	given := string(in.Credentials["password"].Reveal())
	v.logins[given]++
	switch {
	case len(s.State) > 0:
		return extraction.Outcome{}, errors.New("a login with a state")
	case v.locked:
		return extraction.Outcome{}, &extraction.Failure{Reason: domain.ReasonAccountLocked}
	case given != v.password:
		v.wrong++
		v.locked = v.wrong >= 3
		return extraction.Outcome{}, &extraction.Failure{Reason: domain.ReasonCredentialsRefused}
	}
	v.wrong = 0
	visit := &visit{stage: "asked", of: s.ID}
	st := state{Visit: len(v.visits), Stage: "asked"}
	v.visits = append(v.visits, visit)
	switch {
	case v.ask == "":
		return v.open(ctx, s, st), nil
	case !s.Attended:
		return v.challenge(st, visit, domain.SCARequired), nil
	case v.ask == "choice":
		return v.challenge(st, visit, domain.SCASelection), nil
	case v.ask == "push":
		visit.flow = domain.FlowDecoupled
	default:
		visit.flow = domain.FlowCode
	}
	return v.issue(st, visit), nil
}

func (v *visitor) issue(st state, visit *visit) extraction.Outcome {
	if visit.flow == domain.FlowDecoupled {
		return v.challenge(st, visit, domain.SCAAwaiting)
	}
	return v.challenge(st, visit, domain.SCAIssued)
}

func (v *visitor) challenge(st state, visit *visit, status domain.SCAState) extraction.Outcome {
	st.Turn++
	raw, _ := json.Marshal(st)
	c := &extraction.Challenge{Status: status, Flow: visit.flow, TriesLeft: v.tries - visit.wrong, State: raw, Lasts: v.lasts,
		Methods: []domain.SCAMethod{{ID: "TAN", Flow: domain.FlowCode, Kind: "sms"}, {ID: "PUSH", Flow: domain.FlowDecoupled, Kind: "app"}}}
	switch visit.flow {
	case domain.FlowCode:
		c.Method, c.Display.Destination = "TAN", "+49-170-12XXXX"
	case domain.FlowDecoupled:
		c.Method, c.PollEvery = "PUSH", 1500*time.Millisecond
	}
	return extraction.Outcome{Challenge: c}
}

func (v *visitor) open(ctx context.Context, s extraction.Session, st state) extraction.Outcome {
	v.visits[st.Visit].stage, st.Stage = "open", "open"
	raw, _ := json.Marshal(st)
	p := &extraction.Portfolio{State: raw, Read: map[domain.Product]extraction.Records{}}
	for product := range v.holdings {
		p.Read[product] = v.read(ctx, s, v.visits[st.Visit], product)
	}
	for product, records := range v.records {
		p.Read[product] = records(ctx)
	}
	return extraction.Outcome{Portfolio: p}
}

// read gives copies, for the engine changes what it is given.
func (v *visitor) read(ctx context.Context, s extraction.Session, visit *visit, p domain.Product) extraction.Records {
	return func(yield func(domain.Record, error) bool) {
		for i, record := range v.holdings[p] {
			if err := v.at(ctx, s, fmt.Sprintf("read %s %d", p, i)); err != nil {
				yield(nil, err)
				return
			}
			v.mu.Lock()
			closed := visit.stage == "closed"
			v.mu.Unlock()
			if closed {
				yield(nil, &extraction.Failure{Reason: domain.ReasonSCARequired})
				return
			}
			if !yield(copyOf(record), nil) {
				return
			}
		}
		if err := v.at(ctx, s, fmt.Sprintf("read %s end", p)); err != nil {
			yield(nil, err)
		}
	}
}

func copyOf(r domain.Record) domain.Record {
	from := reflect.ValueOf(r).Elem()
	to := reflect.New(from.Type())
	to.Elem().Set(from)
	return to.Interface().(domain.Record)
}

func (v *visitor) End(ctx context.Context, s extraction.Session) error {
	v.mu.Lock()
	v.seen = append(v.seen, "end")
	v.mu.Unlock()
	if err := v.at(ctx, s, "before end"); err != nil {
		return err
	}
	v.mu.Lock()
	var st state
	err := json.Unmarshal(s.State, &st)
	if err == nil && st.Visit < len(v.visits) {
		v.visits[st.Visit].stage = "closed"
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	return v.at(ctx, s, "after end")
}

func (b *bank) steps() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.seen, " ")
}

func (b *bank) count(step string) (n int) {
	for _, s := range strings.Fields(b.steps()) {
		if s == step {
			n++
		}
	}
	return n
}

// left counts the sessions that the engine knew of and left open.
func (b *bank) left() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range b.visits {
		if v.stage != "closed" && !v.lost {
			n++
		}
	}
	return n
}

// forget marks the sessions of which only a process knew that has just died.
func (b *bank) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range b.visits {
		if s := get(b.w, &domain.Session{ID: v.of}); len(s.Sealed) == 0 {
			v.lost = true
		}
	}
}

// sound checks what must hold after everything is over: nothing that the engine was told of is left open, no secret
// and no state that a step was given still stands in memory.
func (b *bank) sound() {
	b.w.t.Helper()
	if n := b.left(); n > 0 {
		b.w.t.Errorf("%d sessions were left open at the bank (steps: %s)", n, b.steps())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, secret := range b.given {
		if strings.Trim(string(secret.Reveal()), "\x00") != "" {
			b.w.t.Error("a secret was not wiped after its step")
		}
	}
	for _, s := range b.states {
		if strings.Trim(string(s), "\x00") != "" {
			b.w.t.Error("a state was not wiped after its step")
		}
	}
	if b.locked {
		b.w.t.Error("the access got locked")
	}
}

// holdings is a small portfolio of one depot and one account.
func holdings() map[domain.Product][]domain.Record {
	eur := func(v string) *domain.Amount { return &domain.Amount{Value: domain.Decimal(v), Currency: "EUR"} }
	from := func(id string) domain.Provenance { return domain.Provenance{SourceID: id, AsOf: "2026-01-30"} }
	return map[domain.Product][]domain.Record{
		domain.ProductAccounts: {
			&domain.Account{Provenance: from("giro"), ID: "giro", Type: domain.AccountCash, Currency: "EUR", Value: eur("100.50")},
			&domain.Account{Provenance: from("depot"), ID: "depot", Type: domain.AccountSecurities, Currency: "EUR", Value: eur("1500.00")},
		},
		domain.ProductCash: {
			&domain.CashBalance{Provenance: from("giro"), AccountID: "giro", Booked: *eur("100.50")},
		},
		domain.ProductPositions: {
			&domain.Position{Provenance: from("p1"), AccountID: "depot", Quantity: "10", Unit: domain.UnitUnits, Side: "long", Value: eur("1000.00"),
				Security: domain.Security{Identifiers: []domain.Identifier{{Scheme: "ISIN", Value: "DE0007164600"}}, Kind: domain.SecurityEquity}},
			&domain.Position{Provenance: from("p2"), AccountID: "depot", Quantity: "500", Unit: domain.UnitFace, Side: "long", Value: eur("500.00"),
				Price:    &domain.Price{Value: "100", Percent: true},
				Security: domain.Security{Identifiers: []domain.Identifier{{Scheme: "ISIN", Value: "DE0001102580"}}, Kind: domain.SecurityBond}},
		},
		domain.ProductTransactions: {
			&domain.Transaction{Provenance: from("t1"), AccountID: "giro", Type: domain.TransactionDeposit, TradeDate: "2026-01-05", Net: eur("100.50")},
			&domain.Transaction{Provenance: from("t2"), AccountID: "depot", Type: domain.TransactionBuy, TradeDate: "2026-01-06", Net: eur("-1500.00")},
		},
		domain.ProductOrders: {},
	}
}

// only limits the bank to some products.
func (b *bank) only(products ...domain.Product) {
	kept := map[domain.Product][]domain.Record{}
	for _, p := range products {
		kept[p] = b.holdings[p]
	}
	b.holdings = kept
}
