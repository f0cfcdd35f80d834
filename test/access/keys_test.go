package access

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/consent"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

// twoProcesses is one house in a process of its own, and beside it another on the same data in this process. The answer
// of the one must follow what was done at the other at once: nothing that lets somebody in is kept in memory.
type twoProcesses struct {
	*testing.T
	first  *house.House
	second *home.Home
}

func openTwo(t *testing.T) *twoProcesses {
	t.Helper()
	p := &twoProcesses{T: t, first: house.Open(t, house.Options{Sweep: time.Hour})}
	h, err := home.Open(t.Context(), home.Settings{Data: p.first.Data, API: "127.0.0.1:0", Pages: "127.0.0.1:0", Sweep: time.Hour, PerMinute: 100_000})
	must(t, err)
	p.second = h
	t.Cleanup(func() { must(t, h.Stop()) })
	h.Begin(t.Context())
	return p
}

// at sends a request by the network to one of the two.
func (p *twoProcesses) at(first bool, r request) *http.Response {
	p.Helper()
	base := map[string]string{"api": p.second.APIURL(), "pages": p.second.PagesURL()}
	if first {
		base = map[string]string{"api": p.first.API, "pages": p.first.Pages}
	}
	req, err := http.NewRequestWithContext(p.Context(), r.method, base[r.host]+r.path, strings.NewReader(r.body))
	must(p, err)
	req.Header = r.header
	if strings.HasPrefix(r.body, "{") {
		req.Header.Set("Content-Type", "application/json")
	}
	a, err := (&http.Transport{}).RoundTrip(req)
	must(p, err)
	p.Cleanup(func() { _ = a.Body.Close() })
	return a
}

// both says what each of the two answers to a key.
func (p *twoProcesses) both(token string, want int) {
	p.Helper()
	for _, first := range []bool{true, false} {
		if a := p.at(first, api(token, "GET", "/v1/consents", "")); a.StatusCode != want {
			p.Errorf("process %v answers the key with %d, want %d", map[bool]int{true: 1, false: 2}[first], a.StatusCode, want)
		}
	}
}

// TestKeysEndAtOnce ends keys in every way there is, each at the process that did not see it before.
func TestKeysEndAtOnce(t *testing.T) {
	p := openTwo(t)
	issue := func(role, advisor string) (id, token string) {
		var k made
		body := map[string]string{"role": role}
		if advisor != "" {
			body["advisor_id"] = advisor
		}
		must(t, p.first.Call(t.Context(), "POST", "/v1/keys", body, &k))
		p.both(k.Token, 200)
		return k.ID, k.Token
	}
	id, token := issue("client", "")
	if a := p.at(false, api(p.first.Token, "DELETE", "/v1/keys/"+id, "")); a.StatusCode != 204 {
		t.Fatalf("revoking: %d", a.StatusCode)
	}
	p.both(token, 401)

	id, token = issue("reviewer", "")
	p.first.WithStore(t, func(b *home.Backend) { must(t, consent.RevokeKey(t.Context(), b, b.Env, domain.KeyID(id), false)) })
	p.both(token, 401)

	id, token = issue("client", "")
	if a := p.at(false, api(token, "DELETE", "/v1/keys/"+id, "")); a.StatusCode != 204 {
		t.Fatalf("a key revoking itself: %d", a.StatusCode)
	}
	p.both(token, 401)

	id, token = issue("client", "")
	if a := p.at(false, api(p.first.Token, "POST", "/v1/keys/"+id+"/rotate", `{"overlap_hours": 0}`)); a.StatusCode != 201 {
		t.Fatalf("replacing: %d", a.StatusCode)
	}
	p.both(token, 401)

	var advisor made
	must(t, p.first.Call(t.Context(), "POST", "/v1/advisors", map[string]string{"name": "Jane Doe"}, &advisor))
	_, token = issue("advisor", advisor.ID)
	if a := p.at(false, api(p.first.Token, "DELETE", "/v1/advisors/"+advisor.ID, "")); a.StatusCode != 204 {
		t.Fatalf("removing: %d", a.StatusCode)
	}
	p.both(token, 403)
}

