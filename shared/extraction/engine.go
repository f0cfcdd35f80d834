package extraction

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// Engine runs sessions at one custodian. It has two entries: [Engine.Run] for events, with nobody waiting, and
// [Engine.Answer] for the investor's answer to a challenge.
//
// What happens if the process dies is decided by what stands in the store at that moment:
//
//	queued                       nothing was done; the event comes again and the session starts
//	running, credential trying   a login was under way and we do not know how it ended: it is never repeated by itself
//	running, door open           Sealed holds the way back in: the reading begins again, without a login
//	running, challenge open      the answer is lost, as it must be: back to suspended, the investor may answer again
//	suspended                    waits; a delayed event ends it when the time to answer is over
//	ended, Sealed still set      the bank session is closed at the bank, then Sealed is wiped
type Engine struct {
	Store     domain.Store
	Env       domain.Env
	Custodian domain.Custodian
	Connector Connector
	Network   http.RoundTripper // to the custodian, behind the egress guard
	Secrets   domain.Secrets
	Opener    *envelope.Opener     // both gates
	State     envelope.WrappingKey // a suspended session's state
	Display   domain.Encrypter     // what a challenge shows
	Portfolio *envelope.Closer     // portfolio data
	Rewrapper domain.Rewrapper     // of the portfolio key
	Shards    Shards               // without which neither credentials nor states nor portfolio data open
	Pseudonym domain.Secret        // keys account identifiers and part digests
	Lease     time.Duration        // how long a session is a dead worker's; 0 means 30 s
}

const (
	maxRetries   = 2                // of one session, over passing failures; the connector has tried thrice each time
	longestPause = time.Hour        // a bank that asks for more is left alone until the next reading is due
	challengeFor = 5 * time.Minute  // where the bank does not say
	endTimeout   = 30 * time.Second // for closing it
	lastWord     = 5 * time.Second  // for a commit after the work was cut short
)

// Run takes the session that an event names one step further, whatever step that is, and closes it at the bank if it
// has ended. An event that names a connection has its keyset looked after.
func (e *Engine) Run(ctx context.Context, event domain.Event) error {
	if id, err := domain.ParseID[domain.ConnectionID](event.Subject); err == nil {
		return e.rewrap(ctx, id)
	}
	s, err := e.session(ctx, domain.SessionID(event.Subject))
	if err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil // erased
		}
		return err
	}
	switch {
	case domain.SessionMoves.Final(s.State):
	case s.State == domain.SessionSuspended:
		err = e.expire(ctx, s, event)
	default:
		err = e.advance(ctx, s, !event.NotBefore.IsZero())
	}
	if err != nil {
		return err
	}
	return e.closeBank(ctx, s.ID)
}

// session reads a session of this engine's custodian. One that was sent to the wrong engine is refused: its password
// must not be shown to another bank.
func (e *Engine) session(ctx context.Context, id domain.SessionID) (*domain.Session, error) {
	s := &domain.Session{ID: id}
	if err := e.Store.Get(ctx, s); err != nil {
		return nil, err
	}
	if s.Custodian != e.Custodian.ID {
		return nil, &domain.Error{Kind: domain.Internal, Code: "custodian_foreign", Message: "this session is another custodian's"}
	}
	return s, nil
}

// advance claims the session and does what is to be done, under the lease.
func (e *Engine) advance(ctx context.Context, s *domain.Session, delayed bool) error {
	j, err := e.claim(ctx, s, delayed)
	if refused(err) {
		return e.cancel(ctx, &job{session: s}, err)
	}
	if err != nil || j == nil {
		return err
	}
	ctx, stop := e.keepLease(ctx, j)
	defer stop()
	return e.run(ctx, j)
}

func (e *Engine) run(ctx context.Context, j *job) error {
	in := Input{Kind: InputResume}
	if j.credential != nil {
		fields, err := e.openCredential(ctx, j)
		if err != nil {
			return e.fail(ctx, j, unopened(err))
		}
		in = Input{Kind: InputLogin, Credentials: fields}
	}
	gate, out, err := e.step(ctx, j, in)
	if err != nil {
		return e.fail(ctx, j, err)
	}
	if out.Challenge != nil {
		return e.suspend(ctx, j, out.Challenge, true)
	}
	if err := e.opened(ctx, j, out.Portfolio); err != nil {
		return e.stopped(ctx, j, err)
	}
	gate.SetPhase(PhaseRead)
	return e.read(ctx, j, out.Portfolio)
}

