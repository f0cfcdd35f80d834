package access

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
	"sluis.internal/test/contract"
)

// matrix carries rules.txt out in one world: tenant a is whose things are named, b is the foreigner.
type matrix struct {
	*world
	a, b *tenant
	ops  map[string]contract.Operation
	own  map[*tenant][]string // every identifier of a tenant
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	w := open(t)
	both := w.tenants("inv-alpha", "inv-beta")
	m := &matrix{world: w, a: both[0], b: both[1], ops: operations(t), own: map[*tenant][]string{}}
	id := regexp.MustCompile(`"id":"([a-z]+_[0-9a-z]{26})"`)
	for _, t := range both {
		m.own[t] = []string{t.name, t.hidden["ref"]}
		for _, body := range w.snapshot(t) {
			if found := id.FindStringSubmatch(body); found != nil {
				m.own[t] = append(m.own[t], found[1])
			}
		}
	}
	if len(m.own[m.a]) < 30 {
		t.Fatalf("only %d identifiers of a tenant were found", len(m.own[m.a]))
	}
	return m
}

// caller is who sends the requests of one column.
type caller struct {
	column string
	of     *tenant
	token  string // of a key
	visit  string // cookie, where it is no key
	never  []string
}

// callers are those of a section's columns, with what none of their answers may contain.
func (m *matrix) callers(investor bool) []caller {
	hidden := slices.Collect(maps.Values(m.a.hidden))
	if investor {
		return []caller{
			{"own", m.a, "", m.a.visits["own"], slices.Concat(m.own[m.b], hidden)},
			{"visitor", m.a, "", m.a.visits["visitor"], slices.Concat(m.own[m.b], []string{m.a.ids["con"], m.a.ids["conn"], m.a.ids["chal"]})},
			{"foreign", m.b, "", m.b.visits["own"], m.own[m.a]},
		}
	}
	return []caller{
		{"client", m.a, m.a.keys["client"], "", m.own[m.b]},
		{"plain", m.a, m.a.keys["plain"], "", m.own[m.b]},
		{"replaced", m.a, m.a.keys["replaced"], "", m.own[m.b]},
		{"advisor", m.a, m.a.keys["advisor"], "", slices.Concat(m.own[m.b], hidden)},
		{"stranger", m.a, m.a.keys["stranger"], "", slices.Concat(m.own[m.b], slices.Collect(maps.Values(m.a.ids)), []string{`"` + m.a.name + `"`})},
		{"reviewer", m.a, m.a.keys["reviewer"], "", m.own[m.b]},
		{"foreign", m.b, m.b.keys["client"], "", m.own[m.a]},
	}
}

var placeholder = regexp.MustCompile(`\$[a-z]+`)

// request makes the request of an operation, with identifiers out of ids.
func (c *caller) request(op contract.Operation, body string, ids map[string]string) request {
	path := op.Template
	for _, p := range op.Parameters {
		value := ids[kindOf(p.Name, p.Schema)]
		if p.Name == "product" {
			value = "positions"
		}
		path = strings.ReplaceAll(path, "{"+p.Name+"}", value)
	}
	body = placeholder.ReplaceAllStringFunc(body, func(name string) string { return ids[name[1:]] })
	if op.Investor {
		return page(c.visit, op.Method, path, body)
	}
	return api(c.token, op.Method, path, body)
}

// codes are the status, and the code where there is only one, of each word of rules.txt.
var codes = map[string]struct {
	status int
	code   string
}{
	"role":    {403, "role_forbidden"},
	"right":   {403, "key_administration"},
	"old":     {403, "key_replaced"},
	"missing": {404, "not_found"},
	"invalid": {400, ""},
	"consent": {403, ""},
	"visit":   {401, "visit_ended"},
	"key":     {401, "key_invalid"},

	"removed":   {403, "advisor_removed"},
	"suspended": {403, "client_suspended"},
}

// TestWhoMayDoWhat carries out every row: first everything that must leave no trace but in the audit log, then what may
// be done, with the same Idempotency-Key by both clients.
func TestWhoMayDoWhat(t *testing.T) {
	m := newMatrix(t)
	for _, investor := range []bool{true, false} {
		rows := section(t, map[bool]string{true: "investor", false: "api"}[investor])
		for _, r := range rows {
			before := m.quiet(m.a, m.b)
			for _, body := range r.bodies {
				m.nobody(m.ops[r.name], body)
				m.columns(r, body, m.callers(investor))
				m.strangersThings(r, body, m.callers(investor))
			}
			if changed := changes(before, m.snapshot(m.a, m.b)); len(changed) > 0 {
				t.Fatalf("%s: requests that were refused, or only read, changed something:\n%s", r.name, strings.Join(changed, "\n"))
			}
		}
	}
	m.pages()
	m.allowed(section(t, "investor"), true)
	m.allowed(section(t, "api"), false)
	m.suspended()
}

