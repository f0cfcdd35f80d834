package extraction

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// settled is what every commit about a session reads first and may write last.
type settled struct {
	session    *domain.Session
	connection *domain.Connection
	credential *domain.Credential // nil where none is held
	challenge  *domain.Challenge  // nil where the session has none
}

// look reads everything of a session.
func look(tx domain.Tx, s *domain.Session) (*settled, error) {
	t, err := lookAt(tx, s)
	if err == nil {
		t.credential, err = domain.Maybe(tx, &domain.Credential{ConnectionID: s.ConnectionID})
	}
	return t, err
}

// lookAt reads everything of a session but the credential, which only a login changes.
func lookAt(tx domain.Tx, s *domain.Session) (*settled, error) {
	t := &settled{session: &domain.Session{ID: s.ID}, connection: &domain.Connection{ID: s.ConnectionID}}
	if err := tx.Get(t.session, t.connection); err != nil {
		return nil, err
	}
	var err error
	if t.session.ChallengeID != "" {
		t.challenge, err = domain.Maybe(tx, &domain.Challenge{ID: t.session.ChallengeID})
	}
	return t, err
}

// open says whether the bank's question is still to be answered.
func (t *settled) open() bool {
	return t.challenge != nil && !domain.SCAMoves.Final(t.challenge.State)
}

// settle commits what came of a step: under the consent, it makes sure that the session is still ours, reads everything
// of it again, lets fn change it, and writes session and connection. What a bank said cannot be asked for twice, so it
// is written down even while the process stops, and a store that fails is asked again; if it had taken the first try,
// the next finds errTaken.
func (e *Engine) settle(ctx context.Context, j *job, act domain.Act, fn func(domain.Tx, *domain.Consent, *settled, *domain.Act) error) error {
	ctx, done := outlast(ctx)
	defer done()
	for wait := 50 * time.Millisecond; ; wait *= 4 {
		err := e.settleOnce(ctx, j, act, fn)
		switch domain.KindOf(err) {
		case domain.Unavailable, domain.RateLimited, domain.Internal:
		default:
			return err
		}
		if err == nil || wait > time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// outlast gives a context that lives on for a last word after ctx has ended.
func outlast(ctx context.Context) (context.Context, func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var timer *time.Timer
	started := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		timer = time.AfterFunc(lastWord, cancel)
		close(started)
	})
	return longer, func() {
		if !stop() {
			<-started
			timer.Stop()
		}
		cancel()
	}
}

func (e *Engine) settleOnce(ctx context.Context, j *job, act domain.Act, fn func(domain.Tx, *domain.Consent, *settled, *domain.Act) error) error {
	return e.perform(ctx, j, act, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		read := lookAt
		if j.credential != nil {
			read = look
		}
		t, err := read(tx, j.session)
		if domain.KindOf(err) == domain.NotFound || err == nil && taken(t.session, j.session) {
			return errTaken
		}
		if err != nil {
			return err
		}
		if t.open() {
			a.Details["method"] = t.challenge.Method
		}
		if err := fn(tx, c, t, a); err != nil {
			return err
		}
		return errors.Join(tx.Put(t.session), tx.Put(t.connection))
	})
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

// judge writes down what a failed login says of the credential, which was as before says. Only a certain refusal refuses
// it, only a certain non-judgement leaves it as it was; after anything else we do not know, and it is not tried again by
// itself.
func (t *settled) judge(tx domain.Tx, f *Failure, before domain.CredentialState, now domain.Time) error {
	if t.credential == nil || t.credential.State != domain.CredentialTrying {
		return nil
	}
	to := domain.CredentialUnconfirmed
	switch {
	case f.Reason == domain.ReasonCredentialsRefused:
		to = domain.CredentialRefused
	case f.Unjudged && (before == domain.CredentialAccepted || before == domain.CredentialSealed):
		to = before
	}
	if err := t.credential.Move(to, now); err != nil {
		return err
	}
	return tx.Put(t.credential)
}

