package serve_test

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// TestParameters: what a route does not declare is refused, and everything that is wrong is said at once.
func TestParameters(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "GET /things", pages, serve.Limit, serve.Cursor, serve.Word("state", domain.DeliveryStates...),
		serve.ID("endpoint_id", domain.ParseID[domain.EndpointID]))
	b.door.Public(b.mux, "GET /thing", give("thing"))
	for _, c := range []struct {
		path, code, field, detail string
		faults                    int
	}{
		{"/things?stat=failed", "unknown_parameter", "stat", "did you mean state?", 1},
		{"/things?endpoint=x", "unknown_parameter", "endpoint", "did you mean endpoint_id?", 1},
		{"/things?colour=red", "unknown_parameter", "colour", "This address takes cursor, endpoint_id, limit, state", 1},
		{"/thing?limit=1", "unknown_parameter", "limit", "takes none", 1},
		{"/things?state=lost", "invalid_field", "state", "want one of waiting, pending, delivered, failed, cancelled", 1},
		{"/things?state=", "invalid_field", "state", "want one of", 1},
		{"/things?state=failed&state=failed", "invalid_field", "state", "once", 1},
		{"/things?endpoint_id=dlv_1", "invalid_field", "endpoint_id", "ep_", 1},
		{"/things?limit=0&stat=x&state=y&cursor=", "invalid_field", "cursor", "page before", 4},
		{"/things?" + strings.Repeat("x", 200) + "=1", "unknown_parameter", strings.Repeat("x", 64) + "…", "", 1},
	} {
		p := b.problem(b.ask("GET", c.path, ""))
		if p.Status != 400 || p.Code != c.code || p.Field != c.field || !strings.Contains(p.Detail, c.detail) || len(p.Errors) != c.faults {
			t.Errorf("%s: %+v", c.path, p)
		}
	}
	if w := b.ask("GET", "/things?state=failed&limit=2", ""); w.Code != 200 {
		t.Errorf("what is declared is refused: %s", w.Body)
	}
	if routes := b.door.Routes(); len(routes) != 2 || len(routes[0].Query) != 4 || routes[1].Pattern != "GET /thing" {
		t.Errorf("the routes are %v", routes)
	}
}

// TestAllFaults: one answer says everything that is wrong with a body.
func TestAllFaults(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "POST /", func(_ context.Context, c *serve.Call) (serve.Answer, error) {
		var in struct {
			Name string   `json:"name"`
			Tags []string `json:"tags"`
			More struct {
				Count int `json:"count"`
			} `json:"more"`
		}
		faults, err := c.Read(&in)
		if err != nil {
			return serve.Answer{}, err
		}
		if in.Name == "" {
			faults.Add("/name", "say a name")
		}
		if len(in.Tags) > 3 {
			faults.Add("/tags", "want at most three")
		}
		if in.More.Count < 1 {
			faults.Add("/more/count", "want one or more")
		}
		return serve.Answer{Body: in}, faults.Err()
	})
	for _, c := range []struct{ name, body, want string }{
		{"nothing wrong", `{"name":"a","more":{"count":1}}`, ""},
		{"rules", `{}`, "/name invalid_field, /more/count invalid_field"},
		{"unknown members", `{"colour":1,"name":"a","size":{"a":1},"more":{"count":1,"color":2}}`,
			"/colour unknown_member, /size unknown_member, /more/color unknown_member"},
		{"types", `{"name":1,"tags":["a",2,3,"b"],"more":{"count":"x"}}`,
			"/name wrong_type, /tags/1 wrong_type, /tags/2 wrong_type, /more/count wrong_type"},
		{"nulls and repetitions", `{"name":null,"tags":["a",null],"more":{"count":1,"count":2}}`,
			"/name null_member, /tags/1 null_member, /more/count repeated_member"},
		{"everything", `{"x":1,"tags":[1],"more":{"count":0}}`, "/x unknown_member, /tags/0 wrong_type, /name invalid_field, /more/count invalid_field"},
	} {
		w := b.ask("POST", "/", c.body)
		var p serve.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, f := range p.Errors {
			have = append(have, f.Field+" "+f.Code)
		}
		if strings.Join(have, ", ") != c.want || len(p.Errors) > 0 && (p.Field != p.Errors[0].Field || p.Detail != p.Errors[0].Message) {
			t.Errorf("%s: have %v, want %s; %s", c.name, have, c.want, w.Body)
		}
	}
	many := "{" + strings.TrimSuffix(strings.Repeat(`"K":1,`, 1), ",")
	for i := range 200 {
		many += `,"k` + strings.Repeat("x", i) + `":1`
	}
	if p := b.problem(b.ask("POST", "/", many+"}")); len(p.Errors) != domain.MaxFaults {
		t.Errorf("%d faults are said", len(p.Errors))
	}
}

