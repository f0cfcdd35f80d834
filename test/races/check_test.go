package races

import (
	"fmt"
	"slices"
	"strings"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// look is all that the store holds of one connection.
type look struct {
	consent    domain.Consent
	connection domain.Connection
	credential *domain.Credential
	key        *domain.DataKey
	sessions   []domain.Session
	challenges []domain.Challenge
	portfolios []domain.Portfolio
	parts      []domain.Part
	erasures   []domain.Erasure
	webhooks   []journey.Webhook
}

// look reads it.
func (v *town) look(p *journey.Player) *look {
	v.t.Helper()
	id := domain.ConnectionID(p.Connection())
	l := &look{consent: domain.Consent{ID: domain.ConsentID(p.Consent())}, connection: domain.Connection{ID: id}}
	ctx := v.t.Context()
	must(v.t, v.store.Get(ctx, &l.consent))
	must(v.t, v.store.Get(ctx, &l.connection))
	l.credential = maybe(v, &domain.Credential{ConnectionID: id})
	l.key = maybe(v, &domain.DataKey{ConnectionID: id})
	l.sessions = list[domain.Session](v, "sessions_by_connection", string(id))
	l.challenges = list[domain.Challenge](v, "challenges_by_connection", string(id))
	l.portfolios = list[domain.Portfolio](v, "portfolios_by_connection", string(id))
	l.parts = list[domain.Part](v, "parts_by_connection", string(id))
	l.erasures = list[domain.Erasure](v, "erasures_by_connection", string(id))
	l.webhooks = v.inbox.Webhooks(string(id))
	return l
}

func maybe[T domain.Document](v *town, doc T) T {
	v.t.Helper()
	var none T
	err := v.store.Get(v.t.Context(), doc)
	if domain.KindOf(err) == domain.NotFound {
		return none
	}
	must(v.t, err)
	return doc
}

func list[T any, P interface {
	*T
	domain.Document
}](v *town, index string, match ...string) (all []T) {
	v.t.Helper()
	for q := (domain.Query{Index: index, Match: match, Limit: 1000}); ; {
		page, next, err := domain.List[T, P](v.t.Context(), v.store, q)
		must(v.t, err)
		all = append(all, page...)
		if q.Cursor = next; next == "" {
			return all
		}
	}
}

// quiet says whether nothing is going on: no session is under way or open at the bank, no erasure is unfinished, and
// every webhook has come.
func (l *look) quiet() bool {
	for _, s := range l.sessions {
		if !domain.SessionMoves.Final(s.State) || len(s.Sealed) > 0 {
			return false
		}
	}
	for _, e := range l.erasures {
		if len(e.Signature) == 0 {
			return false
		}
	}
	granted := l.connection.Custodian != "" // before, there is nothing to erase
	if domain.ConsentMoves.Final(l.consent.State) && granted && !l.certified(domain.EraseAll) {
		return false
	}
	return int64(len(l.webhooks)) >= l.connection.Sequence
}

func (l *look) certified(scope domain.ErasureScope) bool {
	return slices.ContainsFunc(l.erasures, func(e domain.Erasure) bool { return e.Scope == scope && len(e.Signature) > 0 })
}

// settled waits until it is quiet around a connection, and looks once more: what a look reads first may be older than the
// end of a session that it reads last.
func (v *town) settled(p *journey.Player) (l *look) {
	v.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(poll) {
		if l = v.look(p); l.quiet() {
			if l = v.look(p); l.quiet() {
				return l
			}
		}
		if time.Now().After(end) {
			v.t.Fatalf("waited too long for quiet: %s", l)
		}
	}
}

// String tells the little that a failure is understood by.
func (l *look) String() string {
	out := fmt.Sprintf("consent %s, connection %s %s, sequence %d:", l.consent.State, l.connection.State, l.connection.Reason, l.connection.Sequence)
	for _, s := range l.sessions {
		out += fmt.Sprintf(" [session %s %s %s sealed %v]", s.Cause, s.State, s.Reason, len(s.Sealed) > 0)
	}
	for _, c := range l.challenges {
		out += fmt.Sprintf(" [question %s by %s]", c.State, c.AnswerBy)
	}
	for _, e := range l.erasures {
		out += fmt.Sprintf(" [erasure %s signed %v]", e.Scope, len(e.Signature) > 0)
	}
	for _, w := range l.webhooks {
		out += fmt.Sprintf(" [%d %s]", w.Sequence, w.Type)
	}
	if l.credential != nil {
		out += " credential " + string(l.credential.State)
	}
	return out
}

// over says whether a connection is quiet.
func (v *town) over(p *journey.Player) func() bool {
	return func() bool { return v.look(p).quiet() }
}

// check holds what must be so after every race.
func (v *town) check(l *look, entries []domain.Entry) {
	v.t.Helper()
	bad := func(format string, args ...any) {
		v.t.Helper()
		v.t.Errorf("%s (%s, %s): "+format, append([]any{l.connection.InvestorRef, l.connection.ID, l.connection.State}, args...)...)
	}
	l.checkVersions(bad, entries)
	l.checkWebhooks(bad)
	l.checkRest(bad, entries)
}

// checkVersions: one version of each complete reading, and nothing double.
func (l *look) checkVersions(bad func(string, ...any), entries []domain.Entry) {
	complete, stored := 0, map[string]int{}
	for _, e := range entries {
		if e.Type == "sluis.portfolio.stored" && e.Data.Outcome == domain.OutcomeAllowed {
			stored[e.Subject]++
		}
	}
	for _, s := range l.sessions {
		if s.State == domain.SessionComplete {
			complete++
			if stored[string(s.ID)] != 1 {
				bad("session %s is complete and stored a version %d times", s.ID, stored[string(s.ID)])
			}
		}
	}
	if int64(len(stored)) != l.connection.Versions || complete > len(stored) { // sessions end by themselves after a day
		bad("%d versions, %d complete sessions, %d entries", l.connection.Versions, complete, len(stored))
	}
	numbers, sessions := map[int64]bool{}, map[domain.SessionID]bool{}
	for _, p := range l.portfolios {
		if numbers[p.Number] || sessions[p.SessionID] || p.Number < 1 || p.Number > l.connection.Versions {
			bad("version %d of session %s is there twice, or too high", p.Number, p.SessionID)
		}
		numbers[p.Number], sessions[p.SessionID] = true, true
		if p.ID == l.connection.PortfolioID && p.Number != l.connection.Versions {
			bad("the newest version is %d of %d", p.Number, l.connection.Versions)
		}
	}
	if l.connection.PortfolioID != "" && !slices.ContainsFunc(l.portfolios, func(p domain.Portfolio) bool { return p.ID == l.connection.PortfolioID }) {
		bad("its newest version does not exist")
	}
}

// checkWebhooks: each fact was told once, with an unbroken sequence and a stable identifier.
func (l *look) checkWebhooks(bad func(string, ...any)) {
	types, sequence := map[domain.NoticeType]int{}, map[int]string{}
	ends := 0
	for _, w := range l.webhooks {
		types[domain.NoticeType(w.Type)]++
		if other := sequence[w.Sequence]; other != "" || w.Changed || w.Sequence < 1 || int64(w.Sequence) > l.connection.Sequence {
			bad("webhook %s: sequence %d of %d, also %q, changed %v", w.ID, w.Sequence, l.connection.Sequence, other, w.Changed)
		}
		sequence[w.Sequence] = w.ID
		switch domain.NoticeType(w.Type) {
		case domain.NoticeConsentExpired, domain.NoticeConsentRevoked, domain.NoticeConsentTerminated, domain.NoticeConsentRejected:
			ends++
		}
	}
	want := 0
	if domain.ConsentMoves.Final(l.consent.State) {
		want = 1
	}
	if ends != want {
		bad("its end (%s) was told %d times", l.consent.State, ends)
	}
	if n := types[domain.NoticeConsentGranted]; n > 1 || l.consent.State == domain.ConsentValid && n != 1 || l.consent.State == domain.ConsentRejected && n != 0 {
		bad("the grant was told %d times", n)
	}
	if n := types[domain.NoticePortfolioUpdated]; int64(n) != l.connection.Versions {
		bad("%d versions were told %d times", l.connection.Versions, n)
	}
	if n := types[domain.NoticeErasureCompleted]; n != len(l.erasures) {
		bad("%d erasures were told %d times", len(l.erasures), n)
	}
}

// checkRest: nothing is left of what ended, nothing hangs, and no act is without its entry.
func (l *look) checkRest(bad func(string, ...any), entries []domain.Entry) {
	did := map[string]int{}
	for _, e := range entries {
		if e.Data.Outcome == domain.OutcomeAllowed {
			did[strings.TrimPrefix(e.Type, "sluis.")]++
		}
	}
	if l.credential != nil && l.credential.State == domain.CredentialTrying {
		bad("a login hangs")
	}
	switch l.connection.State {
	case domain.ConnectionBusy, domain.ConnectionSCA:
		bad("it waits for a session that is over: %+v", l.sessions[0])
	}
	for _, c := range l.challenges {
		if !domain.SCAMoves.Final(c.State) && c.State != domain.SCAExpired {
			bad("a question is still %s", c.State)
		}
	}
	if domain.ConsentMoves.Final(l.consent.State) {
		if l.connection.State != domain.ConnectionRemoved || l.credential != nil || l.key != nil || len(l.portfolios)+len(l.parts)+len(l.challenges) > 0 {
			bad("its consent is %s, and of it there is %v, %v, %d versions, %d parts, %d questions", l.consent.State, l.credential != nil,
				l.key != nil, len(l.portfolios), len(l.parts), len(l.challenges))
		}
		if did["consent."+string(l.consent.State)]+did["erasure.begun"] == 0 {
			bad("nothing tells how it came to be %s: %v", l.consent.State, did)
		}
	}
	if l.consent.State == domain.ConsentValid && did["consent.granted"] == 0 {
		bad("nothing tells of the grant: %v", did)
	}
	if did["erasure.completed"] != len(l.erasures) {
		bad("%d erasures, %d entries", len(l.erasures), did["erasure.completed"])
	}
	if l.credential != nil && did["credential.sealed"] == 0 {
		bad("nothing tells of the sealing: %v", did)
	}
}

// checkAll checks every journey of the scenario, and the town.
func (v *town) checkAll() {
	v.t.Helper()
	if v.t.Failed() {
		v.played = nil
		return
	}
	looks := make([]*look, len(v.played))
	for i, p := range v.played {
		looks[i] = v.settled(p)
	}
	v.await("an empty queue", func() bool { return v.waiting() == 0 })
	v.await("every delivery", func() bool { return len(v.undelivered()) == 0 })
	of := map[domain.ConnectionID][]domain.Entry{}
	opened, sent := 0, map[string]bool{}
	for _, e := range list[domain.Entry](v, "entries_by_time") {
		of[e.Data.ConnectionID] = append(of[e.Data.ConnectionID], e)
		if e.Data.Details["credential"] == "opened" {
			opened++
		}
		if e.Type == "sluis.webhook.sent" {
			sent[e.Subject] = true
		}
	}
	for i := range looks {
		l := v.look(v.played[i])
		v.check(l, of[l.connection.ID])
		for _, w := range l.webhooks {
			n := maybe(v, &domain.Notice{ID: domain.NoticeID(w.ID)})
			if v.ahead.Load() == 0 && (n == nil || n.Sequence != int64(w.Sequence)) { // notices end by themselves after a month
				v.t.Errorf("webhook %s does not bear its notice's name: %+v", w.ID, n)
			}
		}
	}
	v.played = nil
	v.checkTown(opened, sent)
}

// deliveries are all of the client's.
func (v *town) deliveries() []domain.Delivery {
	v.t.Helper()
	return list[domain.Delivery](v, "deliveries_by_client", string(list[domain.Client](v, "clients")[0].ID))
}

// undelivered are those that are still on their way.
func (v *town) undelivered() []domain.Delivery {
	v.t.Helper()
	return slices.DeleteFunc(v.deliveries(), func(d domain.Delivery) bool { return d.State != domain.DeliveryPending })
}

// waiting counts the events that are due or being handled.
func (v *town) waiting() (n int) {
	v.t.Helper()
	lines, err := v.store.Pending(v.t.Context())
	must(v.t, err)
	for _, line := range lines {
		if line.State == "due" || line.State == "leased" {
			n += line.Count
		}
	}
	return n
}

// checkTown: no session is open at the bank, no login was tried that was not marked before, no event was given up, and
// every delivery was made.
func (v *town) checkTown(opened int, sent map[string]bool) {
	v.t.Helper()
	attempts := 0
	for _, l := range bank.Logins() {
		attempts += v.bank.Attempts(l.Number)
		if n := v.bank.Refused(l.Number); n > 0 {
			v.t.Errorf("%s: %d passwords were refused", l.Number, n)
		}
	}
	if attempts > opened {
		v.t.Errorf("%d logins were tried at the bank, %d were marked", attempts, opened)
	}
	if n := v.bank.OpenSessions(""); n > 0 {
		v.t.Errorf("%d sessions are open at the bank", n)
	}
	letters, err := v.store.DeadLetters(v.t.Context(), 10)
	must(v.t, err)
	for _, l := range letters {
		v.t.Errorf("dead letter %+v", l)
	}
	for _, d := range v.deliveries() {
		if d.State == domain.DeliveryCancelled && strings.HasPrefix(d.Reason, "consent_") {
			continue // its consent ended first
		}
		if d.State != domain.DeliveryDelivered || !sent[string(d.ID)] {
			v.t.Errorf("delivery %s of %s is %s after %d tries, told of: %v", d.ID, d.Type, d.State, d.Tries, sent[string(d.ID)])
		}
	}
	if n := v.inbox.Refused(); n > 0 {
		v.t.Errorf("%d webhooks were not signed rightly", n)
	}
}
