package access

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// linked is a world of one client, with an investor whose portfolio was read.
type linked struct {
	*world
	*journey.Player
}

func openLinked(t *testing.T) *linked {
	t.Helper()
	w := open(t)
	w.pass(past)
	p := w.Place.Player("inv-links")
	w.steps(p, "ask", "open", "grant", "login 20000005", "done")
	return &linked{w, p}
}

// link makes a link for a purpose: for a decision, with a consent of its own.
func (l *linked) link(purpose domain.LinkUse) (path string, consent string) {
	l.Helper()
	if purpose == domain.LinkConsent {
		p := l.Place.Player("inv-links")
		l.steps(p, "ask")
		return p.Link()[strings.Index(p.Link(), "/i/"):], p.Consent()
	}
	var made struct{ URL string }
	l.ask(api(l.Token, "POST", "/v1/consents/"+l.Consent()+"/links", `{"purpose": "`+string(purpose)+`"}`), &made)
	return made.URL[strings.Index(made.URL, "/i/"):], l.Consent()
}

var purposes = []domain.LinkUse{domain.LinkConsent, domain.LinkReconnect, domain.LinkManage}

// cookieOf is the visit that an answer begins, or nil.
func cookieOf(a *httptest.ResponseRecorder) *http.Cookie {
	for _, c := range a.Result().Cookies() {
		if c.Name == cookieName && c.MaxAge >= 0 {
			return c
		}
	}
	return nil
}

// TestLinksOpenOnce: of many who open a link at once one gets a visit; looking at it first, as mail scanners do, uses
// nothing up.
func TestLinksOpenOnce(t *testing.T) {
	l := openLinked(t)
	for _, purpose := range purposes {
		path, _ := l.link(purpose)
		for _, method := range []string{"GET", "HEAD", "GET"} {
			if a := l.send(page("", method, path, "")); a.Code != 200 || cookieOf(a) != nil {
				t.Errorf("%s: looking with %s answers %d", purpose, method, a.Code)
			}
		}
		var group sync.WaitGroup
		answers := make([]*httptest.ResponseRecorder, 8)
		for i := range answers {
			group.Go(func() { answers[i] = l.send(page("", "POST", path, "")) })
		}
		group.Wait()
		opened := 0
		for _, a := range answers {
			switch c := cookieOf(a); {
			case c != nil && a.Code == http.StatusSeeOther:
				opened++
				checkCookie(t, a)
			case c != nil || a.Code != http.StatusGone:
				t.Errorf("%s: %d, cookie %v", purpose, a.Code, c != nil)
			}
		}
		if opened != 1 {
			t.Errorf("%s: opened %d times", purpose, opened)
		}
		if a := l.send(page("", "GET", path, "")); a.Code != http.StatusGone {
			t.Errorf("%s: after its use it shows %d", purpose, a.Code)
		}
	}
}

// bounds are the attributes of the two cookies that opening a link sets: that of the visit, and that by which a browser
// knows its visits again, which must come along when a link in a message is opened.
var bounds = map[string][]string{
	cookieName:  {"httponly", "max-age=1800", "path=/", "samesite=strict", "secure"},
	browserName: {"httponly", "max-age=259200", "path=/", "samesite=lax", "secure"},
}

// checkCookie looks at the cookies of a visit as they were written. RFC 6265bis, section 4.1.3.2.
func checkCookie(t *testing.T, a *httptest.ResponseRecorder) {
	t.Helper()
	lines := a.Header().Values("Set-Cookie")
	if len(lines) != len(bounds) {
		t.Errorf("%d cookies are set, want %d", len(lines), len(bounds))
	}
	for _, line := range lines {
		pair, rest, _ := strings.Cut(line, ";")
		name, value, _ := strings.Cut(pair, "=")
		var attributes []string
		for part := range strings.SplitSeq(rest, ";") {
			attributes = append(attributes, strings.ToLower(strings.TrimSpace(part)))
		}
		slices.Sort(attributes)
		if !slices.Equal(attributes, bounds[name]) {
			t.Errorf("the cookie %s has %q, want %q", name, attributes, bounds[name])
		}
		if len(value) != 43 {
			t.Errorf("the value of %s has %d characters", name, len(value))
		}
	}
}

