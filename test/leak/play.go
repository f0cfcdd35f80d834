package leak

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/journey"
)

// Marks in passwords are those that every escape writes in another way.
const Marks = `ä"<&%+/€`

// Disguise tells a journey with canaries for the investor's name, the user name, and every password and code. Passwords
// have marks in their middle.
func (w *Witness) Disguise(j journey.Journey, marks string) journey.Journey {
	out := journey.Journey{Name: w.nest.Lay(Reference, j.Name, "", 18), Title: j.Name}
	for _, step := range j.Steps {
		words := strings.Fields(step)
		switch words[0] {
		case "login":
			l, _ := bank.Find(words[1])
			pin := l.PIN
			if len(words) > 2 {
				pin = strings.TrimPrefix(words[2], "pin=")
			}
			step = fmt.Sprintf("login %s user=%s pin=%s", l.Number, w.TypeNumber(j.Name, l.Number),
				w.Type(Password, j.Name, marks, 30, pin))
		case "code":
			step = "code " + w.Type(Code, j.Name, "", 20, words[1])
		}
		out.Steps = append(out.Steps, step)
	}
	return out
}

// Unfinished are journeys that break off where a password or a code has just been at the bank, for whatever comes after
// may write over what was left of it.
var Unfinished = map[string]string{
	"refused":        "login 20000011 / connect credentials_refused",
	"locked":         "login 20000012 / paused account_locked",
	"asked":          "login 20000002 / challenge code",
	"wrong code":     "login 20000022 / challenge code / code 999999 / challenge again",
	"expired code":   "login 20000021 / challenge code / code 111111 / challenge expired",
	"no code at all": "login 20000001 / challenge code / cancel / paused sca_cancelled",
	"read":           "login 20000002 / challenge code / code 111111 / done",
	"read again":     "login 20000005 / done / refresh / version 2",
	"bank down":      "login 20000033 / paused bank_unavailable",
}

// BreakingOff is one of them.
func BreakingOff(name string) journey.Journey {
	return journey.Journey{Name: name, Steps: append([]string{"ask", "open", "grant"}, strings.Split(Unfinished[name], " / ")...)}
}

// Rotate has keys and secrets made that journeys make none of.
func Rotate(t testing.TB, p *journey.Place) {
	t.Helper()
	var endpoints struct{ Data []struct{ ID string } }
	var key struct{ ID string }
	for _, c := range []struct {
		method, path string
		body, out    any
	}{
		{"GET", "/v1/endpoints", nil, &endpoints},
		{"POST", "/v1/keys", map[string]string{"role": "reviewer", "label": "second"}, &key},
		{"POST", "/v1/endpoints", map[string]string{"url": p.Inbox.URL() + "/second"}, nil},
		{"POST", "/v1/advisors", map[string]string{"name": "Ada Advisor"}, nil},
	} {
		if err := p.Call(t.Context(), c.method, c.path, c.body, c.out); err != nil {
			t.Fatal(c.method, c.path, err)
		}
	}
	for _, path := range []string{"/v1/keys/" + key.ID + "/rotate", "/v1/endpoints/" + endpoints.Data[0].ID + "/rotate"} {
		if err := p.Call(t.Context(), "POST", path, map[string]any{}, nil); err != nil {
			t.Fatal(path, err)
		}
	}
}

// Stumble does what careless programs and people do: secrets and names in the wrong place, addresses that are not there, broken messages.
func Stumble(t testing.TB, p *journey.Place, n *Nest) {
	t.Helper()
	bearer := "Bearer " + p.Token
	stray := func(what string) string { return n.Lay(Stray, what, "", 24) }
	wanted := `{"investor_ref":"` + n.Lay(Reference, "by hand", "", 18) + `","purpose":{"code":"tax"},"products":["accounts"]}`
	send(t, p.API, "POST", "/v1/consents", wanted, "Authorization", bearer, "Idempotency-Key", stray("idempotency key"),
		"User-Agent", stray("user agent"), "Accept-Language", stray("language"), "Traceparent", stray("trace"))
	for _, body := range []string{`{"investor_ref":"` + stray("value") + `","nonsense":1}`, `{"` + stray("member") + `":1}`,
		`{"purpose":"` + stray("purpose") + `"}`, stray("no JSON"), `{"a":"` + stray("broken JSON")} {
		send(t, p.API, "POST", "/v1/consents", body, "Authorization", bearer)
		send(t, p.Pages, "POST", "/seal", body)
		send(t, p.Pages, "POST", "/challenge/answer", body)
	}
	send(t, p.API, "GET", "/v1/consents?api_key="+stray("query"), "")
	send(t, p.API, "GET", "/v1/consents?cursor="+stray("cursor"), "", "Authorization", bearer)
	send(t, p.API, "GET", "/v1/consents/con_"+stray("identifier"), "", "Authorization", bearer)
	send(t, p.API, "GET", "/v1/"+stray("path"), "", "Authorization", "Bearer "+stray("key"), "Referer", "https://x/"+stray("referer"))
	send(t, p.API, "DELETE", "/v1/consents", "", "Authorization", "Basic "+stray("basic"))
	send(t, p.Pages, "GET", "/i/"+stray("link"), "", "Cookie", "__Host-sluis="+stray("cookie"))
	send(t, p.Pages, "GET", "/me", "", "Cookie", "__Host-sluis="+n.Lay(Stray, "cookie", "", 43), "User-Agent", stray("agent"))
	send(t, p.Pages, "GET", "/"+stray("page"), "", "X-Forwarded-For", stray("address"))
}

// send makes one request; whatever is answered is as it should be.
func send(t testing.TB, at, method, path, body string, header ...string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

// Report says where which class leaks, with one example of each.
func Report(t testing.TB, tour *Tour, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	count, example := map[string]int{}, map[string]Leak{}
	for _, l := range tour.Leaks {
		what := string(l.Canary.Class) + " in " + l.Place
		count[what]++
		example[what] = l
	}
	for _, what := range slices.Sorted(maps.Keys(count)) {
		t.Errorf("%d times %s, for example in %s: %s", count[what], what, example[what].Piece, example[what].Finding)
	}
}

// Buffer collects what several write.
type Buffer struct {
	mu  sync.Mutex
	all []byte
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, p...)
	return len(p), nil
}

// Bytes is all of it so far.
func (b *Buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.all)
}

// OnlyWebhooks are the lines of a record that are webhooks.
func OnlyWebhooks(record []byte) []byte {
	var out []string
	for line := range strings.Lines(string(record)) {
		if strings.Contains(line, `"kind":"webhook"`) {
			out = append(out, line)
		}
	}
	return []byte(strings.Join(out, ""))
}
