package erase

import (
	"context"
	"slices"
	"strconv"

	"sluis.internal/shared/domain"
)

// narrow removes what a consent that lives on covers no more: of every version, what it says of those products and the
// sums that they went into; then the parts themselves, whatever the saving scope. Nobody could read them since the consent
// was narrowed, and no reading writes such parts again.
func (s *Service) narrow(ctx context.Context, r *request, c *domain.Consent) error {
	err := pages(ctx, s, r, "portfolios_by_connection", func(found []domain.Portfolio) error {
		for i := range found {
			if strip(c, &found[i]) {
				if err := s.stripVersion(ctx, r, found[i].ID); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return pages(ctx, s, r, "parts_by_connection", func(found []domain.Part) error {
		found = slices.DeleteFunc(found, func(p domain.Part) bool { return slices.Contains(c.Products, p.Product) })
		if len(found) == 0 {
			return nil
		}
		return s.narrowing(ctx, r, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
			for i := range found {
				if err := tx.Delete(&found[i]); err != nil {
					return err
				}
			}
			tally(a, map[string]int{"part": len(found)})
			return nil
		})
	})
}

// narrowing is one commit of narrow.
func (s *Service) narrowing(ctx context.Context, r *request, fn func(domain.Tx, *domain.Consent, *domain.Act) error) error {
	act := r.act("erasure.narrowed")
	act.Details = map[string]string{}
	return domain.Perform(ctx, s.Env, s.Store, act, fn)
}

// pages goes through an index of the connection's documents.
func pages[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, s *Service, r *request, index string, do func([]T) error) error {
	q := domain.Query{Index: index, Match: []string{string(r.connection.ID)}, Limit: batchSize}
	for {
		found, next, err := domain.List[T, P](ctx, s.Store, q)
		if err == nil {
			err = do(found)
		}
		if err != nil || next == "" {
			return err
		}
		q.Cursor = next
	}
}

func (s *Service) stripVersion(ctx context.Context, r *request, id domain.PortfolioID) error {
	return s.narrowing(ctx, r, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		p := &domain.Portfolio{ID: id}
		there, err := domain.Find(tx, p)
		if err != nil || !there || !strip(c, p) {
			return err
		}
		a.Details["portfolio"], a.Details["version"] = string(id), strconv.FormatInt(p.Number, 10)
		return tx.Put(p)
	})
}

// strip takes out of a version what the consent covers no more, and says whether there was any.
func strip(c *domain.Consent, p *domain.Portfolio) (changed bool) {
	for product, status := range p.Products {
		if status.State == domain.ProductNotConsented || slices.Contains(c.Products, product) {
			continue
		}
		p.Products[product] = domain.ProductStatus{State: domain.ProductNotConsented}
		p.Summary, p.SummaryMark = nil, ""
		changed = true
	}
	return changed
}