// suspend keeps the bank's question and lets the session rest until somebody answers, or nobody does in time. fresh says that
// the bank asked anew, so that the time to answer begins again.
func (e *Engine) suspend(ctx context.Context, j *job, q *Challenge, fresh bool) error {
	sealed, err := e.sealState(ctx, j.session, q.State)
	if err != nil {
		return e.fail(ctx, j, err)
	}
	j.unsaved = sealed
	switch {
	case q.Status == domain.SCARequired || !j.session.Attended(): // nobody is there to answer
		return e.giveUp(ctx, j, domain.ReasonSCARequired)
	case q.Status == domain.SCARejected && q.TriesLeft <= 0:
		return e.giveUp(ctx, j, domain.ReasonSCARejected)
	}
	id := domain.NewID[domain.ChallengeID](e.Env)
	err = e.settle(ctx, j, e.act(j.session, "session.suspended"), func(tx domain.Tx, _ *domain.Consent, t *settled, a *domain.Act) error {
		now, anew := e.Env.Now(), fresh
		if !t.open() {
			anew = true
			t.challenge = &domain.Challenge{ID: id, SessionID: t.session.ID, ClientID: t.session.ClientID,
				ConsentID: t.session.ConsentID, ConnectionID: t.session.ConnectionID, Custodian: t.session.Custodian,
				State: domain.SCARequired, CreatedAt: now, ExpiresAt: t.session.ExpiresAt}
		}
		if err := e.ask(ctx, t.challenge, q, anew, now); err != nil {
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
		if anew {
			if err := e.lookAfter(tx, t); err != nil {
				return err
			}
		}
		return errors.Join(t.accept(tx, now), tx.Put(t.challenge))
	})
	return e.ended(ctx, j, err)
}

// lookAfter has an event come when the time to answer is over.
func (e *Engine) lookAfter(tx domain.Tx, t *settled) error {
	return tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: t.session.Key(), Custodian: t.session.Custodian,
		Lane: t.session.Lane(), NotBefore: t.challenge.AnswerBy})
}

// ask brings the challenge to what the bank asks now.
func (e *Engine) ask(ctx context.Context, c *domain.Challenge, q *Challenge, fresh bool, now domain.Time) error {
	if c.State != q.Status {
		if err := c.Move(q.Status, now); err != nil {
			return err
		}
	}
	c.Flow, c.Method, c.TriesLeft, c.UpdatedAt = q.Flow, q.Method, q.TriesLeft, now
	if q.Methods != nil {
		c.Methods = q.Methods
	}
	c.PollSeconds = int((q.PollEvery + time.Second - 1) / time.Second)
	if fresh {
		lasts := q.Lasts
		if lasts <= 0 {
			lasts = challengeFor
		}
		c.AnswerBy, c.Display = now.Add(min(lasts, domain.BankSession)), nil
	}
	if q.Display.Empty() {
		return nil
	}
	display, err := json.Marshal(q.Display)
	if err != nil {
		return err
	}
	c.Display, err = envelope.Seal(domain.In(ctx, e.Display), envelope.DisplayLabel(c), display)
	return err
}

// giveUp ends a session that the bank's SCA stopped: nobody was there to answer, nobody did in time, or the bank takes
// no more answers. The schedule pauses and the client is told.
func (e *Engine) giveUp(ctx context.Context, j *job, reason domain.Reason) error {
	err := e.settle(ctx, j, e.act(j.session, "session.failed"), func(tx domain.Tx, _ *domain.Consent, t *settled, a *domain.Act) error {
		t.session.Sealed = j.unsaved
		a.Details["reason"] = string(reason)
		return errors.Join(t.accept(tx, e.Env.Now()), e.end(tx, t, reason))
	})
	return e.stopped(ctx, j, err)
}

// opened keeps the way back in, so that a reading that breaks off begins again without a login.
func (e *Engine) opened(ctx context.Context, j *job, p *Portfolio) error {
	if j.credential == nil && e.same(ctx, j.session, p.State) {
		clear(p.State)
		return nil
	}
	sealed, err := e.sealState(ctx, j.session, p.State)
	if err != nil {
		return err
	}
	j.unsaved = sealed
	err = e.settle(ctx, j, e.act(j.session, "session.opened"), func(tx domain.Tx, _ *domain.Consent, t *settled, _ *domain.Act) error {
		t.session.Sealed = sealed
		return t.accept(tx, e.Env.Now())
	})
	if err == nil {
		j.credential, j.unsaved = nil, nil // judged; from here on a failure says nothing of it
	}
	return err
}

// sealState closes the connector's state for the store and wipes it.
func (e *Engine) sealState(ctx context.Context, s *domain.Session, state []byte) (sealed []byte, err error) {
	defer clear(state)
	err = e.underState(ctx, s, func(key envelope.WrappingKey) error {
		sealed, err = envelope.Seal(key, envelope.SessionLabel(s), state)
		return err
	})
	return sealed, err
}

// same says whether state is what the session already keeps.
func (e *Engine) same(ctx context.Context, s *domain.Session, state []byte) bool {
	kept, err := e.openState(ctx, s)
	defer kept.Wipe()
	return err == nil && bytes.Equal(kept.Reveal(), state)
}

