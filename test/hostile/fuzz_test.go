package hostile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

// those are the routes for which keep holds.
func (b *bed) those(keep func(route) bool) []route {
	return slices.DeleteFunc(slices.Clone(b.routes), func(r route) bool { return !keep(r) })
}

// FuzzBody chooses a route and sends it a body.
func FuzzBody(f *testing.F) {
	b := rest(f)
	routes := b.those(func(r route) bool { return r.Body != nil })
	for i, r := range routes {
		for _, good := range b.goods(r) {
			f.Add(uint8(i), good)
			for _, make := range bodies {
				if bad := make(string(good)); len(bad) < 1000 {
					f.Add(uint8(i), []byte(bad))
				}
			}
		}
	}
	for _, raw := range values {
		if len(raw) < 1000 {
			f.Add(uint8(0), []byte(raw))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		r := routes[int(which)%len(routes)]
		if a, err := b.attack(t, r, body); err != nil {
			t.Errorf("%s: %v; %s", r, err, a)
		}
	})
}

// FuzzForm chooses one of the pages that take a form, and sends it anything as any type.
func FuzzForm(f *testing.F) {
	b := rest(f)
	routes := b.those(func(r route) bool { return r.page && r.Method == http.MethodPost })
	for i := range routes {
		for _, media := range []string{"application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=utf-16",
			"multipart/form-data; boundary=x", "application/json", "text/plain", ""} {
			for _, body := range []string{string(b.good(routes[i])), "custodian=%zz", "custodian=a;b=c", "custodian=a&custodian=b",
				"custodian=%00", "custodian=\xff", "consent_id=" + longNumber[:5000], "--x\r\nContent-Disposition: form-data; name=\"custodian\"\r\n\r\na\r\n--x--", `{"custodian":"a"}`} {
				f.Add(uint8(i), media, "same-origin", []byte(body))
			}
		}
		f.Add(uint8(i), "application/x-www-form-urlencoded", "cross-site", b.good(routes[i]))
	}
	f.Fuzz(func(t *testing.T, which uint8, media, site string, body []byte) {
		r := routes[int(which)%len(routes)]
		req := b.request(r, body)
		req.Header.Set("Content-Type", media)
		req.Header.Set("Sec-Fetch-Site", site)
		before, _ := b.held(t)
		a := b.ask(r, req)
		after, _ := b.held(t)
		err := b.wrong(r, a)
		switch {
		case err == nil && after != before && a.status >= 400:
			err = fmt.Errorf("it changes what it keeps, although it refuses")
		case err == nil && after != before && site != "same-origin" && site != "none":
			err = fmt.Errorf("it obeys another site")
		}
		if err != nil {
			t.Errorf("%s: %v; %s", r, err, a)
		}
		if after != before {
			again(t, b)
		}
	})
}

func again(t testing.TB, b *bed) {
	t.Helper()
	if err := b.anew(); err != nil {
		t.Fatal(err)
	}
}

// FuzzAddress chooses a route that only reads, and asks it with any query, any identifier in the path and any cookie.
// Reading changes nothing, whatever is asked.
func FuzzAddress(f *testing.F) {
	b := rest(f)
	routes := b.those(func(r route) bool { return r.Method == http.MethodGet && r.ID != "watchState" })
	for i, r := range routes {
		for _, query := range []string{"", "limit=1", "limit=1&cursor=" + b.cursor, "cursor=" + b.cursor, "cursor=%zz", "cursor=a;limit=2", "limit=1&limit=2",
			"limit=-1", "limit=99999999999999999999", "limit=%00", "version=1", "version=0", "version=pf_x", "version=9223372036854775808",
			"investor_ref=inv-1", "investor_ref=%ff", "endpoint_id=" + b.ids["ep"], "notice_id=" + b.ids["evt"], "endpoint_id=x", "state=failed", "stat=failed", "lang=xx", "lang=fr", "left", "v=1", "%"} {
			f.Add(uint8(i), query, "", "")
		}
		f.Add(uint8(i), "", strings.Repeat("0", 40), "")
		f.Add(uint8(i), "", "../../x", "__Host-sluis="+b.cookies["read"])
		f.Add(uint8(i), "", "\x00", "__Host-sluis="+strings.Repeat("a", 43))
		f.Add(uint8(i), "", b.path(r), "a=b; __Host-sluis=\"x\"")
	}
	f.Fuzz(func(t *testing.T, which uint8, query, id, cookie string) {
		r := routes[int(which)%len(routes)]
		req := b.request(r, nil)
		req.URL.RawQuery = query
		if i := strings.Index(r.Template, "{"); i >= 0 && id != "" {
			end := i + strings.Index(r.Template[i:], "}") + 1
			path := r.Template[:i] + url.PathEscape(id) + r.Template[end:]
			if strings.Contains(path, "{") {
				return // two parameters: one at a time
			}
			u, err := url.Parse(path)
			if err != nil {
				return
			}
			u.RawQuery = query
			req.URL = u
		}
		if cookie != "" {
			req.Header.Set("Cookie", cookie)
		}
		before, _ := b.held(t)
		a := b.ask(r, req)
		if after, _ := b.held(t); after != before {
			t.Errorf("%s: it changes what it keeps", r)
			again(t, b)
		}
		if a.status >= 300 && a.status < 400 {
			if err := wrongRedirect(a); err != nil {
				t.Errorf("%s: %v", r, err)
			}
			return
		}
		if err := b.wrongAnywhere(r, a); err != nil {
			t.Errorf("%s ?%s %q: %v; %s", r, query, id, err, a)
		}
		limit(t, query, a)
	})
}

