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

// Why a refresh is refused.
var (
	errOneOff = &domain.Error{Kind: domain.Forbidden, Code: "consent_one_off",
		Message: "the consent allows one reading, and it was done; ask the investor for a recurring consent"}
	errNoCredential = &domain.Error{Kind: domain.Conflict, Code: "credentials_missing",
		Message: "there are no credentials; create a reconnect link and give it to the investor"}
	errRefused = &domain.Error{Kind: domain.Conflict, Code: "credentials_refused",
		Message: "the custodian refused the credentials, and they are not tried again; create a reconnect link and give it to the investor"}
	errState = &domain.Error{Kind: domain.Conflict, Code: "connection_state",
		Message: "this connection cannot be refreshed in its state; see its state and reason"}
)

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
		r, err := load(tx, conn.ID)
		if err != nil {
			return err
		}
		answer, err = s.queue(tx, consent, r, fresh, a)
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

// reading is what a transaction on a connection's next session begins with. What is not there is nil.
type reading struct {
	connection *domain.Connection
	session    *domain.Session // the newest
	credential *domain.Credential
}

func load(tx domain.Tx, id domain.ConnectionID) (*reading, error) {
	r := &reading{connection: &domain.Connection{ID: id}}
	if err := tx.Get(r.connection); err != nil {
		return nil, err
	}
	credential := &domain.Credential{ConnectionID: id}
	there, err := domain.Find(tx, credential)
	if err != nil {
		return nil, err
	}
	if there {
		r.credential = credential
	}
	if r.connection.SessionID == "" {
		return r, nil
	}
	session := &domain.Session{ID: r.connection.SessionID}
	if there, err = domain.Find(tx, session); err != nil {
		return nil, err
	}
	if there {
		r.session = session
	}
	return r, nil
}

// queue makes the session, or finds the one that is under way.
func (s *Service) queue(tx domain.Tx, consent *domain.Consent, r *reading, id domain.SessionID, a *domain.Act) (refreshView, error) {
	now := s.Env.Now()
	if r.live(now) {
		a.Details["session"], a.Details["repeated"] = string(r.session.ID), "true"
		return refreshView{SessionID: r.session.ID, State: r.session.State}, nil
	}
	if err := r.allowed(consent, s.interval(), now); err != nil {
		return refreshView{}, err
	}
	session := &domain.Session{ID: id, ClientID: consent.ClientID, ConsentID: consent.ID, ConnectionID: r.connection.ID,
		Custodian: consent.Custodian, Cause: domain.CauseRequested, State: domain.SessionQueued, CreatedAt: now,
		UpdatedAt: now, ExpiresAt: now.Add(domain.SessionLife)}
	a.Details["session"] = string(id)
	if err := r.tidy(tx, now); err != nil {
		return refreshView{}, err
	}
	r.connection.SessionID, r.connection.UpdatedAt = id, now
	return refreshView{SessionID: id, State: session.State}, errors.Join(tx.Put(session), tx.Put(r.connection),
		tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: session.Key(), Custodian: consent.Custodian, Lane: session.Lane()}))
}

// live says whether a session is under way.
func (r *reading) live(now domain.Time) bool {
	return r.session != nil && !domain.SessionMoves.Final(r.session.State) && now.Before(r.session.ExpiresAt)
}

// allowed says whether a new session may begin on the client's word.
func (r *reading) allowed(consent *domain.Consent, interval time.Duration, now domain.Time) error {
	conn := r.connection
	switch {
	case conn.State == domain.ConnectionPending || conn.State == domain.ConnectionRemoved:
		return errState
	case consent.Access == domain.AccessOnce && !conn.LastRefreshedAt.IsZero():
		return errOneOff
	case r.credential == nil:
		return errNoCredential
	case r.credential.State == domain.CredentialRefused:
		return errRefused
	case conn.State == domain.ConnectionAwaiting:
		return errNoCredential
	}
	failed := r.session != nil && r.session.State != domain.SessionComplete
	since := now.Sub(conn.LastRefreshedAt) // long before zero, if the clock was put back: then nobody knows, and it is allowed
	if wait := interval - since; !failed && !conn.LastRefreshedAt.IsZero() && since > -interval && wait > 0 {
		return &domain.Error{Kind: domain.RateLimited, Code: "refreshed_just_now", RetryAfter: wait,
			Message: "this connection was read just now; wait as Retry-After says"}
	}
	return nil
}

// tidy settles what a session that nobody ended has left: its own state, a login under way whose end nobody knows,
// and a connection that waits for it.
func (r *reading) tidy(tx domain.Tx, now domain.Time) error {
	if r.session != nil && !domain.SessionMoves.Final(r.session.State) {
		if err := r.session.Move(domain.SessionFailed, domain.ReasonInterrupted, now); err != nil {
			return err
		}
		if err := tx.Put(r.session); err != nil {
			return err
		}
	}
	if r.credential.State == domain.CredentialTrying {
		if err := r.credential.Move(domain.CredentialUnconfirmed, now); err != nil {
			return err
		}
		if err := tx.Put(r.credential); err != nil {
			return err
		}
	}
	if r.connection.State == domain.ConnectionPaused || r.connection.State == domain.ConnectionSCA {
		return r.connection.Move(domain.ConnectionBusy, "", now)
	}
	return nil
}
