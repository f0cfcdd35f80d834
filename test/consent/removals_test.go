package consent_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// removal is one way in which what was allowed is taken away.
type removal struct {
	name   string
	to     domain.ConsentState   // what becomes of the consent, where that is one state
	states []domain.ConsentState // where it is not: those in which it can be done
	do     func(*play) error
	check  func(*play, []string)
}

// from are the states of the consent in which it can be done.
func (r *removal) from() []domain.ConsentState {
	if r.to == "" {
		return r.states
	}
	return slices.DeleteFunc(slices.Clone(anyOf), func(s domain.ConsentState) bool { return !slices.Contains(domain.ConsentMoves[s], r.to) })
}

// removals are all of them: every move of a consent to an end, and whatever makes it cover less.
var removals = []removal{
	{"revoked by the investor", domain.ConsentRevoked, nil, visitTo("manage", "revoke"), ended},
	{"denied", domain.ConsentRejected, nil, visitTo("consent", "deny"), ended},
	{"terminated by the client", domain.ConsentTerminated, nil, elsewhere("terminate"), ended},
	{"removed by the client", domain.ConsentTerminated, nil, elsewhere("erase all"), ended},
	{"over by the clock", domain.ConsentExpired, nil, func(p *play) error {
		if domain.ConsentMoves.Final(p.consentNow().State) {
			return errTooLate
		}
		p.shift.Add(int64(soon))
		p.change(func(domain.Tx) error { return nil }) // waits for what began before
		return nil
	}, expired},
	{"erased by the investor", "", anyOf, eraseAll, ended},
	{"narrowed", "", open2, func(p *play) error { return p.patch("products", "accounts", "cash") }, narrowed},
	{"advisor taken out", "", open2, func(p *play) error { return p.patch("advisors") }, advisorGone},
	{"advisor removed", "", anyOf, func(p *play) error {
		return p.Call(p.t.Context(), http.MethodDelete, "/v1/advisors/"+string(p.called.id), nil, nil)
	}, advisorRemoved},
	{"client suspended", "", anyOf, barred(domain.ClientSuspended), suspension},
	{"client closed", "", anyOf, barred(domain.ClientClosed), suspension},
	{"credentials erased", "", anyOf, elsewhere("erase credentials"), credentialsGone},
	{"data erased", "", anyOf, elsewhere("erase data"), dataGone},
}

// TestEveryEndHasARemoval holds the removals to the transition tables.
func TestEveryEndHasARemoval(t *testing.T) {
	for from, moves := range domain.ConsentMoves {
		for _, to := range moves {
			if domain.ConsentMoves.Final(to) && !slices.ContainsFunc(removals, func(r removal) bool { return r.to == to }) {
				t.Errorf("a consent that is %s may become %s, and no removal does that", from, to)
			}
		}
	}
	for _, to := range domain.ClientMoves[domain.ClientActive] {
		if !slices.ContainsFunc(removals, func(r removal) bool { return r.name == "client "+string(to) }) {
			t.Errorf("a client may become %s, and no removal does that", to)
		}
	}
}

// elsewhere takes a step from another browser, or as the client.
func elsewhere(words string) func(*play) error {
	return func(p *play) error { return p.other.Play(p.t.Context(), words) }
}

// visitTo takes a step in a visit of its own.
func visitTo(purpose, words string) func(*play) error {
	return func(p *play) error {
		return andThen(p.other.Play(p.t.Context(), "link "+purpose), func() error { return p.other.Play(p.t.Context(), words) })
	}
}

// barred makes the client one that may not act, and waits for the webhooks that are on their way.
func barred(state domain.ClientState) func(*play) error {
	return func(p *play) error {
		p.become(state)
		return p.until(func() (bool, error) {
			backlog, err := p.Home.Pending(p.t.Context())
			return !slices.ContainsFunc(backlog, func(l backend.Backlog) bool { return l.Topic == domain.TopicDelivery && l.State == "leased" }), err
		})
	}
}

// errTooLate says that the consent was over already.
var errTooLate = &journey.Refusal{Status: http.StatusConflict, Code: "too_late"}

func andThen(err error, then func() error) error {
	if err != nil {
		return err
	}
	return then()
}

func eraseAll(p *play) error {
	body := map[string]string{"consent_id": p.player.Consent(), "scope": "all"}
	return andThen(p.other.Play(p.t.Context(), "link manage"), func() error {
		return p.other.Visit(p.t.Context(), http.MethodPost, "/erase", body, nil)
	})
}

// patch leaves only these of the consent's products or advisors.
func (p *play) patch(what string, remaining ...string) error {
	path := "/v1/consents/" + p.player.Consent()
	return p.Call(p.t.Context(), http.MethodPatch, path, map[string][]string{what: append([]string{}, remaining...)}, nil)
}

