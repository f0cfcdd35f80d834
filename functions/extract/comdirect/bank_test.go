package comdirect

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

const (
	rightTAN  = "246810"
	wrongTAN  = "135791"
	username  = "12345678"
	password  = "p&n=ö 9+%"
	clientKey = "client-secret-canary/+"
	bankID    = "0123456789ABCDEF0123456789ABCDEF"
)

// testBank answers with canned answers what these tests need of the bank. It is no model of it: each test says in
// answers what differs.
type testBank struct {
	t       *testing.T
	answers map[string]http.HandlerFunc // by method and path, before the canned ones

	mu         sync.Mutex
	log        []string
	headers    []http.Header
	issued     int
	exempt     bool
	active     bool
	method     string // of the next challenge
	available  string
	link       string
	status     string // of the approval
	challenges int
	passwords  int
}

func newBank(t *testing.T) *testBank {
	return &testBank{t: t, answers: map[string]http.HandlerFunc{}, method: "M_TAN",
		available: `["M_TAN","P_TAN","P_TAN_PUSH"]`, link: pathAuthentication + "AB12", status: "PENDING"}
}

var wantInfo = regexp.MustCompile(`^\{"clientRequestId":\{"sessionId":"[0-9a-f]{32}","requestId":"[0-9]{9}"\}\}$`)

func (b *testBank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.log = append(b.log, r.Method+" "+r.URL.RequestURI())
	b.headers = append(b.headers, r.Header.Clone())
	special := b.answers[r.Method+" "+r.URL.Path]
	if r.URL.Path == pathToken {
		form, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(form))
		if bytes.Contains(form, []byte("grant_type=password")) {
			b.passwords++
		}
	}
	b.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/api/") && !wantInfo.MatchString(r.Header.Get("x-http-request-info")) {
		b.t.Errorf("x-http-request-info is %q", r.Header.Get("x-http-request-info"))
	}
	if special != nil {
		special(w, r)
		return
	}
	b.canned(w, r)
}

func (b *testBank) canned(w http.ResponseWriter, r *http.Request) {
	switch session := pathSessions + "/" + bankID; r.Method + " " + r.URL.Path {
	case "POST " + pathToken:
		b.token(w, r)
	case "GET " + pathSessions:
		b.mu.Lock()
		defer b.mu.Unlock()
		fmt.Fprintf(w, `[{"identifier":%q,"sessionTanActive":%t,"activated2FA":%t}]`, bankID, b.exempt || b.active, b.exempt || b.active)
	case "POST " + session + "/validate":
		b.validate(w, r)
	case "PATCH " + session:
		b.activate(w, r)
	case "GET " + pathAuthentication + "AB12":
		b.mu.Lock()
		defer b.mu.Unlock()
		fmt.Fprintf(w, `{"authenticationId":"AB12","status":%q}`, b.status)
	case "DELETE " + pathRevoke:
		w.WriteHeader(http.StatusNoContent)
	default:
		b.data(w, r)
	}
}

func (b *testBank) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.PostForm.Get("client_secret") != clientKey || r.PostForm.Get("client_id") != "client" {
		say(w, 401, `{"error":"invalid_client"}`)
		return
	}
	if grant := r.PostForm.Get("grant_type"); grant == "password" &&
		(r.PostForm.Get("username") != username || r.PostForm.Get("password") != password) {
		say(w, 401, `{"error":"invalid_grant","error_description":"bad credentials"}`)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.issued++
	fmt.Fprintf(w, `{"access_token":"access-canary-%d","token_type":"bearer","refresh_token":"refresh-canary-%d","expires_in":599,"bpid":1}`,
		b.issued, b.issued)
}

