// Package portfolio is what clients read: their connections, how complete each is, and the records themselves.
//
// Reading is an act like any other. Each call re-checks the consent in the transaction that records the audit entry,
// and only after that transaction is any record opened: no entry, no data. An advisor's key sees only what consents
// that name this advisor allow; for all others the answer is the same as for something that does not exist.
//
// A portfolio is read in versions that never change. A cursor names its version, so that a client that pages through
// 200,000 transactions gets one version from the first page to the last, even if a newer one arrives meanwhile. Only
// the parts that a page needs are opened, so memory is bounded whatever the size of the portfolio.
//
// This function also takes the client's wish for fresh data, and queues a session for it: at most one at a time.
package portfolio

import (
	"context"
	"errors"
	"net/http"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// Opener opens what lies under a connection's keyset: parts and summaries. envelope.Reader is one.
type Opener interface {
	Open(key *domain.DataKey, what, id string, sealed []byte) ([]byte, error)
}

// Service reads portfolios and asks for refreshes. All fields but Interval must be set.
type Service struct {
	Store    domain.Store
	Env      domain.Env
	Door     *serve.Door
	Opener   Opener
	Interval time.Duration // between a reading and the next that a client may ask for; 0 means one minute
}

// Routes registers the client API of this function.
func (s *Service) Routes(mux *http.ServeMux) {
	states := []domain.Role{domain.RoleClient, domain.RoleAdvisor, domain.RoleReviewer}
	readers := []domain.Role{domain.RoleClient, domain.RoleAdvisor}
	s.Door.API(mux, "GET /v1/connections", states, s.listConnections, serve.InvestorRef, serve.Word("state", domain.ConnectionStates...), serve.Limit, serve.Cursor)
	s.Door.API(mux, "GET /v1/connections/{connection}", states, s.getConnection)
	s.Door.API(mux, "POST /v1/connections/{connection}/refresh", []domain.Role{domain.RoleClient}, s.refresh)
	s.Door.API(mux, "GET /v1/connections/{connection}/portfolio", readers, s.getPortfolio, versionParameter)
	s.Door.API(mux, "GET /v1/connections/{connection}/portfolios", readers, s.listPortfolios, serve.Limit, serve.Cursor)
	s.Door.API(mux, "GET /v1/connections/{connection}/portfolio/{product}", readers, s.getRecords, versionParameter, serve.Limit, serve.Cursor)
}

// act begins the description of what the caller does to conn.
func (s *Service) act(c *serve.Call, conn *domain.Connection, action string) domain.Act {
	return domain.Act{Action: action, Function: "portfolio", Actor: c.Principal.Actor(), Origin: c.Origin,
		ConsentID: conn.ConsentID, ClientID: c.Principal.ClientID, AdvisorID: c.Principal.AdvisorID,
		ConnectionID: conn.ID, Custodian: conn.Custodian, Subject: string(conn.ID), Details: map[string]string{}}
}

// perform is domain.Perform, but a consent that does not name the caller looks like one that does not exist. Asking for
// a version that is not there, or another connection's, is recorded too.
func (s *Service) perform(ctx context.Context, c *serve.Call, a domain.Act, fn func(domain.Tx, *domain.Consent, *domain.Act) error) error {
	err := domain.Perform(ctx, s.Env, s.Store, a, fn)
	if domain.CodeOf(err) == "consent_not_yours" {
		return domain.ErrNotFound
	}
	if errors.Is(err, errNoVersion) {
		return s.Door.Refuse(c, a.Subject, errNoVersion)
	}
	return err
}