// become brings the client to another state; here one that is closed opens again.
func (s *scene) become(state domain.ClientState) {
	s.change(func(tx domain.Tx) error {
		c := &domain.Client{ID: s.client}
		if err := tx.Get(c); err != nil {
			return err
		}
		c.State = state
		return tx.Put(c)
	})
}

// takesAway are the acts that may follow the end of a consent.
var takesAway = []string{"consent.revoked", "consent.terminated", "consent.rejected", "consent.expired", "erasure.begun",
	"erasure.continued", "erasure.completed", "erasure.repeated", "session.cancelled", "session.closed", "session.left",
	"deliveries.made", "webhook.sent", "link.created", "link.redeemed", "schedule.stopped", "schedule.postponed",
	"portfolio.parts_dropped", "portfolio.retired", "portfolio.trimmed"} // what the version before had

// quiet makes sure that since the removal nothing was asked of the bank but to close, and that all sessions are closed.
func (p *play) quiet() {
	p.t.Helper()
	p.mu.Lock()
	asked := slices.Clone(p.asked)
	p.mu.Unlock()
	if len(asked) > 0 {
		p.t.Errorf("the bank was asked since: %q", asked)
	}
	p.closed()
}

// closed makes sure that no session stands open, here or at the bank.
func (p *play) closed() {
	p.t.Helper()
	if n := p.Home.Bank.OpenSessions(p.login); p.login != "" && n > 0 {
		p.t.Errorf("%d sessions stand open at the bank", n)
	}
	for _, s := range connected[domain.Session](p, "sessions_by_connection") {
		if !domain.SessionMoves.Final(s.State) || len(s.Sealed) > 0 {
			p.t.Errorf("the session is %s, with a way back into the bank: %v", s.State, len(s.Sealed) > 0)
		}
	}
}

// connected lists documents of the play's connection.
func connected[T any, P interface {
	*T
	domain.Document
}](p *play, index string) []T {
	p.t.Helper()
	found, _, err := domain.List[T, P](p.t.Context(), p.Home, domain.Query{Index: index, Match: []string{p.player.Connection()}, Limit: 1000})
	must(p.t, err)
	return found
}

// erased makes sure that of these kinds nothing is held any more.
func (p *play) erased(kinds ...domain.DocumentKind) {
	p.t.Helper()
	for _, kind := range kinds {
		if kind == "credential" || kind == "data_key" {
			doc := &document{kind: kind, key: p.player.Connection()}
			if err := p.Home.Get(p.t.Context(), doc); domain.KindOf(err) != domain.NotFound {
				p.t.Errorf("a %s is still held (%v)", kind, err)
			}
			continue
		}
		index := listed[kind].index
		if kind == "challenge" {
			index = "challenges_by_connection"
		}
		if found := p.list(index, p.player.Connection()); len(found) > 0 {
			p.t.Errorf("%d of kind %s are still held", len(found), kind)
		}
	}
}

// since are the play's audit entries that came after the removal.
func (p *play) since() (fresh []domain.Entry) {
	for _, e := range p.entriesSince(p.log) {
		if string(e.Data.ConsentID) == p.player.Consent() {
			fresh = append(fresh, e)
		}
	}
	return fresh
}

// only makes sure that nothing was done since but what these acts do.
func (p *play) only(acts ...string) {
	p.t.Helper()
	for _, e := range p.since() {
		if e.Data.Outcome == domain.OutcomeAllowed && !slices.Contains(acts, strings.TrimPrefix(e.Type, "sluis.")) {
			p.t.Errorf("%s was done since", e.Type)
		}
	}
}

// unreadable makes sure that neither the client nor the advisor reads anything of these paths.
func (p *play) unreadable(by *journey.Place, paths ...string) {
	p.t.Helper()
	for _, path := range paths {
		err := by.Call(p.t.Context(), http.MethodGet, "/v1/connections/"+p.player.Connection()+path, nil, nil)
		if !journey.IsRefusal(err) {
			p.t.Errorf("GET …%s was not refused: %v", path, err)
		}
	}
}

var readings = []string{"/portfolio", "/portfolios", "/portfolio/accounts", "/portfolio/positions", "/portfolio/transactions"}

// goOn plays the rest of a journey, none of which may succeed but what only waits or looks.
func (p *play) goOn(rest []string) {
	p.t.Helper()
	for _, words := range rest {
		word, _, _ := strings.Cut(words, " ")
		if journey.Awaited(words) != nil || slices.Contains([]string{"webhooks", "refusals", "refused", "terminate", "revoke",
			"deny", "erase", "approve", "image", "version"}, word) || words == "link manage" {
			continue // it only waits, or takes away
		}
		if err := p.does(words); err == nil && words != "clock" {
			p.t.Errorf("%s was possible", words)
		}
	}
	p.rest()
}