// job is a claimed session with what it needs.
type job struct {
	session    *domain.Session         // as claimed
	connection *domain.Connection      // as claimed
	consent    *domain.Consent         // as claimed
	credential *domain.Credential      // to log in with; nil to resume
	judged     domain.CredentialState  // what the bank thought of it before
	verdict    *Failure                // what it thinks now, where that is known but not written down yet
	stop       context.CancelCauseFunc // cuts the work short
	unsaved    []byte                  // the way into the bank's session, sealed, until a commit has kept it
}

// act begins the description of an act on j's session.
func (e *Engine) act(s *domain.Session, action string) domain.Act {
	return domain.Act{Action: action, Function: "extract", ConsentID: s.ConsentID, ClientID: s.ClientID,
		ConnectionID: s.ConnectionID, Custodian: s.Custodian, Subject: string(s.ID),
		Actor:   domain.Actor{Kind: domain.ActorSystem, ID: "extract"},
		Details: map[string]string{"cause": string(s.Cause)}}
}

// claim makes a queued session running, or takes over one whose worker died, under a lease. A login is marked on the
// credential here, before the bank hears of it. It returns nil where there is nothing to run. A delayed event only looks
// after a challenge: one that finds its challenge passed leaves the session to the event that runs it.
func (e *Engine) claim(ctx context.Context, seen *domain.Session, delayed bool) (*job, error) {
	var j *job
	var unfit domain.Reason
	var back bool
	err := domain.Perform(ctx, e.Env, e.Store, e.act(seen, "session.started"), func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		j, unfit, back = nil, "", false
		t, err := look(tx, seen)
		if err != nil {
			return err
		}
		s, now := t.session, e.Env.Now()
		verified := t.challenge != nil && t.challenge.State == domain.SCAVerified
		switch {
		case s.State != domain.SessionRunning && s.State != domain.SessionQueued, delayed && verified:
			return errNothing
		case s.State == domain.SessionRunning && now.Before(s.LeaseUntil):
			return &domain.Error{Kind: domain.Unavailable, Code: "session_running", RetryAfter: s.LeaseUntil.Sub(now)}
		}
		if back = s.State == domain.SessionRunning && s.ChallengeID != "" && !verified; back {
			return errNothing
		}
		j = &job{session: s, connection: t.connection, consent: c}
		if len(s.Sealed) == 0 {
			if unfit, err = j.takeCredential(t.credential, now); err != nil {
				return err
			}
			if unfit != "" {
				return errNothing
			}
		}
		return e.start(tx, j, a)
	})
	switch {
	case back:
		return nil, e.suspendAgain(ctx, seen)
	case unfit != "":
		return nil, e.fail(ctx, j, &Failure{Reason: unfit})
	case errors.Is(err, errNothing):
		return nil, nil
	}
	return j, err
}

var errNothing = errors.New("nothing to do")

// takeCredential marks a login on the credential, or says why it must not be tried: it was erased, the bank refused it,
// or a login with it broke off, after which nobody but a person may say that it is tried again.
func (j *job) takeCredential(cred *domain.Credential, now domain.Time) (unfit domain.Reason, err error) {
	if cred == nil {
		return domain.ReasonCredentialsErased, nil
	}
	j.judged, j.credential = cred.State, cred
	switch {
	case cred.State == domain.CredentialRefused:
		return domain.ReasonCredentialsRefused, nil
	case cred.State == domain.CredentialTrying,
		cred.State == domain.CredentialUnconfirmed && j.session.Cause == domain.CauseScheduled:
		return domain.ReasonInterrupted, nil
	}
	return "", cred.Move(domain.CredentialTrying, now)
}

func (e *Engine) start(tx domain.Tx, j *job, a *domain.Act) error {
	s, now := j.session, e.Env.Now()
	if s.State == domain.SessionQueued {
		if err := s.Move(domain.SessionRunning, "", now); err != nil {
			return err
		}
	}
	s.Attempts++
	s.LeaseUntil = now.Add(e.lease())
	if j.credential != nil {
		s.Shard = j.credential.SessionShard
		a.Details["credential"] = "opened"
		if err := tx.Put(j.credential); err != nil {
			return err
		}
	}
	return tx.Put(s)
}

