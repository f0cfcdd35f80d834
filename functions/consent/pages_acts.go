package consent

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

func (s *Service) homePage(p *sheet) (string, error) {
	p.Name, p.Title, p.Left = "home", p.text["home.title"], p.r.URL.Query().Has("left")
	return "", nil
}

// linkPage shows who asks. It uses nothing up: mail scanners and link previews open links too, so only the button does.
func (s *Service) linkPage(p *sheet) (string, error) {
	token := p.r.PathValue("token")
	if !tokenShape.MatchString(token) {
		return "", domain.ErrNotFound
	}
	browser := s.Door.Browser(p.w, p.r)
	link, view, resumes, err := s.Peek(p.r.Context(), token, browser)
	if err != nil {
		return "", err
	}
	if asked := p.site.words[view.Consent.Language]; asked != nil && !p.chosen {
		p.words = asked
	}
	p.Name, p.View, p.Purpose, p.Until, p.Resumes = "link", view, link.Purpose, link.ExpiresAt, resumes
	p.Title, err = p.T("link.title."+string(link.Purpose), "client", view.ClientName)
	return "", err
}

func (s *Service) redeemLink(p *sheet) (string, error) {
	token := p.r.PathValue("token")
	if !tokenShape.MatchString(token) {
		return "", domain.ErrNotFound
	}
	cookie, visit, err := s.Redeem(p.r.Context(), token, s.Door.Browser(p.w, p.r), s.Door.Commitment(p.r))
	if err != nil {
		return "", err
	}
	serve.SetVisit(p.w, cookie)
	switch visit.Purpose {
	case domain.LinkManage:
		return "/me", nil
	case domain.LinkReconnect:
		return "/connect", nil
	default:
		return "/consent", nil
	}
}

func (s *Service) consentPage(p *sheet) (string, error) {
	if next := p.place(); next != "/consent" {
		return next, nil
	}
	p.Name, p.Step = "consent", 1
	var err error
	if p.Title, err = p.T("consent.title", "client", p.View.ClientName); err != nil {
		return "", err
	}
	return "", p.toConfirm()
}

// grantConsent takes the yes to the very text that was shown. If that is no longer what is asked, or no custodian was
// chosen, the page is shown again.
func (s *Service) grantConsent(p *sheet) (string, error) {
	custodian := domain.CustodianID(p.r.PostForm.Get("custodian"))
	shown, err := p.confirmation("consent")
	if err != nil {
		return "", err
	}
	p.Missing = !slices.ContainsFunc(p.View.Custodians, func(c domain.Custodian) bool { return c.ID == custodian })
	p.Changed = p.r.PostForm.Get("shown") != shown.Digest
	decides, state := p.Visit.May(domain.MayDecide, p.Visit.ConsentID), p.View.Consent.State
	switch {
	case decides && state == domain.ConsentReceived && (p.Missing || p.Changed):
		p.Status = http.StatusBadRequest
		return s.consentPage(p)
	case decides && state == domain.ConsentValid && p.Changed:
		return "/connect", nil // which has its own text to confirm
	}
	return "/connect", s.Grant(p.r.Context(), p.Visit, custodian, shown, s.Door.Commitment(p.r))
}

func (s *Service) denyConsent(p *sheet) (string, error) {
	return "/done", s.Deny(p.r.Context(), p.Visit, s.Door.Commitment(p.r))
}

// connectPage takes the login, once this very visit has confirmed what it is for. A connection that works is left alone
// unless the visit is for reconnecting, or the last reading lacks something.
func (s *Service) connectPage(p *sheet) (string, error) {
	if next := p.place(); next != "/connect" && !(next == "/done" && p.reconnects()) {
		return next, nil
	}
	if p.View.Custodian == nil {
		return "", &domain.Error{Kind: domain.Unavailable, Code: "custodian_unavailable", Message: "this custodian is not available at present"}
	}
	p.Name, p.Step = "connect", 2
	if err := s.nameKeys(p); err != nil {
		return "", err
	}
	var err error
	if p.Title, err = p.T("connect.title", "bank", p.Bank(p.View)); err != nil || p.confirmed() {
		return "", err
	}
	p.Name = "confirm"
	if p.Title, err = p.T("confirm.title", "bank", p.Bank(p.View)); err != nil {
		return "", err
	}
	return "", p.toConfirm()
}

// reconnects says whether the visit may enter a login though nothing waits for one.
func (p *sheet) reconnects() bool {
	state := p.View.Connection.State
	again := state == domain.ConnectionPaused ||
		state == domain.ConnectionActive && (p.Visit.Purpose == domain.LinkReconnect || p.Repeatable())
	return again && p.Live(p.View) && p.Visit.May(domain.MayConnect, p.Visit.ConsentID)
}

// confirmed says whether this visit has confirmed, and no newer one since.
func (p *sheet) confirmed() bool {
	return p.Visit.Confirmation != nil && p.View.Connection.HeldBy(p.Visit) == nil
}

