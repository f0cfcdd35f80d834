package extraction

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// settled is what every commit about a running session reads first and may write last.
type settled struct {
	consent    *domain.Consent
	session    *domain.Session
	connection *domain.Connection
	credential *domain.Credential // nil where none is held
	challenge  *domain.Challenge  // nil where the session has none
}

// settle commits what came of a step: it reads everything of the session again under its consent, makes sure that the
// session is still ours, lets fn change it, and writes session and connection.
func (e *Engine) settle(ctx context.Context, s *domain.Session, act domain.Act, fn func(domain.Tx, *settled, *domain.Act) error) error {
	return domain.Perform(ctx, e.Env, e.Store, act, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		fresh, err := e.mine(tx, s)
		if err != nil {
			return err
		}
		t := &settled{consent: c, session: fresh, connection: &domain.Connection{ID: s.ConnectionID}}
		if err := tx.Get(t.connection); err != nil {
			return err
		}
		if t.credential, err = maybe(tx, &domain.Credential{ConnectionID: s.ConnectionID}); err != nil {
			return err
		}
		if fresh.ChallengeID != "" {
			if t.challenge, err = maybe(tx, &domain.Challenge{ID: fresh.ChallengeID}); err != nil {
				return err
			}
		}
		if err := fn(tx, t, a); err != nil {
			return err
		}
		return errors.Join(tx.Put(t.session), tx.Put(t.connection))
	})
}

// maybe reads a document that need not be there.
func maybe[T domain.Document](tx domain.Tx, doc T) (T, error) {
	var none T
	if err := tx.Get(doc); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return none, nil
		}
		return none, err
	}
	return doc, nil
}

// accept notes that the bank took the password: it asked on, or opened.
func (t *settled) accept(tx domain.Tx, now domain.Time) error {
	if t.credential == nil || t.credential.State != domain.CredentialTrying {
		return nil
	}
	if err := t.credential.Move(domain.CredentialAccepted, now); err != nil {
		return err
	}
	return tx.Put(t.credential)
}

// suspend keeps the bank's question and lets the session rest until somebody answers, or nobody does in time. fresh says that
// the bank asked anew, so that the time to answer begins again.
func (e *Engine) suspend(ctx context.Context, j *job, q *Challenge, fresh bool) error {
	sealed, err := e.sealState(j.session, q.State)
	if err != nil {
		return e.fail(ctx, j, err)
	}
	switch {
	case q.Status == domain.SCARequired:
		return e.giveUp(ctx, j, sealed, domain.ReasonSCARequired)
	case q.Status == domain.SCARejected && q.TriesLeft <= 0:
		return e.giveUp(ctx, j, sealed, domain.ReasonSCARejected)
	}
	id := domain.NewID[domain.ChallengeID](e.Env)
	err = e.settle(ctx, j.session, e.act(j.session, "session.suspended"), func(tx domain.Tx, t *settled, a *domain.Act) error {
		now := e.Env.Now()
		if t.challenge == nil {
			t.challenge = &domain.Challenge{ID: id, SessionID: t.session.ID, ClientID: t.session.ClientID,
				ConsentID: t.session.ConsentID, ConnectionID: t.session.ConnectionID, Custodian: t.session.Custodian,
				State: domain.SCARequired, CreatedAt: now, ExpiresAt: t.session.ExpiresAt}
		}
		if err := e.ask(t.challenge, q, fresh, now); err != nil {
			return err
		}
		a.Details["challenge"], a.Details["method"], a.Details["sca"] = string(t.challenge.ID), q.Method, string(t.challenge.State)
		t.session.ChallengeID, t.session.Sealed = t.challenge.ID, sealed
		if err := t.session.Move(domain.SessionSuspended, "", now); err != nil {
			return err
		}
		if t.connection.State == domain.ConnectionBusy {
			if err := t.connection.Move(domain.ConnectionSCA, "", now); err != nil {
				return err
			}
		}
		if fresh {
			if err := tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: t.session.Key(),
				Custodian: t.session.Custodian, NotBefore: t.challenge.AnswerBy}); err != nil {
				return err
			}
		}
		return errors.Join(t.accept(tx, now), tx.Put(t.challenge))
	})
	return e.stopped(ctx, j, err)
}