func (e *Engine) lease() time.Duration {
	if e.Lease == 0 {
		return 30 * time.Second
	}
	return e.Lease
}

// keepLease renews the lease while the work goes on, re-checking the consent each time: once it is gone, the work
// is cut short.
func (e *Engine) keepLease(ctx context.Context, j *job) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	j.stop = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(e.lease() / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := domain.Recovered(func() error { return e.renew(ctx, j) }); err != nil && ctx.Err() == nil {
				slog.WarnContext(ctx, "lease not renewed", "session", j.session.ID, "code", domain.CodeOf(err))
				if refused(err) || errors.Is(err, errTaken) {
					cancel(err)
					return
				}
			}
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

func (e *Engine) renew(ctx context.Context, j *job) error {
	return e.perform(ctx, j, e.act(j.session, "session.renewed"), func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		fresh, err := mine(tx, j.session)
		if err != nil {
			return err
		}
		fresh.LeaseUntil = e.Env.Now().Add(e.lease())
		return tx.Put(fresh)
	})
}

// goesOn makes sure, before each request to the bank, that the work may go on, and cuts it short if not: the consent has
// ended, covers less, or somebody took the session. It only looks; what it finds is decided, and a refusal recorded, by
// the act of renewing the lease. While it cannot be known, nothing is asked of the bank.
func (e *Engine) goesOn(ctx context.Context, j *job) *Failure {
	err := context.Cause(ctx)
	if err == nil {
		if err = e.glance(ctx, j); refused(err) {
			err = e.renew(ctx, j)
		}
	}
	switch {
	case err == nil:
		return nil
	case refused(err) || errors.Is(err, errTaken):
		j.stop(err)
		return &Failure{Reason: domain.ReasonConsentEnded, Err: err}
	}
	return &Failure{Reason: domain.ReasonInternal, Retry: true, Err: err}
}

// glance asks for consent, client and session at once, as it holds up every request to the bank.
func (e *Engine) glance(ctx context.Context, j *job) error {
	fresh := &domain.Session{ID: j.session.ID}
	c, err := domain.Allowed(ctx, e.Env, e.Store, e.act(j.session, "session.renewed"), fresh)
	switch {
	case err != nil:
		return err
	case !j.covered(c):
		return errNarrowed
	case taken(fresh, j.session): // one that is gone has no state
		return errTaken
	}
	return nil
}

// perform is domain.Perform for a claimed session. Besides, the consent must still cover each product that it covered
// when the session was claimed: what was read meanwhile is not kept.
func (e *Engine) perform(ctx context.Context, j *job, act domain.Act, fn func(domain.Tx, *domain.Consent, *domain.Act) error) error {
	return domain.Perform(ctx, e.Env, e.Store, act, func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		if !j.covered(c) {
			return errNarrowed
		}
		return fn(tx, c, a)
	})
}

// covered says whether c still covers each product that the consent covered when the session was claimed.
func (j *job) covered(c *domain.Consent) bool {
	return !slices.ContainsFunc(j.consent.Products, func(p domain.Product) bool { return !slices.Contains(c.Products, p) })
}

var errNarrowed = &domain.Error{Kind: domain.Forbidden, Code: "consent_scope", Message: "the consent covers less than it did"}

// mine reads the session again and makes sure that it is as we claimed it: somebody may have cancelled, taken over or
// erased it.
func mine(tx domain.Tx, s *domain.Session) (*domain.Session, error) {
	fresh := &domain.Session{ID: s.ID}
	if err := tx.Get(fresh); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil, errTaken
		}
		return nil, err
	}
	if taken(fresh, s) {
		return nil, errTaken
	}
	return fresh, nil
}

func taken(fresh, claimed *domain.Session) bool {
	return fresh.State != claimed.State || fresh.Attempts != claimed.Attempts
}

