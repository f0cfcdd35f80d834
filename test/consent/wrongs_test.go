package consent_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// wrong is one way in which a consent is not the right one: its documents say otherwise, or somebody else comes.
type wrong struct {
	name  string
	codes []string       // one of which the audit log gives as the reason
	edit  func(*papers)  // past all rules
	come  func(*visitor) // who comes, and what they name
}

// papers are what a consent is judged by.
type papers struct {
	consent    *domain.Consent // nil once it is taken away
	connection *domain.Connection
	client     *domain.Client
	advisor    *domain.Advisor
	stranger   domain.ClientID
}

// wrongs are those that an entrance must refuse.
func wrongs(e entrance) []wrong {
	out := slices.Concat(wrongStates(e), wrongTerms(e), wrongPersons(e))
	return slices.DeleteFunc(out, func(w wrong) bool { return e.shows && !e.hides && w.come == nil && !e.refuses(w) })
}

// refuses says whether an entrance that only shows refuses documents that do not fit, too.
func (e *entrance) refuses(w wrong) bool {
	switch w.name {
	case "client suspended", "client closed":
		return e.by == domain.ActorClient
	case "no such consent", "of another client":
		return strings.HasPrefix(e.at, "pages GET /") && e.at != "pages GET /i/{token}" || strings.Contains(e.at, "{consent}")
	case "of another investor":
		return e.at != "pages GET /i/{token}"
	}
	return false
}

// wrongStates are the states in which the consent does not allow it, and the end of its time before anybody noticed.
func wrongStates(e entrance) (out []wrong) {
	states := e.states
	if states == nil {
		states = []domain.ConsentState{domain.ConsentValid}
	}
	for _, state := range domain.AnyConsentState {
		if !slices.Contains(states, state) {
			out = append(out, wrong{name: string(state), codes: []string{"consent_" + string(state)},
				edit: func(p *papers) { p.consent.State = state }})
		}
	}
	if !e.late && e.at != "clock" { // which ends it
		out = append(out, wrong{name: "its time is over", codes: []string{"consent_expired"},
			edit: func(p *papers) { p.consent.ExpiresAt = p.consent.CreatedAt }})
	}
	return out
}

// wrongTerms are consents that are about something else.
func wrongTerms(e entrance) (out []wrong) {
	add := func(name, code string, edit func(*papers)) {
		out = append(out, wrong{name: name, codes: []string{code}, edit: edit})
	}
	if !e.late {
		add("for another region", "consent_region", func(p *papers) { p.consent.Regions = []string{"mars"} })
	}
	if strings.Contains(e.terms, "custodian") {
		add("at another custodian", "consent_custodian", func(p *papers) { p.consent.Custodian = "otherbank" })
	}
	if strings.Contains(e.terms, "product") {
		add("for other products", "consent_scope", func(p *papers) { p.consent.Products = []domain.Product{domain.ProductAccounts} })
	}
	if strings.Contains(e.terms, "once") {
		add("used up", "consent_one_off", func(p *papers) {
			p.consent.Access, p.connection.LastRefreshedAt = domain.AccessOnce, p.connection.CreatedAt
		})
	}
	return out
}

