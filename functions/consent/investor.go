package consent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sluis.internal/shared/domain"
)

// View is everything a page says about one consent.
type View struct {
	Consent         domain.Consent
	Connection      domain.Connection
	ClientName      string
	Logo            brand
	Advisors        []string               // names of those who may read: removed ones are left out
	Custodians      []domain.Custodian     // offered: the consent's choice as far as it is available here, or all
	Custodian       *domain.Custodian      // chosen; nil before the grant, or where it is no longer available here
	CredentialState domain.CredentialState // "" when none is held
	CredentialFits  bool                   // it is the newest that the connection was given
	Erasures        []domain.Erasure       // newest first, up to 20
	Readings        *domain.Budget         // without the investor; nil where nothing bounds them, or nobody has logged in yet
}

// Limits of the page on which an investor sees all consents.
const (
	maxMine  = 1000 // read
	maxEnded = 50   // shown of those that are over
)

// Peek shows whom a link is from without using it up: mail scanners and previews open links too. A link that is
// unknown, used or expired is Gone, unless browser is the one whose visit it opened, and that still goes on.
func (s *Service) Peek(ctx context.Context, token, browser string) (l domain.Link, v View, resumes bool, err error) {
	found, c, err := s.invitation(ctx, token)
	if err != nil {
		return l, v, false, err
	}
	if resumes, err = s.living(ctx, s.visitToken(token, browser)); err != nil {
		return l, v, false, err
	}
	if probe := *found; !resumes {
		if err := probe.Use(s.Env.Now()); err != nil {
			return l, v, false, err
		}
	}
	v, err = s.view(ctx, c)
	return *found, v, resumes, err
}

// living says whether the visit of a cookie goes on.
func (s *Service) living(ctx context.Context, cookie string) (bool, error) {
	v := &domain.Visit{Hash: domain.HashToken(cookie)}
	err := s.Store.Get(ctx, v)
	return err == nil && s.Env.Now().Before(v.ExpiresAt), domain.IgnoreNotFound(err)
}

// invitation finds the link of a token and its consent. Tokens that no link has look like used ones: nothing is
// recorded of them, as anybody may send any number of them.
func (s *Service) invitation(ctx context.Context, token string) (*domain.Link, *domain.Consent, error) {
	gone := (&domain.Link{}).Use(s.Env.Now()) // a link that never lived
	if len(token) != tokenLength {
		return nil, nil, gone
	}
	l := &domain.Link{Hash: domain.HashToken(token)}
	if err := s.Store.Get(ctx, l); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil, nil, gone
		}
		return nil, nil, fmt.Errorf("reading link: %w", err)
	}
	c := &domain.Consent{ID: l.ConsentID}
	if err := s.Store.Get(ctx, c); err != nil {
		return nil, nil, fmt.Errorf("reading consent: %w", err)
	}
	return l, c, nil
}

