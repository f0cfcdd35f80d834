// Package erase removes what a connection holds, at once, on request or when its consent ends, and gives a signed
// certificate of it.
//
// An erasure has a scope (credentials, data, all) and three steps, each with its own commits of bounded size:
//
//	begin    one commit: the sealed credential and the wrapped data key are destroyed, so that nothing can be read any
//	         more, whatever still lies about; sessions at the bank are cancelled; a line is kept that says what is
//	         going on (an Erasure without a signature, under a name that follows from connection and scope)
//	clear    challenges, versions and parts are deleted, up to 50 documents in a commit, and counted in that line
//	certify  one commit: the line is replaced by the signed certificate, and the client is told
//
// Whoever asked waits for all three. If the process dies in between, nothing is readable, and an event that the first
// commit sends a minute ahead finishes the rest; asking again finishes it too. The counts stand in the same commits
// as the deletions they count, so the certificate is right however often the work broke off, or was done by two at
// once. Only what existed when an erasure of credentials or data began is removed: with a valid consent the
// investor may enter credentials again, and the bank may be read again, while the last parts are still being cleared.
//
// Cancelled sessions keep their sealed state until extraction, which alone can open it, has closed the session at the
// bank; it wipes the state then. Notices, consents, the connection's own line and the audit log stay: they hold
// identifiers and states only.
package erase

import (
	"context"
	"crypto"
	"errors"
	"net/http"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// Copies say how long there may be copies of what was erased.
type Copies struct {
	Backups time.Duration // of the store; 0 means that it is not known
	Shards  time.Duration // of shards, kept apart; 0 means that none are made
	Memory  time.Duration // of keysets, in the memory of other processes; 0 means that there are no others
}

// Service erases. Store, Env, Door, Signers and Shards must be set.
type Service struct {
	Store   domain.Store
	Env     domain.Env
	Door    *serve.Door
	Signers func() ([]crypto.Signer, error) // versions of the Ed25519 key of certificates, oldest first: the newest signs, all are shown
	Shards  domain.ShardDestroyer
	Copies  Copies
	Wait    time.Duration             // how long who asked waits for banks to close their sessions; 0 means 5 s, less means not at all
	Forget  func(domain.ConnectionID) // drops keysets cached in this process; nil where there are none
}

// Routes registers the client API and the investor's request.
func (s *Service) Routes(mux *http.ServeMux) {
	client := []domain.Role{domain.RoleClient}
	s.Door.API(mux, "DELETE /v1/connections/{connection}", client, s.byClient(domain.EraseAll))
	s.Door.API(mux, "DELETE /v1/connections/{connection}/credentials", client, s.byClient(domain.EraseCredentials))
	s.Door.API(mux, "DELETE /v1/connections/{connection}/data", client, s.byClient(domain.EraseData))
	s.Door.API(mux, "GET /v1/connections/{connection}/erasures", []domain.Role{domain.RoleClient, domain.RoleReviewer}, s.list)
	s.Door.Investor(mux, "POST /erase", s.byInvestor)
}

// byClient erases on the client's word. To erase all is to end the consent.
func (s *Service) byClient(scope domain.ErasureScope) serve.Endpoint {
	return func(ctx context.Context, c *serve.Call) (serve.Answer, error) {
		conn, err := s.Door.Connection(ctx, c)
		if err != nil {
			return serve.Answer{}, err
		}
		return s.answer(ctx, &request{connection: conn, scope: scope, cause: "client_request",
			actor: c.Principal.Actor(), origin: c.Origin, clientID: c.Principal.ClientID, ends: domain.ConsentTerminated})
	}
}

// underWayAnswer is given where the certificate would not be true yet: what was to be erased opens no more, but a session
// at a bank is still to be closed. The certificate follows by itself, at the latest when the bank has forgotten the session.
type underWayAnswer struct {
	ConnectionID domain.ConnectionID `json:"connection_id"`
	ConsentID    domain.ConsentID    `json:"consent_id"`
	Scope        domain.ErasureScope `json:"scope"`
	State        string              `json:"state"`     // under_way
	WaitsFor     string              `json:"waits_for"` // bank_session
}

// answer erases and gives the certificate, or says that it will follow.
func (s *Service) answer(ctx context.Context, r *request) (serve.Answer, error) {
	cert, err := s.erase(ctx, r)
	if errors.Is(err, errOpen) {
		return serve.Answer{Status: http.StatusAccepted, Location: "/v1/connections/" + string(r.connection.ID) + "/erasures",
			Body: underWayAnswer{r.connection.ID, r.connection.ConsentID, r.scope, "under_way", "bank_session"}}, nil
	}
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: cert}, nil
}

