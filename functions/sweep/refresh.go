package sweep

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

const (
	usualPace  = 250 * time.Millisecond
	usualEvery = time.Minute // as pipeline.json schedules it

	// turn is how many connections of one client are looked at before it is the next client's turn.
	turn = 20

	// lookAgain is when a connection is looked at again whose session ended without setting the next reading. A
	// session that succeeds sets it by itself.
	lookAgain = time.Hour
)

// refresh queues sessions for connections whose next reading is due: as many as can begin, one Pace after the other,
// until the next sweep. So neither custodians nor those who work the queue off are called upon all at once, and what is
// due together today is spread out tomorrow. Clients take turns, in another order each time: however much of one is
// due, the others' is not held up.
func (s *Service) refresh(ctx context.Context, r *Report) error {
	waiting, err := s.clients(ctx)
	if err != nil {
		return err
	}
	var failures error
	most := int(cmp.Or(s.Every, usualEvery)/s.pace()) + 1
	for looked := 0; len(waiting) > 0 && r.Refreshes < most && looked < maxLooked; {
		q := waiting[0]
		waiting, q.Limit = waiting[1:], min(turn, most-r.Refreshes)
		due, next, err := domain.List[domain.Connection](ctx, s.Store, q)
		if err != nil {
			return errors.Join(failures, err)
		}
		for i := range due {
			failures = errors.Join(failures, s.refreshOne(ctx, &due[i], r))
		}
		if looked += len(due); next != "" {
			q.Cursor = next
			waiting = append(waiting, q)
		}
	}
	return failures
}

func (s *Service) pace() time.Duration { return cmp.Or(s.Pace, usualPace) }

// clients gives the query for what is due of each client, in random order.
func (s *Service) clients(ctx context.Context) (due []domain.Query, err error) {
	q := domain.Query{Index: "clients", Limit: 1000}
	for {
		page, next, err := domain.List[domain.Client](ctx, s.Store, q)
		if err != nil {
			return nil, err
		}
		for i := range page {
			due = append(due, domain.Query{Index: "connections_due", Match: []string{string(page[i].ID), string(domain.ConnectionActive)}, To: s.upTo()})
		}
		if q.Cursor = next; next == "" {
			rand.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
			return due, nil
		}
	}
}

// refreshOne queues one session, or stops the schedule if the consent no longer allows it or no login is left.
func (s *Service) refreshOne(ctx context.Context, conn *domain.Connection, r *Report) (failed error) {
	ctx, span := observe.Root(ctx, "schedule refresh", observe.Custodian(conn.Custodian)) // what it leads to is an act of its own
	defer func() { span.End(failed) }()
	var loose error
	if conn.Staged {
		loose = ignoreNothing(s.gather(ctx, conn, r))
	}
	err := s.queue(ctx, conn, s.Env.Now().Add(time.Duration(r.Refreshes)*s.pace()))
	if err == nil {
		r.Refreshes++
	} else if domain.KindOf(err) == domain.Forbidden || errors.Is(err, domain.ErrCredentialMissing) || errors.Is(err, domain.ErrCredentialRefused) {
		err = s.stop(ctx, conn, domain.CodeOf(err), r)
	}
	return errors.Join(loose, ignoreNothing(err))
}

// queue makes the session, if the consent allows it and no other is under way. The next reading is moved into the
// future in the same commit, so that this one is queued once.
func (s *Service) queue(ctx context.Context, seen *domain.Connection, at domain.Time) error {
	a := act("refresh.scheduled", seen.ClientID, seen.ConsentID, seen.ID)
	a.Custodian = seen.Custodian
	id := domain.NewID[domain.SessionID](s.Env)
	var postponed bool
	err := domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		held, err := domain.ReadHeld(tx, seen.ID)
		if err != nil {
			return err
		}
		conn, now := held.Connection, s.Env.Now()
		if conn.State != domain.ConnectionActive || conn.NextRefreshAt.IsZero() || now.Before(conn.NextRefreshAt) {
			return errNothing // somebody was faster
		}
		conn.NextRefreshAt, conn.UpdatedAt = now.Add(lookAgain), now
		if postponed = held.Session.Live(now); postponed {
			a.Details["postponed"] = "true"
			return tx.Put(conn)
		}
		a.Details["session"] = string(id)
		_, err = domain.BeginSession(s.Env, tx, c, held, domain.Beginning{ID: id, Cause: domain.CauseScheduled, NotBefore: at})
		return err
	})
	if err == nil && postponed {
		return errNothing
	}
	return err
}

// stop ends the schedule of a connection that nothing allows a reading of any more; that of a suspended client waits, as
// a suspension may be lifted. What a consent refused is recorded already.
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