// Redeem uses a link up and begins a visit, in one transaction: of two browsers that redeem it at once, one gets the visit
// and the other Gone. One browser gets the same visit as often as it asks while that goes on: a second click, or the link
// opened again. browser is that browser's random value. cookie is the visit's secret, 43 characters of base64url; only its
// hash is kept.
func (s *Service) Redeem(ctx context.Context, token, browser, origin string) (cookie string, visit *domain.Visit, err error) {
	l, c, err := s.invitation(ctx, token)
	if err != nil {
		return "", nil, err
	}
	cookie = s.visitToken(token, browser)
	hash := domain.HashToken(cookie)
	resumes, err := s.living(ctx, cookie)
	if err != nil {
		return "", nil, err
	}
	comes := domain.NewVisit(hash, l, c, s.Env.Now())
	comes.Pseudonym = s.Door.Pseudonym(c.ClientID, c.ID, c.InvestorRef)
	a := comes.Act(function, "link.redeemed", domain.MayVisit, c.ID, origin)
	if a.States, a.Late = opensIn(l.Purpose); resumes {
		a.States, a.Late = domain.AnyConsentState, true
	}
	a.Details["purpose"] = string(l.Purpose)
	err = s.act(ctx, a, func(tx domain.Tx, c *domain.Consent, act *domain.Act) error {
		visit, err = s.enter(tx, token, hash, c, act)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	visit.Pseudonym = comes.Pseudonym
	return cookie, visit, nil
}

// enter finds the visit of hash, or uses the link of token up and begins it. That the link was made and opened from one
// network address is noted: then perhaps the client opened it by itself.
func (s *Service) enter(tx domain.Tx, token, hash string, c *domain.Consent, act *domain.Act) (*domain.Visit, error) {
	l, now := &domain.Link{Hash: domain.HashToken(token)}, s.Env.Now()
	visit, err := domain.Maybe(tx, &domain.Visit{Hash: hash})
	if err != nil {
		return nil, err
	}
	if err := tx.Get(l); err != nil {
		return nil, err
	}
	if l.Origin != "" && l.Origin == act.Origin {
		act.Details["same_origin"] = "true"
	}
	if visit != nil && now.Before(visit.ExpiresAt) {
		act.Details["resumed"] = "true"
		return visit, nil
	}
	if err := l.Use(now); err != nil {
		return nil, err
	}
	visit = domain.NewVisit(hash, l, c, now)
	return visit, putAll(tx, l, visit)
}

func putAll(tx domain.Tx, docs ...domain.Document) error {
	for _, d := range docs {
		if err := tx.Put(d); err != nil {
			return err
		}
	}
	return nil
}

// Show is the consent that the visit is about.
func (s *Service) Show(ctx context.Context, v *domain.Visit) (View, error) {
	c := &domain.Consent{ID: v.ConsentID}
	if err := s.Store.Get(ctx, c); err != nil {
		return View{}, err
	}
	if c.ClientID != v.ClientID || c.InvestorRef != v.InvestorRef {
		return View{}, domain.ErrNotFound
	}
	return s.view(ctx, c)
}

// Grant is the investor's yes to what they were shown, for one of the custodians offered. Granting again for the same
// custodian confirms it again and changes nothing else; for another one it is a Conflict.
func (s *Service) Grant(ctx context.Context, v *domain.Visit, custodian domain.CustodianID, shown domain.Confirmation, origin string) error {
	a := v.Act(function, "consent.granted", domain.MayDecide, v.ConsentID, origin)
	a.States = []domain.ConsentState{domain.ConsentReceived, domain.ConsentValid}
	shown.Details(a.Details)
	return s.act(ctx, a, func(tx domain.Tx, c *domain.Consent, act *domain.Act) error {
		con := &domain.Connection{ID: c.ConnectionID}
		if err := tx.Get(con); err != nil {
			return err
		}
		now := s.Env.Now()
		shown.At = now
		if c.State == domain.ConsentValid {
			if err := repeatedGrant(c, custodian, act); err != nil {
				return err
			}
			return errors.Join(act.Visit.Confirm(tx, con, shown), tx.Put(con))
		}
		if s.custodian(custodian) == nil {
			return domain.Invalidf("custodian", "choose one of the custodians offered")
		}
		if err := c.Grant(custodian, now); err != nil {
			return err
		}
		con.Custodian = custodian
		if err := con.Move(domain.ConnectionAwaiting, "", now); err != nil {
			return err
		}
		if err := domain.Tell(s.Env, tx, con, domain.NoticeConsentGranted, string(c.ID)); err != nil {
			return err
		}
		return errors.Join(act.Visit.Confirm(tx, con, shown), putAll(tx, c, con))
	})
}

// Confirm is the investor's yes to what a credential is for, before they enter one in a visit in which they have not
// granted. From then on this visit, and no earlier one, may enter it.
func (s *Service) Confirm(ctx context.Context, v *domain.Visit, shown domain.Confirmation, origin string) error {
	a := v.Act(function, "visit.confirmed", domain.MayConfirm, v.ConsentID, origin)
	shown.Details(a.Details)
	return s.act(ctx, a, func(tx domain.Tx, c *domain.Consent, act *domain.Act) error {
		con := &domain.Connection{ID: c.ConnectionID}
		if err := tx.Get(con); err != nil {
			return err
		}
		shown.At = s.Env.Now()
		return errors.Join(act.Visit.Confirm(tx, con, shown), tx.Put(con))
	})
}

func repeatedGrant(c *domain.Consent, custodian domain.CustodianID, act *domain.Act) error {
	if c.Custodian != custodian {
		return &domain.Error{Kind: domain.Conflict, Code: "consent_granted", Field: "custodian",
			Message: "this consent was given for another custodian; withdraw it and ask for a new one"}
	}
	act.Details["repeated"] = "true"
	return nil
}

// Deny is the investor's no. Denying again changes nothing.
func (s *Service) Deny(ctx context.Context, v *domain.Visit, origin string) error {
	a := v.Act(function, "consent.rejected", domain.MayDecide, v.ConsentID, origin)
	a.Late, a.States = true, []domain.ConsentState{domain.ConsentReceived, domain.ConsentRejected}
	return s.act(ctx, a, s.end(domain.ConsentRejected))
}

// Revoke withdraws a consent that the visit may manage (GDPR Article 7(3): as easily as it was given). What is held under
// it is erased. Withdrawing again changes nothing.
func (s *Service) Revoke(ctx context.Context, v *domain.Visit, id domain.ConsentID, origin string) error {
	a := v.Act(function, "consent.revoked", domain.MayManage, id, origin)
	a.Late, a.States = true, []domain.ConsentState{domain.ConsentValid, domain.ConsentRevoked}
	return s.act(ctx, a, s.end(domain.ConsentRevoked))
}

// end ends a consent. Ending it again in the same way changes nothing.
func (s *Service) end(to domain.ConsentState) effect {
	return func(tx domain.Tx, c *domain.Consent, act *domain.Act) error {
		con := &domain.Connection{ID: c.ConnectionID}
		if err := tx.Get(con); err != nil {
			return err
		}
		if c.State == to {
			act.Details["repeated"] = "true"
			return nil
		}
		return domain.EndConsent(s.Env, tx, c, con, to)
	}
}

// Mine is every consent of the investor with this client that still lives, and the newest of those that are over,
// newest first.
func (s *Service) Mine(ctx context.Context, v *domain.Visit) ([]View, error) {
	consents, _, err := domain.List[domain.Consent](ctx, s.Store, domain.Query{Index: "consents_by_investor",
		Match: []string{string(v.ClientID), v.InvestorRef}, Limit: maxMine})
	if err != nil {
		return nil, fmt.Errorf("listing consents: %w", err)
	}
	views, ended := []View{}, 0
	for i := range consents {
		if domain.ConsentMoves.Final(consents[i].State) {
			if ended++; ended > maxEnded {
				continue
			}
		}
		view, err := s.view(ctx, &consents[i])
		if err != nil {
			return nil, err
		}
		views = append(views, view)
	}
	return views, nil
}

// Leave ends the visit: its cookie opens nothing any more. Leaving twice does no harm.
func (s *Service) Leave(ctx context.Context, v *domain.Visit) error {
	e := domain.Note(s.Env, function, "visit.left", v.Actor(), v.ClientID, string(v.ConsentID), map[string]string{})
	e.Data.ConsentID, e.Data.ConnectionID = v.ConsentID, v.ConnectionID
	return settle(ctx, s.Env, s.Store, e, func(tx domain.Tx) error { return tx.Delete(v) })
}

// view gathers what a page says about c.
func (s *Service) view(ctx context.Context, c *domain.Consent) (View, error) {
	v := View{Consent: *c, Connection: domain.Connection{ID: c.ConnectionID}, Custodian: s.custodian(c.Custodian)}
	for _, known := range s.Custodians {
		if len(c.Custodians) == 0 || slices.Contains(c.Custodians, known.ID) {
			v.Custodians = append(v.Custodians, known)
		}
	}
	client, held := &domain.Client{ID: c.ClientID}, &domain.Credential{ConnectionID: c.ConnectionID}
	if err := s.Store.Get(ctx, client, &v.Connection); err != nil {
		return View{}, fmt.Errorf("reading client and connection: %w", err)
	}
	v.ClientName, v.Logo = client.Name, brandOf(client)
	if err := s.Store.Get(ctx, held); err != nil && domain.KindOf(err) != domain.NotFound {
		return View{}, fmt.Errorf("reading credential: %w", err)
	}
	v.CredentialState, v.CredentialFits = held.State, held.Fits(&v.Connection)
	var err error
	if v.Advisors, err = s.advisorNames(ctx, c); err != nil {
		return View{}, err
	}
	v.Erasures, _, err = domain.List[domain.Erasure](ctx, s.Store, domain.Query{Index: "erasures_by_connection",
		Match: []string{string(c.ConnectionID)}, Limit: 20})
	if err != nil {
		return View{}, fmt.Errorf("listing erasures: %w", err)
	}
	v.Readings, err = s.readings(ctx, c, &v.Connection)
	return v, err
}

// readings is the budget of the connection's login.
func (s *Service) readings(ctx context.Context, c *domain.Consent, conn *domain.Connection) (*domain.Budget, error) {
	if conn.AccessKey == "" || conn.State == domain.ConnectionRemoved {
		return nil, nil
	}
	a := &domain.BankAccess{ID: conn.AccessKey}
	if err := domain.IgnoreNotFound(s.Store.Get(ctx, a)); err != nil {
		return nil, fmt.Errorf("reading access: %w", err)
	}
	if a.Rules.Readings.Most == 0 {
		return nil, nil
	}
	b := a.Budget(&a.Rules, domain.BankVisit{Recurring: true, Client: c.ClientID, Consent: c.ID, Products: c.Products}, s.Env.Now())
	return &b, nil
}

func (s *Service) advisorNames(ctx context.Context, c *domain.Consent) ([]string, error) {
	var names []string
	for _, id := range c.Advisors {
		a := &domain.Advisor{ID: id}
		if err := s.Store.Get(ctx, a); err != nil {
			return nil, fmt.Errorf("reading advisor: %w", err)
		}
		if a.State == domain.AdvisorActive {
			names = append(names, a.Name)
		}
	}
	return names, nil
}
