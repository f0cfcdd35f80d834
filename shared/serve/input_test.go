package serve_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// order is what the tests read: a member of every form that our API has.
type order struct {
	Name  string            `json:"name"`
	Count int               `json:"count"`
	Sure  bool              `json:"sure"`
	At    domain.Time       `json:"at"`
	Tags  []string          `json:"tags"`
	Inner struct{ A int8 }  `json:"inner"`
	More  map[string]string `json:"more"`
}

// reader answers what it decoded.
func reader(_ context.Context, c *serve.Call) (serve.Answer, error) {
	var o order
	if err := c.Decode(&o); err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: o}, nil
}

func TestDecode(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "POST /", reader)
	deep := strings.Repeat(`{"inner":`, 5000) + "1" + strings.Repeat("}", 5000)
	for _, c := range []struct{ name, body, code, field string }{
		{"empty", ``, "", ""},
		{"empty object", `{}`, "", ""},
		{"space around", " \r\n\t{} \n", "", ""},
		{"all members", `{"name":"é","count":-3,"sure":true,"at":"2026-01-31T12:00:00Z","tags":["a"],"inner":{"A":1},"more":{"k":"v"}}`, "", ""},
		{"escapes", `{"name":"\ud83d\ude00\u0000"}`, "", ""},
		{"unknown member", `{"name":"a","nam":"b"}`, "invalid_field", "/nam"},
		{"unknown member inside", `{"inner":{"B":1}}`, "invalid_field", "/inner/B"},
		{"name in another case", `{"Name":"a"}`, "invalid_field", "/Name"},
		{"member twice", `{"name":"a","name":"b"}`, "invalid_field", "/name"},
		{"member twice, escaped", `{"name":"a","n\u0061me":"b"}`, "invalid_field", "/name"},
		{"member twice inside", `{"more":{"k":"1","k":"2"}}`, "invalid_field", "/more/k"},
		{"wrong type", `{"count":"3"}`, "invalid_field", "/count"},
		{"wrong type inside", `{"tags":["a",2]}`, "invalid_field", "/tags/1"},
		{"fraction", `{"count":1.5}`, "invalid_field", "/count"},
		{"exponent", `{"count":1e3}`, "invalid_field", "/count"},
		{"huge number", `{"count":9223372036854775808}`, "invalid_field", "/count"},
		{"huge exponent", `{"count":1e999999}`, "invalid_field", "/count"},
		{"very long number", `{"count":` + strings.Repeat("9", 60000) + `}`, "invalid_field", "/count"},
		{"too large for its type", `{"inner":{"A":128}}`, "invalid_field", "/inner/A"},
		{"no time", `{"at":"yesterday"}`, "invalid_field", "/at"},
		{"null for a member", `{"name":null}`, "invalid_field", "/name"},
		{"null inside", `{"tags":["a",null]}`, "invalid_field", "/tags/1"},
		{"nothing but null", `null`, "invalid_field", ""},
		{"a list", `[]`, "invalid_field", ""},
		{"a text", `"x"`, "invalid_field", ""},
		{"something after", `{}{}`, "invalid_json", ""},
		{"bracket after", `{}}`, "invalid_json", ""},
		{"nothing but space", `  `, "invalid_json", ""},
		{"cut off", `{"name":"a`, "invalid_json", "/name"},
		{"comma at the end", `{"name":"a",}`, "invalid_json", ""},
		{"comment", `{/*x*/}`, "invalid_json", ""},
		{"single quotes", `{'name':'a'}`, "invalid_json", ""},
		{"not a number", `{"count":NaN}`, "invalid_json", "/count"},
		{"leading zero", `{"count":01}`, "invalid_json", ""},
		{"control character", "{\"name\":\"a\nb\"}", "invalid_json", "/name"},
		{"not UTF-8", "{\"name\":\"\xff\"}", "invalid_json", "/name"},
		{"name not UTF-8", "{\"\xff\":1}", "invalid_json", ""},
		{"half a surrogate", `{"name":"\ud83d"}`, "invalid_json", "/name"},
		{"byte order mark", "\ufeff{}", "invalid_json", ""},
		{"UTF-16", "\xff\xfe{\x00}\x00", "invalid_json", ""},
		{"a NUL", "\x00", "invalid_json", ""},
		{"deep", deep, "invalid_field", "/inner/inner"},
		{"very deep", strings.Repeat("[", 60000), "invalid_", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := *b
			b.t = t
			w := b.ask("POST", "/", c.body)
			if c.code == "" {
				if w.Code != 200 {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
				return
			}
			p := b.problem(w)
			if w.Code != 400 || !strings.HasPrefix(p.Code, c.code) || p.Field != c.field && c.name != "very deep" {
				t.Errorf("got %+v, want %s at %q", p, c.code, c.field)
			}
		})
	}
}

