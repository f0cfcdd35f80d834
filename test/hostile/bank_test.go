package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/functions/extract/comdirect"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// mischief is what becomes of one of the bank's answers.
type mischief struct {
	kind uint8 // which of mischiefs
	nth  uint8 // of the answers
	ever bool  // and of all that come after it
	at   uint16
	with string
}

// mischiefs change an answer. Those that destroy something of it, rather than say something else, are told apart: what
// needed the answer must fail, or be had by asking again.
var mischiefs = []struct {
	name    string
	destroy bool
	do      func(m mischief, w *http.Response, body []byte) []byte
}{
	{"nothing", true, func(_ mischief, _ *http.Response, body []byte) []byte { return body }},
	{"cut off", true, func(m mischief, _ *http.Response, body []byte) []byte { return body[:int(m.at)%(len(body)+1)] }},
	{"broken off", true, func(m mischief, r *http.Response, body []byte) []byte {
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:int(m.at)%(len(body)+1)]), broken{}))
		return nil
	}},
	{"another status", true, func(m mischief, r *http.Response, body []byte) []byte {
		r.StatusCode = m.status()
		return body
	}},
	{"a record lost", true, func(m mischief, _ *http.Response, body []byte) []byte {
		return listed(body, func(all []json.RawMessage, i int) []json.RawMessage { return slices.Delete(all, i, i+1) }, m.at)
	}},
	{"a record twice", true, func(m mischief, _ *http.Response, body []byte) []byte {
		return listed(body, func(all []json.RawMessage, i int) []json.RawMessage { return slices.Insert(all, i, all[i]) }, m.at)
	}},
	{"another number of records", true, func(m mischief, _ *http.Response, body []byte) []byte {
		return paged(body, "matches", int(m.at))
	}},
	{"another page", true, func(m mischief, _ *http.Response, body []byte) []byte { return paged(body, "index", int(m.at)) }},
	{"something else", true, func(m mischief, _ *http.Response, _ []byte) []byte { return []byte("<html>" + m.with) }},
	{"without end", true, func(m mischief, r *http.Response, body []byte) []byte {
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:int(m.at)%(len(body)+1)]), &endless{what: "[" + m.with}))
		return nil
	}},
	{"something in between", false, func(m mischief, _ *http.Response, body []byte) []byte {
		i := int(m.at) % (len(body) + 1)
		return slices.Concat(body[:i], []byte(m.with), body[i:])
	}},
	{"something over it", false, func(m mischief, _ *http.Response, body []byte) []byte {
		i := int(m.at) % (len(body) + 1)
		return slices.Concat(body[:i], []byte(m.with), body[min(i+len(m.with), len(body)):])
	}},
	{"all of it", false, func(m mischief, _ *http.Response, _ []byte) []byte { return []byte(m.with) }},
	{"another challenge", false, func(m mischief, r *http.Response, body []byte) []byte {
		r.Header.Set("x-once-authentication-info", m.with)
		return body
	}},
	{"a long wait", false, func(m mischief, r *http.Response, body []byte) []byte {
		r.StatusCode = http.StatusTooManyRequests
		r.Header.Set("Retry-After", m.with)
		return body
	}},
}

var errBroken = errors.New("the connection broke")

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

// endless gives the same for ever, and counts.
type endless struct {
	what string
	n    int
}

// tooMuch is more than anybody should read of an answer in these tests.
const tooMuch = 4 << 20

func (e *endless) Read(p []byte) (int, error) {
	if e.n > tooMuch {
		panic("an answer without end was read for too long")
	}
	for i := range p {
		p[i] = e.what[(e.n+i)%len(e.what)]
	}
	e.n += len(p)
	return len(p), nil
}

// listed changes the records of a list; what is none stays as it is.
func listed(body []byte, change func([]json.RawMessage, int) []json.RawMessage, at uint16) []byte {
	m := members(body)
	var all []json.RawMessage
	if json.Unmarshal(m["values"], &all) != nil || len(all) == 0 {
		return body
	}
	m["values"], _ = json.Marshal(change(all, int(at)%len(all)))
	out, _ := json.Marshal(m)
	return out
}

// paged changes what a list says of its place.
func paged(body []byte, member string, to int) []byte {
	m := members(body)
	place := members(m["paging"])
	if place == nil || m["values"] == nil {
		return body
	}
	place[member] = json.RawMessage(fmt.Sprint(to))
	m["paging"], _ = json.Marshal(place)
	out, _ := json.Marshal(m)
	return out
}

// line is the way to a sandbox bank, on which mischief happens. It calls the bank in the same goroutine, so that the
// clock of a synctest bubble can move.
type line struct {
	bank     http.Handler
	mischief mischief
	asked    int
}

// manyRequests is more than reading a small portfolio can take, with every request repeated as often as is decent.
const manyRequests = 200

