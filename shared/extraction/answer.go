package extraction

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// Answer takes the investor's answer to the bank, within one request: a code is opened in memory, submitted at once
// and forgotten. If the bank opens its door, the reading is left to an event, so that the investor need not wait for
// it. A second answer while one is under way is a Conflict.
func (e *Engine) Answer(ctx context.Context, r domain.AnswerRequest) error {
	// The browser may go away; what happens at the bank must still be written down.
	ctx = context.WithoutCancel(ctx)
	s, err := e.session(ctx, r.SessionID)
	if err != nil {
		return err
	}
	if err = e.answer(ctx, s, r); errors.Is(err, errTaken) {
		err = nil // the page shows how the session stands
	}
	if closing := e.closeBank(ctx, s.ID); closing != nil { // nothing to the investor: the event that looks after the challenge tries again
		slog.WarnContext(ctx, "session left open at the bank", "session", s.ID, "code", domain.CodeOf(closing))
	}
	return err
}

const answerTimeout = time.Minute

func (e *Engine) answer(ctx context.Context, s *domain.Session, r domain.AnswerRequest) error {
	ctx, done := context.WithTimeout(ctx, answerTimeout)
	defer done()
	j, err := e.claimAnswer(ctx, s, r)
	if refused(err) {
		return errors.Join(err, e.cancel(ctx, &job{session: s}, err))
	}
	if err != nil {
		return err
	}
	ctx, j.stop = context.WithCancelCause(ctx)
	defer j.stop(nil)
	if r.Kind == domain.AnswerCancel {
		return e.fail(ctx, j, &Failure{Reason: domain.ReasonSCACancelled, Err: errors.New("the investor stopped it")})
	}
	in, err := e.input(ctx, j, r)
	if err != nil {
		return errors.Join(err, e.backToRest(ctx, j))
	}
	_, out, err := e.step(ctx, j, in)
	if err != nil {
		return e.answerFailed(ctx, j, in.Kind, err)
	}
	if out.Challenge != nil {
		return e.suspend(ctx, j, out.Challenge, r.Kind == domain.AnswerSelect || r.Kind == domain.AnswerRenew)
	}
	return e.verified(ctx, j, out.Portfolio)
}

// claimAnswer makes a suspended session running for the time of one answer.
func (e *Engine) claimAnswer(ctx context.Context, seen *domain.Session, r domain.AnswerRequest) (*job, error) {
	var j *job
	act := e.act(seen, "session.answered")
	act.Details["kind"] = string(r.Kind)
	err := domain.Perform(ctx, e.Env, e.Store, act, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		t, err := look(tx, seen)
		if err != nil {
			return err
		}
		s, challenge, now := t.session, t.challenge, e.Env.Now()
		switch {
		case !t.open() || challenge.ID != r.ChallengeID:
			return errOver
		case r.Kind == domain.AnswerCode && challenge.Flow == domain.FlowDecoupled,
			r.Kind == domain.AnswerPoll && challenge.Flow == domain.FlowCode:
			return domain.Invalidf("/kind", "the bank asks in another way; answer as the challenge's flow says")
		case challenge.State == domain.SCAExpired && (r.Kind == domain.AnswerCode || r.Kind == domain.AnswerPoll):
			return &domain.Error{Kind: domain.Gone, Code: "challenge_expired", Message: "the bank takes this code no longer; ask for a new one"}
		case !now.Before(challenge.AnswerBy) && r.Kind != domain.AnswerCancel:
			return &domain.Error{Kind: domain.Gone, Code: "challenge_expired", Message: "the time to answer is over; begin again"}
		case s.State == domain.SessionRunning && !now.Before(s.LeaseUntil): // its worker died
		case s.State != domain.SessionSuspended:
			return &domain.Error{Kind: domain.Conflict, Code: "answer_in_progress", Message: "another answer is on its way to the bank; wait for it"}
		default:
			if err := s.Move(domain.SessionRunning, "", now); err != nil {
				return err
			}
		}
		var admitted domain.Sealing
		if r.Kind == domain.AnswerCode {
			if admitted, err = e.admit(challenge, r.SealedCode); err != nil {
				return err
			}
		}
		if challenge.State == domain.SCARejected && r.Kind == domain.AnswerCode {
			if err := challenge.Move(domain.SCAIssued, now); err != nil {
				return err
			}
		}
		s.Attempts++
		s.LeaseUntil = now.Add(max(e.lease(), answerTimeout))
		j = &job{session: s, connection: t.connection, consent: c, admitted: admitted}
		return errors.Join(tx.Put(s), tx.Put(challenge))
	})
	return j, err
}

