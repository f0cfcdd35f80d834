package portfolio

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// Why a version cannot be read.
var (
	errNothing = &domain.Error{Kind: domain.NotFound, Code: "portfolio_none",
		Message: "nothing was read yet, or it was erased; see the connection's state and reason"}
	errNoVersion = &domain.Error{Kind: domain.NotFound, Code: "version_unknown", Field: "version",
		Message: "there is no such version; list /portfolios"}
	errGone = &domain.Error{Kind: domain.Gone, Code: "version_gone",
		Message: "this version is no longer kept; begin again with the newest one"}
)

// versionView is one version's manifest without its products.
type versionView struct {
	ID          domain.PortfolioID `json:"id"`
	Number      int64              `json:"number"`
	RetrievedAt domain.Time        `json:"retrieved_at"`
	ExpiresAt   domain.Time        `json:"expires_at,omitzero"`
}

// portfolioView is one version's manifest.
type portfolioView struct {
	versionView
	ConnectionID   domain.ConnectionID            `json:"connection_id"`
	ConsentID      domain.ConsentID               `json:"consent_id"`
	Custodian      domain.CustodianID             `json:"custodian"`
	SessionID      domain.SessionID               `json:"session_id"`
	Products       map[domain.Product]productView `json:"products"`
	Reconciliation []domain.Reconciliation        `json:"reconciliation,omitempty"`
}

func viewVersion(p *domain.Portfolio) versionView {
	return versionView{ID: p.ID, Number: p.Number, RetrievedAt: p.RetrievedAt, ExpiresAt: p.ExpiresAt}
}

func viewPortfolio(consent *domain.Consent, p *domain.Portfolio) portfolioView {
	return portfolioView{versionView: viewVersion(p), ConnectionID: p.ConnectionID, ConsentID: p.ConsentID,
		Custodian: p.Custodian, SessionID: p.SessionID, Products: consented(consent, p.Products)}
}

// getPortfolio gives one version's manifest: the newest, or ?version= its number or identifier.
func (s *Service) getPortfolio(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	conn, err := s.Door.Connection(ctx, c)
	if err != nil {
		return serve.Answer{}, err
	}
	pick, err := s.pick(ctx, conn, c.Request.URL.Query().Get("version"))
	if err != nil {
		return serve.Answer{}, err
	}
	var v version
	var view portfolioView
	var summed bool
	err = s.perform(ctx, c, s.act(c, conn, "portfolio.read"), func(tx domain.Tx, consent *domain.Consent, a *domain.Act) error {
		if v, err = s.load(tx, conn.ID, pick, a); err != nil {
			return err
		}
		view, summed = viewPortfolio(consent, v.portfolio), summable(consent, v.portfolio)
		return nil
	})
	if err != nil {
		return serve.Answer{}, err
	}
	if summed {
		if view.Reconciliation, err = s.summary(ctx, &v); err != nil {
			return serve.Answer{}, err
		}
	}
	return serve.Answer{Body: view}, nil
}

// summable says whether the sums may be shown: not once the consent was narrowed below what they are made of.
func summable(consent *domain.Consent, p *domain.Portfolio) bool {
	for _, product := range []domain.Product{domain.ProductAccounts, domain.ProductCash, domain.ProductPositions} {
		status, read := p.Products[product]
		if read && status.State != domain.ProductNotConsented && !slices.Contains(consent.Products, product) {
			return false
		}
	}
	return len(p.Summary) > 0
}

func (s *Service) summary(ctx context.Context, v *version) ([]domain.Reconciliation, error) {
	plain, err := domain.In(ctx, s.Opener).Open(v.key, "summary", v.portfolio.SummaryMark, v.portfolio.Summary)
	if err != nil {
		return nil, fmt.Errorf("reading summary: %w", err)
	}
	defer clear(plain)
	var out []domain.Reconciliation
	if err := json.Unmarshal(plain, &out); err != nil {
		return nil, fmt.Errorf("reading summary: %w", err)
	}
	return out, nil
}