// confirmConnect takes the yes to the short text that stands before the login.
func (s *Service) confirmConnect(p *sheet) (string, error) {
	shown, err := p.confirmation("confirm")
	if err != nil {
		return "", err
	}
	if p.Changed = p.r.PostForm.Get("shown") != shown.Digest; p.Changed && p.Visit.May(domain.MayConfirm, p.Visit.ConsentID) {
		p.Status = http.StatusBadRequest
		return s.connectPage(p)
	}
	return "/connect", s.Confirm(p.r.Context(), p.Visit, shown, s.Door.Commitment(p.r))
}

// nameKeys tells a page which keys it may seal to, by their thumbprints (RFC 7638). The keys themselves come from the
// sealing function: whoever would have a page seal to a key of their own needs both functions.
func (s *Service) nameKeys(p *sheet) error {
	kids, err := s.Inner.Kids()
	p.Keys = strings.Join(kids, " ")
	return err
}

// scaPage follows a session at the bank. What is on it the script learns from the challenge function, which also
// says when to leave it: a session may have ended, or not begun, at the moment this page is asked for.
func (s *Service) scaPage(p *sheet) (string, error) {
	next := p.place()
	if next == "/consent" || next == "/me" || !p.Live(p.View) {
		return next, nil
	}
	p.Name, p.Step = "sca", 3
	if err := s.nameKeys(p); err != nil {
		return "", err
	}
	var err error
	p.Title, err = p.T("sca.title", "bank", p.Bank(p.View))
	return "", err
}

// troubled says at which step a connection came to a halt for a reason; all others are the reading's.
var troubled = map[domain.Reason]int{
	domain.ReasonCredentialsRefused: 2, domain.ReasonAccountLocked: 2, domain.ReasonActionRequired: 2, domain.ReasonInterrupted: 2,
	domain.ReasonCredentialsErased: 2, domain.ReasonSCARequired: 3, domain.ReasonSCARejected: 3, domain.ReasonSCACancelled: 3,
	domain.ReasonSCAExpired: 3, domain.ReasonAccessResting: 2, domain.ReasonAccessWaits: 2, domain.ReasonMisshapen: 2,
}

// willed are the reasons that the investor wanted: nothing failed.
var willed = []domain.Reason{domain.ReasonSCACancelled, domain.ReasonCredentialsErased, domain.ReasonDataErased}

func (s *Service) donePage(p *sheet) (string, error) {
	c, connection := &p.View.Consent, &p.View.Connection
	p.Name = "done"
	switch {
	case isOver(c, p.now):
		p.came("expired", 0, "")
	case c.State == domain.ConsentRejected:
		p.came("denied", 1, "stopped")
	case domain.ConsentMoves.Final(c.State) || connection.State == domain.ConnectionRemoved:
		p.came("ended", 0, "")
	case c.State == domain.ConsentReceived || connection.State == domain.ConnectionBusy || connection.State == domain.ConnectionSCA:
		return p.place(), nil
	case connection.State == domain.ConnectionAwaiting && connection.Reason == "":
		return p.place(), nil
	case connection.State == domain.ConnectionActive && p.Partly():
		p.came("partly", 4, "partly")
	case connection.State == domain.ConnectionActive:
		p.came("read", 4, "past")
	default:
		mark := "failed"
		if slices.Contains(willed, connection.Reason) {
			mark = "stopped"
		}
		p.came("paused", cmp.Or(troubled[connection.Reason], 4), mark)
		p.Title = p.Term("reason", connection.Reason)
	}
	return "", nil
}

// came notes how a visit ended, at which step, and how that step stands.
func (p *sheet) came(outcome string, step int, mark string) {
	p.Outcome, p.Step, p.Mark, p.Title = outcome, step, mark, p.text["done."+outcome+".title"]
}

func (s *Service) mePage(p *sheet) (string, error) {
	views, err := s.Mine(p.r.Context(), p.Visit)
	if err != nil {
		return "", err
	}
	p.Name, p.Views = "me", views
	if asked := domain.ConsentID(p.r.URL.Query().Get("withdraw")); asked != "" {
		i := slices.IndexFunc(views, func(v View) bool { return v.Consent.ID == asked && p.Live(v) })
		if i < 0 {
			return "/me", nil
		}
		p.Name, p.Asked, p.Title = "withdraw", &views[i], p.text["withdraw.title"]
		return "", nil
	}
	p.Title, err = p.T("me.title", "client", p.View.ClientName)
	return "", err
}

func (s *Service) revokeConsent(p *sheet) (string, error) {
	id, err := domain.ParseID[domain.ConsentID](p.r.PostForm.Get("consent_id"))
	if err != nil {
		return "", err
	}
	return "/me", s.Revoke(p.r.Context(), p.Visit, id, s.Door.Commitment(p.r))
}

// leaveVisit ends the visit. Somebody whose visit is over already has left, too.
func (s *Service) leaveVisit(p *sheet) (string, error) {
	visit, err := s.Door.Visiting(p.r)
	if err != nil && domain.KindOf(err) != domain.Unauthenticated {
		return "", err
	}
	if err == nil {
		if err := s.Leave(p.r.Context(), visit); err != nil {
			return "", err
		}
	}
	serve.EndVisit(p.w)
	return "/?left=1", nil
}