// admit looks at a code as far as that goes without a key, and gives what it was sealed as if it was let in and not
// opened yet. Committing that comes before the key.
func (e *Engine) admit(c *domain.Challenge, sealed string) (domain.Sealing, error) {
	told, err := envelope.Inspect(sealed, envelope.Expect{Typ: envelope.TypCode, Subject: string(c.ID), AnyKid: true}, e.Env.Now())
	if err != nil {
		return domain.Sealing{}, err
	}
	return told.Sealing, c.Admit(told.Sealing.Nonce)
}

var errOver = &domain.Error{Kind: domain.Gone, Code: "challenge_over", Message: "this question of the bank is over"}

// input turns an answer into a step's input; a code is opened here and nowhere else, if it is the one that was let in.
func (e *Engine) input(ctx context.Context, j *job, r domain.AnswerRequest) (Input, error) {
	switch r.Kind {
	case domain.AnswerCode:
		code, err := e.Opener.In(ctx).OpenCode(r.SealedCode, j.admitted, e.Env.Now())
		return Input{Kind: InputCode, Code: code}, err
	case domain.AnswerPoll:
		return Input{Kind: InputPoll}, nil
	case domain.AnswerSelect:
		return Input{Kind: InputSelect, Method: r.Method}, nil
	case domain.AnswerRenew:
		return Input{Kind: InputRenew}, nil
	}
	return Input{}, domain.Invalidf("/kind", "want code, poll, select, renew or cancel")
}

// backToRest undoes a claim for an answer that the bank did not get, or could not use.
func (e *Engine) backToRest(ctx context.Context, j *job) error {
	err := e.settle(ctx, j, e.act(j.session, "session.suspended"), func(tx domain.Tx, _ *domain.Consent, t *settled, a *domain.Act) error {
		a.Details["reason"] = "answer_unusable"
		return t.session.Move(domain.SessionSuspended, "", e.Env.Now())
	})
	return e.stopped(ctx, j, err)
}

// answerFailed settles an answer that the bank did not take in. After a passing failure, or where the connector sees
// that the answer does not fit the question, the investor may answer again; any other failure ends the session.
func (e *Engine) answerFailed(ctx context.Context, j *job, kind InputKind, cause error) error {
	var f *Failure
	if !errors.As(cause, &f) && domain.KindOf(cause) == domain.Invalid {
		return errors.Join(cause, e.backToRest(ctx, j))
	}
	if f != nil && f.Reason == domain.ReasonAccessResting && kind != InputCode { // the question that stands can still be answered
		return errors.Join(errEnough, e.backToRest(ctx, j))
	}
	if f == nil || !f.Retry || j.session.Retries >= maxRetries {
		return e.fail(ctx, j, cause)
	}
	err := e.settle(ctx, j, e.act(j.session, "session.suspended"), func(tx domain.Tx, _ *domain.Consent, t *settled, a *domain.Act) error {
		a.Details["reason"] = string(f.Reason)
		t.session.Retries++
		return t.session.Move(domain.SessionSuspended, f.Reason, e.Env.Now())
	})
	if err != nil {
		return e.stopped(ctx, j, err)
	}
	return &domain.Error{Kind: domain.Unavailable, Code: string(f.Reason), RetryAfter: max(f.RetryAfter, 2*time.Second),
		Message: "the bank did not answer; try again in a moment", Err: cause}
}

var errEnough = &domain.Error{Kind: domain.Conflict, Code: "challenges_spent",
	Message: "the bank locks the access if it is asked for another question without a right answer; answer the one that is shown"}

// verified notes that SCA is passed, keeps the way in, and leaves the reading to an event.
func (e *Engine) verified(ctx context.Context, j *job, p *Portfolio) error {
	sealed, err := e.sealState(ctx, j.session, p.State)
	if err != nil {
		return e.fail(ctx, j, err)
	}
	j.unsaved = sealed
	err = e.settle(ctx, j, e.act(j.session, "sca.verified"), func(tx domain.Tx, _ *domain.Consent, t *settled, a *domain.Act) error {
		now := e.Env.Now()
		if !t.open() {
			return errOver
		}
		if !slices.Contains(domain.SCAMoves[t.challenge.State], domain.SCAVerified) { // the bank asks for nothing more after all
			if err := t.challenge.Move(domain.SCAIssued, now); err != nil {
				return err
			}
		}
		if err := t.challenge.Move(domain.SCAVerified, now); err != nil {
			return err
		}
		a.Details["challenge"], a.Details["method"] = string(t.challenge.ID), t.challenge.Method
		t.session.Sealed = sealed
		if err := t.session.Move(domain.SessionQueued, "", now); err != nil {
			return err
		}
		if t.connection.State == domain.ConnectionSCA {
			if err := t.connection.Move(domain.ConnectionBusy, "", now); err != nil {
				return err
			}
		}
		return errors.Join(tx.Put(t.challenge), tx.Emit(domain.Event{Topic: domain.TopicSession,
			Subject: t.session.Key(), Custodian: t.session.Custodian, Lane: t.session.Lane()}))
	})
	return e.ended(ctx, j, err)
}