// ask brings the challenge to what the bank asks now.
func (e *Engine) ask(c *domain.Challenge, q *Challenge, fresh bool, now domain.Time) error {
	if c.State != q.Status {
		if err := c.Move(q.Status, now); err != nil {
			return err
		}
	}
	c.Flow, c.Method, c.TriesLeft, c.UpdatedAt = q.Flow, q.Method, q.TriesLeft, now
	if q.Methods != nil {
		c.Methods = q.Methods
	}
	c.PollSeconds = int(q.PollEvery / time.Second)
	if fresh {
		lasts := q.Lasts
		if lasts == 0 {
			lasts = challengeFor
		}
		c.AnswerBy = now.Add(lasts)
	}
	if q.Display.Empty() {
		return nil
	}
	display, err := json.Marshal(q.Display)
	if err != nil {
		return err
	}
	c.Display, err = envelope.Seal(e.Display, envelope.DisplayLabel(c), display)
	return err
}

// giveUp ends a session that the bank's SCA stopped: nobody was there to answer, nobody did in time, or the bank takes
// no more answers. The schedule pauses and the client is told.
func (e *Engine) giveUp(ctx context.Context, j *job, sealed []byte, reason domain.Reason) error {
	err := e.settle(ctx, j.session, e.act(j.session, "session.failed"), func(tx domain.Tx, t *settled, a *domain.Act) error {
		t.session.Sealed = sealed
		a.Details["reason"] = string(reason)
		return errors.Join(t.accept(tx, e.Env.Now()), e.end(tx, t, reason))
	})
	if err != nil {
		return e.stopped(ctx, j, err)
	}
	return e.closeAfter(ctx, j.session)
}

// opened keeps the way back in, so that a reading that breaks off begins again without a login.
func (e *Engine) opened(ctx context.Context, j *job, p *Portfolio) error {
	if j.credential == nil && e.same(j.session, p.State) {
		clear(p.State)
		return nil
	}
	sealed, err := e.sealState(j.session, p.State)
	if err != nil {
		return err
	}
	err = e.settle(ctx, j.session, e.act(j.session, "session.opened"), func(tx domain.Tx, t *settled, _ *domain.Act) error {
		t.session.Sealed = sealed
		return t.accept(tx, e.Env.Now())
	})
	if err == nil {
		j.credential = nil // judged; from here on a failure says nothing of it
	}
	return err
}

// sealState closes the connector's state for the store and wipes it.
func (e *Engine) sealState(s *domain.Session, state []byte) ([]byte, error) {
	defer clear(state)
	return envelope.Seal(e.State, envelope.SessionLabel(s), state)
}

// same says whether state is what the session already keeps.
func (e *Engine) same(s *domain.Session, state []byte) bool {
	kept, err := e.openState(s)
	defer kept.Wipe()
	return err == nil && bytes.Equal(kept.Reveal(), state)
}

// fail settles a step that led nowhere. A passing failure puts the session back and has the event come again; any
// other ends it.
func (e *Engine) fail(ctx context.Context, j *job, cause error) error {
	if over := context.Cause(ctx); over != nil {
		return e.stopped(ctx, j, over)
	}
	f := &Failure{Reason: domain.ReasonInternal}
	if !errors.As(cause, &f) {
		slog.ErrorContext(ctx, "session failed", "session", j.session.ID, "error", cause)
	}
	again := f.Retry && j.session.Retries < maxRetries && (j.credential == nil || f.Unjudged)
	act := e.act(j.session, "session.failed")
	if again {
		act.Action = "session.postponed"
	}
	err := e.settle(ctx, j.session, act, func(tx domain.Tx, t *settled, a *domain.Act) error {
		a.Details["reason"] = string(f.Reason)
		if err := j.judge(tx, t, f, e.Env.Now()); err != nil {
			return err
		}
		if again {
			t.session.Retries++
			return t.session.Move(domain.SessionQueued, f.Reason, e.Env.Now())
		}
		return e.end(tx, t, f.Reason)
	})
	if err != nil {
		return e.stopped(ctx, j, err)
	}
	if again {
		return &domain.Error{Kind: domain.Unavailable, Code: string(f.Reason), RetryAfter: max(f.RetryAfter, time.Second), Err: cause}
	}
	return e.closeAfter(ctx, j.session)
}

