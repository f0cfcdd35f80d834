package sweep

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"sluis.internal/shared/domain"
)

// partsRead is how many parts are looked at at once: they are large.
const partsRead = 50

// retire deletes what is beyond the saving scope: parts that versions let go, and versions that have ended.
func (s *Service) retire(ctx context.Context, r *Report) error {
	found, next, err := domain.List[domain.Portfolio](ctx, s.Store, domain.Query{Index: "portfolios_to_sweep", To: s.upTo(), Limit: maxVersions})
	if err != nil {
		return err
	}
	r.More = r.More || next != ""
	due := map[domain.ConnectionID][]*domain.Portfolio{}
	var order []domain.ConnectionID
	for i := range found {
		id := found[i].ConnectionID
		if due[id] == nil {
			order = append(order, id)
		}
		due[id] = append(due[id], &found[i])
	}
	var failures error
	for _, id := range order {
		failures = errors.Join(failures, ignoreNothing(s.retireOf(ctx, id, due[id], r)))
	}
	return failures
}

// retireOf retires versions of one connection: of each first the parts that it alone needs, then, in the last of these
// commits, the version itself, so that a sweep that breaks off is taken up again by the next one. Parts are not read.
func (s *Service) retireOf(ctx context.Context, id domain.ConnectionID, due []*domain.Portfolio, r *Report) error {
	conn := &domain.Connection{ID: id}
	if err := s.Store.Get(ctx, conn); err != nil {
		return err
	}
	if conn.Staged { // first, as these versions are what has it looked at
		if err := s.gather(ctx, conn, r); err != nil {
			return err
		}
	}
	versions, err := s.versions(ctx, id)
	if err != nil {
		return err
	}
	spared := map[string]bool{} // named by a living version, or deleted already
	for i := range versions {
		if v := &versions[i]; v.ID == conn.PortfolioID || !s.over(v) {
			for _, part := range named(v) {
				spared[part] = true
			}
		}
	}
	for _, p := range due {
		loose, ended := p.LetGo, s.over(p)
		if ended {
			loose = append(loose, named(p)...)
		}
		loose = slices.DeleteFunc(loose, func(part string) bool { return spared[part] })
		drop := late("portfolio.parts_dropped", p.ClientID, p.ConsentID, p.ConnectionID)
		if err := s.deleteParts(ctx, drop, conn.Versions, loose, r); err != nil {
			return err
		}
		if err := s.retireVersion(ctx, p, ended, r); err != nil {
			return err
		}
		for _, part := range loose {
			spared[part] = true
		}
	}
	return nil
}

func named(p *domain.Portfolio) (parts []string) {
	for _, status := range p.Products {
		parts = append(parts, status.Parts...)
	}
	return parts
}

// retireVersion deletes a version that has ended; another, whose parts were let go, waits for its end.
func (s *Service) retireVersion(ctx context.Context, seen *domain.Portfolio, ended bool, r *Report) error {
	action := "portfolio.trimmed"
	if ended {
		action = "portfolio.retired"
	}
	a := late(action, seen.ClientID, seen.ConsentID, seen.ConnectionID)
	a.Subject = string(seen.ID)
	err := domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		p := &domain.Portfolio{ID: seen.ID}
		there, err := domain.Find(tx, p)
		if err != nil {
			return err
		}
		if !there {
			return errNothing
		}
		if ended {
			return tx.Delete(p)
		}
		p.LetGo, p.SweepAt = nil, p.ExpiresAt
		return tx.Put(p)
	})
	if err == nil && ended {
		r.Deleted[seen.Kind()]++
	}
	return ignoreNothing(err)
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

// gather deletes the parts of a connection that no version names, as of a reading that broke off.
func (s *Service) gather(ctx context.Context, conn *domain.Connection, r *Report) error {
	versions, err := s.versions(ctx, conn.ID)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for i := range versions {
		for _, part := range append(named(&versions[i]), versions[i].LetGo...) {
			known[part] = true
		}
	}
	a := late("portfolio.parts_dropped", conn.ClientID, conn.ConsentID, conn.ID)
	q := domain.Query{Index: "parts_by_connection", Match: []string{string(conn.ID)}, Limit: partsRead}
	for {
		page, next, err := domain.List[domain.Part](ctx, s.Store, q)
		if err != nil {
			return err
		}
		var loose []string
		for i := range page {
			if !known[page[i].ID] {
				loose = append(loose, page[i].ID)
			}
		}
		if err := s.deleteParts(ctx, a, conn.Versions, loose, r); err != nil {
			return err
		}
		if next == "" {
			break
		}
		q.Cursor = next
	}
	return s.undisturbed(ctx, a, conn.Versions, func(tx domain.Tx, conn *domain.Connection, _ *domain.Act) error {
		conn.Staged = false
		return tx.Put(conn)
	})
}

// deleteParts deletes parts that no version needs.
func (s *Service) deleteParts(ctx context.Context, a domain.Act, versions int64, loose []string, r *Report) error {
	for chunk := range slices.Chunk(loose, batchSize) {
		err := s.undisturbed(ctx, a, versions, func(tx domain.Tx, _ *domain.Connection, a *domain.Act) error {
			a.Details["parts"] = strconv.Itoa(len(chunk))
			for _, id := range chunk {
				if err := tx.Delete(&domain.Part{ID: id}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		r.Deleted["part"] += len(chunk)
	}
	return nil
}

// undisturbed performs an act on a connection's parts. While a session runs it does not, since that may be about to name
// parts which are there already, nor once a version has come: it ends with errNothing then.
func (s *Service) undisturbed(ctx context.Context, a domain.Act, versions int64, fn func(domain.Tx, *domain.Connection, *domain.Act) error) error {
	return domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		conn := &domain.Connection{ID: a.ConnectionID}
		if err := tx.Get(conn); err != nil {
			return err
		}
		if conn.SessionID != "" {
			session := &domain.Session{ID: conn.SessionID}
			there, err := domain.Find(tx, session)
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
		return fn(tx, conn, a)
	})
}