// version is what a transaction on one version begins with.
type version struct {
	portfolio *domain.Portfolio
	key       *domain.DataKey
}

// load reads one version of the connection and the key to it, and notes in the audit entry which one it is. pick is
// the version wanted; "" means the newest.
func (s *Service) load(tx domain.Tx, id domain.ConnectionID, pick domain.PortfolioID, a *domain.Act) (version, error) {
	conn := &domain.Connection{ID: id}
	if err := tx.Get(conn); err != nil {
		return version{}, err
	}
	missing := errNoVersion
	if pick == "" {
		pick, missing = conn.PortfolioID, errNothing
	}
	v := version{&domain.Portfolio{ID: pick}, &domain.DataKey{ConnectionID: id}}
	if pick == "" {
		return v, missing
	}
	there, err := domain.Find(tx, v.portfolio)
	if err != nil {
		return v, err
	}
	if !there || v.portfolio.ConnectionID != id {
		return v, missing
	}
	if there, err = domain.Find(tx, v.key); err != nil {
		return v, err
	}
	if !there || s.over(v.portfolio) || v.portfolio.RetrievedAt.Before(v.key.CreatedAt) { // the key to it was lost
		return v, errGone
	}
	a.Details["version"], a.Details["portfolio"] = strconv.FormatInt(v.portfolio.Number, 10), string(pick)
	return v, nil
}

// over says whether the saving scope has ended the version's life, swept already or not.
func (s *Service) over(p *domain.Portfolio) bool {
	return !p.ExpiresAt.IsZero() && !s.Env.Now().Before(p.ExpiresAt)
}

// unknownVersion stands for a number that no version has, so that the consent is checked before it is said.
const unknownVersion domain.PortfolioID = "unknown"

// pick turns a version as clients name it into an identifier; "" is the newest.
func (s *Service) pick(ctx context.Context, conn *domain.Connection, name string) (domain.PortfolioID, error) {
	if name == "" {
		return "", nil
	}
	if strings.HasPrefix(name, "pf_") {
		id, err := domain.ParseID[domain.PortfolioID](name)
		if err != nil {
			return "", domain.Invalidf("version", "want a version's number or its identifier")
		}
		return id, nil
	}
	number, err := strconv.ParseInt(name, 10, 64)
	if err != nil || number < 1 {
		return "", domain.Invalidf("version", "want a version's number or its identifier")
	}
	q := domain.Query{Index: "portfolios_by_connection", Match: []string{string(conn.ID)}}
	for {
		found, next, err := domain.List[domain.Portfolio](ctx, s.Store, q)
		if err != nil {
			return "", err
		}
		for i := range found {
			if found[i].Number == number {
				return found[i].ID, nil
			}
		}
		if next == "" || found[len(found)-1].Number < number {
			return unknownVersion, nil
		}
		q.Cursor = next
	}
}

// listPortfolios gives a page of the versions that are kept, newest first, without their sums.
func (s *Service) listPortfolios(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	conn, err := s.Door.Connection(ctx, c)
	if err != nil {
		return serve.Answer{}, err
	}
	limit, cursor, err := c.Paging()
	if err != nil {
		return serve.Answer{}, err
	}
	found, next, err := domain.List[domain.Portfolio](ctx, s.Store, domain.Query{Index: "portfolios_by_connection",
		Match: []string{string(conn.ID)}, Limit: limit, Cursor: cursor})
	if err != nil {
		return serve.Answer{}, err
	}
	page := serve.List[portfolioView]{Next: next}
	err = s.perform(ctx, c, s.act(c, conn, "portfolio.listed"), func(_ domain.Tx, consent *domain.Consent, a *domain.Act) error {
		page.Data = make([]portfolioView, 0, len(found))
		for i := range found {
			if !s.over(&found[i]) {
				page.Data = append(page.Data, viewPortfolio(consent, &found[i]))
			}
		}
		a.Details["count"] = strconv.Itoa(len(page.Data))
		return nil
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: page}, nil
}