// again says whether a step that came to f is taken once more, by itself.
func (j *job) again(f *Failure) bool {
	return f.Retry && f.RetryAfter <= longestPause && j.session.Retries < maxRetries && (j.credential == nil || f.Unjudged)
}

// failure is err in terms that can be acted upon. Only a Failure's own error is known to be fit for the log; of another
// nothing but its type and code is kept.
func failure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{Reason: domain.ReasonInternal, Err: fmt.Errorf("%T, code %s", err, domain.CodeOf(err))}
}

func (j *job) log(ctx context.Context, f *Failure) {
	slog.WarnContext(ctx, "step failed", "session", j.session.ID, "custodian", j.session.Custodian, "reason", f.Reason, "error", f.Err)
}

// fail settles a step that led nowhere. A passing failure puts the session back and has the event come again; any
// other ends it.
func (e *Engine) fail(ctx context.Context, j *job, cause error) error {
	f := failure(cause)
	j.log(ctx, f)
	if over := context.Cause(ctx); over != nil && f.Reason != domain.ReasonCredentialsRefused {
		if f.Unjudged {
			j.verdict = f
		}
		return e.stopped(ctx, j, over) // which is why it failed
	}
	again := j.again(f)
	act := e.act(j.session, "session.failed")
	if again {
		act.Action = "session.postponed"
	}
	err := e.settle(ctx, j, act, func(tx domain.Tx, _ *domain.Consent, t *settled, a *domain.Act) error {
		a.Details["reason"] = string(f.Reason)
		if err := t.judge(tx, f, j.judged, e.Env.Now()); err != nil {
			return err
		}
		if again {
			t.session.Retries++
			return t.session.Move(domain.SessionQueued, f.Reason, e.Env.Now())
		}
		if j.unsaved != nil {
			t.session.Sealed = j.unsaved
		}
		return errors.Join(t.lose(e.Env, tx, f), e.end(tx, t, f.Reason))
	})
	if err != nil {
		j.verdict = f
		err = e.stopped(ctx, j, err)
	}
	if err == nil && again { // also where a first try had put it back: no other event would run it
		return &domain.Error{Kind: domain.Unavailable, Code: string(f.Reason), RetryAfter: max(f.RetryAfter, time.Second), Err: cause}
	}
	return err
}

// ended is stopped for a step whose result the store or the law of a noun may refuse for good: trying again would lead
// to the same refusal, so the session fails.
func (e *Engine) ended(ctx context.Context, j *job, err error) error {
	switch domain.KindOf(err) {
	case domain.Conflict, domain.TooLarge, domain.Invalid:
		if !errors.Is(err, errTaken) {
			return e.fail(ctx, j, &Failure{Reason: domain.ReasonInternal, Err: err})
		}
	}
	return e.stopped(ctx, j, err)
}

// end ends a session that failed for reason, with what follows for challenge, connection and client.
func (e *Engine) end(tx domain.Tx, t *settled, reason domain.Reason) error {
	now := e.Env.Now()
	if err := t.session.Move(domain.SessionFailed, reason, now); err != nil {
		return err
	}
	if err := t.close(tx, reason, now); err != nil {
		return err
	}
	return e.afterFailure(tx, t.connection, reason, now)
}

// close ends the bank's question, if it is open, and what it shows.
func (t *settled) close(tx domain.Tx, reason domain.Reason, now domain.Time) error {
	if !t.open() {
		return nil
	}
	to := domain.SCAFailed
	if reason == domain.ReasonSCAExpired && t.challenge.State != domain.SCAExpired {
		to = domain.SCAExpired
	}
	if err := t.challenge.Move(to, now); err != nil {
		return err
	}
	t.challenge.Display = nil
	return tx.Put(t.challenge)
}

// passing reasons leave a connection that worked before as it is: the next scheduled reading may well succeed.
var passing = map[domain.Reason]bool{domain.ReasonBankUnavailable: true, domain.ReasonRateLimited: true,
	domain.ReasonBankAnswer: true, domain.ReasonInternal: true}

const tryAgainAfter = time.Hour