// suspended sends everything once more with the key of a client that was suspended since.
func (m *matrix) suspended() {
	m.Helper()
	must(m, m.Home.Commit(m.Context(), func(tx domain.Tx) error {
		c := &domain.Client{ID: m.b.client}
		if err := tx.Get(c); err != nil {
			return err
		}
		if err := c.Move(domain.ClientSuspended, m.Home.Env.Now()); err != nil {
			return err
		}
		note := domain.Note(m.Home.Env, "sluis", "client.suspended", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, c.ID, c.Key(), nil)
		return errors.Join(tx.Put(c), tx.Record(note))
	}))
	for _, r := range section(m.T, "api") {
		for _, column := range []string{"client", "advisor", "reviewer"} {
			c := caller{column: "suspended " + column, of: m.b, token: m.b.keys[column]}
			m.try(m.ops[r.name], c, c.request(m.ops[r.name], r.bodies[0], m.b.ids), "suspended", 1)
		}
	}
}

// nobody sends what must not open anything: no key, a wrong one, one that is over; for investors, cookies alike.
func (m *matrix) nobody(op contract.Operation, body string) {
	m.Helper()
	if op.Investor {
		for _, name := range []string{"none", "garbage", "unopened", "expired", "left"} {
			c := caller{column: name, of: m.a, visit: m.a.visits[name]}
			m.try(op, c, c.request(op, body, m.a.ids), "visit", 0)
		}
		withKey := page("", op.Method, (&caller{}).request(op, body, m.a.ids).path, "")
		withKey.header.Set("Authorization", "Bearer "+m.a.keys["client"])
		m.try(op, caller{column: "key", of: m.a}, withKey, "visit", 0)
		return
	}
	good := m.a.keys["client"]
	for name, header := range map[string][2]string{
		"no key": {"X-Nothing", ""}, "garbage": {"Authorization", "Bearer sluis_key_x"}, "wrong secret": {"Authorization", "Bearer " + good[:len(good)-4] + "AAAA"},
		"basic": {"Authorization", "Basic " + good}, "cookie": {"Cookie", cookieName + "=" + m.a.visits["own"]}, "x-api-key": {"X-Api-Key", good},
	} {
		c := caller{column: name, of: m.a}
		r := c.request(op, body, m.a.ids)
		r.header.Set(header[0], header[1])
		m.try(op, c, r, "key", 0)
	}
	query := caller{column: "key in the query", of: m.a}
	r := query.request(op, body, m.a.ids)
	r.path += "?access_token=" + good + "&key=" + good
	m.try(op, query, r, "key", 0)
	for _, name := range []string{"revoked", "expired"} {
		c := caller{column: name, of: m.a, token: m.a.keys[name]}
		m.try(op, c, c.request(op, body, m.a.ids), "key", 1)
	}
	c := caller{column: "removed advisor", of: m.a, token: m.a.keys["removed"]}
	m.try(op, c, c.request(op, body, m.a.ids), "removed", 1)
}

// columns sends a's identifiers as each caller, where that must leave no trace.
func (m *matrix) columns(r row, body string, all []caller) {
	m.Helper()
	op := m.ops[r.name]
	mentioned := ""
	for _, c := range all {
		word := r.words[c.column]
		if op.Method != "GET" && word == "yes" {
			continue
		}
		denied := 1
		if word == "yes" || word == "nothing" || word == "invalid" {
			denied = 0 // what is invalid may be recorded, and need not be
		}
		a := m.try(op, c, c.request(op, body, m.a.ids), word, denied)
		if word != "yes" {
			continue
		}
		if c.column == all[0].column && strings.Contains(a.Body.String(), m.a.ids["con"]) {
			mentioned = m.a.ids["con"]
		}
		if c.of == m.a && c.column != "visitor" && !strings.Contains(a.Body.String(), mentioned) {
			m.Errorf("%s as %s: the answer leaves out what may be seen: %.300s", r.name, c.column, a.Body)
		}
	}
}

