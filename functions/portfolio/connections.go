package portfolio

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// connectionView is a connection as clients see it.
type connectionView struct {
	ID              domain.ConnectionID            `json:"id"`
	ConsentID       domain.ConsentID               `json:"consent_id"`
	InvestorRef     string                         `json:"investor_ref"`
	Custodian       domain.CustodianID             `json:"custodian,omitempty"`
	State           domain.ConnectionState         `json:"state"`
	Reason          domain.Reason                  `json:"reason,omitempty"`
	Products        map[domain.Product]productView `json:"products"`
	PortfolioID     domain.PortfolioID             `json:"portfolio_id,omitempty"`
	Sequence        int64                          `json:"sequence"`
	Session         *sessionView                   `json:"session,omitzero"`
	Access          *accessView                    `json:"access,omitzero"`
	NextRefreshAt   domain.Time                    `json:"next_refresh_at,omitzero"`
	LastRefreshedAt domain.Time                    `json:"last_refreshed_at,omitzero"`
	CreatedAt       domain.Time                    `json:"created_at"`
	UpdatedAt       domain.Time                    `json:"updated_at"`
}

// accessView is what the login bears that the connection used last, whoever else shares it.
type accessView struct {
	Resting   bool          `json:"resting"`             // one more try could lock it at the bank
	Wants     domain.Reason `json:"wants,omitempty"`     // what the investor must mend before it is read without them
	NotBefore domain.Time   `json:"not_before,omitzero"` // nobody logs in sooner
	Readings  *readingsView `json:"readings,omitzero"`   // without the investor; absent where nothing bounds them
}

// readingsView is the budget of readings without the investor.
type readingsView struct {
	Per   domain.PerOf `json:"per"`
	Hours int          `json:"hours"`
	domain.Budget
}

// accesses adds to each view what its login bears.
func (s *Service) accesses(ctx context.Context, conns []domain.Connection, views []connectionView) error {
	var asked []domain.Document
	found := map[domain.AccessKey]*domain.BankAccess{}
	for i := range conns {
		if key := conns[i].AccessKey; key != "" && found[key] == nil {
			found[key] = &domain.BankAccess{ID: key}
			asked = append(asked, found[key])
		}
	}
	if len(asked) == 0 {
		return nil
	}
	if err := domain.IgnoreNotFound(s.Store.Get(ctx, asked...)); err != nil {
		return err
	}
	for i := range conns {
		if a := found[conns[i].AccessKey]; a != nil && !a.CreatedAt.IsZero() && conns[i].State != domain.ConnectionRemoved {
			views[i].Access = viewAccess(a, &conns[i], s.Env.Now())
		}
	}
	return nil
}

func viewAccess(a *domain.BankAccess, c *domain.Connection, now domain.Time) *accessView {
	r, visit := &a.Rules, domain.BankVisit{Recurring: true, Client: c.ClientID, Consent: c.ConsentID, Products: slices.Collect(maps.Keys(c.Products))}
	v := &accessView{Resting: a.Resting(r, now), Wants: a.Person}
	if now.Before(a.NextAt) {
		v.NotBefore = a.NextAt
	}
	if r.Readings.Most > 0 {
		v.Readings = &readingsView{Per: cmp.Or(r.Readings.Per, domain.PerAccess), Hours: r.Readings.Hours, Budget: a.Budget(r, visit, now)}
	}
	return v
}

// productView says whether a reading has all of one product.
type productView struct {
	State  domain.ProductState `json:"state"`
	Reason domain.Reason       `json:"reason,omitempty"`
	Count  int                 `json:"count"`
	Saved  bool                `json:"saved"`
}

// sessionView is the newest visit to the bank.
type sessionView struct {
	ID        domain.SessionID    `json:"id"`
	Cause     domain.Cause        `json:"cause"`
	State     domain.SessionState `json:"state"`
	Reason    domain.Reason       `json:"reason,omitempty"`
	Records   int                 `json:"records"`
	CreatedAt domain.Time         `json:"created_at"`
	EndedAt   domain.Time         `json:"ended_at,omitzero"`
}

