// Package consent is where everything begins and ends: a client asks for an investor's consent, the investor reads
// what is asked and grants or denies it, and either of them ends it.
//
// Clients speak to the API (Routes): consents and the links that lead investors to them, advisors, keys. Investors
// come by a single-use link and see pages (Pages), which call the methods of investor.go. Operators use the functions
// of operator.go.
//
// Acts under a consent go through domain.Perform, which re-checks the consent in the transaction of the effect and
// records both what was done and what was refused. Acts that need no consent (keys, advisors) go through settle, which
// does the same without one. Each act finds its own traces, so that repeating it after a broken-off commit does no
// harm: "applied, yet returned an error" ends as if all had been well.
package consent

import (
	"context"
	"errors"
	"net/http"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

// function is this function's name in the audit log.
const function = "consent"

// Service is the consent function. It holds no key that opens anything: only the one that makes links.
type Service struct {
	Store      domain.Store
	Env        domain.Env
	Door       *serve.Door
	Custodians []domain.Custodian // available here: those whose secrets are configured
	LinkKey    domain.Secret      // HMAC-SHA256; at least 32 bytes
	Inner      envelope.Inner     // the keys that pages may seal to: their public halves
	PagesURL   string             // where investors come, for example http://localhost:8081
	Company    Company            // who runs this; without a name only in practice
	Practice   bool               // the banks here are for practice, and so is everything
}

// Who may call what: an advisor or a reviewer reads consents, everything else is the client's own.
var (
	clientOnly = []domain.Role{domain.RoleClient}
	readers    = []domain.Role{domain.RoleClient, domain.RoleAdvisor, domain.RoleReviewer}
)

// Routes registers the client API of this function, as pipeline.json lists it.
func (s *Service) Routes(mux *http.ServeMux) {
	s.Door.API(mux, "GET /v1/client", clientOnly, s.showClient)
	s.Door.API(mux, "GET /v1/custodians", clientOnly, s.listCustodians)
	s.Door.API(mux, "POST /v1/consents", clientOnly, s.createConsent)
	s.Door.API(mux, "GET /v1/consents", readers, s.Door.Looking(function, "consents", s.listConsents), serve.InvestorRef,
		serve.Word("state", domain.ConsentStates...), serve.Limit, serve.Cursor)
	s.Door.API(mux, "GET /v1/consents/{consent}", readers, s.Door.Looking(function, "consents", s.showConsent))
	s.Door.API(mux, "PATCH /v1/consents/{consent}", clientOnly, s.narrowConsent)
	s.Door.API(mux, "DELETE /v1/consents/{consent}", clientOnly, s.terminateConsent)
	s.Door.API(mux, "POST /v1/consents/{consent}/links", clientOnly, s.createLink)
	s.Door.API(mux, "POST /v1/advisors", clientOnly, s.createAdvisor)
	s.Door.API(mux, "GET /v1/advisors", clientOnly, s.Door.Looking(function, "advisors", s.listAdvisors), serve.Limit, serve.Cursor)
	s.Door.API(mux, "DELETE /v1/advisors/{advisor}", clientOnly, s.removeAdvisor)
	s.Door.KeyAPI(mux, "POST /v1/keys", s.createKey)
	s.Door.API(mux, "GET /v1/keys", clientOnly, s.Door.Looking(function, "keys", s.listKeys), serve.Word("state", domain.KeyStates...), serve.Limit, serve.Cursor)
	s.Door.KeyAPI(mux, "POST /v1/keys/{key}/rotate", s.rotateKey)
	s.Door.KeyAPI(mux, "DELETE /v1/keys/{key}", s.revokeKey, serve.Flag("line"))
}

// effect is what an act does within its transaction.
type effect = func(domain.Tx, *domain.Consent, *domain.Act) error

// act performs an act under a consent. A refusal is recorded, whether the consent's terms or fn refuse: Perform records
// what is forbidden, and perform what is a no for another reason. fn must not have put anything by then. Where nobody can tell whether the commit happened, the act is repeated once, so fn must
// know its own traces. A consent that is not the caller's looks like one that does not exist.
func (s *Service) act(ctx context.Context, a domain.Act, fn effect) error {
	a.Function = function
	err := s.perform(ctx, a, fn)
	if uncertain(ctx, err) {
		err = s.perform(ctx, a, fn)
	}
	if code := domain.CodeOf(err); code == "consent_not_yours" || code == "consent_unknown" {
		return domain.ErrNotFound
	}
	return err
}

func (s *Service) perform(ctx context.Context, a domain.Act, fn effect) error {
	var refusal *domain.Error
	var under domain.Consent
	err := domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, c *domain.Consent, act *domain.Act) error {
		refusal, under = nil, *c
		err := fn(tx, c, act)
		if refuses(err) && domain.KindOf(err) != domain.Forbidden {
			errors.As(err, &refusal)
		}
		return err
	})
	if refusal == nil || !errors.Is(err, refusal) {
		return err
	}
	e := domain.Note(s.Env, function, a.Action, a.Actor, under.ClientID, string(under.ID), a.Details)
	e.Data.ConsentID, e.Data.ConnectionID, e.Data.Custodian = under.ID, under.ConnectionID, under.Custodian
	e.Data.Purpose, e.Data.Origin = under.Purpose.Code, a.Origin
	return errors.Join(err, deny(ctx, s.Store, e, refusal))
}

