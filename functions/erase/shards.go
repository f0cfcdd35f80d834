package erase

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"sluis.internal/shared/domain"
)

// errOpen says that a session at a bank is still to be closed. It is looked for again soon.
var errOpen = &domain.Error{Kind: domain.Unavailable, Code: "bank_session_open", RetryAfter: 10 * time.Second,
	Message: "a session at the bank is still to be closed; the certificate follows"}

const (
	usualWait = 5 * time.Second
	lookEvery = 100 * time.Millisecond
)

// await finishes, and gives extraction a moment to close what is open at the bank.
func (s *Service) await(ctx context.Context, r *request) (*domain.Erasure, error) {
	wait := cmp.Or(s.Wait, usualWait)
	if r.hurries {
		wait = -1
	}
	for ; ; wait -= lookEvery {
		cert, err := s.finish(ctx, r)
		if !errors.Is(err, errOpen) || wait <= 0 {
			return cert, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lookEvery):
		}
	}
}

// every reads all of a connection's documents of one index.
func every[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, s *Service, index string, id domain.ConnectionID) (all []T, err error) {
	q := domain.Query{Index: index, Match: []string{string(id)}, Limit: 1000}
	for {
		found, next, err := domain.List[T, P](ctx, s.Store, q)
		if all = append(all, found...); err != nil || next == "" {
			return all, err
		}
		q.Cursor = next
	}
}

// destroyShards destroys the connection's shards that nothing needs any more, and says how many; line, where there is one,
// counts them. The shard of a session's state is needed until extraction, which alone can, has closed the session at the
// bank. A shard is destroyed before its note is deleted: what breaks off is done again.
func (s *Service) destroyShards(ctx context.Context, r *request, line *domain.Erasure) (int, error) {
	loose, err := every[domain.LooseShard](ctx, s, "loose_shards_by_connection", r.connection.ID)
	if err != nil {
		return 0, err
	}
	loose = slices.DeleteFunc(loose, func(l domain.LooseShard) bool { return !l.Doomed })
	if len(loose) == 0 {
		return 0, nil
	}
	sealed, err := s.sealed(ctx, r.connection.ID)
	if err != nil {
		return 0, err
	}
	loose = slices.DeleteFunc(loose, func(l domain.LooseShard) bool {
		return slices.ContainsFunc(sealed, func(x domain.Session) bool { return x.Shard == l.ID })
	})
	loose = loose[:min(len(loose), batchSize)]
	for i := range loose {
		if err := s.Shards.Destroy(ctx, loose[i].ID); err != nil {
			return 0, err
		}
	}
	if len(loose) == 0 {
		return 0, nil
	}
	s.forget(r.connection.ID) // what was opened until now; from now on nothing opens
	act := r.act("shard.destroyed")
	gone := 0
	err = domain.Perform(ctx, s.Env, s.Store, act, func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		var there []*domain.LooseShard
		for i := range loose {
			is, err := domain.Find(tx, &loose[i])
			if err != nil {
				return err
			}
			if is {
				there = append(there, &loose[i])
			}
		}
		if gone = len(there); gone == 0 {
			return errMoved
		}
		a.Details["shards"] = strconv.Itoa(gone)
		if line != nil {
			fresh := &domain.Erasure{ID: line.ID}
			is, err := domain.Find(tx, fresh)
			if err != nil {
				return err
			}
			if is {
				fresh.Erased["shard"] += gone
				if err := tx.Put(fresh); err != nil {
					return err
				}
			}
		}
		for _, l := range there {
			if err := tx.Delete(l); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errMoved) {
		err = nil
	}
	return gone, err
}

// sealed are the connection's sessions that hold a way into a bank.
func (s *Service) sealed(ctx context.Context, id domain.ConnectionID) ([]domain.Session, error) {
	all, err := every[domain.Session](ctx, s, "sessions_by_connection", id)
	return slices.DeleteFunc(all, func(x domain.Session) bool { return len(x.Sealed) == 0 }), err
}

// stillOpen reports whether a session that line covers is still to be closed at the bank. What the bank has forgotten by
// itself, as extraction could not close it, is wiped here, so that nothing blocks an erasure for ever.
func (s *Service) stillOpen(ctx context.Context, r *request, line *domain.Erasure) (open bool, err error) {
	sealed, err := s.sealed(ctx, r.connection.ID)
	if err != nil {
		return false, err
	}
	for i := range sealed {
		x := &sealed[i]
		if !goes(line, x.CreatedAt) {
			continue
		}
		if !domain.SessionMoves.Final(x.State) || s.Env.Now().Before(x.EndedAt.Add(domain.BankSession)) {
			open = true
			continue
		}
		if err := s.wipe(ctx, r, x); err != nil {
			return false, err
		}
	}
	return open, nil
}

func (s *Service) wipe(ctx context.Context, r *request, seen *domain.Session) error {
	act := r.act("session.forgotten")
	act.Subject = seen.Key()
	return domain.Perform(ctx, s.Env, s.Store, act, func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		x := &domain.Session{ID: seen.ID}
		there, err := domain.Find(tx, x)
		if err != nil || !there || !bytes.Equal(x.Sealed, seen.Sealed) {
			return err
		}
		x.Sealed = nil
		return tx.Put(x)
	})
}