// elsewhere says whether a session that was taken from us still needs an event. Who took it may have given it back since,
// while the event that would run it was ours, as where both had the same one because a lease ran out: then ours comes again.
func (e *Engine) elsewhere(ctx context.Context, j *job) error {
	s := &domain.Session{ID: j.session.ID}
	err := e.Store.Get(ctx, s)
	switch {
	case domain.KindOf(err) == domain.NotFound:
		return nil
	case err == nil && (s.State == domain.SessionQueued || s.State == domain.SessionRunning):
		return &domain.Error{Kind: domain.Unavailable, Code: "session_taken", Err: errTaken,
			RetryAfter: max(time.Second, s.LeaseUntil.Sub(e.Env.Now()))}
	}
	return err
}

// errTaken stops a worker whose session was taken over, cancelled or erased meanwhile.
var errTaken = &domain.Error{Kind: domain.Conflict, Code: "session_taken", Message: "the session went on without us"}

// refused says whether the consent was in the way.
func refused(err error) bool {
	return domain.KindOf(err) == domain.Forbidden || domain.CodeOf(err) == "consent_unknown"
}

// step calls the connector behind the egress guard. Whatever secrets it was given are wiped afterwards.
func (e *Engine) step(ctx context.Context, j *job, in Input) (gate *Gate, out Outcome, err error) {
	defer func() {
		for _, secret := range in.Credentials {
			secret.Wipe()
		}
		in.Code.Wipe()
		if recover() != nil { // what was thrown may hold anything: it is not logged
			slog.ErrorContext(ctx, "connector panicked", "custodian", e.Custodian.ID, "step", in.Kind)
			err = &Failure{Reason: domain.ReasonInternal}
		}
	}()
	state, err := e.openState(ctx, j.session)
	if err != nil {
		return nil, Outcome{}, unopened(err)
	}
	defer state.Wipe()
	gate = e.gate(j.session)
	var asked atomic.Bool
	gate.permit = func(ctx context.Context) error {
		stop := e.goesOn(ctx, j)
		if stop != nil {
			stop.Unjudged = !asked.Load() // or else the bank may have looked at the password already
			return stop
		}
		asked.Store(true)
		return nil
	}
	visit := e.visit(j.session, gate, state)
	visit.Language, visit.Products = j.consent.Language, j.consent.Products
	out, err = e.Connector.Step(ctx, visit, in)
	if err == nil && (out.Challenge == nil) == (out.Portfolio == nil) {
		err = &Failure{Reason: domain.ReasonInternal, Err: errors.New("connector gave not exactly one outcome")}
	}
	return gate, out, err
}

func (e *Engine) openState(ctx context.Context, s *domain.Session) (state domain.Secret, err error) {
	if len(s.Sealed) == 0 {
		return domain.Secret{}, nil
	}
	err = e.underState(ctx, s, func(key envelope.WrappingKey) error {
		state, err = envelope.Open(key, envelope.SessionLabel(s), s.Sealed)
		return err
	})
	return state, err
}

func (e *Engine) visit(s *domain.Session, gate *Gate, state domain.Secret) Session {
	return Session{ID: s.ID, Custodian: e.Custodian, HTTP: NewClient(gate), Secrets: e.Secrets, Env: e.Env,
		State: state.Reveal(), Attended: s.Attended()}
}

// gate makes the egress guard of one step and records what it refuses, also when the work was cut short meanwhile.
func (e *Engine) gate(s *domain.Session) *Gate {
	return Guard(e.Custodian, e.Connector.Requests(), e.Network, func(ctx context.Context, method, host, path string) {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
		defer done()
		entry := domain.Note(e.Env, "extract", "egress.refused", domain.Actor{Kind: domain.ActorSystem, ID: "extract"},
			s.ClientID, string(s.ID), map[string]string{"method": method, "host": host, "path": path})
		entry.Data.Outcome, entry.Data.Reason, entry.Data.Custodian = domain.OutcomeDenied, string(domain.ReasonEgressRefused), s.Custodian
		entry.Data.ConsentID, entry.Data.ConnectionID = s.ConsentID, s.ConnectionID
		if err := e.Store.Commit(ctx, func(tx domain.Tx) error { return tx.Record(entry) }); err != nil {
			slog.ErrorContext(ctx, "refused request not recorded", "session", s.ID, "code", domain.CodeOf(err))
		}
	})
}
