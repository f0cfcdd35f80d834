package sweep

import (
	"context"
	"errors"
	"strconv"

	"sluis.internal/shared/domain"
)

// partsRead is how many parts are looked at at once: they are large.
const partsRead = 50

// retire deletes portfolio versions beyond the saving scope, and the parts that nothing needs any more.
func (s *Service) retire(ctx context.Context, r *Report) error {
	found, next, err := domain.List[domain.Portfolio](ctx, s.Store, domain.Query{Index: "expired_portfolios", To: s.upTo(), Limit: maxVersions})
	if err != nil {
		return err
	}
	r.More = r.More || next != ""
	ended := map[domain.ConnectionID][]*domain.Portfolio{}
	var order []domain.ConnectionID
	for i := range found {
		id := found[i].ConnectionID
		if ended[id] == nil {
			order = append(order, id)
		}
		ended[id] = append(ended[id], &found[i])
	}
	var failures error
	for _, id := range order {
		failures = errors.Join(failures, ignoreNothing(s.retireOf(ctx, ended[id], r)))
	}
	return failures
}

// retireOf deletes the ended versions of one connection: first the parts that they alone need, then the manifests, so
// that a sweep that breaks off is taken up again by the next one.
func (s *Service) retireOf(ctx context.Context, ended []*domain.Portfolio, r *Report) error {
	first := ended[0]
	if err := s.collect(ctx, first.ClientID, first.ConsentID, first.ConnectionID, r); err != nil {
		return err
	}
	for _, p := range ended {
		if err := ignoreNothing(s.deleteVersion(ctx, p, r)); err != nil {
			return err
		}
	}
	return nil
}

// deleteVersion deletes the manifest of a version that has ended.
func (s *Service) deleteVersion(ctx context.Context, seen *domain.Portfolio, r *Report) error {
	a := late("portfolio.retired", seen.ClientID, seen.ConsentID, seen.ConnectionID)
	a.Subject = string(seen.ID)
	err := domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		p := &domain.Portfolio{ID: seen.ID}
		there, err := maybe(tx, p)
		if err != nil {
			return err
		}
		if !there || !s.over(p) {
			return errNothing
		}
		return tx.Delete(p)
	})
	if err == nil {
		r.Deleted[seen.Kind()]++
	}
	return err
}

// over says whether the saving scope has ended the version's life.
func (s *Service) over(p *domain.Portfolio) bool {
	return !p.ExpiresAt.IsZero() && !s.Env.Now().Before(p.ExpiresAt)
}

// late begins the description of an act that only takes away.
func late(action string, client domain.ClientID, consent domain.ConsentID, conn domain.ConnectionID) domain.Act {
	a := act(action, client, consent, conn)
	a.States, a.Late = domain.AnyConsentState, true
	return a
}

func ignoreNothing(err error) error {
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// collectLoose collects the parts of a connection whose versions have let some go, though they live on: where the
// scope of one product is the latest version, and that of another a history.
func (s *Service) collectLoose(ctx context.Context, conn *domain.Connection, r *Report) error {
	versions, err := s.versions(ctx, conn.ID)
	if err != nil {
		return err
	}
	for i := range versions {
		for _, status := range versions[i].Products {
			if versions[i].ID != conn.PortfolioID && status.Count > 0 && len(status.Parts) == 0 {
				return ignoreNothing(s.collect(ctx, conn.ClientID, conn.ConsentID, conn.ID, r))
			}
		}
	}
	return nil
}

// versions reads all manifests of a connection.
func (s *Service) versions(ctx context.Context, id domain.ConnectionID) (all []domain.Portfolio, err error) {
	q := domain.Query{Index: "portfolios_by_connection", Match: []string{string(id)}}
	for {
		page, next, err := domain.List[domain.Portfolio](ctx, s.Store, q)
		all = append(all, page...)
		if err != nil || next == "" {
			return all, err
		}
		q.Cursor = next
	}
}

// collect deletes the parts of a connection that no living version names. While a session runs nothing is deleted,
// since it may be about to name parts that are there already; each transaction makes sure that none has begun, and
// ends with errNothing if one has.
func (s *Service) collect(ctx context.Context, client domain.ClientID, consent domain.ConsentID, id domain.ConnectionID, r *Report) error {
	conn := &domain.Connection{ID: id}
	if err := s.Store.Get(ctx, conn); err != nil {
		return err
	}
	versions, err := s.versions(ctx, id)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for i := range versions {
		if s.over(&versions[i]) && versions[i].ID != conn.PortfolioID {
			continue
		}
		for _, status := range versions[i].Products {
			for _, part := range status.Parts {
				named[part] = true
			}
		}
	}
	q := domain.Query{Index: "parts_by_connection", Match: []string{string(id)}, Limit: partsRead}
	for {
		page, next, err := domain.List[domain.Part](ctx, s.Store, q)
		if err != nil {
			return err
		}
		var loose []string
		for i := range page {
			if !named[page[i].ID] {
				loose = append(loose, page[i].ID)
			}
		}
		if err := s.deleteParts(ctx, late("portfolio.parts_dropped", client, consent, id), conn.Versions, loose, r); err != nil {
			return err
		}
		if next == "" {
			return nil
		}
		q.Cursor = next
	}
}

// deleteParts deletes parts, unless a session runs or a version has come since.
func (s *Service) deleteParts(ctx context.Context, a domain.Act, versions int64, loose []string, r *Report) error {
	if len(loose) == 0 {
		return nil
	}
	err := domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		conn := &domain.Connection{ID: a.ConnectionID}
		if err := tx.Get(conn); err != nil {
			return err
		}
		if conn.SessionID != "" {
			session := &domain.Session{ID: conn.SessionID}
			there, err := maybe(tx, session)
			if err != nil {
				return err
			}
			if there && session.State == domain.SessionRunning {
				return errNothing
			}
		}
		if conn.Versions != versions {
			return errNothing
		}
		a.Details["parts"] = strconv.Itoa(len(loose))
		for _, id := range loose {
			if err := tx.Delete(&domain.Part{ID: id}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		r.Deleted["part"] += len(loose)
	}
	return err
}