// settle does an act that needs no consent, and records e in the same transaction; fn may fill in e's subject and
// details. A refusal by fn is recorded too. Where nobody can tell whether the commit happened, the act is repeated
// once: if e is in the log by then, it had happened, and the log takes no identifier twice.
func settle(ctx context.Context, env domain.Env, s domain.Store, e *domain.Entry, fn func(domain.Tx) error) error {
	var refusal *domain.Error
	try := func(again bool) error {
		return s.Commit(ctx, func(tx domain.Tx) error {
			refusal = nil
			if again {
				if err := tx.Get(&domain.Entry{ID: e.ID}); domain.KindOf(err) != domain.NotFound {
					return err
				}
			}
			if err := fn(tx); err != nil {
				if refuses(err) {
					errors.As(err, &refusal)
				}
				return err
			}
			return tx.Record(e)
		})
	}
	err := try(false)
	if uncertain(ctx, err) {
		err = try(true)
	}
	if refusal == nil || !errors.Is(err, refusal) {
		return err
	}
	denied := *e
	denied.ID = domain.NewID[domain.EntryID](env)
	return errors.Join(err, deny(ctx, s, &denied, refusal))
}

// deny records that e's act was refused.
func deny(ctx context.Context, s domain.Store, e *domain.Entry, refusal *domain.Error) error {
	e.Data.Outcome, e.Data.Reason = domain.OutcomeDenied, refusal.Code
	return s.Commit(ctx, func(tx domain.Tx) error { return tx.Record(e) })
}

// refuses says whether err is a no to what was asked, rather than a failure of ours.
func refuses(err error) bool {
	switch domain.KindOf(err) {
	case domain.Invalid, domain.Forbidden, domain.NotFound, domain.Conflict, domain.Gone:
		return err != nil
	}
	return false
}

// uncertain says whether the effects of a commit that returned err may have happened all the same.
func uncertain(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil {
		return false
	}
	kind := domain.KindOf(err)
	return kind == domain.Internal || kind == domain.Unavailable
}

// note begins the audit entry of an API call that needs no consent.
func (s *Service) note(c *serve.Call, action, subject string) *domain.Entry {
	e := domain.Note(s.Env, function, action, c.Principal.Actor(), c.Principal.ClientID, subject, map[string]string{})
	e.Data.Origin = c.Origin
	return e
}

// custodian finds one that is available here, or nil.
func (s *Service) custodian(id domain.CustodianID) *domain.Custodian {
	for i := range s.Custodians {
		if s.Custodians[i].ID == id {
			return &s.Custodians[i]
		}
	}
	return nil
}
