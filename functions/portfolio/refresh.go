package portfolio

import (
	"context"
	"errors"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// interval is how long a client waits after a reading before it may ask for the next, unless the Service says
// otherwise. Custodians count visits.
const interval = time.Minute

func (s *Service) interval() time.Duration {
	if s.Interval > 0 {
		return s.Interval
	}
	return interval
}

// refreshView answers a refresh: the session that reads, or is about to.
type refreshView struct {
	SessionID domain.SessionID    `json:"session_id"`
	State     domain.SessionState `json:"state"`
}

// refresh queues a session: 202 with a new one, 200 with the one that is already under way.
func (s *Service) refresh(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	conn, err := s.Door.Connection(ctx, c)
	if err != nil {
		return serve.Answer{}, err
	}
	if err := c.Decode(&struct{}{}); err != nil {
		return serve.Answer{}, err
	}
	fresh := domain.NewID[domain.SessionID](s.Env)
	var answer refreshView
	err = s.perform(ctx, c, s.act(c, conn, "refresh.requested"), func(tx domain.Tx, consent *domain.Consent, a *domain.Act) error {
		before, err := c.Once.Before(tx, consent.ClientID)
		if err != nil {
			return err
		}
		if before != "" {
			answer, err = repeated(tx, domain.SessionID(before), a)
			return err
		}
		held, err := domain.ReadHeld(tx, conn.ID)
		if err != nil {
			return err
		}
		answer, err = s.queue(tx, consent, held, fresh, a)
		return errors.Join(err, c.Once.Remember(s.Env, tx, consent.ClientID, string(answer.SessionID)))
	})
	if err != nil {
		return serve.Answer{}, err
	}
	if answer.SessionID == fresh {
		return serve.Answer{Status: 202, Location: "/v1/connections/" + string(conn.ID), Body: answer}, nil
	}
	return serve.Answer{Body: answer}, nil
}

// repeated answers a request that was made before. The session may have ended, or its life may be over.
func repeated(tx domain.Tx, id domain.SessionID, a *domain.Act) (refreshView, error) {
	a.Details["session"], a.Details["repeated"] = string(id), "true"
	session := &domain.Session{ID: id}
	there, err := domain.Find(tx, session)
	if !there {
		session.State = domain.SessionComplete
	}
	return refreshView{SessionID: id, State: session.State}, err
}

// queue begins the session, or finds the one that is under way.
func (s *Service) queue(tx domain.Tx, consent *domain.Consent, held *domain.Held, id domain.SessionID, a *domain.Act) (refreshView, error) {
	now := s.Env.Now()
	if held.Session.Live(now) {
		a.Details["session"], a.Details["repeated"] = string(held.Session.ID), "true"
		return refreshView{SessionID: held.Session.ID, State: held.Session.State}, nil
	}
	begin := domain.Beginning{ID: id, Cause: domain.CauseRequested}
	if err := held.MayBegin(consent, begin, now); err != nil {
		return refreshView{}, err
	}
	if err := s.soon(held, now); err != nil {
		return refreshView{}, err
	}
	a.Details["session"] = string(id)
	session, err := domain.BeginSession(s.Env, tx, consent, held, begin)
	if err != nil {
		return refreshView{}, err
	}
	return refreshView{SessionID: id, State: session.State}, nil
}

// soon refuses a reading that comes too soon after the last one that succeeded.
func (s *Service) soon(held *domain.Held, now domain.Time) error {
	last := held.Connection.LastRefreshedAt
	failed := held.Session != nil && held.Session.State != domain.SessionComplete
	since := now.Sub(last) // long before zero, if the clock was put back: then nobody knows, and it is allowed
	if wait := s.interval() - since; !failed && !last.IsZero() && since > -s.interval() && wait > 0 {
		return &domain.Error{Kind: domain.RateLimited, Code: "refreshed_just_now", RetryAfter: wait,
			Message: "this connection was read just now; wait as Retry-After says"}
	}
	return nil
}
