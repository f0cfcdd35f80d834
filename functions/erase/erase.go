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
	"net/http"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// Service erases. Store, Env, Door and Signers must be set.
type Service struct {
	Store   domain.Store
	Env     domain.Env
	Door    *serve.Door
	Signers func() ([]crypto.Signer, error) // versions of the Ed25519 key of certificates, oldest first: the newest signs, all are shown
	Backups time.Duration                   // how long backups of the store may hold copies that nobody can read
	Forget  func(domain.ConnectionID)       // drops keysets cached in this process; nil where there are none
}

// Routes registers the client API and the investor's request.
func (s *Service) Routes(mux *http.ServeMux) {
	client := []domain.Role{domain.RoleClient}
	s.Door.API(mux, "DELETE /v1/connections/{connection}", client, s.byClient(domain.EraseAll))
	s.Door.API(mux, "DELETE /v1/connections/{connection}/credentials", client, s.byClient(domain.EraseCredentials))
	s.Door.API(mux, "DELETE /v1/connections/{connection}/data", client, s.byClient(domain.EraseData))
	s.Door.API(mux, "GET /v1/connections/{connection}/erasures", []domain.Role{domain.RoleClient, domain.RoleReviewer}, s.list, serve.Limit, serve.Cursor)
	s.Door.Investor(mux, "POST /erase", s.byInvestor)
}

// byClient erases on the client's word. To erase all is to end the consent.
func (s *Service) byClient(scope domain.ErasureScope) serve.Endpoint {
	return func(ctx context.Context, c *serve.Call) (serve.Answer, error) {
		conn, err := s.Door.Connection(ctx, c)
		if err != nil {
			return serve.Answer{}, err
		}
		cert, err := s.erase(ctx, &request{connection: conn, scope: scope, cause: "client_request",
			actor: c.Principal.Actor(), origin: c.Origin, clientID: c.Principal.ClientID, ends: domain.ConsentTerminated})
		if err != nil {
			return serve.Answer{}, err
		}
		return serve.Answer{Body: cert}, nil
	}
}

// byInvestor erases on the word of the investor who visits: what a consent holds that their visit may manage.
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
	cert, err := s.erase(ctx, &request{connection: conn, scope: body.Scope, cause: "investor_request",
		actor: c.Visit.Actor(), visit: c.Visit, origin: c.Origin, clientID: c.Visit.ClientID,
		ends: domain.ConsentRevoked})
	if domain.CodeOf(err) == "consent_not_yours" {
		return serve.Answer{}, domain.ErrNotFound
	}
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: cert}, nil
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
	limit, cursor := c.Paging()
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
	for _, scope := range []domain.ErasureScope{domain.EraseCredentials, domain.EraseData, domain.EraseAll} {
		req.scope = scope
		err := s.Store.Get(ctx, &domain.Erasure{ID: underWay(conn.ID, scope)})
		if err == nil {
			_, err = s.finish(ctx, req)
		}
		if err != nil && domain.KindOf(err) != domain.NotFound {
			return err
		}
	}
	if !domain.ConsentMoves.Final(consent.State) {
		return s.narrow(ctx, req, consent)
	}
	req.scope, req.cause = domain.EraseAll, "consent_"+string(consent.State)
	_, err := s.erase(ctx, req)
	return err
}
