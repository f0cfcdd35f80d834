package races

import (
	"net/http"
	"slices"
	"sync/atomic"
	"testing"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

// unattended is a login whose refreshes pass without the investor, and whose data changes; coded asks for a code.
const (
	unattended = "20000043"
	coded      = "20000002"
)

// connected is a journey whose portfolio was read once.
func (v *town) connected(name string) *journey.Player {
	v.t.Helper()
	p := v.player(name, "ask", "open", "grant", "login "+unattended)
	v.active(p)
	return p
}

// active waits until a session is over, and wants the connection in order. It is quicker than watching the page.
func (v *town) active(p *journey.Player) *look {
	v.t.Helper()
	l := v.settled(p)
	if l.connection.State != domain.ConnectionActive {
		v.t.Fatalf("it is not active: %s", l)
	}
	return l
}

// times is how often a case is repeated, or more with -long.
func (v *town) times(n int) int {
	if *house.Long {
		return 10 * n
	}
	return n
}

// places of an act at the bank at which a rival comes in: all, or one in two of them where a town repeats what another
// kind of town does whole.
func (v *town) skip(n int) bool { return len(v.places) > 1 && !*house.Long && (n+v.turn)%3 != 0 }

// everywhere does act and rival in every place of act where the bank is asked something.
func (v *town) everywhere(login string, begin func() *journey.Player, act, rival func(p *journey.Player)) {
	v.t.Helper()
	places := 0
	for n := 0; ; n++ {
		if v.skip(n) && n < 60 && places > 0 {
			if places >= 5 {
				break
			}
			continue
		}
		p := begin()
		there := v.inside(login, n, func() { act(p) }, v.over(p), func() { rival(p) })
		v.settled(p)
		if !there {
			break
		}
		places++
		if v.t.Failed() {
			v.t.Logf("at request %d", n)
			return
		}
	}
	if places < 3 {
		v.t.Errorf("only %d places", places)
	}
}

// refreshed is what a client is told of a refresh.
type refreshed struct {
	ID string `json:"session_id"`
}

// twoRefreshes: while one is under way, it answers for all.
func twoRefreshes(t *testing.T, v *town) {
	p := v.connected("refreshes")
	for range v.times(2) {
		before, visits := v.look(p).connection.Versions, v.bank.Attempts(unattended)
		var seen [8]refreshed
		ask := func(i int) func() error {
			place := v.places[i%len(v.places)]
			return func() error {
				return place.Call(t.Context(), http.MethodPost, "/v1/connections/"+p.Connection()+"/refresh", struct{}{}, &seen[i])
			}
		}
		there := v.inside(unattended, 0, func() {
			wins(t, together(ask(0), ask(1), ask(2), ask(3)))
		}, v.over(p), func() { wins(t, together(ask(4), ask(5), ask(6), ask(7))) })
		if !there {
			t.Fatal("the bank was not asked")
		}
		v.let()
		l := v.settled(p)
		for _, s := range seen {
			if s.ID != seen[0].ID || s.ID == "" {
				t.Errorf("sessions %v of one refresh", seen)
			}
		}
		if l.connection.Versions != before+1 || v.bank.Attempts(unattended) != visits+1 {
			t.Errorf("%d versions and %d logins of one refresh", l.connection.Versions-before, v.bank.Attempts(unattended)-visits)
		}
	}
	v.play(p, "read positions complete")
}

// sameAccounts remembers a connection's account names, and wants them unchanged later.
func (v *town) sameAccounts(p *journey.Player) func() {
	names := func() []string {
		var page struct {
			Data []struct {
				ID string `json:"id"`
			} `json:"data"`
		}
		must(v.t, v.places[0].Call(v.t.Context(), http.MethodGet, "/v1/connections/"+p.Connection()+"/portfolio/accounts", nil, &page))
		var all []string
		for _, a := range page.Data {
			all = append(all, a.ID)
		}
		slices.Sort(all)
		return all
	}
	before := names()
	return func() {
		if after := names(); !slices.Equal(before, after) || len(after) == 0 {
			v.t.Errorf("accounts %v became %v", before, after)
		}
	}
}

// refreshAgainstEnd ends the consent inside a refresh, at every request to the bank.
func refreshAgainstEnd(t *testing.T, v *town) {
	begin := func() *journey.Player { return v.manage(v.connected("end")) }
	v.everywhere(unattended, begin, func(p *journey.Player) { v.play(p, "refresh") }, func(p *journey.Player) {
		how, end := v.ending(p)
		end()
		asked := len(v.bank.Requests())
		v.let()
		v.ended(p, how, asked)
	})
}

// firstAgainstEnd does so inside the first reading.
func firstAgainstEnd(t *testing.T, v *town) {
	begin := func() *journey.Player { return v.player("first", "ask", "open", "grant") }
	v.everywhere(unattended, begin, func(p *journey.Player) { v.play(p, "login "+unattended) }, func(p *journey.Player) {
		v.play(p, "terminate")
		asked := len(v.bank.Requests())
		v.let()
		v.ended(p, "terminated", asked)
	})
}

// refreshAgainstErasure removes credentials or data inside a refresh. What was asked to be removed is gone; the consent
// goes on, and the connection can be brought back.
func refreshAgainstErasure(t *testing.T, v *town) {
	for _, scope := range []domain.ErasureScope{domain.EraseCredentials, domain.EraseData} {
		begin := func() *journey.Player { return v.connected("erase-" + string(scope)) }
		v.everywhere(unattended, begin, func(p *journey.Player) { v.play(p, "refresh") }, func(p *journey.Player) {
			versions := v.look(p).connection.Versions
			v.play(p, "erase "+string(scope))
			v.let()
			l := v.settled(p)
			gone := l.credential == nil
			if scope == domain.EraseData {
				gone = l.key == nil && len(l.portfolios) == 0 && len(l.parts) == 0
			}
			if !gone || l.consent.State != domain.ConsentValid || l.connection.Versions != versions {
				t.Errorf("%s: %v, %v, %d versions, %d parts; %d readings", scope, l.credential, l.key, len(l.portfolios), len(l.parts), l.connection.Versions)
			}
			v.comeBack(p)
		})
	}
}

// comeBack has the investor return and log in again.
func (v *town) comeBack(p *journey.Player) {
	v.t.Helper()
	p = v.play(v.play(p, "link reconnect"), "login "+unattended)
	v.active(p)
	v.play(p, "read positions complete")
}

// refreshAgainstNarrowing takes products away inside a refresh. They are out of reach at once, and no part of them is
// written.
func refreshAgainstNarrowing(t *testing.T, v *town) {
	begin := func() *journey.Player { return v.connected("narrow") }
	v.everywhere(unattended, begin, func(p *journey.Player) { v.play(p, "refresh") }, func(p *journey.Player) {
		body := map[string]any{"products": []domain.Product{domain.ProductAccounts, domain.ProductCash}}
		place := v.places[len(v.places)-1]
		must(t, place.Call(t.Context(), http.MethodPatch, "/v1/consents/"+p.Consent(), body, nil))
		before := map[string]bool{}
		for _, part := range v.look(p).parts {
			before[part.ID] = true
		}
		v.let()
		l := v.settled(p)
		for _, part := range l.parts {
			if part.Product == domain.ProductPositions && !before[part.ID] {
				t.Errorf("positions were written after they were taken away")
			}
		}
		if err := v.do(v.elsewhere(p), "read positions")(); refusal(err) != "consent_scope" {
			t.Errorf("reading what was taken away: %v", err)
		}
		v.play(p, "read accounts complete")
	})
}

// twoAnswers gives several answers to one question: one goes to the bank.
func twoAnswers(t *testing.T, v *town) {
	rivals := []string{"code 111111", "code 999999", "cancel", "renew", "method M_TAN"}
	for i := range v.times(len(rivals)) {
		p := v.player("answers", "ask", "open", "grant", "login "+coded, "challenge code")
		var first error
		done := make(chan struct{})
		act := func() {
			go func() { defer close(done); first = v.do(p, "code 111111")() }()
		}
		rival := func() {
			errs := together(v.do(v.elsewhere(p), rivals[i%len(rivals)]), v.do(v.elsewhere(p), "code 111111"))
			if n := wins(t, errs, "answer_in_progress", "sealing_used"); n != 0 {
				t.Errorf("%d answers were taken beside another one: %v", n, errs)
			}
		}
		if !v.inside(coded, v.dice.IntN(2), act, func() bool { return false }, rival) {
			t.Fatal("the bank was not asked")
		}
		v.let()
		<-done
		must(t, first)
		v.play(p, "done")
		// Once more, all at the same time: whoever comes first has his way.
		q := v.player("answers-together", "ask", "open", "grant", "login "+coded, "challenge code")
		errs := together(v.do(v.elsewhere(q), "code 111111"), v.do(v.elsewhere(q), "code 111111"), v.do(v.elsewhere(q), "code 111111"))
		if n := wins(t, errs, "answer_in_progress", "challenge_over", "sealing_used"); n != 1 {
			t.Errorf("%d answers were taken at once: %v", n, errs)
		}
		v.play(q, "done")
	}
}

// answerAgainstEnd ends the consent while the answer is at the bank, and everywhere until the end of the reading.
func answerAgainstEnd(t *testing.T, v *town) {
	begin := func() *journey.Player {
		return v.player("answer", "ask", "open", "grant", "login "+coded, "challenge code")
	}
	var answering atomic.Bool
	act := func(p *journey.Player) {
		answering.Store(true)
		go func() { defer answering.Store(false); _ = v.do(p, "code 111111")() }() // refused, if the end comes first
	}
	v.everywhere(coded, begin, act, func(p *journey.Player) {
		v.play(p, "terminate")
		asked := len(v.bank.Requests())
		v.let()
		v.await("the answer", func() bool { return !answering.Load() })
		v.ended(p, "terminated", asked)
	})
}

// readingAgainstErasure reads page by page while the data is removed: what comes is whole, or a refusal.
func readingAgainstErasure(t *testing.T, v *town) {
	for i := range v.times(3) {
		p := v.connected("reading")
		var acts []func() error
		for j := range 6 {
			q := v.elsewhere(p)
			acts = append(acts, func() error {
				for range 5 {
					if err := v.do(q, "read "+string(domain.Products[j%4])+" complete")(); err != nil {
						return err
					}
				}
				return nil
			})
		}
		acts = append(acts, v.do(v.elsewhere(p), "erase data"), v.do(v.elsewhere(p), []string{"erase data", "terminate", "refresh"}[i%3]))
		wins(t, together(acts...), "not_found", "portfolio_missing", "data_erased", "consent_terminated", "portfolio_none", "no_portfolio", "gone")
		v.settled(p)
		if i%3 == 0 {
			v.comeBack(p)
		}
	}
}