func (l *line) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if l.asked++; l.asked > manyRequests {
		panic("the bank is asked without end")
	}
	sent := req.Clone(req.Context())
	sent.RequestURI, sent.Body = req.URL.RequestURI(), http.NoBody
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err := errors.Join(err, req.Body.Close()); err != nil {
			return nil, err
		}
		sent.Body = io.NopCloser(bytes.NewReader(body))
	}
	w := httptest.NewRecorder()
	l.bank.ServeHTTP(w, sent)
	resp := w.Result()
	m := l.mischief
	if l.asked-1 != int(m.nth)%40 && (!m.ever || l.asked-1 < int(m.nth)%40) {
		return resp, nil
	}
	if body := mischiefs[int(m.kind)%len(mischiefs)].do(m, resp, w.Body.Bytes()); body != nil {
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	return resp, nil
}

type bankSecrets struct{}

func (bankSecrets) Secret(_ context.Context, name string) (domain.Secret, error) {
	if strings.HasSuffix(name, "client_id") {
		return domain.NewSecret([]byte(bank.DefaultClientID)), nil
	}
	return domain.NewSecret([]byte(bank.DefaultClientSecret)), nil
}

// outcome is what a visit to the bank came to: of each product its records as JSON, or why there are none.
type outcome struct {
	err     error // before anything could be read
	records map[domain.Product][]string
	failed  map[domain.Product]error
}

// sandboxBank is the sandbox's row of the catalogue.
func sandboxBank(t testing.TB) domain.Custodian {
	t.Helper()
	raw, err := schemas.FS.ReadFile("custodians.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []domain.Custodian
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(c domain.Custodian) bool { return c.Sandbox })
	return all[i]
}

// visit logs in, answers what is asked, and reads everything.
func visit(t *testing.T, l bank.Login, m mischief) outcome {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), time.Hour)
	defer done()
	custodian, connector := sandboxBank(t), comdirect.Connector{}
	way := &line{bank: bank.New(bank.Options{Key: []byte("0123456789abcdef0123456789abcdef")}), mischief: m}
	gate := extraction.Guard(custodian, connector.Requests(), way, nil)
	gate.MaxResponse = 1 << 20
	s := extraction.Session{ID: "ses_1", Custodian: custodian, HTTP: extraction.NewClient(gate), Secrets: bankSecrets{}, Attended: true,
		Language: "en", Products: domain.Products}
	in := extraction.Input{Kind: extraction.InputLogin, Credentials: map[string]domain.Secret{
		"username": domain.NewSecret([]byte(l.Number)), "password": domain.NewSecret([]byte(l.PIN))}}
	for range 8 {
		out, err := connector.Step(ctx, s, in)
		if err != nil {
			return outcome{err: err}
		}
		if (out.Challenge == nil) == (out.Portfolio == nil) {
			t.Fatalf("the step came to %+v", out)
		}
		if out.Portfolio != nil {
			gate.SetPhase(extraction.PhaseRead)
			read := readAll(t, out.Portfolio)
			gate.SetPhase(extraction.PhaseEnd)
			s.State = out.Portfolio.State
			_ = connector.End(ctx, s) // the bank may refuse: it is mischievous
			return read
		}
		question(t, out.Challenge)
		s.State, in = out.Challenge.State, reply(out.Challenge)
	}
	return outcome{err: errors.New("it asks again and again")}
}

// question checks that a challenge is one.
func question(t *testing.T, c *extraction.Challenge) {
	t.Helper()
	known := []domain.SCAState{domain.SCASelection, domain.SCAIssued, domain.SCAAwaiting, domain.SCARejected, domain.SCAExpired}
	if !slices.Contains(known, c.Status) || len(c.State) == 0 || len(c.State) > 1<<20 || c.TriesLeft < 0 || len(c.Display.Image) > 1<<20 || len(c.Display.Text) > 64<<10 {
		t.Errorf("a challenge is %s with %d tries, %d bytes of state, %d of picture", c.Status, c.TriesLeft, len(c.State), len(c.Display.Image))
	}
}

func reply(c *extraction.Challenge) extraction.Input {
	switch {
	case c.Status == domain.SCAExpired || c.Status == domain.SCARejected:
		return extraction.Input{Kind: extraction.InputRenew}
	case c.Flow == domain.FlowCode:
		return extraction.Input{Kind: extraction.InputCode, Code: domain.NewSecret([]byte(bank.Codes[c.Method]))}
	case c.Flow == domain.FlowDecoupled:
		return extraction.Input{Kind: extraction.InputPoll}
	case len(c.Methods) > 0:
		return extraction.Input{Kind: extraction.InputSelect, Method: c.Methods[0].ID}
	}
	return extraction.Input{Kind: extraction.InputPoll}
}