// TestLinksEnd: by time, by a newer invitation, by the end of the consent; a link to manage goes on, as withdrawing must
// always be possible.
func TestLinksEnd(t *testing.T) {
	l := openLinked(t)
	redeem := func(what, path string, want int) {
		t.Helper()
		if a := l.send(page("", "POST", path, "")); a.Code != want || (cookieOf(a) != nil) != (want == http.StatusSeeOther) {
			t.Errorf("%s: %d, want %d", what, a.Code, want)
		}
	}
	first, consent := l.link(domain.LinkConsent)
	var newer struct{ URL string }
	l.ask(api(l.Token, "POST", "/v1/consents/"+consent+"/links", `{"purpose": "consent"}`), &newer)
	redeem("a link that a newer one voided", first, http.StatusGone)
	redeem("the newer one", newer.URL[strings.Index(newer.URL, "/i/"):], http.StatusSeeOther)

	undecided, consent := l.link(domain.LinkConsent)
	l.ask(api(l.Token, "DELETE", "/v1/consents/"+consent, ""), nil)
	redeem("a link to a consent that was ended", undecided, http.StatusForbidden)

	var late []string
	for _, purpose := range purposes {
		path, _ := l.link(purpose)
		late = append(late, path)
	}
	l.pass(domain.LinkLife)
	for i, path := range late {
		redeem("a link of "+string(purposes[i])+" whose time is over", path, http.StatusGone)
	}
	reconnect, _ := l.link(domain.LinkReconnect)
	manage, _ := l.link(domain.LinkManage)
	l.ask(api(l.Token, "DELETE", "/v1/consents/"+l.Consent(), ""), nil)
	redeem("a link to reconnect what was ended", reconnect, http.StatusForbidden)
	redeem("a link to manage what was ended", manage, http.StatusSeeOther)
}

// TestVisitsAreForTheirPurpose: only a link that was sent for a decision leads to one, and a visit's cookie and a link's
// token do not stand for each other.
func TestVisitsAreForTheirPurpose(t *testing.T) {
	l := openLinked(t)
	path, _ := l.link(domain.LinkConsent)
	if a := l.send(page(strings.TrimPrefix(path, "/i/"), "GET", "/me", "")); a.Code != 401 {
		t.Errorf("a link's token serves as a visit: %d", a.Code)
	}
	for _, purpose := range []domain.LinkUse{domain.LinkReconnect, domain.LinkManage} {
		path, _ := l.link(purpose)
		visit := cookieOf(l.send(page("", "POST", path, "")))
		before := l.consent()
		for _, act := range []request{page(visit.Value, "POST", "/consent/grant", "custodian=sandbox-comdirect"), page(visit.Value, "POST", "/consent/deny", "")} {
			if a := l.send(act); a.Code != http.StatusForbidden {
				t.Errorf("%s in a visit to %s: %d, want 403", act.path, purpose, a.Code)
			}
		}
		if l.consent() != before {
			t.Errorf("a visit to %s changed the consent", purpose)
		}
		if a := l.send(page("", "POST", "/i/"+visit.Value, "")); a.Code != http.StatusGone {
			t.Errorf("a visit's cookie opens a link: %d", a.Code)
		}
	}
}

func (l *linked) consent() string {
	l.Helper()
	return l.send(api(l.Token, "GET", "/v1/consents/"+l.Consent(), "")).Body.String()
}

// TestNoVisitIsAdopted: whatever cookie a browser comes with, opening a link begins a visit of its own.
func TestNoVisitIsAdopted(t *testing.T) {
	l := openLinked(t)
	attackers := l.Cookie().Value
	for _, planted := range []string{attackers, strings.Repeat("A", 43), "x", ""} {
		path, _ := l.link(domain.LinkConsent)
		a := l.send(page(planted, "POST", path, ""))
		victims := cookieOf(a)
		if a.Code != http.StatusSeeOther || victims == nil || victims.Value == planted {
			t.Fatalf("opening a link with a planted cookie: %d %v", a.Code, a.Header())
		}
		seen := l.send(page(victims.Value, "GET", "/consent", "")).Body.String()
		if !strings.Contains(seen, "/consent/grant") {
			t.Error("the visit does not lead to the decision")
		}
		if planted == attackers {
			if a := l.send(page(planted, "GET", "/consent", "")); strings.Contains(a.Body.String(), "/consent/grant") {
				t.Error("the planted visit became the victim's")
			}
		} else if a := l.send(page(planted, "GET", "/me", "")); a.Code != 401 {
			t.Errorf("the planted cookie %q opens a page: %d", planted, a.Code)
		}
	}
	two := page("", "GET", "/me", "")
	two.header.Set("Cookie", cookieName+"="+strings.Repeat("B", 43)+"; "+cookieName+"="+attackers)
	if a := l.send(two); a.Code != 401 {
		t.Errorf("of two cookies the second was taken: %d", a.Code)
	}
	for _, name := range []string{"sluis", "__Host-Sluis", "__Secure-sluis", " __Host-sluis"} {
		r := page("", "GET", "/me", "")
		r.header.Set("Cookie", name+"="+attackers)
		if a := l.send(r); a.Code != 401 && name != " __Host-sluis" {
			t.Errorf("a cookie named %q is taken: %d", name, a.Code)
		}
	}
}