var ours = regexp.MustCompile(`^req_[0-9a-hjkmnp-tv-z]{26}$`)

// TestRequestIDs: every answer names its request, by a name of ours; a caller's own stands beside it, if it has a shape.
func TestRequestIDs(t *testing.T) {
	b := newBed(t, 100)
	inner := http.NewServeMux()
	b.door.Public(inner, "GET /thing", give("thing"))
	b.door.API(inner, "GET /v1/thing", []domain.Role{domain.RoleClient}, give("thing"))
	b.mux.Handle("/", b.door.Known(inner, nil))
	seen := map[string]bool{}
	for path, status := range map[string]int{"/thing": 200, "/thing?x=1": 400, "/v1/thing": 401, "/nothing": 404} {
		w := b.ask("GET", path, "", "Request-Id", "theirs-1")
		id := w.Header().Get("Request-Id")
		if w.Code != status || !ours.MatchString(id) || seen[id] || w.Header().Get("Client-Request-Id") != "theirs-1" {
			t.Errorf("%s: %d, named %q", path, w.Code, id)
		}
		seen[id] = true
		if w.Header().Get("RateLimit") == "" || w.Header().Get("RateLimit-Policy") == "" {
			t.Errorf("%s: what is left is not said", path)
		}
		if status >= 400 && !strings.Contains(w.Body.String(), `"request_id":"`+id+`"`) {
			t.Errorf("%s: the problem has another name: %s", path, w.Body)
		}
	}
	for _, theirs := range []string{"a b", "<script>", strings.Repeat("a", 65), ""} {
		if w := b.ask("GET", "/thing", "", "Request-Id", theirs); w.Header().Get("Client-Request-Id") != "" || !ours.MatchString(w.Header().Get("Request-Id")) {
			t.Errorf("%q is repeated", theirs)
		}
	}
}

// TestBlankKey: an Idempotency-Key without a name protects nobody, and is refused.
func TestBlankKey(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "POST /", give("thing"))
	for _, key := range []string{"", " ", "   "} {
		if p := b.problem(b.ask("POST", "/", "", "Idempotency-Key", key)); p.Status != 400 || p.Field != "Idempotency-Key" {
			t.Errorf("%q: %+v", key, p)
		}
	}
}

// TestUnchanged: who has a body that never changes already does not get it again.
func TestUnchanged(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "GET /", func(context.Context, *serve.Call) (serve.Answer, error) {
		return serve.Answer{Body: map[string]int{"a": 1}, Tagged: true}, nil
	})
	first := b.ask("GET", "/", "")
	tag := first.Header().Get("ETag")
	if first.Body.String() != `{"a":1}` || tag == "" || first.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("got %v %s", first.Header(), first.Body)
	}
	for _, has := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
		if w := b.ask("GET", "/", "", "If-None-Match", has); w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("ETag") != tag {
			t.Errorf("%s: %d %s", has, w.Code, w.Body)
		}
	}
	if w := b.ask("GET", "/", "", "If-None-Match", `"x"`); w.Code != 200 {
		t.Errorf("another: %d", w.Code)
	}
}

// TestHeaderSize: headers beyond the limit are refused by a problem that names it.
func TestHeaderSize(t *testing.T) {
	b := newBed(t, 0)
	inner := http.NewServeMux()
	b.door.Public(inner, "GET /thing", give("thing"))
	b.mux.Handle("/", b.door.Known(inner, nil))
	if p := b.problem(b.ask("GET", "/thing", "", "X-Long", strings.Repeat("x", serve.MaxHeader))); p.Status != 431 || p.Code != "headers_too_large" ||
		!strings.Contains(p.Detail, "16384") {
		t.Errorf("got %+v", p)
	}
}
