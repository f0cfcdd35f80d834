package crash

import (
	"fmt"
	"slices"
	"strings"

	"sluis.internal/shared/domain"
)

// check is one thing that must hold of a journey's books, however often the house died.
type check struct {
	name  string
	wrong func(*books) []string
}

var checks = []check{
	{"versions", versions},
	{"webhooks", webhooks},
	{"notices", notices},
	{"deliveries", deliveries},
	{"sessions", sessions},
	{"logins", logins},
	{"bank sessions", bankSessions},
	{"consent", consents},
	{"credential", credentials},
	{"links", links},
	{"erasures", erasures},
	{"audit", audit},
}

// same says what differs.
func same(what string, got, want int) []string {
	if got == want {
		return nil
	}
	return []string{fmt.Sprintf("%s: %d, want %d", what, got, want)}
}

func atMost(what string, got, most int) []string {
	if got <= most {
		return nil
	}
	return []string{fmt.Sprintf("%s: %d, want at most %d", what, got, most)}
}

// versions: one of the portfolio for each session that was completed, each told once in the audit log, and the newest
// is whole.
func versions(b *books) (wrong []string) {
	complete := map[string]string{}
	for _, s := range b.sessions {
		if s.State == domain.SessionComplete {
			complete[string(s.ID)] = string(s.PortfolioID)
		}
	}
	stored := b.acts(nil, "portfolio.stored")
	wrong = append(wrong, same("versions for completed sessions", int(b.connection.Versions), len(complete))...)
	wrong = append(wrong, same("entries of stored versions", len(stored), len(complete))...)
	for _, e := range stored {
		if made := complete[e.Subject]; made == "" || made != e.Data.Details["portfolio"] {
			wrong = append(wrong, "stored without a completed session, or twice: "+e.Subject)
		}
		delete(complete, e.Subject)
	}
	numbers := map[int64]bool{}
	for _, p := range b.portfolios {
		if numbers[p.Number] || p.Number < 1 || p.Number > b.connection.Versions {
			wrong = append(wrong, fmt.Sprintf("number %d of %d", p.Number, b.connection.Versions))
		}
		numbers[p.Number] = true
		for product, status := range p.Products {
			for _, part := range status.Parts {
				if !b.parts[part] {
					wrong = append(wrong, fmt.Sprintf("version %d lacks a part of %s", p.Number, product))
				}
			}
		}
	}
	if b.connection.PortfolioID != "" && !numbers[b.connection.Versions] {
		wrong = append(wrong, "the newest version is not there")
	}
	return wrong
}

// webhooks: every notice arrived, always with the same body, and the sequence is 1, 2, 3 without a gap.
func webhooks(b *books) (wrong []string) {
	at := map[int]string{}
	for _, m := range b.received {
		if m.Changed {
			wrong = append(wrong, m.ID+" came with two bodies")
		}
		if other := at[m.Sequence]; other != "" {
			wrong = append(wrong, fmt.Sprintf("%s and %s are both number %d", other, m.ID, m.Sequence))
		}
		at[m.Sequence] = m.ID
	}
	wrong = append(wrong, same("webhooks that arrived", len(at), int(b.connection.Sequence))...)
	for n := 1; n <= int(b.connection.Sequence); n++ {
		if at[n] == "" {
			wrong = append(wrong, fmt.Sprintf("number %d did not arrive", n))
		}
	}
	return wrong
}

