package sweep

import (
	"context"
	"errors"
	"time"

	"sluis.internal/shared/domain"
)

const (
	// pace is how far apart the sessions of one sweep begin, so that custodians are not called all at once.
	pace = 250 * time.Millisecond

	// lookAgain is when a connection is looked at again whose session ended without setting the next reading. A
	// session that succeeds sets it by itself.
	lookAgain = time.Hour
)

// refresh queues a session for each connection whose next reading is due.
func (s *Service) refresh(ctx context.Context, r *Report) error {
	due, next, err := domain.List[domain.Connection](ctx, s.Store, domain.Query{Index: "connections_due",
		Match: []string{string(domain.ConnectionActive)}, To: s.upTo(), Limit: maxRefreshes})
	if err != nil {
		return err
	}
	r.More = r.More || next != ""
	var failures error
	for i := range due {
		conn := &due[i]
		err := s.collectLoose(ctx, conn, r)
		queued := s.queue(ctx, conn, s.Env.Now().Add(time.Duration(r.Refreshes)*pace))
		if queued == nil {
			r.Refreshes++
		} else if domain.KindOf(queued) == domain.Forbidden {
			queued = s.stop(ctx, conn, domain.CodeOf(queued), r)
		}
		failures = errors.Join(failures, err, ignoreNothing(queued))
	}
	return failures
}

// queue makes the session, if the consent allows it and no other is under way. The next reading is moved into the
// future in the same commit, so that this one is queued once.
func (s *Service) queue(ctx context.Context, seen *domain.Connection, at domain.Time) error {
	a := act("refresh.scheduled", seen.ClientID, seen.ConsentID, seen.ID)
	a.Custodian = seen.Custodian
	id := domain.NewID[domain.SessionID](s.Env)
	var postponed bool
	err := domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		conn := &domain.Connection{ID: seen.ID}
		if err := tx.Get(conn); err != nil {
			return err
		}
		live, err := underWay(tx, conn.SessionID, s.Env.Now())
		if err != nil {
			return err
		}
		now := s.Env.Now()
		if conn.State != domain.ConnectionActive || conn.NextRefreshAt.IsZero() || now.Before(conn.NextRefreshAt) {
			return errNothing // somebody was faster
		}
		if c.Access != domain.AccessRecurring {
			return &domain.Error{Kind: domain.Forbidden, Code: "consent_one_off", Message: "the consent allows one reading"}
		}
		conn.NextRefreshAt, conn.UpdatedAt = now.Add(lookAgain), now
		if postponed = live; postponed {
			a.Details["postponed"] = "true"
			return tx.Put(conn)
		}
		conn.SessionID = id
		a.Details["session"] = string(id)
		session := &domain.Session{ID: id, ClientID: c.ClientID, ConsentID: c.ID, ConnectionID: conn.ID,
			Custodian: c.Custodian, Cause: domain.CauseScheduled, State: domain.SessionQueued, CreatedAt: now,
			UpdatedAt: now, ExpiresAt: now.Add(domain.SessionLife)}
		return errors.Join(tx.Put(session), tx.Put(conn), tx.Emit(domain.Event{Topic: domain.TopicSession,
			Subject: session.Key(), Custodian: c.Custodian, NotBefore: at}))
	})
	if err == nil && postponed {
		return errNothing
	}
	return err
}

// underWay says whether a session is going on.
func underWay(tx domain.Tx, id domain.SessionID, now domain.Time) (bool, error) {
	if id == "" {
		return false, nil
	}
	session := &domain.Session{ID: id}
	there, err := maybe(tx, session)
	return there && !domain.SessionMoves.Final(session.State) && now.Before(session.ExpiresAt), err
}

// stop ends the schedule of a connection whose consent no longer allows a reading; that of a suspended client waits, as
// a suspension may be lifted. The refusal is recorded already.
func (s *Service) stop(ctx context.Context, seen *domain.Connection, why string, r *Report) error {
	a, next := act("schedule.stopped", seen.ClientID, seen.ConsentID, seen.ID), domain.Time{}
	if why == "client_suspended" {
		a.Action, next = "schedule.postponed", s.Env.Now().Add(lookAgain)
	}
	a.States, a.Late, a.Details["reason"] = domain.AnyConsentState, true, why
	err := domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		conn := &domain.Connection{ID: seen.ID}
		if err := tx.Get(conn); err != nil {
			return err
		}
		if conn.NextRefreshAt.IsZero() {
			return errNothing
		}
		conn.NextRefreshAt, conn.UpdatedAt = next, s.Env.Now()
		return tx.Put(conn)
	})
	if err == nil && next.IsZero() {
		r.Stopped++
	}
	return err
}