// own refuses by itself with an error of ours.
type own struct{}

func (*own) UnmarshalJSON([]byte) error { return domain.Invalidf("/own", "want something else") }

func TestDecodeKeepsOurOwnErrors(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "POST /", func(_ context.Context, c *serve.Call) (serve.Answer, error) {
		var in struct{ A own }
		return serve.Answer{}, c.Decode(&in)
	})
	if p := b.problem(b.ask("POST", "/", `{"A":1}`)); p.Field != "/own" || p.Detail != "want something else" {
		t.Errorf("got %+v", p)
	}
}

func TestContentType(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "POST /", reader)
	for _, c := range []struct {
		name, value string
		good        bool
	}{
		{"plain", "application/json", true},
		{"in UTF-8", "application/json; charset=utf-8", true},
		{"in capitals", "Application/JSON; Charset=UTF-8", true},
		{"quoted", `application/json; charset="utf-8"`, true},
		{"missing", "", false},
		{"form", "application/x-www-form-urlencoded", false},
		{"text, as a foreign page may send", "text/plain", false},
		{"text that names JSON", "text/plain; application/json", false},
		{"multipart", "multipart/form-data; boundary=x", false},
		{"problem", "application/problem+json", false},
		{"Latin-1", "application/json; charset=iso-8859-1", false},
		{"UTF-16", "application/json; charset=utf-16", false},
		{"charset twice", "application/json; charset=utf-8; charset=utf-16", false},
		{"two types", "application/json, text/plain", false},
		{"rubbish", "application/json; =", false},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %t", c.name, chunked), func(t *testing.T) {
				r := httptest.NewRequest("POST", "/", strings.NewReader(`{"name":"a"}`))
				if chunked {
					r.ContentLength = -1
				}
				if c.value != "" {
					r.Header.Set("Content-Type", c.value)
				}
				w := httptest.NewRecorder()
				b.mux.ServeHTTP(w, r)
				if c.good && w.Code != 200 {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
				if !c.good {
					b := *b
					b.t = t
					b.want(w, 400, "content_type")
				}
			})
		}
	}
	// A request without a body needs no type.
	if w := b.ask("POST", "/", ""); w.Code != 200 {
		t.Errorf("no body: %d %s", w.Code, w.Body)
	}
}

// TestAmbiguous: what could be read in two ways is refused, whichever way was meant.
func TestAmbiguous(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "POST /", reader, serve.Text("a", "want a", 512), serve.Text("b", "want b", 512))
	for _, c := range []struct {
		name, query, field string
		header             []string
	}{
		{"plain", "a=1&b=2", "", []string{"Content-Encoding", "identity"}},
		{"compressed", "", "Content-Encoding", []string{"Content-Encoding", "gzip"}},
		{"two codings", "", "Content-Encoding", []string{"Content-Encoding", "identity", "Content-Encoding", "gzip"}},
		{"a list of codings", "", "Content-Encoding", []string{"Content-Encoding", "gzip, identity"}},
		{"two types", "", "Content-Type", []string{"Content-Type", "text/plain"}},
		{"two keys", "", "Idempotency-Key", []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}},
		{"a parameter twice", "a=1&a=1", "a", nil},
		{"a parameter twice, written otherwise", "a=1&%61=1", "a", nil},
		{"a broken escape", "a=%zz", "query", nil},
		{"a semicolon", "a=1;b=2", "query", nil},
	} {
		w := b.ask("POST", "/?"+c.query, "{}", c.header...)
		if c.field == "" {
			if w.Code != 200 {
				t.Errorf("%s: got %d %s", c.name, w.Code, w.Body)
			}
		} else if p := b.problem(w); p.Status != 400 || p.Field != c.field {
			t.Errorf("%s: got %+v", c.name, p)
		}
	}
}

