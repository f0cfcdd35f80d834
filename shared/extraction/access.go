package extraction

import (
	"context"
	"errors"

	"sluis.internal/shared/domain"
)

// try is one request of a step that was booked on the access, and what it came to.
type try struct {
	count   domain.BankCount
	number  int64
	verdict domain.Verdict
}

// identify finds out whose login it is, which nobody could know before both gates were opened. A value that no login of
// this bank looks like is not shown to it.
func (e *Engine) identify(j *job, fields map[string]domain.Secret) error {
	login, err := e.Custodian.Login(fields)
	if err == nil && login != nil {
		j.session.AccessKey = e.Custodian.AccessKey(e.Pseudonym, login)
	}
	return err
}

// mayAsk is asked before each request to the bank: may the work go on, and does the access bear what the bank may count?
// This is the one place where a request to a bank is booked.
func (e *Engine) mayAsk(ctx context.Context, j *job, counts domain.BankCount) *Failure {
	if counts == "" || !e.Custodian.HasLogin() {
		return e.goesOn(ctx, j)
	}
	err := context.Cause(ctx)
	if err == nil {
		err = e.book(ctx, j, counts)
	}
	why, wait := domain.WhyNotTried(err)
	switch {
	case err == nil:
		return nil
	case why != "":
		return &Failure{Reason: why, RetryAfter: wait, Err: err}
	case refused(err) || errors.Is(err, errTaken):
		j.stop(err)
		return &Failure{Reason: domain.ReasonConsentEnded, Err: err}
	}
	return &Failure{Reason: domain.ReasonInternal, Retry: true, Err: err}
}

// book books one request on the access, as counted until known otherwise, before the bank hears of it.
func (e *Engine) book(ctx context.Context, j *job, counts domain.BankCount) error {
	act := e.act(j.session, "bank.asked")
	act.Details["counts"] = string(counts)
	var number int64
	err := e.perform(ctx, j, act, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		s, err := mine(tx, j.session)
		if err != nil {
			return err
		}
		key, now := j.session.AccessKey, e.Env.Now()
		if key == "" {
			return &domain.Error{Kind: domain.Internal, Code: "access_unknown"}
		}
		access, err := e.access(tx, key)
		if err != nil {
			return err
		}
		if counts != domain.CountLogin {
			number, err = access.Book(&e.Custodian.Rules, counts, numbers(j.tries), now)
		} else if number, err = access.BookLogin(&e.Custodian.Rules, visitOf(s, c), now); err == nil {
			err = e.remember(tx, s, key)
		}
		if err != nil {
			return err
		}
		a.Details["standing"] = access.Standing(counts)
		return tx.Put(access)
	})
	if err == nil {
		j.tries = append(j.tries, try{count: counts, number: number, verdict: domain.VerdictCounted})
	}
	return err
}

func numbers(tries []try) (out []int64) {
	for _, t := range tries {
		out = append(out, t.number)
	}
	return out
}

// access reads an access; one of which nothing is known yet is new.
func (e *Engine) access(tx domain.Tx, key domain.AccessKey) (*domain.BankAccess, error) {
	access, err := domain.Maybe(tx, &domain.BankAccess{ID: key})
	if err == nil && access == nil {
		access = domain.NewBankAccess(key, e.Custodian.ID, e.Env.Now())
	}
	if access != nil {
		access.Rules = e.Custodian.Rules
	}
	return access, err
}

func visitOf(s *domain.Session, c *domain.Consent) domain.BankVisit {
	return domain.BankVisit{Attended: s.Attended(), Recurring: c.Access == domain.AccessRecurring, Client: c.ClientID,
		Consent: c.ID, Products: c.Products}
}

// remember writes the access's name where whoever begins a session looks for it.
func (e *Engine) remember(tx domain.Tx, s *domain.Session, key domain.AccessKey) error {
	c, cred := &domain.Connection{ID: s.ConnectionID}, &domain.Credential{ConnectionID: s.ConnectionID}
	if err := tx.Get(c, cred); err != nil {
		return err
	}
	s.AccessKey = key
	if c.AccessKey == key && cred.AccessKey == key {
		return tx.Put(s)
	}
	c.AccessKey, cred.AccessKey = key, key
	return errors.Join(tx.Put(s), tx.Put(c), tx.Put(cred))
}

// weigh says what each request of a step came to. What the connector does not tell apart was counted.
func (j *job) weigh(out Outcome, err error) {
	f := &Failure{}
	if err != nil {
		f = failure(err)
	}
	for i := range j.tries {
		t, last := &j.tries[i], i == len(j.tries)-1
		switch {
		case t.count == domain.CountLogin && (err == nil || f.Accepted):
			t.verdict = domain.VerdictRight
		case t.count == domain.CountCode && last && out.Portfolio != nil:
			t.verdict = domain.VerdictRight
		case t.count == domain.CountCode && last && out.Challenge != nil && out.Challenge.Status != domain.SCARejected,
			last && f.Unjudged,
			t.count == domain.CountLogin && (f.Reason == domain.ReasonAccountLocked || f.Reason == domain.ReasonActionRequired):
			t.verdict = domain.VerdictFree
		}
	}
}

// weighIn brings what the step came to onto the access, in the commit that settles it.
func (e *Engine) weighIn(tx domain.Tx, j *job, t *settled) error {
	t.access = nil
	if j.session.AccessKey == "" || len(j.tries) == 0 && j.failed == nil {
		return nil
	}
	access, err := e.access(tx, j.session.AccessKey)
	if err != nil {
		return err
	}
	now := e.Env.Now()
	j.bring(access, &e.Custodian.Rules, now)
	if j.failed != nil {
		access.Failed(&e.Custodian.Rules, j.failed.Reason, j.failed.RetryAfter, now)
	}
	t.access = access
	return nil
}

// bring settles the step's tries on access.
func (j *job) bring(access *domain.BankAccess, r *domain.BankRules, now domain.Time) {
	for _, t := range j.tries {
		access.Settle(r, t.count, t.number, t.verdict, now)
		if t.count == domain.CountLogin && t.verdict == domain.VerdictRight {
			access.Succeeded(now)
		}
	}
}

func (t *settled) putAccess(tx domain.Tx) error {
	if t.access == nil {
		return nil
	}
	return tx.Put(t.access)
}

// codesLeft is how many more codes the bank and we allow: the smaller of the bank's word and our mirror's, whose last one
// is never used.
func (e *Engine) codesLeft(ctx context.Context, j *job, said int) (int, error) {
	if j.session.AccessKey == "" {
		return said, nil
	}
	access := domain.NewBankAccess(j.session.AccessKey, e.Custodian.ID, e.Env.Now())
	if err := domain.IgnoreNotFound(e.Store.Get(ctx, access)); err != nil {
		return 0, err
	}
	j.bring(access, &e.Custodian.Rules, e.Env.Now())
	if ours, limited := access.Left(&e.Custodian.Rules, domain.CountCode, e.Env.Now()); limited {
		return min(said, ours), nil
	}
	return said, nil
}