func (b *testBank) validate(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Identifier       string
		SessionTanActive bool
		Activated2FA     bool
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil || body.Identifier != bankID || !body.SessionTanActive || !body.Activated2FA {
		b.t.Errorf("validation with body %+v", body)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.challenges++
	method := b.method
	if asked := r.Header.Get("x-once-authentication-info"); asked != "" {
		method = strings.TrimSuffix(strings.TrimPrefix(asked, `{"typ":"`), `"}`)
	}
	extra := ""
	switch method {
	case "M_TAN":
		extra = `,"challenge":"+49-170-12XXXX"`
	case "P_TAN":
		extra = `,"challenge":"` + base64.StdEncoding.EncodeToString(onePixel()) + `"`
	case "P_TAN_PUSH":
		if b.link != "" {
			extra = `,"link":{"href":"` + b.link + `","rel":"related","method":"GET","type":"application/json"}`
		}
	}
	w.Header().Set("x-once-authentication-info", fmt.Sprintf(`{"id":"%d","typ":%q,"availableTypes":%s%s}`, 7654320+b.challenges,
		method, b.available, extra))
	say(w, 201, `{}`)
}

func (b *testBank) activate(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if want := fmt.Sprintf(`{"id":"%d"}`, 7654320+b.challenges); r.Header.Get("x-once-authentication-info") != want {
		b.t.Errorf("activation of %q; want %q", r.Header.Get("x-once-authentication-info"), want)
	}
	tan, push := r.Header.Get("x-once-authentication"), b.status == "AUTHENTICATED" || b.method == exempt
	switch {
	case push && tan == "", tan == rightTAN:
		b.active = true
		say(w, 200, `{}`)
	case tan == "":
		say(w, 400, `{"code":"TAN_UNGUELTIG","messages":[{"severity":"INFO","key":"PUSHTAN_ANGEFORDERT"}]}`)
	default:
		say(w, 422, `{"code":"TAN_UNGUELTIG","messages":[{"severity":"ERROR","key":"tan_falsch"}]}`)
	}
}

// data are the bank's lists, as the specification's examples have them.
func (b *testBank) data(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	answer := map[string]string{
		pathBalances: listOf(`{"account":{"accountId":"ACC1","accountDisplayId":"1234567890","currency":"EUR",
			"accountType":{"key":"CA","text":"Girokonto"},"iban":"DE89 3704 0044 0532 0130 00","creditLimit":{"value":"1100","unit":"EUR"}},
			"accountId":"ACC1","balance":{"value":"6860.09","unit":"EUR"},"availableCashAmount":{"value":"7625.7","unit":"EUR"}}`,
			`{"account":{"accountId":"ACC2","currency":"USD","accountType":{"key":"FX","text":"Währungskonto"},"iban":null},
			"accountId":"ACC2","balance":{"value":"-1.50","unit":"USD"},"availableCashAmount":null}`),
		pathDepots:                         listOf(`{"depotId":"DEP1","depotDisplayId":"7654321","defaultSettlementAccountId":"ACC1"}`),
		pathDepot + "DEP1/positions":       positions(q.Get("without-attr") == "positions"),
		pathDepot + "DEP1/transactions":    listOf(depotMovements...),
		pathAccounts + "ACC1/transactions": listOf(movements[q.Get("transactionState")]...),
		pathOrders + "DEP1/v3/orders":      listOf(orders...),
	}[r.URL.Path]
	if answer == "" {
		say(w, 404, "")
		return
	}
	say(w, 200, answer)
}

func listOf(items ...string) string {
	return fmt.Sprintf(`{"paging":{"index":0,"matches":%d},"values":[%s]}`, len(items), strings.Join(items, ","))
}

func positions(onlySum bool) string {
	const sum = `"aggregated":{"depotId":"DEP1","dateLastUpdate":"2026-03-31","currentValue":{"value":"11234.50","unit":"EUR"}}`
	if onlySum {
		return `{"paging":{"index":0,"matches":3},` + sum + `}`
	}
	return strings.Replace(listOf(holdings...), `"values"`, sum+`,"values"`, 1)
}

var holdings = []string{
	`{"depotId":"DEP1","positionId":"POS1","wkn":"ABC123","quantity":{"value":"12.5","unit":"XXX"},
	  "currentPrice":{"price":{"value":"98.76","unit":"EUR"},"priceDateTime":"2026-03-31T17:30:00+02"},
	  "purchasePrice":{"value":"50.1","unit":"EUR"},"currentValue":{"value":"1234.50","unit":"EUR"},
	  "purchaseValue":{"value":"626.25","unit":"EUR"},
	  "instrument":{"instrumentId":"I1","wkn":"ABC123","isin":"DE000ABC1234","name":"Beispiel AG","staticData":{"notation":"XXX","instrumentType":"SHARE"}}}`,
	`{"depotId":"DEP1","positionId":"POS2","wkn":"BND001","quantity":{"value":"10000","unit":"EUR"},
	  "currentPrice":{"price":{"value":"100.05","unit":"EUR"},"priceDateTime":"2026-03-30"},
	  "purchasePrice":{"value":"99.5","unit":"XXC"},"currentValue":{"value":"10005","unit":"EUR"},"purchaseValue":null,
	  "instrument":{"wkn":"BND001","isin":"DE000BND0012","shortName":"Bond 26","staticData":{"notation":"XXC","instrumentType":"BONDS"},
	  "derivativeData":{"nominalRate":"2.125","maturityDate":"2029-02-15"}}}`,
	`{"depotId":"DEP1","positionId":"POS3","wkn":"ZZZ999","quantity":{"value":-3,"unit":"XXX"},"currentValue":null,"instrument":null}`,
}

var depotMovements = []string{
	`{"transactionId":"T1","bookingStatus":"BOOKED","bookingDate":"2026-03-02","businessDate":"2026-03-01","settlementDate":"2026-03-04T00:00:00+01",
	  "quantity":{"value":"5","unit":"XXX"},"instrumentId":"I1","instrument":{"isin":"DE000ABC1234","name":"Beispiel AG"},
	  "executionPrice":{"value":"90","unit":"EUR"},"transactionValue":{"value":"450.00","unit":"EUR"},"transactionDirection":"IN","transactionType":"BUY"}`,
	`{"bookingStatus":"NOTBOOKED","bookingDate":null,"businessDate":"2026-03-31","quantity":{"value":"1","unit":"XXX"},
	  "transactionDirection":"OUT","transactionType":{"key":"OTHER","text":"Sonstige"}}`,
}

var movements = map[string][]string{
	"BOOKED": {
		`{"reference":"R1","bookingStatus":"BOOKED","bookingDate":"2026-02-28","amount":{"value":"-25.99","unit":"EUR"},
		  "creditor":{"holderName":"Example Merchant"},"valutaDate":"2026-02-30","transactionType":{"key":"DIRECT_DEBIT","text":"Direct Debit"},
		  "remittanceInfo":"01Invoice 4711                       02for   March"}`,
		`{"reference":"","bookingStatus":"BOOKED","bookingDate":"2026-02-01","amount":{"value":"10","unit":"EUR"},"transactionType":{"key":"TRANSFER"}}`,
		`{"reference":"","bookingStatus":"BOOKED","bookingDate":"2026-02-01","amount":{"value":"10","unit":"EUR"},"transactionType":{"key":"TRANSFER"}}`,
	},
	"NOTBOOKED": {`{"reference":"R0","bookingStatus":"NOTBOOKED","bookingDate":null,"amount":{"value":"-7","unit":"EUR"},
		"transactionType":{"key":"CARD_TRANSACTION"},"remittanceInfo":"Coffee"}`},
}

var orders = []string{
	`{"depotId":"DEP1","orderId":"O1","creationTimestamp":"2026-03-31T08:15:30,123456+00","orderType":"LIMIT","orderStatus":"OPEN","side":"BUY",
	  "instrumentId":"DE000ABC1234","quantity":{"value":"10","unit":"XXX"},"executedQuantity":{"value":"2","unit":"XXX"},
	  "limit":{"value":"80.5","unit":"EUR"},"validityType":"GTD","validity":"2026-04-30"}`,
	`{"depotId":"DEP1","orderId":"O2","orderType":"ONE_CANCELS_OTHER","orderStatus":"OPEN","side":"SELL","instrumentId":"ABC123",
	  "quantity":{"value":"4","unit":"XXX"},"subOrders":[{"orderType":"LIMIT","limit":{"value":"120","unit":"EUR"}},
	  {"orderType":"STOP_MARKET","triggerLimit":{"value":"70","unit":"EUR"}}]}`,
}

func say(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func onePixel() []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// seen counts requests that begin with method and path.
func (b *testBank) seen(start string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.log {
		if strings.HasPrefix(line, start) {
			n++
		}
	}
	return n
}

// memory is a network that calls the bank in the same goroutine, so that a synctest bubble's clock can move.
type memory struct{ bank http.Handler }

func (m memory) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	sent := req.Clone(req.Context())
	sent.RequestURI = req.URL.RequestURI()
	sent.Body = http.NoBody
	if req.Body != nil {
		b, _ := io.ReadAll(req.Body)
		req.Body.Close()
		sent.Body = io.NopCloser(bytes.NewReader(b))
	}
	w := httptest.NewRecorder()
	defer func() {
		if v := recover(); v != nil {
			err = v.(error) // what a test's answer throws instead of an answer
		}
	}()
	m.bank.ServeHTTP(w, sent)
	return w.Result(), nil
}

type secrets map[string]string

func (s secrets) Secret(_ context.Context, name string) (domain.Secret, error) {
	if v, ok := s[name]; ok {
		return domain.NewSecret([]byte(v)), nil
	}
	return domain.Secret{}, domain.ErrNotFound
}

// catalogue is the bank's own row of the catalogue.
func catalogue(t *testing.T) domain.Custodian {
	t.Helper()
	b, err := schemas.FS.ReadFile("custodians.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []domain.Custodian
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.ID == "comdirect" {
			return c
		}
	}
	t.Fatal("comdirect is not in the catalogue")
	return domain.Custodian{}
}

// access is one session driven by hand.
type access struct {
	t     *testing.T
	bank  *testBank
	gate  *extraction.Gate
	state []byte
	away  bool // the investor is
	clock func() time.Time
}

func (a *access) session(phase extraction.Phase) extraction.Session {
	custodian := catalogue(a.t)
	a.gate = extraction.Guard(custodian, Connector{}.Requests(), memory{a.bank}, func(_ context.Context, m, h, p string) {
		a.t.Errorf("the guard refused %s %s %s", m, h, p)
	})
	a.gate.SetPhase(phase)
	return extraction.Session{Custodian: custodian, HTTP: extraction.NewClient(a.gate), State: a.state, Attended: !a.away,
		Secrets: secrets{"comdirect/client_id": "client", "comdirect/client_secret": clientKey}, Env: domain.Env{Clock: a.clock}}
}

func (a *access) step(in extraction.Input) (extraction.Outcome, error) {
	out, err := Connector{}.Step(a.t.Context(), a.session(extraction.PhaseLogin), in)
	switch {
	case out.Challenge != nil:
		a.state = out.Challenge.State
	case out.Portfolio != nil:
		a.state = out.Portfolio.State
		a.gate.SetPhase(extraction.PhaseRead)
	}
	return out, err
}

func (a *access) login() (extraction.Outcome, error) {
	return a.step(extraction.Input{Kind: extraction.InputLogin, Credentials: map[string]domain.Secret{
		"username": domain.NewSecret([]byte(username)), "password": domain.NewSecret([]byte(password))}})
}

func (a *access) code(tan string) (extraction.Outcome, error) {
	return a.step(extraction.Input{Kind: extraction.InputCode, Code: domain.NewSecret([]byte(tan))})
}

func (a *access) status(out extraction.Outcome, err error) domain.SCAState {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
	if out.Challenge == nil {
		return domain.SCAExempt
	}
	return out.Challenge.Status
}

// portfolio logs in where no challenge is asked.
func (a *access) portfolio() *extraction.Portfolio {
	a.t.Helper()
	a.bank.exempt = true
	out, err := a.login()
	if err != nil || out.Portfolio == nil {
		a.t.Fatalf("login came to %+v, %v", out, err)
	}
	return out.Portfolio
}

// pagesOf answers with n items, numbered, in pages of at most size.
func pagesOf(n, size int, item func(i int) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		first, _ := strconv.Atoi(r.URL.Query().Get("paging-first"))
		count := size
		if asked, err := strconv.Atoi(r.URL.Query().Get("paging-count")); err == nil {
			count = min(asked, size)
		}
		var items []string
		for i := first; i < min(n, first+count); i++ {
			items = append(items, item(i))
		}
		fmt.Fprintf(w, `{"values":[%s],"paging":{"index":%d,"matches":%d}}`, strings.Join(items, ","), first, n)
	}
}