// TestBodySize goes over a real connection: who sends too much must still get to read the answer.
func TestBodySize(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "POST /", func(_ context.Context, c *serve.Call) (serve.Answer, error) {
		var in struct{ A string }
		return serve.Answer{}, c.Decode(&in)
	})
	server := httptest.NewUnstartedServer(nil)
	server.Config = serve.NewServer(b.mux)
	server.Start()
	defer server.Close()
	for _, c := range []struct{ size, status int }{{serve.MaxBody, 204}, {serve.MaxBody + 1, 413}, {3 * serve.MaxBody, 413}} {
		for _, chunked := range []bool{false, true} {
			body := []byte(`{"A":"` + strings.Repeat("x", c.size-8) + `"}`)
			var r io.Reader = bytes.NewReader(body)
			if chunked {
				r = io.MultiReader(r)
			}
			resp, err := server.Client().Post(server.URL, "application/json", r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%d bytes, chunked %t: got %d, want %d", c.size, chunked, resp.StatusCode, c.status)
			}
		}
	}
}

func TestBodyThatBreaksOff(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "POST /", func(context.Context, *serve.Call) (serve.Answer, error) {
		t.Error("the handler ran")
		return serve.Answer{}, nil
	})
	r := httptest.NewRequest("POST", "/", iotest.ErrReader(errors.New("connection reset by 10.0.0.7")))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	b.mux.ServeHTTP(w, r)
	b.want(w, 400, "body_unreadable")
	if strings.Contains(w.Body.String(), "10.0.0.7") {
		t.Error("the cause is shown")
	}
}

func TestIdempotencyKey(t *testing.T) {
	b := newBed(t, 0)
	made := 0
	b.door.API(b.mux, "POST /things/{id}", roles, func(ctx context.Context, c *serve.Call) (serve.Answer, error) {
		var resource string
		err := b.tap.Commit(ctx, func(tx domain.Tx) (err error) {
			if resource, err = c.Once.Before(tx, c.Principal.ClientID); err != nil || resource != "" {
				return err
			}
			made++
			resource = fmt.Sprintf("thing-%d", made)
			entry := domain.Note(b.env, "test", "thing.made", c.Principal.Actor(), c.Principal.ClientID, resource, nil)
			return errors.Join(c.Once.Remember(b.env, tx, c.Principal.ClientID, resource), tx.Record(entry))
		})
		return serve.Answer{Body: resource}, err
	})
	_, token := b.key(b.client().ID, domain.RoleClient, "")
	_, other := b.key(b.client().ID, domain.RoleClient, "")
	for _, c := range []struct {
		name, token, path, key, body, want string
	}{
		{"first", token, "/things/1", "k1", `{"a":1}`, "thing-1"},
		{"again", token, "/things/1", "k1", `{"a":1}`, "thing-1"},
		{"the same with another body", token, "/things/1", "k1", `{"a":2}`, ""},
		{"the same in other words", token, "/things/1", "k1", `{"a": 1}`, ""},
		{"the same at another path", token, "/things/2", "k1", `{"a":1}`, ""},
		{"another key", token, "/things/1", "k2", `{"a":1}`, "thing-2"},
		{"another client", other, "/things/1", "k1", `{"a":1}`, "thing-3"},
		{"no key", token, "/things/1", "", `{"a":1}`, "thing-4"},
		{"no key again", token, "/things/1", "", `{"a":1}`, "thing-5"},
		{"longest key", token, "/things/1", strings.Repeat("k", 128), `{"a":1}`, "thing-6"},
	} {
		header := []string{"Authorization", "Bearer " + c.token}
		if c.key != "" {
			header = append(header, "Idempotency-Key", c.key)
		}
		w := b.ask("POST", c.path, c.body, header...)
		if c.want == "" {
			b.want(w, 409, "idempotency_key_reused")
		} else if w.Body.String() != `"`+c.want+`"` {
			t.Errorf("%s: got %s, want %s", c.name, w.Body, c.want)
		}
	}
	for _, key := range []string{strings.Repeat("k", 129), "", " "} {
		w := b.ask("POST", "/things/1", `{}`, "Authorization", "Bearer "+token, "Idempotency-Key", key)
		if p := b.problem(w); w.Code != 400 || p.Field != "Idempotency-Key" || made != 6 {
			t.Errorf("the key %q: %d %+v", key, w.Code, p)
		}
	}
}