func readAll(t *testing.T, p *extraction.Portfolio) outcome {
	t.Helper()
	o := outcome{records: map[domain.Product][]string{}, failed: map[domain.Product]error{}}
	for _, product := range domain.Products {
		records := p.Read[product]
		if records == nil {
			continue
		}
		for r, err := range records {
			if err != nil {
				o.failed[product] = err
				break
			}
			figures(t, reflect.ValueOf(r))
			text, err := json.Marshal(r)
			if err != nil || r.Product() != product || r.Origin().SourceID == "" {
				t.Errorf("a record of %s is %s, %v", product, text, err)
			}
			if o.records[product] = append(o.records[product], string(text)); len(o.records[product]) > 10_000 {
				t.Fatal("records without end")
			}
		}
	}
	return o
}

// figures checks every number and every day of a record.
func figures(t *testing.T, v reflect.Value) {
	t.Helper()
	switch x := v.Interface().(type) {
	case domain.Decimal:
		if x != "" && !x.Valid() {
			t.Errorf("a number is %q", x)
		}
	case domain.Date:
		if _, err := time.Parse(time.DateOnly, string(x)); x != "" && err != nil {
			t.Errorf("a day is %q", x)
		}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			figures(t, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				figures(t, v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			figures(t, v.Index(i))
		}
	}
}

// visited are logins that read in few requests, each by another way in.
var visited = []string{"20000005", "20000001", "20000004", "20000003", "20000006"}

// status is what the bank answers with in place of its own.
func (m mischief) status() int { return 300 + int(m.at)%300 }

// shortens says whether the bank seems to refuse the question itself. The connector then asks for transactions without
// a first day, and gets those of the time that the bank chooses: another list, and a whole one.
func (m mischief) shortens() bool {
	return m.status() == http.StatusBadRequest || m.status() == http.StatusUnprocessableEntity
}

// FuzzBank lets one of the bank's answers go wrong. Whatever it says, the reading ends, neither asks nor reads without
// end, and gives on no figure that is none. What lost something on the way is complete only if it is whole: its
// records are those of the same reading without mischief.
func FuzzBank(f *testing.F) {
	for kind := range mischiefs {
		for nth := range uint8(12) {
			at := uint16(nth) * 40 % 300
			f.Add(uint8(0), uint8(kind), nth, nth%2 == 0, at, `{"id":"1","typ":"P_TAN","availableTypes":["P_TAN"]}`)
			if nth < 6 {
				f.Add(nth%5, uint8(kind), nth/2, nth%2 == 1, at, "120")
			}
		}
	}
	whole := map[string]outcome{}
	f.Fuzz(func(t *testing.T, login, kind, nth uint8, ever bool, at uint16, with string) {
		l, ok := bank.Find(visited[int(login)%len(visited)])
		if !ok {
			t.Fatal("the sandbox has another table of logins")
		}
		synctest.Test(t, func(t *testing.T) {
			if _, ok := whole[l.Number]; !ok {
				whole[l.Number] = visit(t, l, mischief{})
			}
		})
		synctest.Test(t, func(t *testing.T) {
			m := mischief{kind, nth, ever, at, with}
			how := mischiefs[int(kind)%len(mischiefs)]
			compare(t, whole[l.Number], visit(t, l, m), how.destroy && !(how.name == "another status" && m.shortens()))
			if t.Failed() {
				t.Logf("%s: answer %d, for ever %t, at %d", mischiefs[int(kind)%len(mischiefs)].name, nth%40, ever, at)
			}
		})
	})
}

// unstated takes from the accounts of a whole reading the stated value of depots for which the other reading has none:
// a bank that cannot give the sum has stated none, and the positions tell of the failure.
func unstated(whole, got []string) {
	for i := range min(len(whole), len(got)) {
		var a, b domain.Account
		if json.Unmarshal([]byte(whole[i]), &a) != nil || json.Unmarshal([]byte(got[i]), &b) != nil || b.Value != nil || b.Type != domain.AccountSecurities {
			continue
		}
		a.Value, a.AsOf = nil, ""
		if text, err := json.Marshal(a); err == nil {
			whole[i] = string(text)
		}
	}
}

// differ shows the first record that does.
func differ(want, got []string) string {
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return fmt.Sprintf(":\n%s\ninstead of\n%s", got[i], want[i])
		}
	}
	return ""
}

// compare holds a reading against the one without mischief.
func compare(t *testing.T, whole, got outcome, destroy bool) {
	t.Helper()
	if whole.err != nil || len(whole.failed) > 0 || len(whole.records[domain.ProductPositions]) < 3 {
		t.Fatalf("without mischief it came to %v, %v, %d positions", whole.err, whole.failed, len(whole.records[domain.ProductPositions]))
	}
	if got.err != nil || !destroy {
		return
	}
	for product, records := range whole.records {
		if product == domain.ProductAccounts {
			records = slices.Clone(records)
			unstated(records, got.records[product])
		}
		if got.failed[product] == nil && !slices.Equal(got.records[product], records) {
			t.Errorf("%s passes for complete with %d records, and there are %d%s", product, len(got.records[product]), len(records), differ(records, got.records[product]))
		}
	}
}
