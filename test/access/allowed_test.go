package access

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	"sluis.internal/shared/domain"
	"sluis.internal/test/contract"
)

// allowed does what the rules allow and what leaves traces: each as the foreigner first, with the foreigner's own
// identifiers, and with the same Idempotency-Key by both. What the one does must not touch the other.
func (m *matrix) allowed(rows []row, investor bool) {
	m.Helper()
	theirs := caller{"foreign", m.b, m.b.keys["client"], m.b.visits["own"], m.own[m.a]}
	for _, r := range rows {
		op := m.ops[r.name]
		if op.Method == "GET" {
			continue
		}
		columns := map[bool][]string{true: {"own", "managing"}, false: {"client"}}[investor]
		at := slices.IndexFunc(columns, func(c string) bool { return r.words[c] == "yes" })
		if at < 0 {
			m.Errorf("%s: what nobody may do has no place in the API", r.name)
			continue
		}
		ours := caller{columns[at], m.a, m.a.keys["client"], m.a.visits[columns[at]], m.own[m.b]}
		untouched := m.quiet(m.b)
		if op.Method == "POST" && !investor {
			m.once(op, theirs, r.bodies[0])
			untouched = m.quiet(m.b)
		}
		for _, body := range r.bodies {
			m.do(op, ours, body)
			m.quiet(m.a)
		}
		if op.Method == "POST" && !investor {
			m.once(op, ours, r.bodies[0])
		}
		m.quiet(m.a)
		if changed := slices.DeleteFunc(changes(untouched, m.snapshot(m.b)), shared); len(changed) > 0 {
			m.Errorf("%s changed another client's things:\n%s", r.name, strings.Join(changed, "\n"))
		}
	}
}

// eraseOwn erases in a visit that is for one consent what is held under that one.
func (m *matrix) eraseOwn() {
	m.Helper()
	own := m.callers(true)[0]
	m.do(m.ops["eraseMine"], own, `{"consent_id": "`+m.a.asking.Consent()+`", "scope": "data"}`)
	m.quiet(m.a)
}

// shared says whether a change is to what a snapshot shows of everybody: links and remembered requests.
func shared(change string) bool { return strings.HasPrefix(change, "expired_") }

// do sends a request that must be done, and be recorded as done.
func (m *matrix) do(op contract.Operation, c caller, body string) *httptest.ResponseRecorder {
	m.Helper()
	return m.doing(op, c, c.request(op, body, c.of.ids))
}

func (m *matrix) doing(op contract.Operation, c caller, r request) *httptest.ResponseRecorder {
	m.Helper()
	var a *httptest.ResponseRecorder
	fresh := m.recorded(func() { a = m.try(op, c, r, "yes", 0) })
	if !slices.ContainsFunc(fresh, func(e domain.Entry) bool { return e.Data.Outcome == domain.OutcomeAllowed }) {
		m.Errorf("%s was done and not recorded", op.ID)
	}
	return a
}

// once sends a request with an Idempotency-Key that another client uses too, for the same operation.
func (m *matrix) once(op contract.Operation, c caller, body string) {
	m.Helper()
	if op.ID == "rotateKey" && c.of == m.a {
		return // a key is rotated once
	}
	r := c.request(op, body, c.of.ids)
	r.header.Set("Idempotency-Key", "the same for both: "+op.ID)
	if a := m.doing(op, c, r); a.Code/100 == 2 {
		m.repeated(op, c, r, idOf(a))
	}
}

// repeated sends the same again, which makes nothing, and another request with the same key, which is refused: by the
// key's owner as by anybody.
func (m *matrix) repeated(op contract.Operation, c caller, r request, id string) {
	m.Helper()
	if again := m.send(r); again.Code/100 != 2 || idOf(again) != id {
		m.Errorf("%s again: %d %s, want %s", op.ID, again.Code, again.Body, id)
	}
	other := api(c.token, "POST", "/v1/advisors", `{"name": "Another"}`)
	other.header.Set("Idempotency-Key", r.header.Get("Idempotency-Key"))
	if op.ID == "createAdvisor" || op.ID == "replay" { // a replay that finds nothing to do is not remembered
		return
	}
	if a := m.send(other); a.Code != http.StatusConflict {
		m.Errorf("the Idempotency-Key of %s served for another request: %d", op.ID, a.Code)
	}
}

// idOf is what an answer says was made: the resource, the session, the notice or the link.
func idOf(a *httptest.ResponseRecorder) string {
	var made struct {
		ID, URL  string
		Session  string `json:"session_id"`
		Notice   string `json:"notice_id"`
		Replayed int
	}
	_ = json.Unmarshal(a.Body.Bytes(), &made) // what is no JSON has none
	return fmt.Sprint(made)
}

// pages sends every page of rules.txt without a visit, with one that is over, and with another's.
func (m *matrix) pages() {
	m.Helper()
	before := m.quiet(m.a, m.b)
	for _, r := range section(m.T, "pages") {
		method, path := "GET", r.name
		if rest, post := strings.CutPrefix(r.name, "POST "); post {
			method, path = "POST", rest
		}
		path = strings.NewReplacer("{$}", "", "{file}", "page.css", "{token}", strings.Repeat("A", 43)).Replace(path)
		body := strings.ReplaceAll(r.bodies[0], "$con", m.a.ids["con"])
		want := map[string]int{"public": 200, "link": 410, "visit": 401}[r.words["needs"]]
		if method == "POST" && want == 200 {
			want = http.StatusSeeOther
		}
		for _, name := range []string{"none", "garbage", "unopened", "expired", "left"} {
			if a := m.send(page(m.a.visits[name], method, path, body)); a.Code != want {
				m.Errorf("%s with a visit that is %s: %d, want %d", r.name, name, a.Code, want)
			}
		}
		if r.words["needs"] == "visit" && method == "GET" {
			m.othersPage(path)
		}
	}
	m.revokeOthers()
	if changed := changes(before, m.snapshot(m.a, m.b)); len(changed) > 0 {
		m.Errorf("pages changed something for visitors who may not:\n%s", strings.Join(changed, "\n"))
	}
}

// othersPage looks at a page with visits that are not the investor's.
func (m *matrix) othersPage(path string) {
	m.Helper()
	for _, c := range m.strangers() {
		a := m.send(page(c.visit, "GET", path, ""))
		if a.Code >= 400 {
			m.Errorf("%s as %s: %d", path, c.column, a.Code)
		}
		for _, secret := range c.never {
			if strings.Contains(plain(a), secret) {
				m.Errorf("%s as %s shows %s", path, c.column, secret)
			}
		}
	}
}

// revokeOthers tries to withdraw a consent of another investor, which must look like one that nobody gave.
func (m *matrix) revokeOthers() {
	m.Helper()
	for _, c := range m.strangers() {
		unknown := m.a.ids["con"][:20] + "zzzzzzzzzz"
		there, thereDid := m.effort(c, page(c.visit, "POST", "/me/revoke", "consent_id="+m.a.ids["con"]))
		none, noneDid := m.effort(c, page(c.visit, "POST", "/me/revoke", "consent_id="+unknown))
		if there != none || thereDid != noneDid || !strings.HasPrefix(there, "404 ") {
			m.Errorf("withdrawing another's consent as %s differs from withdrawing none:\n%s %s\n%s %s", c.column, there, thereDid, none, noneDid)
		}
	}
}
