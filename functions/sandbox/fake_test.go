package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"sluis.internal/schemas"
)

// Identifiers of the fake's world.
const (
	connID  = "conn_06h075cmgxkhthf4asp4c6e65c"
	otherID = "conn_06h0758w0awac8c7ayyssbx58m"
	consID  = "con_06h075cmgy2hpgsxqn7625m35g"
	newest  = "pf_06h077t6p8qexjcvz6ads09wvw"
	older   = "pf_06h075cmj93dd8gtctre0es0vw"
	cashAcc = "acc_21swqja923gk60tnkxgfvgr4k4"
	depot   = "acc_2jh9t5bsp9zbphdpzrf9karxxw"
	testKey = "sluis_key_06h071a0qdwd90hks5pqxnhwp8_FZcNOYUDAmfiEwKhZNkAaz1XaIOCg86cFfaRzzznURE"
	linkURL = "http://localhost:8081/i/HpZoYxLHK16iXZtCqv2kndoGleOV5Bwg6duMvm8K8f0"
	own     = "http://127.0.0.1:8090"
)

// noon is the fake's time.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// fakeAPI plays the client API from a table of canned answers. Every answer is checked against openapi.yaml before it is
// given, so that the app is tested against what Sluis promises and not against what its author remembers.
type fakeAPI struct {
	t      *testing.T
	server *httptest.Server
	beyond bool // answers hold values that came to be after the app, which it must bear with

	mu      sync.Mutex
	answers map[string][]answer // by "METHOD /path?query" or "METHOD /path"; the last one stays
	calls   []call
}

type answer struct {
	status int
	body   string
	header http.Header
}

// call is a request that came.
type call struct{ what, body, once string }

func newFake(t *testing.T) *fakeAPI {
	t.Helper()
	f := &fakeAPI{t: t, answers: map[string][]answer{}}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	f.on("GET /v1/client", 200, `{"id":"cli_06h071a0msp6ygmqywrayzny4r","name":"Polder Wealth","state":"active","saving":{},
		"regions":[],"return_origins":["`+own+`"],"endpoints":{"enabled":1,"unverified":0,"disabled":0},"created_at":"2026-11-22T10:00:00.000Z"}`)
	f.on("GET /v1/custodians", 200, `{"data":[{"id":"sandbox-comdirect","name":"Sandbox bank","country":"NL","methods":[],
		"products":["accounts"],"unattended":true,"sandbox":true}]}`)
	f.on("GET /v1/connections", 200, `{"data":[]}`)
	f.on("GET /v1/connections/"+connID, 200, connectionJSON("active", "", usual))
	f.on("GET /v1/consents/"+consID, 200, consentJSON("valid", ""))
	f.on("GET /v1/connections/"+connID+"/erasures", 200, `{"data":[],"keys":[]}`)
	f.on("GET /v1/connections/"+connID+"/portfolios", 200, `{"data":[`+versionJSON(newest, 2, usual, "")+`]}`)
	f.on("GET /v1/connections/"+connID+"/portfolio", 200, versionJSON(newest, 2, usual, ""))
	for _, p := range products {
		f.on("GET /v1/connections/"+connID+"/portfolio/"+p.Name, 200, recordsJSON("complete", ""))
	}
	return f
}

// on sets the answer to requests of what; more than one are given in turn.
func (f *fakeAPI) on(what string, status int, bodies ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[what] = nil
	for _, b := range bodies {
		f.answers[what] = append(f.answers[what], answer{status: status, body: b})
	}
}

// then adds an answer to be given after those there are.
func (f *fakeAPI) then(what string, status int, body string, header http.Header) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[what] = append(f.answers[what], answer{status, body, header})
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Errorf("reading request: %v", err)
	}
	if got := r.Header.Get("Authorization"); got != "Bearer "+testKey {
		f.t.Errorf("%s %s: Authorization is %q", r.Method, r.URL, got)
	}
	query, _ := url.QueryUnescape(r.URL.RawQuery)
	f.mu.Lock()
	f.calls = append(f.calls, call{r.Method + " " + r.URL.Path + "?" + query, string(body), r.Header.Get("Idempotency-Key")})
	what := r.Method + " " + r.URL.Path + "?" + query
	if f.answers[what] == nil {
		what = r.Method + " " + r.URL.Path
	}
	a := answer{404, problemJSON(404, "not_found", "there is no such resource; check the identifier"), nil}
	if all := f.answers[what]; len(all) > 0 {
		a = all[0]
		if len(all) > 1 {
			f.answers[what] = all[1:]
		}
	}
	f.mu.Unlock()
	if err := schemaTrue(r.Method, r.URL.Path, a.status, a.body); err != nil && !f.beyond {
		f.t.Errorf("the fake would break openapi.yaml: %v", err)
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

// called lists the requests that begin so.
func (f *fakeAPI) called(prefix string) []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []call
	for _, c := range f.calls {
		if strings.HasPrefix(c.what, prefix) {
			out = append(out, c)
		}
	}
	return out
}