// follows says which notices may come after one, of a connection: "" is the beginning.
var follows = map[domain.NoticeType][]domain.NoticeType{
	"":                              {domain.NoticeConsentGranted, domain.NoticeConsentRejected, domain.NoticeConsentTerminated, domain.NoticeConsentExpired},
	domain.NoticeConsentGranted:     {domain.NoticeConnectionActive, domain.NoticeConnectionPaused, domain.NoticeConnectionAwaiting, domain.NoticeConsentRevoked, domain.NoticeConsentTerminated, domain.NoticeConsentExpired, domain.NoticeErasureCompleted},
	domain.NoticeConnectionActive:   {domain.NoticePortfolioUpdated},
	domain.NoticePortfolioUpdated:   {domain.NoticePortfolioUpdated, domain.NoticeConnectionPaused, domain.NoticeConnectionAwaiting, domain.NoticeConsentRevoked, domain.NoticeConsentTerminated, domain.NoticeConsentExpired, domain.NoticeErasureCompleted},
	domain.NoticeConnectionPaused:   {domain.NoticeConnectionPaused, domain.NoticeConnectionActive, domain.NoticeConnectionAwaiting, domain.NoticeConsentRevoked, domain.NoticeConsentTerminated, domain.NoticeConsentExpired, domain.NoticeErasureCompleted},
	domain.NoticeConnectionAwaiting: {domain.NoticeConnectionPaused, domain.NoticeConnectionActive, domain.NoticeConnectionAwaiting, domain.NoticeConsentRevoked, domain.NoticeConsentTerminated, domain.NoticeConsentExpired, domain.NoticeErasureCompleted},
	domain.NoticeErasureCompleted:   {domain.NoticeErasureCompleted, domain.NoticePortfolioUpdated, domain.NoticeConnectionPaused, domain.NoticeConnectionActive, domain.NoticeConnectionAwaiting, domain.NoticeConsentRevoked, domain.NoticeConsentTerminated, domain.NoticeConsentExpired},
	domain.NoticeConsentRejected:    {domain.NoticeErasureCompleted},
	domain.NoticeConsentRevoked:     {domain.NoticeErasureCompleted},
	domain.NoticeConsentTerminated:  {domain.NoticeErasureCompleted},
	domain.NoticeConsentExpired:     {domain.NoticeErasureCompleted},
}

// notices: each tells of an act that took effect, and each such act is told, in an order that makes sense.
func notices(b *books) (wrong []string) {
	count := map[domain.NoticeType]int{}
	inOrder := slices.SortedFunc(slices.Values(b.notices), func(x, y domain.Notice) int { return int(x.Sequence - y.Sequence) })
	before := domain.NoticeType("")
	for i, n := range inOrder {
		count[n.Type]++
		if n.Sequence != int64(i+1) {
			wrong = append(wrong, fmt.Sprintf("%s is number %d, want %d", n.Type, n.Sequence, i+1))
		}
		if !slices.Contains(follows[before], n.Type) {
			wrong = append(wrong, fmt.Sprintf("%s after %q", n.Type, before))
		}
		before = n.Type
	}
	for t, action := range map[domain.NoticeType]string{domain.NoticeConsentGranted: "consent.granted", domain.NoticeConsentRejected: "consent.rejected",
		domain.NoticeConsentRevoked: "consent.revoked", domain.NoticeConsentTerminated: "consent.terminated", domain.NoticeConsentExpired: "consent.expired",
		domain.NoticePortfolioUpdated: "portfolio.stored", domain.NoticeErasureCompleted: "erasure.completed"} {
		wrong = append(wrong, same(string(t)+" for acts", count[t], b.count(nil, action))...)
	}
	return wrong
}

// deliveries: one for each notice, delivered; each attempt that was noted has its entry, and no attempt is missing but
// of those that a kill cut off before they were noted.
func deliveries(b *books) (wrong []string) {
	arrivals := map[string]int{}
	for _, m := range b.received {
		arrivals[m.ID] = m.Arrivals
	}
	cut := 0
	for id, made := range b.deliveries {
		wrong = append(wrong, same("deliveries of "+string(id), len(made), 1)...)
		wrong = append(wrong, same("entries of their making", b.count(about(string(id)), "deliveries.made"), 1)...)
		noted := 0
		for _, d := range made {
			if d.State != domain.DeliveryDelivered && !(d.State == domain.DeliveryCancelled && strings.HasPrefix(d.Reason, "consent_")) { // its consent ended first
				wrong = append(wrong, string(d.ID)+" is "+string(d.State))
			}
			wrong = append(wrong, same("entries of attempts", b.count(about(string(d.ID)), "webhook.sent"), len(d.Attempts))...)
			noted += len(d.Attempts)
		}
		if arrivals[string(id)] < noted {
			wrong = append(wrong, fmt.Sprintf("%s arrived %d times, %d are noted: %+v", id, arrivals[string(id)], noted, made[0].Attempts))
		}
		cut = max(cut, arrivals[string(id)]-noted)
	}
	return append(wrong, atMost("arrivals of one webhook that are not noted", cut, b.kills)...)
}