// limit checks that a page is no longer than asked for.
func limit(t *testing.T, query string, a answer) {
	t.Helper()
	asked, err := url.ParseQuery(query)
	var page struct{ Data []json.RawMessage }
	if json.Unmarshal(a.body, &page) != nil || a.status != http.StatusOK {
		return
	}
	if err != nil && !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		t.Errorf("a broken query was taken: %q", query)
	}
	if asked.Get("limit") == "1" && len(page.Data) > 1 {
		t.Errorf("%d records for a limit of 1", len(page.Data))
	}
}

// wrongRedirect says whether a redirect leads away from our own pages.
func wrongRedirect(a answer) error {
	to, err := url.Parse(a.header.Get("Location"))
	if a.status == http.StatusNotModified {
		return nil
	}
	if err != nil || to.Host != "" || to.Scheme != "" || !strings.HasPrefix(to.Path, "/") || strings.HasPrefix(to.Path, "//") || strings.HasPrefix(to.Path, `/\`) {
		return fmt.Errorf("it leads to %q", a.header.Get("Location"))
	}
	return nil
}

// wrongAnywhere is wrong for an address that may have left the route: then it is not found.
func (b *bed) wrongAnywhere(r route, a answer) error {
	if a.status == http.StatusNotFound || a.status == http.StatusMethodNotAllowed {
		if r.host() == "pages" && strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
			return wrongPage(a)
		}
		return wrongProblem(r, a)
	}
	return b.wrong(r, a)
}

// FuzzIdempotencyKey makes a request three times with one key: as it is, again, and with another body. It is done once,
// and the key is not taken for another.
func FuzzIdempotencyKey(f *testing.F) {
	b := rest(f)
	i := slices.IndexFunc(b.routes, func(r route) bool { return r.ID == "createAdvisor" })
	for _, key := range []string{"", "a", "\x00", "\xff", " ", strings.Repeat("k", 128), strings.Repeat("k", 129), "ключ", "a\nb", "a,b", `"a"`} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		ask := func(body string) answer {
			req := b.request(b.routes[i], []byte(body))
			req.Header.Set("Idempotency-Key", key)
			a := b.ask(b.routes[i], req)
			if err := b.wrong(b.routes[i], a); err != nil {
				t.Errorf("%v; %s", err, a)
			}
			return a
		}
		var ids [2]struct{ ID string }
		first, second, third := ask(`{"name":"A"}`), ask(`{"name":"A"}`), ask(`{"name":"B"}`)
		if first.status == http.StatusBadRequest {
			if p := first.problem(); p.Field != "Idempotency-Key" {
				t.Errorf("it blames %q", p.Field)
			}
			return
		}
		if err := cmp.Or(json.Unmarshal(first.body, &ids[0]), json.Unmarshal(second.body, &ids[1])); err != nil {
			t.Fatal(err)
		}
		switch {
		case first.status != http.StatusCreated || second.status != http.StatusCreated:
			t.Errorf("%s, %s", first, second)
		case key != "" && (ids[0] != ids[1] || third.status != http.StatusConflict):
			t.Errorf("it was done twice: %s, %s, %s", first, second, third)
		case key == "" && ids[0] == ids[1]:
			t.Error("no key is a key")
		}
		again(t, b)
	})
}

// FuzzAuthorization: nothing but a key opens, and every key that is none looks the same.
func FuzzAuthorization(f *testing.F) {
	b := rest(f)
	i := slices.IndexFunc(b.routes, func(r route) bool { return r.ID == "getClient" })
	token := b.keys[domain.RoleClient]
	for _, value := range []string{"Bearer " + token, "bearer " + token, "Bearer  " + token, "Bearer " + token + " ", "Basic " + token, token, "",
		"Bearer " + token[:len(token)-1], "Bearer " + token + "=", "Bearer\t" + token, "Bearer " + strings.ToUpper(token), "Bearer " + token + ", Bearer x"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		req := b.request(b.routes[i], nil)
		req.Header.Set("Authorization", value)
		a := b.ask(b.routes[i], req)
		if err := b.wrong(b.routes[i], a); err != nil {
			t.Errorf("%v; %s", err, a)
		}
		scheme, sent, _ := strings.Cut(value, " ")
		if good := strings.EqualFold(scheme, "Bearer") && sent == token; good != (a.status == 200) || !good && a.status != 401 {
			t.Errorf("%q: %s", value, a)
		}
	})
}

// FuzzEndpoint configures a webhook: only an https address that can be public is taken.
func FuzzEndpoint(f *testing.F) {
	b := rest(f)
	i := slices.IndexFunc(b.routes, func(r route) bool { return r.ID == "createEndpoint" })
	for _, address := range []string{"https://hooks.example.com/a", "http://hooks.example.com", "http://hooks.example.com:8080/", "https://127.0.0.1/", "https://127.1/", "https://0x7f.1/",
		"https://2130706433/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest", "https://localhost/", "https://a.localhost/",
		"https://u:p@example.com/", "https://example.com:22/", "https://example.com:/", "https://example.com#x", "https://exämple.com/", "https://example.com\x00/",
		"//example.com", "https:example.com", "HTTPS://EXAMPLE.COM/", "https://example.com/%zz", "https://[fe80::1%25eth0]/", "https://metadata.google.internal/"} {
		f.Add(address, "portfolio.updated")
	}
	f.Fuzz(func(t *testing.T, address, kind string) {
		body, err := json.Marshal(map[string]any{"url": address, "types": []string{kind}})
		if err != nil {
			t.Fatal(err)
		}
		a, err := b.attack(t, b.routes[i], body)
		if err != nil {
			t.Errorf("%v; %s", err, a)
		}
		if a.status == http.StatusCreated {
			inward(t, address)
		}
	})
}

// inward complains of an address that anybody can see not to be public.
func inward(t *testing.T, address string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.User != nil || len(address) > 2000 || strings.Contains(address, "#") {
		t.Fatalf("taken: %q", address)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && (!ip.IsGlobalUnicast() || ip.IsPrivate() || ip.Is4In6() && ip.Unmap().IsPrivate()) {
		t.Errorf("taken: %q", address)
	}
	if host := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")); host == "localhost" || strings.HasSuffix(host, ".localhost") || !strings.ContainsAny(host, ".:") {
		t.Errorf("taken: %q", address)
	}
}

// FuzzTime: a time that is taken has a text form of fixed width, which reads the same again.
func FuzzTime(f *testing.F) {
	for _, raw := range values {
		if strings.Contains(raw, ":") && len(raw) < 50 {
			f.Add(strings.Trim(raw, `"`))
		}
	}
	f.Add("2026-03-01T12:00:00.123456789+01:00")
	f.Fuzz(func(t *testing.T, text string) {
		var at, again domain.Time
		if at.UnmarshalText([]byte(text)) != nil || text == "" {
			return
		}
		out := at.String()
		if err := again.UnmarshalText([]byte(out)); err != nil || again != at || len(out) != len("2026-03-01T12:00:00.000Z") || out < "0001" {
			t.Errorf("%q became %q, and that %q, %v", text, out, again, err)
		}
		if raw, err := json.Marshal(at); err != nil || !bytes.Equal(raw, []byte(`"`+out+`"`)) {
			t.Errorf("%s, %v", raw, err)
		}
	})
}

// FuzzID: an identifier that is taken is one by the contract, and can be no path, no query and no other kind.
func FuzzID(f *testing.F) {
	good := string(domain.NewID[domain.ConsentID](domain.Env{}))
	for _, s := range []string{good, "con_", good + "\n", strings.ToUpper(good), "conn_" + good[4:], good[:29] + "u", good[:29] + "é", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := domain.ParseID[domain.ConsentID](s)
		shaped := len(s) == 30 && strings.HasPrefix(s, "con_") && strings.Trim(s[4:], "0123456789abcdefghjkmnpqrstvwxyz") == ""
		if (err == nil) != shaped || err == nil && string(id) != s || err != nil && id != "" {
			t.Errorf("%q: %q, %v", s, id, err)
		}
		if _, err := domain.ParseID[domain.ConnectionID](s); err == nil && shaped {
			t.Errorf("%q is of two kinds", s)
		}
	})
}