// wrongPersons are consents of somebody else, and people whom the consent does not name.
func wrongPersons(e entrance) (out []wrong) {
	foreign := []string{"not_found", "consent_not_yours", "consent_unknown"}
	add := func(name string, codes []string, edit func(*papers), come func(*visitor)) {
		out = append(out, wrong{name, codes, edit, come})
	}
	add("of another client", foreign, func(p *papers) { p.consent.ClientID = p.stranger }, nil)
	link := e.at == "pages POST /i/{token}" // who comes by a link is whom its consent names
	if !link {
		add("no such consent", foreign, func(p *papers) { p.consent = nil }, nil)
	}
	if e.by == domain.ActorClient || !e.late {
		suspended := []string{"client_suspended"}
		add("client suspended", suspended, func(p *papers) { p.client.State = domain.ClientSuspended }, nil)
		add("client closed", suspended, func(p *papers) { p.client.State = domain.ClientClosed }, nil)
	}
	switch {
	case e.by == domain.ActorInvestor && !link:
		add("of another investor", foreign, func(p *papers) { p.consent.InvestorRef = "somebody-else" }, nil)
	case e.by == domain.ActorClient:
		add("asked by another client", foreign, nil, func(v *visitor) { v.place = v.alien })
		add("one that nobody has", foreign, nil, func(v *visitor) {
			v.consent, v.connection = string(domain.NewID[domain.ConsentID](v.Home.Env)), string(domain.NewID[domain.ConnectionID](v.Home.Env))
		})
	}
	if strings.Contains(e.terms, "reader") {
		add("asked by an advisor it does not name", foreign, nil, func(v *visitor) { v.place = v.as(v.other.token) })
		add("asked by an advisor who was removed", []string{"advisor_removed"},
			func(p *papers) { p.advisor.State = domain.AdvisorRemoved }, func(v *visitor) { v.place = v.as(v.called.token) })
		add("asked by a named advisor of a suspended client", []string{"client_suspended"},
			func(p *papers) { p.client.State = domain.ClientSuspended }, func(v *visitor) { v.place = v.as(v.called.token) })
	}
	switch e.at {
	case "pages POST /me/revoke", "pages POST /erase":
		add("named by another investor", foreign, nil, func(v *visitor) { v.consent = v.foreign().Consent() })
		add("one that nobody has, named", foreign, nil, func(v *visitor) { v.consent = string(domain.NewID[domain.ConsentID](v.Home.Env)) })
	case "pages POST /challenge/answer", "pages GET /challenge/{challenge}/image":
		add("of another investor's question", foreign, nil, func(v *visitor) { v.challenge = v.foreign().Asked() })
	}
	return out
}

// foreign is another investor of the same client, whom the bank asks.
func (s *scene) foreign() *journey.Player {
	s.Home.Bank.Unlock("20000001")
	p := s.player()
	s.play(p, suspended...)
	s.rest()
	return p
}

// lay edits the documents that a visitor's consent is judged by, and gives back what they were.
func (s *scene) lay(v *visitor, edit func(*papers)) snapshot {
	s.t.Helper()
	was := snapshot{}
	s.change(func(tx domain.Tx) error {
		p := &papers{consent: &domain.Consent{ID: domain.ConsentID(v.consent)}, connection: &domain.Connection{ID: domain.ConnectionID(v.connection)},
			client: &domain.Client{ID: s.client}, advisor: &domain.Advisor{ID: s.called.id}, stranger: s.stranger}
		for _, doc := range []domain.Document{p.consent, p.connection, p.client, p.advisor} {
			if err := tx.Get(doc); err != nil {
				return err
			}
			body, err := json.Marshal(doc)
			if err != nil {
				return err
			}
			was[string(doc.Kind())+"/"+doc.Key()] = string(body)
		}
		taken := p.consent
		edit(p)
		if p.consent == nil {
			return tx.Delete(taken)
		}
		return putAll(tx, p.consent, p.connection, p.client, p.advisor)
	})
	return was
}