// TestVisitsEndAtOnce: a stream that is open at one process ends when the investor leaves at the other; after a
// withdrawal it says that all is over, and nothing else any more.
func TestVisitsEndAtOnce(t *testing.T) {
	p := openTwo(t)
	for name, end := range map[string]request{
		"leave":  {"pages", "POST", "/leave", "", nil},
		"revoke": {"pages", "POST", "/me/revoke", "consent_id=", nil},
	} {
		player := p.first.Player("ends-by-" + name)
		for _, s := range []string{"ask", "open", "grant", "login 20000001", "challenge code"} {
			must(t, player.Play(t.Context(), s))
		}
		visit := player.Cookie().Value
		stream := p.at(true, page(visit, "GET", "/challenge/events", ""))
		lines := bufio.NewScanner(stream.Body)
		if stream.StatusCode != 200 || !lines.Scan() {
			t.Fatalf("%s: no stream: %d", name, stream.StatusCode)
		}
		at := page(visit, end.method, end.path, end.body)
		if end.body != "" {
			at.body += player.Consent()
		}
		at.header.Set("Content-Type", "application/x-www-form-urlencoded")
		if a := p.at(false, at); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("%s: %d", name, a.StatusCode)
		}
		p.streamEnds(name, lines)
		status := map[string]int{"leave": 401, "revoke": 404}[name]
		for _, first := range []bool{true, false} {
			a := p.at(first, page(visit, "GET", "/challenge/"+string(player.Asked())+"/image", ""))
			if a.StatusCode != status {
				t.Errorf("after %s the bank's picture is answered with %d, want %d", name, a.StatusCode, status)
			}
		}
	}
}

// streamEnds reads until the stream ends or says that all is over. What a page would show must not come after that.
func (p *twoProcesses) streamEnds(name string, lines *bufio.Scanner) {
	p.Helper()
	over := make(chan string, 1)
	go func() {
		last := ""
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if last = data; strings.Contains(data, `"page":"ended"`) {
					break
				}
			}
		}
		over <- last
	}()
	select {
	case last := <-over:
		if name == "revoke" && (!strings.Contains(last, `"page":"ended"`) || strings.Contains(last, "challenge")) {
			p.Errorf("after the withdrawal the stream says %s", last)
		}
	case <-time.After(20 * time.Second):
		p.Errorf("%s: the stream is open still", name)
	}
}

// TestRotationLeavesNoGap: while a key is replaced, the old one opens until its overlap is over and the new one from its
// first moment; of many who replace it at once, one does.
func TestRotationLeavesNoGap(t *testing.T) {
	w := open(t)
	w.pass(past)
	var old made
	w.ask(api(w.Token, "POST", "/v1/keys", `{"role": "client"}`), &old)
	opens := func(token string) int { return w.send(api(token, "GET", "/v1/client", "")).Code }
	var group sync.WaitGroup
	var done atomic.Bool
	for range 2 {
		group.Go(func() {
			for !done.Load() {
				if status := opens(old.Token); status != 200 {
					t.Errorf("the key that is being replaced answers %d", status)
					return
				}
			}
		})
	}
	var fresh atomic.Pointer[made]
	var refused atomic.Int32
	var rotating sync.WaitGroup
	for range 8 {
		rotating.Go(func() {
			a := w.send(api(w.Token, "POST", "/v1/keys/"+old.ID+"/rotate", `{"overlap_hours": 1}`))
			if a.Code == http.StatusConflict {
				refused.Add(1)
				return
			}
			var k made
			if err := json.Unmarshal(a.Body.Bytes(), &k); err != nil {
				t.Errorf("replacing: %d %s", a.Code, a.Body)
				return
			}
			fresh.Store(&k)
			if status := opens(k.Token); status != 200 {
				t.Errorf("the new key answers %d", status)
			}
		})
	}
	rotating.Wait()
	done.Store(true)
	group.Wait()
	if refused.Load() != 7 || fresh.Load() == nil {
		t.Fatalf("of 8 replacements at once %d were refused, want 7", refused.Load())
	}
	w.pass(time.Hour - 5*time.Second)
	if got := opens(old.Token); got != 200 {
		t.Errorf("before the overlap is over the old key answers %d", got)
	}
	w.pass(6 * time.Second)
	if got := opens(old.Token); got != 401 {
		t.Errorf("after the overlap the old key answers %d", got)
	}
	if got := opens(fresh.Load().Token); got != 200 {
		t.Errorf("after the overlap the new key answers %d", got)
	}
}