// begins are the acts that make a session.
var begins = []string{"credential.sealed", "session.requested", "refresh.requested", "refresh.scheduled"}

// sessions: each has ended, is closed at the bank and keeps no way back in; each was asked for once, claimed as often as
// the log says, and its end is told once.
func sessions(b *books) (wrong []string) {
	known := map[string]bool{}
	for i := range b.sessions {
		s := &b.sessions[i]
		known[string(s.ID)] = true
		if !domain.SessionMoves.Final(s.State) || len(s.Sealed) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s is %s %s, sealed %t", s.ID, s.State, s.Reason, len(s.Sealed) > 0))
		}
		of := func(actions ...string) int { return b.count(about(string(s.ID)), actions...) }
		wrong = append(wrong, same("entries that made "+string(s.ID), b.count(detail("session", string(s.ID)), begins...), 1)...)
		wrong = append(wrong, same("claims of "+string(s.ID), s.Attempts, of("session.started", "session.answered"))...)
		ends := map[domain.SessionState][]string{domain.SessionComplete: {"portfolio.stored"}, domain.SessionFailed: {"session.failed", "session.expired"},
			domain.SessionCancelled: {"session.cancelled"}}
		for state, actions := range ends {
			switch told := of(actions...); {
			case state != s.State:
				wrong = append(wrong, same("entries of an end that "+string(s.ID)+" did not have", told, 0)...)
			case state != domain.SessionCancelled: // the newer session, or the erasure, that cancelled it tells of that
				wrong = append(wrong, same(fmt.Sprintf("entries of the end of %s, %s %s", s.ID, s.State, s.Reason), told, 1)...)
			}
		}
		opened := of("session.opened", "sca.verified") > 0
		closed := of("session.closed")
		if opened && closed == 0 || closed > 1 {
			wrong = append(wrong, fmt.Sprintf("%s was opened %t and closed %d times", s.ID, opened, closed))
		}
	}
	for _, e := range b.acts(nil, begins...) {
		if !known[e.Data.Details["session"]] {
			wrong = append(wrong, e.Type+" without its session")
		}
	}
	return wrong
}

func (b *books) ended(reason domain.Reason) (n int) {
	for _, s := range b.sessions {
		if s.Reason == reason {
			n++
		}
	}
	return n
}

// logins: the bank heard of no login that the log does not tell of before it; it took or refused at most one for each
// session; a password that it refused was not sent again; one of which nobody knows what became was not sent again but by
// a person's word, which is a session of its own.
func logins(b *books) (wrong []string) {
	opened := b.count(detail("credential", "opened"), "session.started")
	wrong = append(wrong, atMost("logins at the bank", b.attempts, opened)...)
	wrong = append(wrong, atMost("judged logins", b.visits+b.refused, len(b.sessions))...)
	wrong = append(wrong, atMost("refused logins", b.refused, b.ended(domain.ReasonCredentialsRefused)+b.ended(domain.ReasonInterrupted))...)
	wrong = append(wrong, atMost("sessions that met a refusal", b.ended(domain.ReasonCredentialsRefused), b.count(nil, "credential.sealed"))...)
	for _, s := range b.sessions {
		tries := b.count(func(e *domain.Entry) bool {
			return e.Subject == string(s.ID) && e.Data.Details["credential"] == "opened"
		}, "session.started")
		wrong = append(wrong, atMost("logins of "+string(s.ID), tries, 1+s.Retries)...)
	}
	return wrong
}

// bankSessions: none stands open at the bank, but of logins that a kill cut off between the bank's answer to the password
// and the commit that keeps the way in. Only the dead process knew the token, so nobody can close those; the bank ends
// them by itself, comdirect after at most 20 minutes. There is at most one for each session that ended as interrupted.
func bankSessions(b *books) []string {
	return atMost("sessions open at the bank", b.open, min(b.ended(domain.ReasonInterrupted), b.kills))
}