// foreignHeaders are what browsers send along with a request that another site made them send.
var foreignHeaders = []http.Header{
	{"Sec-Fetch-Site": {"cross-site"}},
	{"Sec-Fetch-Site": {"same-site"}},
	{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"null"}},
	{"Sec-Fetch-Site": {"bogus"}},
	{"Origin": {"https://evil.example"}},
	{"Origin": {"null"}},
	{"Origin": {"http://localhost:1"}},
	{"Origin": {"http://example.com.evil.example"}},
	{"Origin": {"https://evil.example"}, "Referer": {"http://example.com/consent"}},
	{"Origin": {""}, "Sec-Fetch-Site": {"cross-site"}},
}

// TestForgedRequests sends, with an investor's own cookie, what another site could make the browser send: every POST is
// refused, and no GET has an effect. A request without any of these headers comes from no browser that has the cookie.
func TestForgedRequests(t *testing.T) {
	m := newMatrix(t)
	before := m.quiet(m.a, m.b)
	own := m.callers(true)[0]
	var all []request
	for _, r := range section(t, "investor") {
		all = append(all, own.request(m.ops[r.name], r.bodies[0], m.a.ids))
	}
	unopened := m.a.visits["unopened"]
	for _, r := range section(t, "pages") {
		method, path, post := strings.Cut(r.name, " ")
		if !post {
			method, path = "GET", r.name
		}
		path = strings.NewReplacer("{$}", "", "{file}", "page.css", "{token}", unopened).Replace(path)
		all = append(all, page(own.visit, method, path, strings.ReplaceAll(r.bodies[0], "$con", m.a.ids["con"])))
	}
	for _, r := range section(t, "api") {
		all = append(all, (&caller{token: m.a.keys["client"]}).request(m.ops[r.name], r.bodies[0], m.a.ids))
	}
	posts := 0
	for _, r := range all {
		ours := r.header.Clone()
		for _, h := range foreignHeaders {
			r.header = ours.Clone()
			r.header.Del("Sec-Fetch-Site")
			for name, values := range h {
				r.header[name] = values
			}
			a := m.send(r)
			switch {
			case r.method != "GET" && a.Code != http.StatusForbidden:
				t.Errorf("%s %s with %v: %d, want 403", r.method, r.path, h, a.Code)
			case r.method != "GET":
				posts++
			case a.Header().Get("Access-Control-Allow-Origin") != "" || a.Header().Get("Cross-Origin-Resource-Policy") != "same-origin":
				t.Errorf("%s %s with %v may be read by others: %v", r.method, r.path, h, a.Header())
			}
		}
		if r.method == "POST" && strings.HasPrefix(r.body, "{") {
			m.simple(r, ours)
		}
	}
	if posts < 200 {
		t.Errorf("only %d forged requests were sent", posts)
	}
	if changed := changes(before, m.snapshot(m.a, m.b)); len(changed) > 0 {
		t.Errorf("forged requests changed something:\n%s", strings.Join(changed, "\n"))
	}
}

// simple sends JSON as the media types that a form of another site may have, which need no leave of ours.
func (m *matrix) simple(r request, header http.Header) {
	m.Helper()
	for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain; application/json"} {
		r.header = header.Clone()
		r.header.Set("Content-Type", media)
		if a := m.send(r); a.Code != http.StatusBadRequest || codeOf(a) != "content_type" {
			m.Errorf("%s takes %s: %d %s", r.path, media, a.Code, codeOf(a))
		}
	}
}

// TestVisitsExpire: half an hour after the link was opened a visit is over, however busy it was.
func TestVisitsExpire(t *testing.T) {
	l := openLinked(t)
	visit := l.Cookie().Value
	for range 5 {
		l.pass(5 * time.Minute)
		if a := l.send(page(visit, "GET", "/me", "")); a.Code != 200 {
			t.Fatalf("within its half hour: %d", a.Code)
		}
	}
	l.pass(5 * time.Minute)
	for _, path := range []string{"/me", "/challenge/state", "/seal/key"} {
		if a := l.send(page(visit, "GET", path, "")); a.Code != 401 {
			t.Errorf("%s after half an hour: %d", path, a.Code)
		}
	}
}