// try sends a request and checks its answer against a word of rules.txt: status and code, that it contains nothing of
// what the caller may not know of, and that at least so many denials by this caller were recorded. Of callers whom
// nobody knows nothing is recorded at all, as they may come in any number.
func (m *matrix) try(op contract.Operation, c caller, r request, word string, denied int) *httptest.ResponseRecorder {
	m.Helper()
	var a *httptest.ResponseRecorder
	fresh := m.recorded(func() { a = m.send(r) })
	where := fmt.Sprintf("%s %s as %s", op.ID, r.body, c.column)
	want, refused := codes[word]
	switch {
	case refused && (a.Code != want.status || want.code != "" && codeOf(a) != want.code):
		m.Errorf("%s: %d %s, want %d %s", where, a.Code, codeOf(a), want.status, want.code)
	case (word == "yes" || word == "nothing") && a.Code/100 != 2:
		m.Errorf("%s: %d %s, want it done", where, a.Code, a.Body)
	}
	if refused && a.Header().Get("Content-Type") != "application/problem+json" {
		m.Errorf("%s: the refusal is %s", where, a.Header().Get("Content-Type"))
	}
	seen := plain(a)
	for _, secret := range c.never {
		if strings.Contains(seen, secret) {
			m.Errorf("%s: the answer contains %s: %.400s", where, secret, seen)
		}
	}
	if got := len(denials(fresh, c)); got < denied {
		m.Errorf("%s: %d denials recorded, want %d: %s", where, got, denied, brief(fresh))
	}
	if c.token == "" && c.visit == "" && len(fresh) > 0 {
		m.Errorf("%s: recorded %s of somebody whom nobody knows", where, brief(fresh))
	}
	return a
}

// denials are those entries that record a refusal of the caller.
func denials(entries []domain.Entry, c caller) (out []domain.Entry) {
	id, _, _ := domain.SplitAPIKey(c.token)
	for _, e := range entries {
		by := e.Data.Actor.Key == id && id != "" || c.visit != "" && e.Data.Actor.Kind == domain.ActorInvestor
		if by && e.Data.Outcome == domain.OutcomeDenied && e.Data.Reason != "" {
			out = append(out, e)
		}
	}
	return out
}

func brief(entries []domain.Entry) (out string) {
	for _, e := range entries {
		out += fmt.Sprintf("[%s %s %s by %s]", e.Type, e.Data.Outcome, e.Data.Reason, e.Data.Actor.Kind)
	}
	return out
}

func codeOf(a *httptest.ResponseRecorder) string {
	var p serve.Problem
	_ = json.Unmarshal(a.Body.Bytes(), &p) // no problem has no code
	return p.Code
}

var encoded = regexp.MustCompile(`[A-Za-z0-9_-]{16,}`)

// plain is all of an answer, with what stands in it as base64, cursors above all.
func plain(a *httptest.ResponseRecorder) string {
	text := a.Body.String() + fmt.Sprint(a.Header())
	for _, word := range encoded.FindAllString(text, -1) {
		if raw, err := base64.RawURLEncoding.DecodeString(word); err == nil {
			text += "\n" + string(raw)
		}
	}
	return text
}

// strangersThings puts, one place at a time, somebody else's identifier into a request that is otherwise the caller's
// own, and beside it one that nothing has. The two answers must be the same, and so must what was done for them:
// commits and audit entries.
func (m *matrix) strangersThings(r row, body string, all []caller) {
	m.Helper()
	op := m.ops[r.name]
	for _, c := range all {
		if c.of != m.a || r.words[c.column] != "yes" {
			continue
		}
		victims := []map[string]string{m.b.ids}
		if c.column == "advisor" || c.column == "own" {
			victims = append(victims, m.a.hidden)
		}
		for _, s := range slots(op) {
			if s.in == "body" && s.kind != "cursor" && !strings.Contains(body, s.name) {
				continue
			}
			for _, victim := range victims {
				m.compare(op, c, s, body, victim)
			}
		}
	}
}