func (e *Engine) afterFailure(tx domain.Tx, c *domain.Connection, reason domain.Reason, now domain.Time) error {
	to, notice := domain.ConnectionPaused, domain.NoticeConnectionPaused
	if reason == domain.ReasonCredentialsRefused || reason == domain.ReasonCredentialsErased {
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
	if err == nil {
		return nil
	}
	if over := context.Cause(ctx); refused(over) || errors.Is(over, errTaken) {
		err = over // and not what the end of the work made of it
	}
	switch {
	case refused(err):
		return e.cancel(context.WithoutCancel(ctx), j, err)
	case errors.Is(err, errTaken):
		return e.leave(context.WithoutCancel(ctx), j)
	case ctx.Err() == nil:
		return err
	}
	back := e.settle(ctx, j, e.act(j.session, "session.postponed"), func(tx domain.Tx, _ *domain.Consent, t *settled, a *domain.Act) error {
		a.Details["reason"] = "stopping"
		return e.putBack(tx, t, j, a)
	})
	if errors.Is(back, errTaken) {
		back = e.leave(context.WithoutCancel(ctx), j)
	}
	return errors.Join(&domain.Error{Kind: domain.Unavailable, Code: "stopping", Err: err}, back)
}

// putBack has a session that the process's stop broke off wait for the next one. A login whose end nobody knows is not
// repeated, and an answer is lost. The log says which it was.
func (e *Engine) putBack(tx domain.Tx, t *settled, j *job, a *domain.Act) error {
	now, f := e.Env.Now(), j.told()
	if t.credential != nil && t.credential.State == domain.CredentialTrying {
		if err := t.judge(tx, f, j.judged, now); err != nil {
			return err
		}
		if !f.Unjudged {
			t.session.Sealed = j.unsaved
			a.Action, a.Details["reason"] = "session.failed", string(f.Reason)
			return e.end(tx, t, f.Reason)
		}
	}
	if t.open() {
		a.Action = "session.suspended"
		return t.session.Move(domain.SessionSuspended, "", now)
	}
	return t.session.Move(domain.SessionQueued, "", now)
}

// told is what a login came to that was cut short: what the bank said, or that nobody knows.
func (j *job) told() *Failure {
	if j.verdict != nil {
		return j.verdict
	}
	return &Failure{Reason: domain.ReasonInterrupted}
}

// cancel ends a session whose consent no longer allows it. If the consent itself lives on, for it only covers less than
// it did, the connection pauses, so that nobody waits for it in vain.
func (e *Engine) cancel(ctx context.Context, j *job, why error) error {
	act := e.late(j.session, "session.cancelled")
	act.Details["reason"] = domain.CodeOf(why)
	err := domain.Perform(ctx, e.Env, e.Store, act, func(tx domain.Tx, c *domain.Consent, _ *domain.Act) error {
		t, err := look(tx, j.session)
		if err != nil {
			return err
		}
		if domain.SessionMoves.Final(t.session.State) {
			return errNothing
		}
		now, reason := e.Env.Now(), domain.ReasonConsentEnded
		lives := c.State == domain.ConsentValid && now.Before(c.ExpiresAt)
		if lives {
			reason = domain.ReasonInterrupted
		}
		if err := t.session.Move(domain.SessionCancelled, reason, now); err != nil {
			return err
		}
		if j.unsaved != nil {
			t.session.Sealed = j.unsaved
		}
		if err := errors.Join(t.judge(tx, j.told(), j.judged, now), t.close(tx, reason, now), tx.Put(t.session)); err != nil {
			return err
		}
		waits := t.connection.State == domain.ConnectionBusy || t.connection.State == domain.ConnectionSCA
		if lives && waits && t.connection.SessionID == t.session.ID {
			return errors.Join(e.afterFailure(tx, t.connection, reason, now), tx.Put(t.connection))
		}
		return nil
	})
	switch {
	case errors.Is(err, errNothing):
		return e.leave(ctx, j)
	case domain.KindOf(err) == domain.NotFound:
		return nil
	}
	return err
}

// leave keeps the way into a session at the bank that was opened, or carried on, for a session that somebody else ended
// meanwhile, so that it is closed at the bank: by this worker at once, or else by an event of its own, for the one that
// this worker runs is somebody else's by now.
func (e *Engine) leave(ctx context.Context, j *job) error {
	if j.unsaved == nil {
		return e.elsewhere(ctx, j)
	}
	err := domain.Perform(ctx, e.Env, e.Store, e.late(j.session, "session.left"), func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		fresh := &domain.Session{ID: j.session.ID}
		if err := tx.Get(fresh); err != nil {
			return err
		}
		if !domain.SessionMoves.Final(fresh.State) || len(fresh.Sealed) > 0 {
			return errNothing
		}
		fresh.Sealed = j.unsaved
		return errors.Join(tx.Put(fresh), tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: fresh.Key(),
			Custodian: fresh.Custodian, Lane: fresh.Lane(), NotBefore: e.Env.Now().Add(endTimeout)}))
	})
	switch {
	case errors.Is(err, errNothing):
		return e.elsewhere(ctx, j)
	case domain.KindOf(err) == domain.NotFound:
		return nil
	}
	return err
}