// judge writes down what a failed login says of the credential. Only a certain refusal refuses it, only a certain
// non-judgement leaves it as it was; after anything else we do not know, and it is not tried again by itself.
func (j *job) judge(tx domain.Tx, t *settled, f *Failure, now domain.Time) error {
	if j.credential == nil || t.credential == nil || t.credential.State != domain.CredentialTrying {
		return nil
	}
	to := domain.CredentialUnconfirmed
	switch {
	case f.Reason == domain.ReasonCredentialsRefused:
		to = domain.CredentialRefused
	case f.Unjudged && j.judged == domain.CredentialAccepted:
		to = domain.CredentialAccepted
	case f.Unjudged && j.judged == domain.CredentialSealed:
		to = domain.CredentialSealed
	}
	if err := t.credential.Move(to, now); err != nil {
		return err
	}
	return tx.Put(t.credential)
}

// end ends a session that failed for reason, with what follows for challenge, connection and client.
func (e *Engine) end(tx domain.Tx, t *settled, reason domain.Reason) error {
	now := e.Env.Now()
	if err := t.session.Move(domain.SessionFailed, reason, now); err != nil {
		return err
	}
	if t.challenge != nil && !domain.SCAMoves.Final(t.challenge.State) {
		to := domain.SCAFailed
		if reason == domain.ReasonSCAExpired && t.challenge.State != domain.SCAExpired {
			to = domain.SCAExpired
		}
		if err := t.challenge.Move(to, now); err != nil {
			return err
		}
		t.challenge.Display = nil
		if err := tx.Put(t.challenge); err != nil {
			return err
		}
	}
	return e.afterFailure(tx, t.connection, reason, now)
}

// passing reasons leave a connection that worked before as it is: the next scheduled reading may well succeed.
var passing = map[domain.Reason]bool{domain.ReasonBankUnavailable: true, domain.ReasonRateLimited: true,
	domain.ReasonBankAnswer: true, domain.ReasonInternal: true}

const tryAgainAfter = time.Hour

func (e *Engine) afterFailure(tx domain.Tx, c *domain.Connection, reason domain.Reason, now domain.Time) error {
	to, notice := domain.ConnectionPaused, domain.NoticeConnectionPaused
	if reason == domain.ReasonCredentialsRefused {
		to, notice = domain.ConnectionAwaiting, domain.NoticeConnectionAwaiting
	}
	switch {
	case c.State == domain.ConnectionActive && passing[reason]:
		c.Reason, c.UpdatedAt = reason, now
		if !c.NextRefreshAt.IsZero() {
			c.NextRefreshAt = now.Add(tryAgainAfter)
		}
		return nil
	case c.State == to:
		c.Reason, c.UpdatedAt = reason, now
	default:
		if err := c.Move(to, reason, now); err != nil {
			return err
		}
	}
	return domain.Tell(e.Env, tx, c, notice, string(c.SessionID))
}

// stopped deals with a commit that did not happen, or work that was cut short: by the end of the consent, by somebody
// who took the session, or by the process stopping, in which case the session is put back for the next one.
func (e *Engine) stopped(ctx context.Context, j *job, err error) error {
	switch {
	case err == nil:
		return nil
	case refused(err):
		return e.cancel(context.WithoutCancel(ctx), j.session)
	case errors.Is(err, errTaken):
		return nil
	case ctx.Err() == nil:
		return err
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	back := e.settle(ctx, j.session, e.act(j.session, "session.postponed"), func(tx domain.Tx, t *settled, a *domain.Act) error {
		a.Details["reason"] = "stopping"
		if t.credential != nil && t.credential.State == domain.CredentialTrying {
			return e.putOff(tx, t, j)
		}
		return t.session.Move(domain.SessionQueued, "", e.Env.Now())
	})
	return errors.Join(&domain.Error{Kind: domain.Unavailable, Code: "stopping", Err: err}, back)
}

// putOff ends a login that the process's stop broke off: nobody knows what the bank made of it.
func (e *Engine) putOff(tx domain.Tx, t *settled, j *job) error {
	if err := j.judge(tx, t, &Failure{Reason: domain.ReasonInterrupted}, e.Env.Now()); err != nil {
		return err
	}
	return e.end(tx, t, domain.ReasonInterrupted)
}

// cancel ends a session whose consent no longer allows it.
func (e *Engine) cancel(ctx context.Context, s *domain.Session) error {
	act := e.late(s, "session.cancelled")
	err := domain.Perform(ctx, e.Env, e.Store, act, func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		fresh := &domain.Session{ID: s.ID}
		if err := tx.Get(fresh); err != nil {
			return err
		}
		cred, err := maybe(tx, &domain.Credential{ConnectionID: s.ConnectionID})
		if err != nil || domain.SessionMoves.Final(fresh.State) {
			return err
		}
		now := e.Env.Now()
		if err := fresh.Move(domain.SessionCancelled, domain.ReasonConsentEnded, now); err != nil {
			return err
		}
		if cred != nil && cred.State == domain.CredentialTrying {
			if err := cred.Move(domain.CredentialUnconfirmed, now); err != nil {
				return err
			}
			return errors.Join(tx.Put(cred), tx.Put(fresh))
		}
		return tx.Put(fresh)
	})
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return e.closeAfter(ctx, s)
}