// compare sends somebody else's identifier and one that nothing has.
func (m *matrix) compare(op contract.Operation, c caller, s slot, body string, victim map[string]string) {
	m.Helper()
	foreign := victim[s.kind]
	if s.kind == "cursor" {
		m.foreignCursor(op, c, s, body)
		return
	}
	if foreign == "" {
		return
	}
	unknown := foreign[:len(foreign)-8] + "zzzzzzzz"
	if s.kind == "ref" {
		unknown = "inv-nobody"
	}
	there, thereDid := m.effort(c, m.with(op, c, s, body, foreign))
	none, noneDid := m.effort(c, m.with(op, c, s, body, unknown))
	where := fmt.Sprintf("%s as %s with another's %s in the %s", op.ID, c.column, s.name, s.in)
	if there != strings.ReplaceAll(none, unknown, foreign) {
		m.Errorf("%s differs from one that nothing has:\n%s\n%s", where, there, none)
	}
	if thereDid != noneDid {
		m.Errorf("%s: other things were done than for one that nothing has:\n%s\n%s", where, thereDid, noneDid)
	}
	if s.in == "path" && !strings.HasPrefix(there, "404 ") || strings.HasPrefix(there, "403 ") || strings.HasPrefix(there, "5") {
		m.Errorf("%s: %s", where, there)
	}
}

// with is the caller's own request, but for one place.
func (m *matrix) with(op contract.Operation, c caller, s slot, body, value string) request {
	ids := maps.Clone(m.a.ids)
	switch s.in {
	case "path":
		ids[s.kind] = value
	case "body":
		ids["placed"] = value
		body = strings.Replace(body, "$"+s.kind+`"`, `$placed"`, 1)
	}
	r := c.request(op, body, ids)
	if s.in == "query" {
		r.path += "?limit=1&" + s.name + "=" + value
	}
	return r
}

// requestID is the name of a request, which no two have in common.
var requestID = regexp.MustCompile(`req_[0-9a-hjkmnp-tv-z]{26}`)

// effort sends a request and gives its answer, and what was done for it, in a form that can be compared.
func (m *matrix) effort(c caller, r request) (answer, did string) {
	m.Helper()
	var a *httptest.ResponseRecorder
	commits := m.commits.Load()
	fresh := m.recorded(func() { a = m.send(r) })
	for _, secret := range c.never {
		if strings.Contains(plain(a), secret) {
			m.Errorf("%s %s as %s: the answer contains %s: %.300s", r.method, r.path, c.column, secret, a.Body)
		}
	}
	h := a.Header().Clone()
	h.Del("RateLimit")
	h.Del("Request-Id")
	if a.Code == http.StatusNotFound && len(denials(fresh, c)) == 0 {
		m.Errorf("%s %s %s as %s: the denial was not recorded", r.method, r.path, r.body, c.column)
	}
	made := m.commits.Load() - commits
	for _, e := range fresh {
		if strings.HasSuffix(e.Type, ".looked") { // once a minute, whatever was looked at
			made--
		}
	}
	answer = requestID.ReplaceAllString(a.Body.String(), "req_")
	return fmt.Sprintf("%d %s %v", a.Code, answer, h), fmt.Sprintf("%d commits, %d denials recorded", made, len(denials(fresh, c)))
}

// foreignCursor begins a list where a page of another tenant's same list ended: nothing of that may be seen.
func (m *matrix) foreignCursor(op contract.Operation, c caller, s slot, body string) {
	m.Helper()
	if s.in == "body" {
		body = strings.Replace(body, "}", `, "cursor": "$cursor"}`, 1)
		if !strings.Contains(body, "from") {
			return
		}
	}
	theirs := caller{"foreign", m.b, m.b.keys["client"], m.b.visits["own"], m.own[m.a]}
	r := theirs.request(contract.Operation{Method: "GET", Template: op.Template, Parameters: op.Parameters}, "", m.b.ids)
	if s.in == "body" {
		r = api(theirs.token, "GET", "/v1/consents", "")
	}
	r.path += "?limit=1"
	var first struct{ Next string }
	m.ask(r, &first)
	if first.Next == "" {
		if !slices.Contains([]string{"listEndpoints", "listErasures"}, op.ID) {
			m.Errorf("%s: the other tenant has too little for a second page", op.ID)
		}
		return
	}
	ids := maps.Clone(m.a.ids)
	ids["cursor"] = first.Next
	r = c.request(op, body, ids)
	if s.in == "query" {
		r.path += "?cursor=" + first.Next
	}
	if answer, _ := m.effort(c, r); !strings.HasPrefix(answer, "400 ") && !strings.HasPrefix(answer, "404 ") {
		m.Errorf("%s as %s takes another tenant's cursor: %.300s", op.ID, c.column, answer)
	}
}