func viewConnection(c *domain.Connection) connectionView {
	return connectionView{ID: c.ID, ConsentID: c.ConsentID, InvestorRef: c.InvestorRef, Custodian: c.Custodian,
		State: c.State, Reason: c.Reason, Products: viewProducts(c.Products), PortfolioID: c.PortfolioID,
		Sequence: c.Sequence, NextRefreshAt: c.NextRefreshAt, LastRefreshedAt: c.LastRefreshedAt,
		CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt}
}

func viewProducts(products map[domain.Product]domain.ProductStatus) map[domain.Product]productView {
	out := make(map[domain.Product]productView, len(products))
	for p, status := range products {
		out[p] = viewProduct(status)
	}
	return out
}

func viewProduct(s domain.ProductStatus) productView {
	return productView{State: s.State, Reason: s.Reason, Count: s.Count, Saved: s.Saved}
}

// listConnections gives a page of connections, newest first: for an advisor those whose consents name them.
func (s *Service) listConnections(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	limit, cursor := c.Paging()
	q := domain.Query{Index: "connections_by_client", Match: []string{string(c.Principal.ClientID)}, Cursor: cursor}
	switch ref, state := c.Param("investor_ref"), c.Param("state"); {
	case ref != "" && state != "":
		q.Index, q.Match = "connections_by_investor_state", append(q.Match, ref, state)
	case ref != "":
		q.Index, q.Match = "connections_by_investor", append(q.Match, ref)
	case state != "":
		q.Index, q.Match = "connections_by_state", append(q.Match, state)
	}
	q.Limit = limit
	found, next, err := serve.Visible(ctx, s.Store, q, c.Principal, func(conn *domain.Connection) (bool, error) { return s.sees(ctx, c.Principal, conn) })
	if err != nil {
		return serve.Answer{}, err
	}
	page := serve.List[connectionView]{Data: make([]connectionView, len(found)), Next: next}
	for i := range found {
		page.Data[i] = viewConnection(&found[i])
	}
	if err := s.accesses(ctx, found, page.Data); err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: page}, nil
}

func (s *Service) sees(ctx context.Context, p domain.Principal, conn *domain.Connection) (bool, error) {
	if p.Role != domain.RoleAdvisor {
		return p.ClientID == conn.ClientID, nil
	}
	consent := &domain.Consent{ID: conn.ConsentID}
	if err := s.Store.Get(ctx, consent); err != nil {
		return false, err
	}
	return p.Sees(consent), nil
}

// getConnection gives one connection, with its newest session.
func (s *Service) getConnection(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	conn, err := s.Door.Connection(ctx, c)
	if err != nil {
		return serve.Answer{}, err
	}
	sees, err := s.sees(ctx, c.Principal, conn)
	if err != nil {
		return serve.Answer{}, err
	}
	if !sees {
		return serve.Answer{}, s.Door.Refuse(c, string(conn.ID), domain.ErrNotFound)
	}
	view := viewConnection(conn)
	if conn.SessionID != "" {
		session := &domain.Session{ID: conn.SessionID}
		err := s.Store.Get(ctx, session)
		if err != nil && domain.KindOf(err) != domain.NotFound {
			return serve.Answer{}, err
		}
		if err == nil {
			view.Session = &sessionView{ID: session.ID, Cause: session.Cause, State: session.State, Reason: session.Reason,
				Records: session.Records, CreatedAt: session.CreatedAt, EndedAt: session.EndedAt}
		}
	}
	views := []connectionView{view}
	if err := s.accesses(ctx, []domain.Connection{*conn}, views); err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: views[0]}, nil
}

// consented says of each product in m what the consent still covers: what was read before the consent was narrowed
// is shown no more.
func consented(consent *domain.Consent, m map[domain.Product]domain.ProductStatus) map[domain.Product]productView {
	out := viewProducts(m)
	for p := range out {
		if !slices.Contains(consent.Products, p) {
			out[p] = productView{State: domain.ProductNotConsented}
		}
	}
	return out
}