// late begins the description of an act that only takes away.
func (e *Engine) late(s *domain.Session, action string) domain.Act {
	act := e.act(s, action)
	act.States, act.Late, act.Custodian = domain.AnyConsentState, true, ""
	return act
}

// expire ends a suspended session whose time to answer is over.
func (e *Engine) expire(ctx context.Context, s *domain.Session) error {
	err := domain.Perform(ctx, e.Env, e.Store, e.late(s, "session.expired"), func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		t := &settled{consent: c, session: &domain.Session{ID: s.ID}, connection: &domain.Connection{ID: s.ConnectionID}}
		if err := errors.Join(tx.Get(t.session), tx.Get(t.connection)); err != nil {
			return err
		}
		challenge, err := maybe(tx, &domain.Challenge{ID: t.session.ChallengeID})
		if err != nil {
			return err
		}
		if t.session.State != domain.SessionSuspended || challenge != nil && e.Env.Now().Before(challenge.AnswerBy) {
			return errNothing
		}
		t.challenge = challenge
		if c.State != domain.ConsentValid {
			return errors.Join(t.session.Move(domain.SessionCancelled, domain.ReasonConsentEnded, e.Env.Now()), tx.Put(t.session))
		}
		return errors.Join(e.end(tx, t, domain.ReasonSCAExpired), tx.Put(t.session), tx.Put(t.connection))
	})
	if errors.Is(err, errNothing) || domain.KindOf(err) == domain.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return e.closeAfter(ctx, s)
}

// suspendAgain puts a session whose answering worker died back to rest: the answer is lost, as it must be.
func (e *Engine) suspendAgain(ctx context.Context, s *domain.Session) error {
	err := domain.Perform(ctx, e.Env, e.Store, e.act(s, "session.suspended"), func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		fresh := &domain.Session{ID: s.ID}
		if err := tx.Get(fresh); err != nil {
			return err
		}
		challenge, err := maybe(tx, &domain.Challenge{ID: fresh.ChallengeID})
		if err != nil {
			return err
		}
		now := e.Env.Now()
		if fresh.State != domain.SessionRunning || challenge == nil || now.Before(fresh.LeaseUntil) {
			return errNothing
		}
		a.Details["reason"] = "interrupted"
		if err := fresh.Move(domain.SessionSuspended, "", now); err != nil {
			return err
		}
		return errors.Join(tx.Put(fresh), tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: fresh.Key(),
			Custodian: fresh.Custodian, NotBefore: challenge.AnswerBy}))
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// closeAfter closes the bank session of a session that has just ended.
func (e *Engine) closeAfter(ctx context.Context, s *domain.Session) error {
	fresh := &domain.Session{ID: s.ID}
	if err := e.Store.Get(ctx, fresh); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil
		}
		return err
	}
	return e.closeBank(ctx, fresh)
}

// closeBank closes an ended session at the bank and wipes the way back in. It is repeated until it succeeds, or until
// the bank has forgotten the session by itself.
func (e *Engine) closeBank(ctx context.Context, s *domain.Session) error {
	if len(s.Sealed) == 0 {
		return nil
	}
	state, err := e.openState(s)
	if err == nil {
		gate := e.gate(s)
		gate.SetPhase(PhaseEnd)
		err = e.Connector.End(ctx, e.visit(s, gate, state))
		state.Wipe()
	}
	if err != nil && e.Env.Now().Before(s.EndedAt.Add(bankSession)) {
		return &domain.Error{Kind: domain.Unavailable, Code: "bank_session_open", RetryAfter: 5 * time.Second, Err: err}
	}
	act := e.late(s, "session.closed")
	err = domain.Perform(ctx, e.Env, e.Store, act, func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		fresh := &domain.Session{ID: s.ID}
		if err := tx.Get(fresh); err != nil {
			return err
		}
		fresh.Sealed = nil
		return tx.Put(fresh)
	})
	if domain.KindOf(err) == domain.NotFound {
		return nil
	}
	return err
}