// late begins the description of an act that only takes away.
func (e *Engine) late(s *domain.Session, action string) domain.Act {
	act := e.act(s, action)
	act.States, act.Late, act.Custodian = domain.AnyConsentState, true, ""
	return act
}

// expire ends a suspended session whose time to answer is over.
func (e *Engine) expire(ctx context.Context, s *domain.Session, event domain.Event) error {
	var early time.Duration
	err := domain.Perform(ctx, e.Env, e.Store, e.act(s, "session.expired"), func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		t, err := look(tx, s)
		if err != nil {
			return err
		}
		early = 0
		if t.session.State != domain.SessionSuspended {
			return errNothing
		}
		if t.challenge != nil && e.Env.Now().Before(t.challenge.AnswerBy) {
			if !event.NotBefore.Before(t.challenge.AnswerBy) { // the last event that looks: this clock runs behind
				early = t.challenge.AnswerBy.Sub(e.Env.Now())
			}
			return errNothing
		}
		if t.open() {
			a.Details["method"] = t.challenge.Method
		}
		return errors.Join(e.end(tx, t, domain.ReasonSCAExpired), tx.Put(t.session), tx.Put(t.connection))
	})
	switch {
	case refused(err):
		return e.cancel(ctx, &job{session: s}, err)
	case early > 0:
		return &domain.Error{Kind: domain.Unavailable, Code: "challenge_open", RetryAfter: early}
	case errors.Is(err, errNothing) || domain.KindOf(err) == domain.NotFound:
		return nil
	}
	return err
}

// suspendAgain puts a session whose answering worker died back to rest: the answer is lost, as it must be.
func (e *Engine) suspendAgain(ctx context.Context, s *domain.Session) error {
	err := domain.Perform(ctx, e.Env, e.Store, e.act(s, "session.suspended"), func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		t, err := look(tx, s)
		if err != nil {
			return err
		}
		now := e.Env.Now()
		if t.session.State != domain.SessionRunning || t.challenge == nil || now.Before(t.session.LeaseUntil) {
			return errNothing
		}
		a.Details["reason"] = "interrupted"
		if err := t.session.Move(domain.SessionSuspended, "", now); err != nil {
			return err
		}
		return errors.Join(tx.Put(t.session), e.lookAfter(tx, t))
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// closeBank closes an ended session at the bank and wipes the way back in. It is repeated until it succeeds, or until
// the bank has forgotten the session by itself.
func (e *Engine) closeBank(ctx context.Context, id domain.SessionID) error {
	s := &domain.Session{ID: id}
	if err := e.Store.Get(ctx, s); err != nil {
		return domain.IgnoreNotFound(err)
	}
	if !domain.SessionMoves.Final(s.State) || len(s.Sealed) == 0 {
		return nil
	}
	err := e.endAtBank(ctx, s)
	if since := e.Env.Now().Sub(s.EndedAt); err != nil && !errors.Is(err, domain.ErrShardGone) && since < domain.BankSession {
		return &domain.Error{Kind: domain.Unavailable, Code: "bank_session_open", Err: err,
			RetryAfter: max(5*time.Second, min(2*since, domain.BankSession-since))} // eight times in all
	}
	err = domain.Perform(ctx, e.Env, e.Store, e.late(s, "session.closed"), func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		fresh := &domain.Session{ID: s.ID}
		if err := tx.Get(fresh); err != nil {
			return err
		}
		if !bytes.Equal(fresh.Sealed, s.Sealed) {
			return errNothing // somebody closed it too
		}
		fresh.Sealed = nil
		return tx.Put(fresh)
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return domain.IgnoreNotFound(err)
}

// endAtBank calls the connector to close the session at the bank.
func (e *Engine) endAtBank(ctx context.Context, s *domain.Session) (err error) {
	ctx, done := context.WithTimeout(ctx, endTimeout)
	defer done()
	state, err := e.openState(ctx, s)
	if err != nil {
		return err
	}
	defer state.Wipe()
	defer func() {
		if recover() != nil {
			slog.ErrorContext(ctx, "connector panicked", "custodian", e.Custodian.ID, "step", "end")
			err = &Failure{Reason: domain.ReasonInternal}
		}
	}()
	gate := e.gate(s)
	gate.SetPhase(PhaseEnd)
	return e.Connector.End(ctx, e.visit(s, gate, state))
}