// restore brings documents back to what they were in a snapshot; events and the audit log go on.
func (s *scene) restore(was snapshot, names []string) {
	s.t.Helper()
	s.change(func(tx domain.Tx) error {
		for _, name := range names {
			kind, key, _ := strings.Cut(name, "/")
			body, there := was[name]
			doc := &document{domain.DocumentKind(kind), key, []byte(body)}
			var err error
			switch {
			case kind == "events":
			case there:
				err = tx.Put(doc)
			default:
				err = tx.Delete(doc)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// entries is the audit log's present end.
func (s *scene) entries() map[string]document {
	s.t.Helper()
	return s.list("entries_by_time", "")
}

// entriesSince are those that came after.
func (s *scene) entriesSince(before map[string]document) (fresh []domain.Entry) {
	s.t.Helper()
	q := domain.Query{Index: "entries_by_time", Limit: 1000}
	for {
		page, next, err := domain.List[domain.Entry](s.t.Context(), s.Home, q)
		must(s.t, err)
		for _, e := range page {
			if _, old := before[e.Key()]; !old {
				fresh = append(fresh, e)
			}
		}
		if q.Cursor = next; next == "" {
			return fresh
		}
	}
}

// try uses an entrance with a wrong consent.
func (s *scene) try(e entrance, v *visitor, w wrong) {
	s.t.Helper()
	guest := *v
	if w.come != nil {
		w.come(&guest)
	}
	was := snapshot{}
	if w.edit != nil {
		was = s.lay(v, w.edit)
	}
	before, log, asked := s.look(), s.entries(), len(s.Home.Bank.Requests())
	err := e.use(s.t.Context(), &guest)
	s.rest()
	switch {
	case e.hides && err == nil:
		s.t.Error("it showed what the bank asks")
	case strings.HasPrefix(e.at, "internal") && domain.KindOf(err) != domain.Forbidden && domain.KindOf(err) != domain.NotFound:
		s.t.Errorf("it was not refused: %v", err)
	case e.by == domain.ActorSystem:
	case !journey.IsRefusal(err) && !(e.hides && err == errHidden):
		s.t.Errorf("it was not refused: %v", err)
	}
	if !e.hides || w.come != nil {
		s.refusal(e, w, &guest, s.entriesSince(log))
	}
	changed := before.changed(s.look())
	s.unchanged(e, v, slices.Clone(changed))
	if e.cuts && e.at != "clock" && w.name != "of another client" && w.name != "no such consent" { // which nobody can act under
		s.over(v)
	}
	for _, r := range s.Home.Bank.Requests()[asked:] {
		if r.Method != http.MethodDelete {
			s.t.Errorf("the bank was asked for %s %s", r.Method, r.Path)
		}
	}
	maps.Copy(before, was)
	s.restore(before, slices.AppendSeq(changed, maps.Keys(was)))
}

// refusal makes sure that the audit log tells of the refusal once: who, what, which consent and why.
func (s *scene) refusal(e entrance, w wrong, v *visitor, fresh []domain.Entry) {
	s.t.Helper()
	var denied []domain.Entry
	for _, entry := range fresh {
		if entry.Data.Outcome == domain.OutcomeDenied {
			denied = append(denied, entry)
		} else if !e.cuts {
			s.t.Errorf("%s was recorded as %s", entry.Type, entry.Data.Outcome)
		}
	}
	if more := len(denied) != 1; more && !(e.cuts && len(denied) == 2 && denied[0].Type != denied[1].Type) { // it may not be ended, either
		s.t.Errorf("%d refusals were recorded, want one: %+v", len(denied), denied)
		return
	}
	d := denied[max(0, slices.IndexFunc(denied, func(d domain.Entry) bool { return d.Type == "sluis."+e.action }))]
	atDoor := d.Type == "sluis.request.refused"
	by := e.by
	if v.place.Token == s.called.token || v.place.Token == s.other.token {
		by = domain.ActorAdvisor
	}
	switch {
	case d.Type != "sluis."+e.action && !atDoor:
		s.t.Errorf("the refusal is about %s, want %s", d.Type, e.action)
	case d.Data.Actor.Kind != by || d.Data.Actor.ID == "":
		s.t.Errorf("the refusal names %+v, want %s", d.Data.Actor, by)
	case !slices.Contains(w.codes, d.Data.Reason):
		s.t.Errorf("the refusal says %q, want one of %q", d.Data.Reason, w.codes)
	case d.Subject == "":
		s.t.Error("the refusal says not what was asked for")
	case !atDoor && string(d.Data.ConsentID) != v.consent:
		s.t.Errorf("the refusal names consent %q, want %s", d.Data.ConsentID, v.consent)
	case e.by != domain.ActorSystem && d.Data.Origin == "":
		s.t.Error("the refusal says not from where")
	}
}

// over makes sure that the session that was under way has ended.
func (s *scene) over(v *visitor) {
	s.t.Helper()
	c := &domain.Connection{ID: domain.ConnectionID(v.connection)}
	must(s.t, s.Home.Get(s.t.Context(), c))
	session := &domain.Session{ID: c.SessionID}
	must(s.t, s.Home.Get(s.t.Context(), session))
	if session.State != domain.SessionCancelled || len(session.Sealed) > 0 {
		s.t.Errorf("the session is %s, with a way back into the bank: %v", session.State, len(session.Sealed) > 0)
	}
}

// unchanged makes sure that nothing happened; where a session was under way, that it ended and nothing else.
func (s *scene) unchanged(e entrance, v *visitor, changed []string) {
	s.t.Helper()
	if e.cuts {
		c := &domain.Connection{ID: domain.ConnectionID(v.connection)}
		must(s.t, s.Home.Get(s.t.Context(), c))
		ends := []string{"connection/" + v.connection, "session/" + string(c.SessionID), "challenge/" + string(v.challenge), "credential/" + v.connection}
		changed = slices.DeleteFunc(changed, func(name string) bool {
			return slices.Contains(ends, name) || strings.HasPrefix(name, "notice/") || strings.HasPrefix(name, "delivery/")
		})
	}
	if len(changed) > 0 {
		s.t.Errorf("these changed: %q", changed)
	}
}
