package races

import (
	"context"
	"net/http"
	"slices"
	"testing"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// do plays one step of a journey, whatever comes of it.
func (v *town) do(p *journey.Player, words string) func() error {
	return func() error {
		ctx, done := context.WithTimeout(v.t.Context(), patience)
		defer done()
		return p.Play(ctx, words)
	}
}

// each gives n acts at the town's instances by turns.
func (v *town) each(n int, act func(p *journey.Player) func() error, p *journey.Player) []func() error {
	acts := make([]func() error, n)
	for i := range acts {
		acts[i] = act(v.elsewhere(p))
	}
	return acts
}

// twoUsesOfALink: one visit comes of a link, whoever else uses it.
func twoUsesOfALink(t *testing.T, v *town) {
	for range v.times(3) {
		p := v.player("link", "ask")
		use := func(p *journey.Player) func() error { return v.do(p, "open") }
		if n := wins(t, together(v.each(4, use, p)...), "410", "409"); n != 1 {
			t.Errorf("a link was used %d times", n)
		}
		v.play(p, "terminate")
	}
}

// decisions: of all that an investor says at once one thing counts, and all who said so are told that it does.
func decisions(t *testing.T, v *town) {
	grant := func(p *journey.Player) func() error { return v.do(p, "grant") }
	deny := func(p *journey.Player) func() error { return v.do(p, "deny") }
	for i := range v.times(9) {
		p := v.player("decision", "ask", "open")
		acts := v.each(2, grant, p)
		if i%3 != 0 {
			acts = append(acts, v.each(2, deny, p)...)
		}
		if i%3 == 2 {
			acts = append(acts, v.do(v.elsewhere(p), "terminate"))
		}
		v.dice.Shuffle(len(acts), func(i, j int) { acts[i], acts[j] = acts[j], acts[i] })
		errs := together(acts...)
		wins(t, errs, "403", "409", "consent_terminated", "consent_state", "consent_valid", "consent_rejected")
		if l := v.look(p); l.consent.State == domain.ConsentReceived {
			t.Errorf("after %v it is undecided", errs)
		}
		if i%3 == 0 && wins(t, errs) != 2 {
			t.Error("the same grant twice is refused")
		}
	}
}

// twoSealings: one visit to the bank comes of them, with one login.
func twoSealings(t *testing.T, v *town) {
	const login = "20000005"
	for range v.times(2) {
		p := v.player("sealing", "ask", "open", "grant")
		before := v.bank.Attempts(login)
		seal := func(p *journey.Player) func() error { return v.do(p, "login "+login) }
		var errs []error
		v.inside(login, 0, func() { errs = together(v.each(3, seal, p)...) }, v.over(p), func() {
			if n := wins(t, together(v.each(2, seal, p)...), "session_running"); n != 0 {
				t.Errorf("%d credentials were taken while a session ran", n)
			}
		})
		if n := wins(t, errs, "session_running", "sealing_used"); n != 1 {
			t.Errorf("%d credentials were taken at once", n)
		}
		v.play(p, "done")
		if n := v.bank.Attempts(login) - before; n != 1 {
			t.Errorf("%d logins", n)
		}
		if l := v.settled(p); l.connection.Versions != 1 {
			t.Errorf("%d versions", l.connection.Versions)
		}
	}
}

// ends are the ways in which a consent ends while something is under way. Each is whole when it returns.
func (v *town) ends(p *journey.Player) map[string]func() {
	visit := v.elsewhere(p)
	return map[string]func(){
		"revoked":    func() { v.play(visit, "revoke") },
		"terminated": func() { v.play(p, "terminate") },
		"erased":     func() { v.play(p, "erase all") },
		"erased by the investor": func() {
			body := map[string]any{"consent_id": p.Consent(), "scope": domain.EraseAll}
			must(v.t, visit.Visit(v.t.Context(), http.MethodPost, "/erase", body, nil))
		},
	}
}

// manage gives the journey a visit that may end the consent.
func (v *town) manage(p *journey.Player) *journey.Player { return v.play(p, "link manage") }

// ending picks one of the ends.
func (v *town) ending(p *journey.Player) (string, func()) {
	all := []string{"revoked", "terminated", "erased", "erased by the investor"}
	name := all[v.dice.IntN(len(all))]
	return name, v.ends(p)[name]
}

// ended wants nothing left of it, and nothing more done at the bank than closing, once that many requests were answered
// there. The next one beside closing is the one that was held.
func (v *town) ended(p *journey.Player, how string, asked int) {
	v.t.Helper()
	l := v.settled(p)
	if !domain.ConsentMoves.Final(l.consent.State) {
		v.t.Errorf("%s: the consent is %s", how, l.consent.State)
	}
	later := slices.DeleteFunc(v.bank.Requests()[asked:], func(r bank.Request) bool { return r.Method == http.MethodDelete })
	for _, r := range later[min(1, len(later)):] {
		v.t.Errorf("%s: then the bank was asked %s %s", how, r.Method, r.Path)
	}
	for _, words := range []string{"read positions", "refresh", "read accounts"} {
		if err := v.do(v.elsewhere(p), words)(); !journey.IsRefusal(err) {
			v.t.Errorf("%s: then %s: %v", how, words, err)
		}
	}
}