// app is the sample client in front of the fake.
func (f *fakeAPI) app(t *testing.T) *testApp {
	t.Helper()
	c := &Client{API: f.server.URL, Key: testKey, Secret: testSecret, PagesOrigin: "http://localhost:8081", Own: own,
		Clock: func() time.Time { return noon }}
	mux := http.NewServeMux()
	c.Routes(mux)
	return &testApp{t, mux}
}

type testApp struct {
	t   *testing.T
	mux *http.ServeMux
}

// get opens a page and checks what holds for every page.
func (a *testApp) get(path string, status int) string {
	a.t.Helper()
	r := httptest.NewRequest("GET", own+path, nil)
	return a.send(r, status)
}

// post sends a form, as the app's own page does.
func (a *testApp) post(path string, form url.Values, status int) *httptest.ResponseRecorder {
	a.t.Helper()
	r := httptest.NewRequest("POST", own+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	w := httptest.NewRecorder()
	a.mux.ServeHTTP(w, r)
	if w.Code != status {
		a.t.Fatalf("POST %s: status %d, want %d: %s", path, w.Code, status, w.Body)
	}
	return w
}

func (a *testApp) send(r *http.Request, status int) string {
	a.t.Helper()
	w := httptest.NewRecorder()
	a.mux.ServeHTTP(w, r)
	if w.Code != status {
		a.t.Fatalf("%s %s: status %d, want %d: %s", r.Method, r.URL, w.Code, status, w.Body)
	}
	strict(a.t, w)
	return w.Body.String()
}

// inline is what the content policy forbids in a page: styles, handlers and scripts that stand in it.
var inline = regexp.MustCompile(`(?i)<style|\sstyle\s*=|\son[a-z]+\s*=|javascript:|<script(?:\s[^>]*)?>[^<]`)

// elsewhere is anything that a page loads from another place.
var elsewhere = regexp.MustCompile(`(?i)<(?:script|link|img|iframe|object|embed)[^>]*\s(?:src|href|data)="(?:https?:)?//`)

// strict checks a page's policy, and that the page keeps it.
func strict(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	policy := w.Header().Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; style-src 'self';") || strings.Contains(policy, "unsafe") {
		t.Errorf("the content policy is %q", policy)
	}
	for _, bad := range []*regexp.Regexp{inline, elsewhere} {
		if found := bad.FindString(w.Body.String()); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	if strings.Contains(w.Body.String(), testKey) || strings.Contains(w.Body.String(), testSecret) {
		t.Error("the page shows a secret of the client")
	}
}

// has fails unless the page has each of the texts; thin and no-break spaces count as spaces.
func has(t *testing.T, page string, texts ...string) {
	t.Helper()
	page = flat(page)
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("the page has no %q", text)
		}
	}
}

func hasNot(t *testing.T, page string, texts ...string) {
	t.Helper()
	page = flat(page)
	for _, text := range texts {
		if strings.Contains(page, text) {
			t.Errorf("the page has %q", text)
		}
	}
}

var spaces = regexp.MustCompile(`[\s\x{202f}\x{a0}]+`)

func flat(page string) string {
	for entity, sign := range map[string]string{"&#43;": "+", "&#39;": "'", "&amp;": "&"} {
		page = strings.ReplaceAll(page, entity, sign)
	}
	return spaces.ReplaceAllString(page, " ")
}

// usual is the completeness of a good reading.
const usual = `{"accounts":{"state":"complete","count":2,"saved":true},"cash":{"state":"complete","count":1,"saved":true},
	"positions":{"state":"complete","count":2,"saved":true},"transactions":{"state":"complete","count":1,"saved":true},
	"orders":{"state":"complete","count":1,"saved":true},"liabilities":{"state":"not_consented","count":0,"saved":false}}`

func connectionJSON(state, reason, products string) string {
	return connectionAs(connID, "inv-1", state, reason, products)
}

