package access

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestNarrowingIsAtOnce: what a consent no longer covers is gone from every answer with the answer to the narrowing, for
// the client and for an advisor, counts included; an advisor who is no longer named sees nothing at all.
func TestNarrowingIsAtOnce(t *testing.T) {
	m := newMatrix(t)
	readers := []caller{m.callers(false)[0], m.callers(false)[1]}
	connection, consent := "/v1/connections/"+m.a.ids["conn"], "/v1/consents/"+m.a.ids["con"]
	m.ask(api(m.a.keys["client"], "PATCH", consent, `{"products": ["accounts", "positions"]}`), nil)
	for _, c := range readers {
		for _, path := range []string{connection, "/v1/connections", connection + "/portfolio", connection + "/portfolios"} {
			for _, product := range []string{"transactions", "cash", "orders"} {
				said := between(m.send(api(c.token, "GET", path, "")).Body.String(), m.a.ids["conn"], `"`+product+`":{`)
				if !strings.HasPrefix(said, `"state":"not_consented","count":0,"saved":false}`) {
					t.Errorf("%s as %s still says of %s: %.80s", path, c.column, product, said)
				}
			}
		}
		if a := m.send(api(c.token, "GET", connection+"/portfolio", "")); strings.Contains(a.Body.String(), "reconciliation") {
			t.Errorf("%s still sees sums with cash", c.column)
		}
		for product, want := range map[string]int{"accounts": 200, "positions": 200, "transactions": 403, "cash": 403} {
			if a := m.send(api(c.token, "GET", connection+"/portfolio/"+product, "")); a.Code != want {
				t.Errorf("%s as %s: %d, want %d", product, c.column, a.Code, want)
			}
		}
	}
	m.ask(api(m.a.keys["client"], "PATCH", consent, `{"advisors": []}`), nil)
	for _, path := range []string{consent, connection, connection + "/portfolio", connection + "/portfolios", connection + "/portfolio/positions"} {
		if a := m.send(api(m.a.keys["advisor"], "GET", path, "")); a.Code != http.StatusNotFound {
			t.Errorf("%s answers an advisor who is not named any more with %d", path, a.Code)
		}
	}
	for _, path := range []string{"/v1/consents", "/v1/connections"} {
		if a := m.send(api(m.a.keys["advisor"], "GET", path, "")); strings.Contains(plain(a), m.a.ids["con"]) {
			t.Errorf("%s still lists for an advisor who is not named any more: %s", path, fmt.Sprint(a.Body))
		}
	}
}

// between is what follows a mark that stands after another.
func between(text, first, second string) string {
	_, text, _ = strings.Cut(text, first)
	_, text, _ = strings.Cut(text, second)
	return text
}
