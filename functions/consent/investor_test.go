package consent

import (
	"context"
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

func TestPeekUsesNothingUp(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	id, token := h.ask(asked)
	before := len(h.store.entries(""))
	for range 3 {
		l, v, _, err := h.Peek(ctx, token, browser)
		if err != nil || l.ConsentID != id || v.ClientName != "Beacon Wealth" || v.Consent.ID != id {
			t.Fatalf("%+v %+v %v", l, v, err)
		}
	}
	if len(h.store.entries("")) != before || h.store.count("visit") != 0 {
		t.Error("looking left a trace")
	}
	h.visit(token)
	l, _, resumes, err := h.Peek(ctx, token, browser)
	if err != nil || !resumes || l.ConsentID != id {
		t.Errorf("the visit's own browser does not find it again: %v", err)
	}
	_, _, _, err = h.Peek(ctx, token, other)
	wantCode(t, err, domain.Gone, "link_used")
	h.pass(domain.VisitLife)
	_, _, _, err = h.Peek(ctx, token, browser)
	wantCode(t, err, domain.Gone, "link_used")
}

// other is another browser.
var other = strings.Repeat("o", 43)

func TestRedeemIsSingleUse(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	id, token := h.ask(asked)
	cookie, v, err := h.Redeem(ctx, token, browser, "origin")
	if err != nil {
		t.Fatal(err)
	}
	want := domain.Visit{Hash: domain.HashToken(cookie), ConsentID: id, ConnectionID: h.consent(id).ConnectionID,
		ClientID: h.client.ID, InvestorRef: "inv-1", Purpose: domain.LinkConsent, CreatedAt: h.Env.Now(),
		ExpiresAt: h.Env.Now().Add(domain.VisitLife)}
	kept := want // what is kept says nothing of the pseudonym
	if want.Pseudonym = h.Door.Pseudonym(h.client.ID, id, "inv-1"); !reflect.DeepEqual(*v, want) || len(cookie) != 43 {
		t.Errorf("visit %+v, want %+v", v, want)
	}
	if got := (&domain.Visit{Hash: want.Hash}); h.store.Get(ctx, got) != nil || !reflect.DeepEqual(*got, kept) {
		t.Errorf("kept %+v", got)
	}
	if strings.Contains(fmt.Sprint(h.store.docs), cookie) {
		t.Error("the cookie is kept")
	}
	e := h.wantEntry("link.redeemed", domain.OutcomeAllowed, "")
	if e.Data.Actor != want.Actor() || !strings.HasPrefix(e.Data.Actor.ID, "inv_") || e.Data.Origin != "origin" || e.Data.ConsentID != id {
		t.Errorf("entry %+v", e)
	}
	_, _, err = h.Redeem(ctx, token, other, "origin")
	wantCode(t, err, domain.Gone, "link_used")
	h.wantEntry("link.redeemed", domain.OutcomeDenied, "link_used")
}

// The link opened again leads back into the visit, in the browser that began it, until the visit ends: by its time, or by
// the investor's word.
func TestALinkOpenedAgainResumesItsVisit(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	_, token := h.ask(asked)
	cookie, v, err := h.Redeem(ctx, token, browser, "origin")
	if err != nil {
		t.Fatal(err)
	}
	h.pass(time.Minute)
	if err := h.Deny(ctx, v, ""); err != nil { // and whatever became of the consent
		t.Fatal(err)
	}
	again, same, err := h.Redeem(ctx, token, browser, "origin")
	if err != nil || again != cookie || same.Hash != v.Hash || same.ExpiresAt != v.ExpiresAt || h.store.count("visit") != 1 {
		t.Errorf("%+v, %v", same, err)
	}
	entries := h.store.entries("link.redeemed")
	if e := entries[len(entries)-1]; e.Data.Details["resumed"] != "true" {
		t.Errorf("entry %+v", e)
	}
	if err := h.Leave(ctx, v); err != nil {
		t.Fatal(err)
	}
	_, _, err = h.Redeem(ctx, token, browser, "origin")
	wantCode(t, err, domain.Forbidden, "consent_rejected")
	if h.store.count("visit") != 0 {
		t.Error("a visit that was left began again")
	}
}

// The cookie needs the link, the browser and our key: nobody makes it who lacks one of them.
func TestAVisitsCookieNeedsLinkBrowserAndKey(t *testing.T) {
	h := newHome(t)
	made := map[string]string{}
	for name, make := range map[string]func() string{
		"as it is":        func() string { return h.visitToken("token", browser) },
		"another browser": func() string { return h.visitToken("token", other) },
		"another link":    func() string { return h.visitToken("nekot", browser) },
		"another key": func() string {
			s := *h.Service
			s.LinkKey = domain.NewSecret([]byte(strings.Repeat("k", 32)))
			return s.visitToken("token", browser)
		},
		"the link itself": func() string { return h.token("con_1", domain.LinkConsent, browser) },
	} {
		cookie := make()
		if before, ok := made[cookie]; ok || len(cookie) != 43 {
			t.Errorf("%s: %q, as with %s", name, cookie, before)
		}
		made[cookie] = name
	}
}

// A link that was made and opened from one address was perhaps opened by the client itself: the log says so.
func TestALinkOpenedWhereItWasMadeIsNoted(t *testing.T) {
	ctx := context.Background()
	for _, from := range []struct {
		origin, noted string
	}{{newHome(t).Door.Commitment(httptest.NewRequest("POST", "/v1/consents", nil)), "true"}, {"elsewhere", ""}} {
		h := newHome(t)
		_, token := h.ask(asked)
		if _, _, err := h.Redeem(ctx, token, browser, from.origin); err != nil {
			t.Fatal(err)
		}
		entries := h.store.entries("link.redeemed")
		if got := entries[len(entries)-1].Data.Details["same_origin"]; got != from.noted {
			t.Errorf("noted %q, want %q", got, from.noted)
		}
	}
}

// What the investor was shown is in the entry of their yes and in the visit, whichever page showed it.
func TestAConfirmationIsKept(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	id, v := h.granted(asked)
	token := h.linkFor(id, domain.LinkReconnect)
	_, again, err := h.Redeem(ctx, token, other, "")
	if err != nil {
		t.Fatal(err)
	}
	short := domain.Confirmation{Digest: "c0de", Language: "fr", Version: "2"}
	if err := h.Confirm(ctx, again, short, "origin"); err != nil {
		t.Fatal(err)
	}
	for action, want := range map[string]domain.Confirmation{"consent.granted": read, "visit.confirmed": short} {
		e := h.wantEntry(action, domain.OutcomeAllowed, "")
		details := map[string]string{"text_digest": want.Digest, "text_language": want.Language, "text_version": want.Version}
		if e.Data.Actor.Kind != domain.ActorInvestor || !reflect.DeepEqual(e.Data.Details, details) {
			t.Errorf("%s: %+v", action, e)
		}
	}
	for visit, want := range map[*domain.Visit]domain.Confirmation{v: read, again: short} {
		want.At = h.Env.Now()
		if kept := (&domain.Visit{Hash: visit.Hash}); h.store.Get(ctx, kept) != nil || kept.Confirmation == nil || *kept.Confirmation != want {
			t.Errorf("kept %+v", kept.Confirmation)
		}
	}
	con := h.connection(id)
	if con.HeldBy(again) != nil || con.HeldBy(v) == nil {
		t.Error("the newest visit that confirmed has not the connection to itself")
	}
	if err := h.Leave(ctx, again); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.Confirm(ctx, again, short, ""), domain.Unauthenticated, "visit_ended")
	h.wantEntry("visit.confirmed", domain.OutcomeDenied, "visit_ended")
}

