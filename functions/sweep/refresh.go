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

// refreshOne queues one session, or stops the schedule if the consent no longer allows it.
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
	} else if domain.KindOf(err) == domain.Forbidden {
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
			Subject: session.Key(), Custodian: c.Custodian, Lane: session.Lane(), NotBefore: at}))
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
	there, err := domain.Find(tx, session)
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