// certified makes sure that a webhook tells of each certificate, and gives back all webhooks in their order.
func (p *play) certified() (got []string) {
	p.t.Helper()
	certificates := 0
	err := p.until(func() (bool, error) {
		got, certificates = p.Inbox.Of(p.player.Connection()), 0
		for _, e := range connected[domain.Erasure](p, "erasures_by_connection") {
			if len(e.Signature) > 0 {
				certificates++
			}
		}
		return count(got, string(domain.NoticeErasureCompleted)) == certificates && !slices.Contains(got, "-"), nil
	})
	if err != nil {
		p.t.Errorf("the webhooks are %q, with %d certificates", got, certificates)
	}
	return got
}

func count(names []string, name string) (n int) {
	for _, one := range names {
		if one == name {
			n++
		}
	}
	return n
}

// toldOnce makes sure that one webhook says how the consent ended, and that after it come only those of erasures.
func (p *play) toldOnce(state domain.ConsentState) {
	p.t.Helper()
	got := p.certified()
	end := slices.Index(got, "consent."+string(state))
	for i, name := range got {
		switch {
		case i == end || i > end && name == string(domain.NoticeErasureCompleted):
		case i > end || strings.HasPrefix(name, "consent.") && name != string(domain.NoticeConsentGranted):
			p.t.Errorf("the webhooks are %q, want one consent.%s and after it only that all was erased", got, state)
			return
		}
	}
}

// ended checks what is left when a consent has come to an end.
func ended(p *play, rest []string) {
	p.t.Helper()
	over := func() {
		p.t.Helper()
		c := p.consentNow()
		if p.removal.to != "" && c.State != p.removal.to || !domain.ConsentMoves.Final(c.State) {
			p.t.Errorf("the consent is %s, want %s", c.State, p.removal.to)
		}
		if got := p.connectionNow().State; got != domain.ConnectionRemoved {
			p.t.Errorf("the connection is %s", got)
		}
		p.quiet()
		p.erased("credential", "data_key", "portfolio", "part", "challenge")
		p.only(takesAway...)
	}
	over()
	p.unreadable(&p.Place, readings...)
	p.unreadable(p.as(p.called.token), readings...)
	p.goOn(rest)
	must(p.t, p.round())
	p.rest()
	over()
	c, all := p.consentNow(), 0
	for _, e := range connected[domain.Erasure](p, "erasures_by_connection") {
		if e.Scope == domain.EraseAll {
			all++
		}
	}
	if all > 1 || all == 0 && c.Custodian != "" {
		p.t.Errorf("there are %d certificates that all was erased", all)
	}
	p.toldOnce(c.State)
}

// expired lets the journey go on while only the time is over, and then makes a round of the clock.
func expired(p *play, rest []string) {
	p.t.Helper()
	p.goOn(rest)
	p.unreadable(&p.Place, readings...)
	p.unreadable(p.as(p.called.token), readings...)
	p.closedOrWaits()
	must(p.t, clock(p.t.Context(), &visitor{scene: p.scene}))
	p.rest()
	ended(p, rest)
}

// closedOrWaits makes sure that no session works on; one may wait until the clock comes round: for an answer, or because
// the bank failed and is left alone for a while.
func (p *play) closedOrWaits() {
	p.t.Helper()
	for _, s := range connected[domain.Session](p, "sessions_by_connection") {
		if s.State == domain.SessionRunning || s.State == domain.SessionQueued && s.Retries == 0 {
			p.t.Errorf("the session is %s", s.State)
		}
	}
}

// narrowed checks that what was taken out is neither read, nor held, nor shown.
func narrowed(p *play, rest []string) {
	p.t.Helper()
	beyond := []string{"/portfolio/positions", "/portfolio/transactions", "/portfolio/orders"}
	p.unreadable(&p.Place, beyond...)
	p.unreadable(p.as(p.called.token), beyond...)
	for _, words := range rest {
		if !strings.HasPrefix(words, "webhooks") && !strings.HasPrefix(words, "version") && journey.Awaited(words) == nil {
			_ = p.does(words) // may be refused, for example where a session was cut short
		}
	}
	p.rest()
	p.unreadable(&p.Place, beyond...)
	for _, asked := range p.asked {
		// The address of the positions also gives an account's value, without them.
		if strings.Contains(asked, "transactions") || strings.Contains(asked, "orders") {
			p.t.Errorf("the bank was asked for %s", asked)
		}
	}
	remain := []domain.Product{domain.ProductAccounts, domain.ProductCash}
	for _, part := range connected[domain.Part](p, "parts_by_connection") {
		if !slices.Contains(remain, part.Product) {
			p.t.Errorf("a part of %s is still held", part.Product)
		}
	}
	for product, status := range p.connectionNow().Products {
		if status.State != domain.ProductNotConsented && status.Count > 0 && !slices.Contains(remain, product) {
			p.t.Errorf("the connection still says how many %s there are", product)
		}
	}
	if slices.ContainsFunc(p.Inbox.Of(p.player.Connection()), func(name string) bool {
		return strings.HasPrefix(name, "consent.") && name != "consent.granted" && !ends(rest)
	}) {
		p.t.Error("a webhook says that the consent ended")
	}
}