func connectionAs(id, ref, state, reason, products string) string {
	more := `"custodian":"sandbox-comdirect","portfolio_id":"` + newest + `",`
	if state == "pending" {
		more = ""
	}
	if reason != "" {
		more += `"reason":"` + reason + `",`
	}
	return `{"id":"` + id + `","consent_id":"` + consID + `","investor_ref":"` + ref + `",` + more + `"state":"` + state + `",
		"products":` + products + `,"sequence":3,"created_at":"2026-11-22T12:00:01.000Z","updated_at":"2026-11-22T12:00:02.000Z"}`
}

func consentJSON(state, link string) string {
	if link != "" {
		link = `,"link":{"url":"` + link + `","expires_at":"2026-11-25T12:00:00.000Z"}`
	}
	return `{"id":"` + consID + `","connection_id":"` + connID + `","investor_ref":"inv-1","purpose":{"code":"wealth_overview"},
		"products":["accounts","cash","positions","transactions","orders"],"custodians":[],"advisors":[],"access":"recurring",
		"expires_at":"2027-02-20T12:00:00.000Z","saving":{},"regions":[],"language":"en","state":"` + state + `",
		"created_at":"2026-11-22T12:00:00.000Z"` + link + `}`
}

func versionJSON(id string, number int, products, reconciliation string) string {
	if reconciliation != "" {
		reconciliation = `,"reconciliation":` + reconciliation
	}
	return fmt.Sprintf(`{"id":"%s","number":%d,"retrieved_at":"2026-11-%02dT12:00:00.000Z","connection_id":"%s","consent_id":"%s",
		"custodian":"sandbox-comdirect","session_id":"ses_06h077t6p8qexjcvz6ads09wvw","products":%s%s}`,
		id, number, 19+number, connID, consID, products, reconciliation)
}

// recordsJSON is a page of records.
func recordsJSON(state, next string, records ...string) string {
	if next != "" {
		next = `,"next":"` + next + `"`
	}
	return fmt.Sprintf(`{"version":{"id":"%s","number":2,"retrieved_at":"2026-11-21T12:00:00.000Z"},
		"status":{"state":"%s","count":%d,"saved":true},"data":[%s]%s}`, newest, state, len(records), strings.Join(records, ","), next)
}

const origins = `"source":"sandbox-comdirect","source_id":"S-1","as_of":"2026-11-20T16:35:00+01:00","retrieved_at":"2026-11-21T12:00:00.000Z","consent_id":"` + consID + `"`

func problemJSON(status int, code, detail string) string {
	return fmt.Sprintf(`{"type":"about:blank","title":"%s","status":%d,"code":"%s","detail":"%s"}`, http.StatusText(status), status, code, detail)
}

// templates of the paths that the fake serves, as openapi.yaml names them.
var pathShapes = []struct {
	shape *regexp.Regexp
	name  string
}{
	{regexp.MustCompile(`/connections/conn_[0-9a-z]{26}`), "/connections/{connection}"},
	{regexp.MustCompile(`/consents/con_[0-9a-z]{26}`), "/consents/{consent}"},
	{regexp.MustCompile(`/portfolio/[a-z]+$`), "/portfolio/{product}"},
}

const schemaBase = "https://sluis.invalid/schemas/"

// compiler reads the schemas once.
var compiler = sync.OnceValues(func() (*jsonschema.Compiler, error) {
	c := jsonschema.NewCompiler()
	names, err := fs.Glob(schemas.FS, "*.schema.json")
	if err != nil {
		return nil, err
	}
	for _, name := range append(names, "openapi.yaml") {
		raw, err := schemas.FS.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var doc any
		if err := yaml.Unmarshal(raw, &doc); err != nil { // JSON is YAML
			return nil, err
		}
		if raw, err = json.Marshal(doc); err != nil {
			return nil, err
		}
		if doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(raw)); err != nil {
			return nil, err
		}
		if err := c.AddResource(schemaBase+name, doc); err != nil {
			return nil, err
		}
	}
	return c, nil
})

var compiling sync.Mutex

// schemaTrue checks an answer against what openapi.yaml says of it.
func schemaTrue(method, path string, status int, body string) error {
	if status >= 400 || body == "" {
		return nil
	}
	for _, s := range pathShapes {
		path = s.shape.ReplaceAllString(path, s.name)
	}
	pointer := strings.NewReplacer("/", "~1", "{", "%7B", "}", "%7D").Replace(path)
	return against(fmt.Sprintf("openapi.yaml#/paths/%s/%s/responses/%d/content/application~1json/schema", pointer, strings.ToLower(method), status), body)
}

func against(place, text string) error {
	compiling.Lock()
	defer compiling.Unlock()
	c, err := compiler()
	if err != nil {
		return err
	}
	schema, err := c.Compile(schemaBase + place)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}