func TestPathID(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "GET /v1/consents/{consent}", func(_ context.Context, c *serve.Call) (serve.Answer, error) {
		id, err := serve.PathID(c, "consent", domain.ParseID[domain.ConsentID])
		return serve.Answer{Body: id}, err
	})
	good := string(domain.NewID[domain.ConsentID](b.env))
	if w := b.ask("GET", "/v1/consents/"+good, ""); w.Body.String() != `"`+good+`"` {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for _, bad := range []string{"x", "conn_" + good[4:], good + "0", good[:len(good)-1], "con_" + strings.Repeat("U", 26), good[:4] + "%00" + good[5:], "%2e%2e%2f" + good, "con_%F0%9F%98%80"} {
		if p := b.problem(b.ask("GET", "/v1/consents/"+bad, "")); p.Status != 400 || p.Field != "consent" || !strings.Contains(p.Detail, "con_") {
			t.Errorf("%s: %+v", bad, p)
		}
	}
}

// pages answers the paging that was asked for.
func pages(_ context.Context, c *serve.Call) (serve.Answer, error) {
	limit, cursor := c.Paging()
	return serve.Answer{Body: map[string]any{"limit": limit, "cursor": cursor}}, nil
}

func TestPaging(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "GET /", pages, serve.Limit, serve.Cursor)
	for _, c := range []struct{ query, want, field string }{
		{"", `{"cursor":"","limit":100}`, ""},
		{"limit=1", `{"cursor":"","limit":1}`, ""},
		{"limit=1000&cursor=abc", `{"cursor":"abc","limit":1000}`, ""},
		{"limit=", "", "limit"},
		{"cursor=", "", "cursor"},
		{"cursor=" + strings.Repeat("c", 512), `{"cursor":"` + strings.Repeat("c", 512) + `","limit":100}`, ""},
		{"limit=0", "", "limit"},
		{"limit=1001", "", "limit"},
		{"limit=-1", "", "limit"},
		{"limit=ten", "", "limit"},
		{"limit=1e2", "", "limit"},
		{"limit=99999999999999999999", "", "limit"},
		{"limit=%00", "", "limit"},
		{"cursor=" + strings.Repeat("c", 513), "", "cursor"},
	} {
		w := b.ask("GET", "/?"+c.query, "")
		if c.want != "" && w.Body.String() != c.want {
			t.Errorf("%s: got %s", c.query, w.Body)
		}
		if c.want == "" {
			if p := b.problem(w); p.Status != 400 || p.Field != c.field {
				t.Errorf("%s: got %+v", c.query, p)
			}
		}
	}
}

// FuzzDecode: whatever comes is taken or refused with a problem that names its remedy. What is taken is JSON in UTF-8
// by the standard library's reading too, and reads the same again.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"name":"a","tags":["b"]}`, `{"name":1}`, `{"a":{"\u0061":1}}`, "{\"\xff\":1}", `{"name":"a","name":"b"}`,
		`[[[[`, `{"at":"2026-01-31T12:00:00Z"}`, `{"count":1e400}`, "null", `{"more":{"\ud800":"x"}}`, `{"more":{"~/":1}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		mux := http.NewServeMux()
		(&serve.Door{}).Public(mux, "POST /", reader)
		r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if !json.Valid(w.Body.Bytes()) || !utf8.Valid(w.Body.Bytes()) {
			t.Fatalf("answered %d %q", w.Code, w.Body)
		}
		switch w.Code {
		case 200:
			var o order
			if len(body) > 0 && (!json.Valid(body) || !utf8.Valid(body) || json.Unmarshal(body, &o) != nil) {
				t.Errorf("taken: %q", body)
			}
		case 400, 413:
			var p serve.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code == "" || p.Detail == "" {
				t.Errorf("refused as %s", w.Body)
			}
		default:
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}

// FuzzPaging: whatever the query is, a limit stays within its bounds and a cursor short.
func FuzzPaging(f *testing.F) {
	for _, seed := range []string{"", "limit=1&cursor=x", "limit=+5", "limit=5;cursor=2", "limit=%zz", "cursor=%ff", "limit=1&limit=2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		mux := http.NewServeMux()
		(&serve.Door{}).Public(mux, "GET /", pages, serve.Limit, serve.Cursor)
		r := httptest.NewRequest("GET", "/", nil)
		r.URL = &url.URL{Path: "/", RawQuery: query}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		var out struct {
			Limit  int
			Cursor string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatalf("%q: %d %q", query, w.Code, w.Body)
		}
		if w.Code == 200 && (out.Limit < 1 || out.Limit > 1000 || len(out.Cursor) > 3*512) || w.Code != 200 && w.Code != 400 {
			t.Errorf("%q: %d %+v", query, w.Code, out)
		}
	})
}