// ends says whether the journey itself ends the consent.
func ends(rest []string) bool {
	return slices.ContainsFunc(rest, func(w string) bool { return w == "terminate" || w == "revoke" || w == "deny" || w == "erase all" })
}

// advisorGone checks that the advisor reads nothing any more, and that everybody else goes on as before.
func advisorGone(p *play, rest []string) {
	p.t.Helper()
	p.unreadable(p.as(p.called.token), append([]string{""}, readings...)...)
	for _, words := range rest {
		if words == "clock" {
			must(p.t, p.round())
		} else if err := p.step(p.player, words); err != nil {
			p.t.Errorf("%s: %v", words, err)
		}
	}
	p.rest()
	p.unreadable(p.as(p.called.token), append([]string{""}, readings...)...)
}

// advisorRemoved is the same for an advisor who has left; the scene gets another.
func advisorRemoved(p *play, rest []string) {
	p.t.Helper()
	advisorGone(p, rest)
	p.called = p.hire("Next")
}

// suspension checks that nothing is done for a client that may not act, and nothing told to it, not even the consent's end.
func suspension(p *play, rest []string) {
	p.t.Helper()
	defer p.become(domain.ClientActive)
	p.unreadable(&p.Place, append([]string{""}, readings...)...)
	p.unreadable(p.as(p.called.token), append([]string{""}, readings...)...)
	p.goOn(rest)
	p.quietOrWaits()
	p.shift.Add(int64(soon)) // the consent's own time ends all the same
	must(p.t, p.round())
	p.rest()
	p.quiet()
	p.erased("credential", "data_key", "portfolio", "part", "challenge")
	p.only(append(slices.Clone(takesAway), "delivery.cancelled")...)
	if got := len(p.Inbox.Webhooks(p.player.Connection())); got != p.told {
		p.t.Errorf("%d webhooks came since", got-p.told)
	}
}

// quietOrWaits is quiet, but for a session that waits for an answer: a suspension may be lifted.
func (p *play) quietOrWaits() {
	p.t.Helper()
	if len(p.asked) > 0 {
		p.t.Errorf("the bank was asked since: %q", p.asked)
	}
	p.closedOrWaits()
}

// anew says whether, after something was erased, somebody asked for a reading, as they may while the consent lasts. At a
// commit, what was under way may come second.
func (p *play) anew() bool {
	p.t.Helper()
	p.certified()
	var erased domain.Time
	asked := map[domain.Time]bool{}
	for _, e := range p.entriesSince(nil) {
		switch {
		case string(e.Data.ConsentID) != p.player.Consent() || e.Data.Outcome != domain.OutcomeAllowed:
		case e.Type == "sluis.erasure.begun" && e.Time.After(erased):
			erased = e.Time
		case slices.Contains([]string{"sluis.credential.sealed", "sluis.session.requested", "sluis.refresh.requested"}, e.Type):
			asked[e.Time] = true
		}
	}
	for at := range asked {
		if p.at.kind == atCommit && !at.Before(erased) {
			return true
		}
	}
	return false
}

// credentialsGone checks that the bank is left alone until somebody enters credentials anew.
func credentialsGone(p *play, _ []string) {
	p.t.Helper()
	if p.anew() {
		return
	}
	must(p.t, p.round())
	p.rest()
	p.quiet()
	p.erased("credential", "challenge")
	p.only(append(slices.Clone(takesAway), "session.failed", "portfolio.read")...)
	if err := p.player.Elsewhere().Play(p.t.Context(), "refresh"); !journey.IsRefusal(err) {
		p.t.Errorf("a refresh was not refused: %v", err)
	}
}

// dataGone checks that nothing that was read is held or shown.
func dataGone(p *play, _ []string) {
	p.t.Helper()
	if p.anew() {
		return
	}
	must(p.t, p.round())
	p.rest()
	p.quiet()
	p.erased("data_key", "portfolio", "part", "challenge")
	p.only(takesAway...)
	p.unreadable(&p.Place, slices.DeleteFunc(slices.Clone(readings), func(path string) bool { return path == "/portfolios" })...)
}