// What each link is for, and for which consent, is one table: everything else is refused and recorded, and changes nothing.
func TestAVisitDoesWhatItsLinkIsFor(t *testing.T) {
	ctx := context.Background()
	type act struct {
		action string
		do     func(*home, *domain.Visit, domain.ConsentID) error
	}
	acts := []act{
		{"consent.granted", func(h *home, v *domain.Visit, _ domain.ConsentID) error {
			return h.Grant(ctx, v, h.Custodians[0].ID, read, "")
		}},
		{"visit.confirmed", func(h *home, v *domain.Visit, _ domain.ConsentID) error { return h.Confirm(ctx, v, read, "") }},
		{"consent.revoked", func(h *home, v *domain.Visit, _ domain.ConsentID) error { return h.Revoke(ctx, v, v.ConsentID, "") }},
		{"consent.revoked", func(h *home, v *domain.Visit, other domain.ConsentID) error { return h.Revoke(ctx, v, other, "") }},
	}
	for purpose, may := range map[domain.LinkUse][]bool{
		domain.LinkConsent:   {true, true, true, false},
		domain.LinkReconnect: {false, true, true, false},
		domain.LinkManage:    {false, false, true, true},
	} {
		for i, a := range acts {
			t.Run(fmt.Sprintf("%s %d %s", purpose, i, a.action), func(t *testing.T) {
				h := newHome(t)
				other, _ := h.granted(asked)
				id, v := h.granted(asked)
				if purpose != domain.LinkConsent {
					v = h.visit(h.linkFor(id, purpose))
				}
				before := len(h.store.entries(a.action))
				err := a.do(h, v, other)
				if may[i] {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				wantCode(t, err, domain.Forbidden, "visit_purpose")
				h.wantEntry(a.action, domain.OutcomeDenied, "visit_purpose")
				if len(h.store.entries(a.action)) != before+1 || h.consent(id).State != domain.ConsentValid || h.consent(other).State != domain.ConsentValid {
					t.Error("it was done all the same")
				}
			})
		}
	}
}

func TestRedeemRefuses(t *testing.T) {
	ctx := context.Background()
	cases := []struct {
		name    string
		prepare func(h *home, id domain.ConsentID)
		kind    domain.Kind
		code    string
	}{
		{"an old link", func(h *home, _ domain.ConsentID) { h.pass(domain.LinkLife) }, domain.Gone, "link_used"},
		{"a terminated consent", func(h *home, id domain.ConsentID) { h.call(204, "DELETE", "/v1/consents/"+string(id), "") }, domain.Forbidden, "consent_terminated"},
		{"a suspended client", func(h *home, _ domain.ConsentID) { h.suspend() }, domain.Forbidden, "client_suspended"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t)
			id, token := h.ask(asked)
			c.prepare(h, id)
			_, _, err := h.Redeem(ctx, token, browser, "")
			wantCode(t, err, c.kind, c.code)
			h.wantEntry("link.redeemed", domain.OutcomeDenied, c.code)
			if h.store.count("visit") != 0 {
				t.Error("a visit began")
			}
		})
	}
	h := newHome(t)
	before := len(h.store.entries(""))
	for _, unknown := range []string{"", "x", strings.Repeat("A", 43), strings.Repeat("A", 44)} {
		_, _, err := h.Redeem(ctx, unknown, browser, "")
		wantCode(t, err, domain.Gone, "link_used")
	}
	if len(h.store.entries("")) != before {
		t.Error("guesses fill the log")
	}
}