// byInvestor erases on the word of the investor who visits: what any of their consents with this client holds.
func (s *Service) byInvestor(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	var body struct {
		ConsentID domain.ConsentID    `json:"consent_id"`
		Scope     domain.ErasureScope `json:"scope"`
	}
	if err := c.Decode(&body); err != nil {
		return serve.Answer{}, err
	}
	if _, err := domain.ParseID[domain.ConsentID](string(body.ConsentID)); err != nil {
		return serve.Answer{}, domain.Invalidf("/consent_id", "want a consent's identifier")
	}
	if body.Scope != domain.EraseCredentials && body.Scope != domain.EraseData && body.Scope != domain.EraseAll {
		return serve.Answer{}, domain.Invalidf("/scope", "want credentials, data or all")
	}
	consent := &domain.Consent{ID: body.ConsentID}
	switch err := s.Store.Get(ctx, consent); {
	case domain.KindOf(err) == domain.NotFound:
		return serve.Answer{}, s.Door.Refuse(c, string(consent.ID), domain.ErrNotFound)
	case err != nil:
		return serve.Answer{}, err
	}
	conn := &domain.Connection{ID: consent.ConnectionID}
	if err := s.Store.Get(ctx, conn); err != nil {
		return serve.Answer{}, err
	}
	answer, err := s.answer(ctx, &request{connection: conn, scope: body.Scope, cause: "investor_request",
		actor: c.Visit.Actor(), origin: c.Origin, clientID: c.Visit.ClientID, investorRef: c.Visit.InvestorRef,
		ends: domain.ConsentRevoked})
	if domain.CodeOf(err) == "consent_not_yours" {
		return serve.Answer{}, domain.ErrNotFound
	}
	answer.Location = "" // the investor's page has none
	return answer, err
}

type certificatePage struct {
	serve.List[domain.Erasure]
	Keys []key `json:"keys"`
}

// list gives a connection's certificates, newest first, and the keys to verify them with.
func (s *Service) list(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	conn, err := s.Door.Connection(ctx, c)
	if err != nil {
		return serve.Answer{}, err
	}
	limit, cursor, err := c.Paging()
	if err != nil {
		return serve.Answer{}, err
	}
	keys, err := s.keys()
	if err != nil {
		return serve.Answer{}, err
	}
	found, next, err := s.certificates(ctx, conn.ID, cursor, limit)
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: certificatePage{List: serve.List[domain.Erasure]{Data: found, Next: next}, Keys: keys}}, nil
}

// certificates gives a page of what is signed; erasures under way are left out.
func (s *Service) certificates(ctx context.Context, id domain.ConnectionID, cursor string, limit int) ([]domain.Erasure, string, error) {
	found, next, err := domain.List[domain.Erasure](ctx, s.Store, domain.Query{Index: "erasures_by_connection",
		Match: []string{string(id)}, Cursor: cursor, Limit: limit})
	if err != nil {
		return nil, "", err
	}
	signed := make([]domain.Erasure, 0, len(found))
	for _, e := range found {
		if len(e.Signature) > 0 {
			signed = append(signed, e)
		}
	}
	return signed, next, nil
}

// Erasure takes an erasure-requested event, whose subject is a connection: it finishes what broke off, and
// erases all if the consent has ended, or else what it covers no more. Done twice, it does nothing the second time.
func (s *Service) Erasure(ctx context.Context, e domain.Event) error {
	conn := &domain.Connection{ID: domain.ConnectionID(e.Subject)}
	if err := s.Store.Get(ctx, conn); err != nil {
		return domain.IgnoreNotFound(err)
	}
	consent := &domain.Consent{ID: conn.ConsentID}
	if err := s.Store.Get(ctx, consent); err != nil {
		return err
	}
	req := &request{connection: conn, actor: domain.Actor{Kind: domain.ActorSystem, ID: "erase"}}
	var open error // a session at the bank holds up one erasure, and no other
	for _, scope := range []domain.ErasureScope{domain.EraseCredentials, domain.EraseData, domain.EraseAll} {
		req.scope = scope
		err := s.Store.Get(ctx, &domain.Erasure{ID: underWay(conn.ID, scope)})
		if err == nil {
			_, err = s.finish(ctx, req)
		}
		if errors.Is(err, errOpen) {
			open = err
			continue
		}
		if err != nil && domain.KindOf(err) != domain.NotFound {
			return err
		}
	}
	if !domain.ConsentMoves.Final(consent.State) {
		_, err := s.destroyShards(ctx, req, nil) // of a credential that was replaced, or was never kept
		return errors.Join(err, s.narrow(ctx, req, consent), open)
	}
	req.scope, req.cause, req.hurries = domain.EraseAll, "consent_"+string(consent.State), true
	if _, err := s.erase(ctx, req); err != nil {
		return err
	}
	_, err := s.destroyShards(ctx, req, nil)
	return errors.Join(err, open)
}