// consents: the investor was asked once, and the state is what the entries say.
func consents(b *books) (wrong []string) {
	wrong = append(wrong, same("consents of the investor", len(b.consents), 1)...)
	wrong = append(wrong, same("entries of its making", b.count(nil, "consent.created"), 1)...)
	for _, c := range b.consents {
		decided := b.count(nil, "consent.granted", "consent.rejected")
		if (decided == 1) == c.DecidedAt.IsZero() {
			wrong = append(wrong, fmt.Sprintf("%d decisions, decided at %s", decided, c.DecidedAt))
		}
		for state, action := range map[domain.ConsentState]string{domain.ConsentRejected: "consent.rejected", domain.ConsentExpired: "consent.expired",
			domain.ConsentRevoked: "consent.revoked", domain.ConsentTerminated: "consent.terminated"} {
			want := 0
			if state == c.State {
				want = 1
			}
			wrong = append(wrong, same(action, b.count(nil, action), want)...)
		}
	}
	return wrong
}

// credentials: what is held was sealed, what was sealed is held or was erased, and no login is thought to be under way.
func credentials(b *books) (wrong []string) {
	sealed, erased := b.count(nil, "credential.sealed"), 0
	for _, e := range b.acts(nil, "erasure.begun") {
		if e.Data.Details["erased_credential"] != "" {
			erased++
		}
	}
	switch {
	case b.credential != nil && sealed == 0:
		return []string{"it is held and was never sealed"}
	case b.credential != nil && b.credential.State == domain.CredentialTrying:
		return []string{"it is still being tried"}
	case b.credential == nil && sealed > 0 && erased == 0:
		return []string{"it was sealed and is gone without an erasure"}
	}
	return nil
}

// links: each was made by an entry and used once at most.
func links(b *books) (wrong []string) {
	used := 0
	for _, l := range b.links {
		if !l.UsedAt.IsZero() {
			used++
		}
	}
	made := b.count(nil, "link.created", "consent.created")
	redeemed := b.count(nil, "link.redeemed")
	wrong = append(wrong, same("links", len(b.links), made)...)
	wrong = append(wrong, atMost("links redeemed", redeemed, used)...)
	return append(wrong, atMost("links used", used, redeemed+b.count(detail("purpose", "consent"), "link.created"))...)
}

// erasures: each that was begun has its certificate, and each certificate its entry.
func erasures(b *books) (wrong []string) {
	for _, e := range b.erasures {
		if len(e.Signature) == 0 {
			wrong = append(wrong, string(e.Scope)+" was begun and is not certified")
			continue
		}
		wrong = append(wrong, same("entries of certificate "+string(e.ID), b.count(about(string(e.ID)), "erasure.completed"), 1)...)
	}
	return append(wrong, same("certificates for entries", len(b.erasures), b.count(nil, "erasure.completed"))...)
}

// told are the acts that a journey may leave in the log: those that a check above compares, and those that only tell.
var told = map[string]string{
	"consent.created": "consents", "consent.granted": "consents", "consent.rejected": "consents", "consent.revoked": "consents",
	"consent.terminated": "consents", "consent.expired": "consents", "link.created": "links", "link.redeemed": "links",
	"credential.sealed": "sessions", "session.requested": "sessions", "refresh.requested": "sessions", "refresh.scheduled": "sessions",
	"session.started": "sessions", "session.answered": "sessions", "session.opened": "sessions", "sca.verified": "sessions",
	"session.closed": "sessions", "session.failed": "sessions", "session.expired": "sessions", "session.cancelled": "sessions",
	"portfolio.stored": "versions", "deliveries.made": "deliveries", "webhook.sent": "deliveries",
	"erasure.begun": "erasures", "erasure.completed": "erasures",
	"session.suspended": "told", "session.postponed": "told", "session.renewed": "told", "session.left": "told", "challenge.answered": "told", "sealing.taken": "told",
	"data_key.created": "told", "portfolio.parts_stored": "told", "portfolio.parts_dropped": "told", "portfolio.retired": "told", "portfolio.trimmed": "told",
	"portfolio.read": "told", "portfolio.listed": "told", "consent.read": "told", "erasure.continued": "told", "erasure.repeated": "told",
	"installation.founded": "told", "installation.keys_noted": "told", "key.noted": "told",
}

// audit: no entry tells of what no check knows.
func audit(b *books) (wrong []string) {
	for _, e := range b.entries {
		if told[strings.TrimPrefix(e.Type, "sluis.")] == "" {
			wrong = append(wrong, e.Type+" has no row")
		}
	}
	return wrong
}