func (h *home) suspend() {
	h.t.Helper()
	err := h.store.Commit(context.Background(), func(tx domain.Tx) error {
		c := &domain.Client{ID: h.client.ID}
		if err := tx.Get(c); err != nil {
			return err
		}
		if err := c.Move(domain.ClientSuspended, h.Env.Now()); err != nil {
			return err
		}
		tx.Put(c)
		return tx.Record(operatorNote(h.Env, "client.suspended", c.ID, c.Key()))
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func TestGrant(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	id, token := h.ask(asked)
	v := h.visit(token)
	chosen, other := h.Custodians[1].ID, h.Custodians[0].ID
	for range 2 { // granting again changes nothing
		if err := h.Grant(ctx, v, chosen, read, "origin"); err != nil {
			t.Fatal(err)
		}
	}
	c, con := h.consent(id), h.connection(id)
	if c.State != domain.ConsentValid || c.Custodian != chosen || c.DecidedAt != h.Env.Now() || !c.EndedAt.IsZero() {
		t.Errorf("consent %+v", c)
	}
	if con.State != domain.ConnectionAwaiting || con.Custodian != chosen || con.Sequence != 1 {
		t.Errorf("connection %+v", con)
	}
	if h.store.count("notice") != 1 || h.store.emitted(domain.TopicNotice) != 1 || h.store.emitted(domain.TopicErasure) != 0 {
		t.Errorf("%d notices, events %+v", h.store.count("notice"), h.store.events)
	}
	e := h.wantEntry("consent.granted", domain.OutcomeAllowed, "")
	if e.Data.Custodian != chosen || e.Data.Actor.Kind != domain.ActorInvestor || e.Data.Origin != "origin" {
		t.Errorf("entry %+v", e)
	}
	wantCode(t, h.Grant(ctx, v, other, read, ""), domain.Conflict, "consent_granted")
	h.wantEntry("consent.granted", domain.OutcomeDenied, "consent_granted")
	wantCode(t, h.Deny(ctx, v, ""), domain.Forbidden, "consent_valid")
	h.wantEntry("consent.rejected", domain.OutcomeDenied, "consent_valid")
}

func TestGrantRefuses(t *testing.T) {
	ctx := context.Background()
	cases := []struct {
		name, body string
		custodian  domain.CustodianID
		prepare    func(h *home, v *domain.Visit)
		kind       domain.Kind
		code       string
	}{
		{"no custodian", asked, "", nil, domain.Invalid, "invalid_field"},
		{"an unknown custodian", asked, "nobank", nil, domain.Invalid, "invalid_field"},
		{"a custodian not offered", strings.Replace(asked, `"inv-1"`, `"inv-1","custodians":["sandbox-comdirect"]`, 1), "comdirect", nil, domain.Invalid, "invalid_field"},
		{"a custodian not available any more", asked, "comdirect", func(h *home, _ *domain.Visit) { h.Custodians = h.Custodians[1:] }, domain.Invalid, "invalid_field"},
		{"too late", asked, "comdirect", func(h *home, _ *domain.Visit) { h.pass(defaultLife) }, domain.Forbidden, "consent_expired"},
		{"after no", asked, "comdirect", func(h *home, v *domain.Visit) { h.Deny(ctx, v, "") }, domain.Forbidden, "consent_rejected"},
		{"for a suspended client", asked, "comdirect", func(h *home, _ *domain.Visit) { h.suspend() }, domain.Forbidden, "client_suspended"},
		{"by a visit to manage", asked, "comdirect", func(_ *home, v *domain.Visit) { v.Purpose = domain.LinkManage }, domain.Forbidden, "visit_purpose"},
		{"by another investor", asked, "comdirect", func(_ *home, v *domain.Visit) { v.InvestorRef = "inv-9" }, domain.NotFound, "not_found"},
		{"by another client's investor", asked, "comdirect", func(_ *home, v *domain.Visit) { v.ClientID = "cli_9" }, domain.NotFound, "not_found"},
		{"over another connection", asked, "comdirect", func(_ *home, v *domain.Visit) { v.ConnectionID = "conn_9" }, domain.NotFound, "not_found"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t)
			id, token := h.ask(c.body)
			v := h.visit(token)
			if c.prepare != nil {
				c.prepare(h, v)
			}
			wantCode(t, h.Grant(ctx, v, c.custodian, read, ""), c.kind, c.code)
			if state := h.consent(id).State; state == domain.ConsentValid {
				t.Error("granted all the same")
			}
			recorded := c.code
			if recorded == "not_found" {
				recorded = "consent_not_yours"
			}
			h.wantEntry("consent.granted", domain.OutcomeDenied, recorded)
		})
	}
}

func TestDeny(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	id, token := h.ask(asked)
	v := h.visit(token)
	h.suspend() // a no is always heard
	for range 2 {
		if err := h.Deny(ctx, v, "origin"); err != nil {
			t.Fatal(err)
		}
	}
	c, con := h.consent(id), h.connection(id)
	if c.State != domain.ConsentRejected || c.DecidedAt.IsZero() || c.EndedAt.IsZero() || con.State != domain.ConnectionRemoved || con.Reason != domain.ReasonConsentEnded {
		t.Errorf("consent %+v, connection %+v", c, con)
	}
	if h.store.count("notice") != 1 || h.store.emitted(domain.TopicErasure) != 0 {
		t.Errorf("events %+v", h.store.events)
	}
	wantCode(t, h.Grant(ctx, v, "comdirect", read, ""), domain.Forbidden, "consent_rejected")
	v.Purpose = domain.LinkReconnect
	wantCode(t, h.Deny(ctx, v, ""), domain.Forbidden, "visit_purpose")
	h.wantEntry("consent.rejected", domain.OutcomeDenied, "visit_purpose")
}

func TestRevoke(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	id, _ := h.granted(asked)
	asked2, _ := h.ask(asked)
	h.pass(defaultLife + time.Hour)                    // past the consent's time
	v := h.visit(h.linkFor(asked2, domain.LinkManage)) // by another of the investor's consents
	for range 2 {
		if err := h.Revoke(ctx, v, id, "origin"); err != nil {
			t.Fatal(err)
		}
	}
	c, con := h.consent(id), h.connection(id)
	if c.State != domain.ConsentRevoked || con.State != domain.ConnectionRemoved || con.Sequence != 2 {
		t.Errorf("consent %+v, connection %+v", c, con)
	}
	if h.store.emitted(domain.TopicErasure) != 1 || h.store.count("notice") != 2 {
		t.Errorf("events %+v", h.store.events)
	}
	for _, e := range h.store.events {
		if e.Topic == domain.TopicErasure && (e.Subject != string(con.ID) || e.Custodian != con.Custodian) {
			t.Errorf("erasure %+v", e)
		}
	}
	wantCode(t, h.Revoke(ctx, v, v.ConsentID, ""), domain.Forbidden, "consent_received")
	stranger := *v
	stranger.InvestorRef = "inv-9"
	wantCode(t, h.Revoke(ctx, &stranger, id, ""), domain.NotFound, "not_found")
	h.wantEntry("consent.revoked", domain.OutcomeDenied, "consent_not_yours")
}

// Withdrawing is always possible: for a suspended client's investor too, and by a link to manage past the consent's time.
func TestRevokeWhateverBecameOfTheClient(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	id, _ := h.granted(asked)
	h.pass(defaultLife + time.Hour)
	token := tokenOf(t, h.call(201, "POST", "/v1/consents/"+string(id)+"/links", `{"purpose":"manage"}`))
	h.suspend()
	if err := h.Revoke(ctx, h.visit(token), id, ""); err != nil || h.consent(id).State != domain.ConsentRevoked {
		t.Errorf("%v, %s", err, h.consent(id).State)
	}
}

func TestShowGathersWhatTheVisitIsAbout(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	ada := h.call(201, "POST", "/v1/advisors", `{"name":"Ada"}`).text("id")
	bob := h.call(201, "POST", "/v1/advisors", `{"name":"Bob"}`).text("id")
	body := strings.Replace(asked, `"inv-1"`, `"inv-1","custodians":["sandbox-comdirect"],"advisors":["`+ada+`","`+bob+`"]`, 1)
	id, token := h.ask(body)
	h.call(204, "DELETE", "/v1/advisors/"+bob, "")
	v := h.visit(token)
	view, err := h.Show(ctx, v)
	if err != nil {
		t.Fatal(err)
	}
	if view.Consent.ID != id || view.Connection.ID != v.ConnectionID || view.ClientName != "Beacon Wealth" || view.CredentialState != "" ||
		fmt.Sprint(view.Advisors) != "[Ada]" || len(view.Custodians) != 1 || view.Custodians[0].ID != "sandbox-comdirect" || view.Custodian != nil {
		t.Errorf("before the grant %+v", view)
	}
	if err := h.Grant(ctx, v, "sandbox-comdirect", read, ""); err != nil {
		t.Fatal(err)
	}
	era := &domain.Erasure{ID: domain.NewID[domain.ErasureID](h.Env), ConnectionID: v.ConnectionID, Scope: domain.EraseData}
	cred := &domain.Credential{ConnectionID: v.ConnectionID, State: domain.CredentialAccepted}
	err = h.store.Commit(ctx, func(tx domain.Tx) error {
		return errFirst(tx.Put(era), tx.Put(cred), tx.Record(operatorNote(h.Env, "test", h.client.ID, "x")))
	})
	if err != nil {
		t.Fatal(err)
	}
	view, err = h.Show(ctx, v)
	if err != nil || view.Custodian == nil || view.Custodian.ID != "sandbox-comdirect" || view.CredentialState != domain.CredentialAccepted ||
		len(view.Erasures) != 1 || view.Erasures[0].ID != era.ID {
		t.Errorf("after the grant %+v, %v", view, err)
	}
	stranger := *v
	stranger.InvestorRef = "inv-9"
	_, err = h.Show(ctx, &stranger)
	wantCode(t, err, domain.NotFound, "not_found")
}

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestMineIsTheInvestorsWithThisClientOnly(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	first, v := h.granted(asked)
	h.pass(time.Second)
	second, _ := h.ask(asked)
	h.ask(strings.Replace(asked, "inv-1", "inv-2", 1))
	_, other := h.newClient("Other", Terms{})
	h.as(other, "POST", "/v1/consents", asked)
	views, err := h.Mine(ctx, v)
	if err != nil || len(views) != 2 || views[0].Consent.ID != second || views[1].Consent.ID != first {
		t.Fatalf("%+v, %v", views, err)
	}
}

func TestMineKeepsEveryLiveConsent(t *testing.T) {
	h := newHome(t)
	live, v := h.granted(asked)
	for range maxEnded + 5 {
		h.pass(time.Second)
		id, _ := h.ask(asked)
		h.call(204, "DELETE", "/v1/consents/"+string(id), "")
	}
	views, err := h.Mine(context.Background(), v)
	if err != nil || len(views) != maxEnded+1 || views[maxEnded].Consent.ID != live {
		t.Errorf("%d views, %v", len(views), err)
	}
}

func TestLeave(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	_, token := h.ask(asked)
	v := h.visit(token)
	for range 2 {
		if err := h.Leave(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	if h.store.count("visit") != 0 {
		t.Error("the visit is still there")
	}
	if e := h.wantEntry("visit.left", domain.OutcomeAllowed, ""); e.Data.ConsentID != v.ConsentID {
		t.Errorf("entry %+v", e)
	}
}
