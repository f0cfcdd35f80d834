package extraction

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
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
	Opener    *envelope.Opener // both gates
	State     StateKey         // a suspended session's state
	Display   domain.Encrypter // what a challenge shows
	Portfolio *envelope.Closer // portfolio data
	Pseudonym domain.Secret    // keys account identifiers and part digests
	Lease     time.Duration    // how long a session is a dead worker's; 0 means 30 s
	Language  string
}

// StateKey closes and opens the state of a session.
type StateKey interface {
	domain.Encrypter
	domain.Decrypter
}

const (
	maxRetries   = 2                // of one session, over passing failures; the connector has tried thrice each time
	challengeFor = 5 * time.Minute  // where the bank does not say
	bankSession  = 30 * time.Minute // after that a session at the bank is over by itself
)

// Run takes the session that an event names one step further, whatever step that is.
func (e *Engine) Run(ctx context.Context, event domain.Event) error {
	s := &domain.Session{ID: domain.SessionID(event.Subject)}
	if err := e.Store.Get(ctx, s); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil // erased
		}
		return err
	}
	if domain.SessionMoves.Final(s.State) {
		return e.closeBank(ctx, s)
	}
	if s.State == domain.SessionSuspended {
		return e.expire(ctx, s)
	}
	j, err := e.claim(ctx, s, !event.NotBefore.IsZero())
	if refused(err) {
		return e.cancel(ctx, s)
	}
	if err != nil || j == nil {
		return err
	}
	return e.run(ctx, j)
}

// run does what claim found was to be done, under the lease.
func (e *Engine) run(ctx context.Context, j *job) error {
	ctx, stop := e.keepLease(ctx, j)
	defer stop()
	in := Input{Kind: InputResume}
	if j.credential != nil {
		fields, err := e.Opener.OpenCredentials(j.credential.Sealed, j.credential.InnerKey, j.connection.Binding())
		if err != nil {
			return e.fail(ctx, j, &Failure{Reason: domain.ReasonInternal, Unjudged: true, Retry: domain.KindOf(err) == domain.Unavailable, Err: err})
		}
		in = Input{Kind: InputLogin, Credentials: fields}
	}
	gate, out, err := e.step(ctx, j.session, in)
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
	session    *domain.Session
	connection *domain.Connection
	consent    *domain.Consent
	credential *domain.Credential     // to log in with; nil to resume
	judged     domain.CredentialState // what the bank thought of it before
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
// after a challenge: one that finds its challenge passed leaves a running session to the event that runs it.
func (e *Engine) claim(ctx context.Context, seen *domain.Session, delayed bool) (*job, error) {
	var j *job
	var broken, back bool
	err := domain.Perform(ctx, e.Env, e.Store, e.act(seen, "session.started"), func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		j, broken, back = nil, false, false
		fresh, cred, err := e.load(tx, seen, c)
		if err != nil {
			return err
		}
		s, now := fresh.session, e.Env.Now()
		switch {
		case s.State == domain.SessionRunning && now.Before(s.LeaseUntil) && delayed && fresh.verified:
			return errNothing
		case s.State == domain.SessionRunning && now.Before(s.LeaseUntil):
			return &domain.Error{Kind: domain.Unavailable, Code: "session_running", RetryAfter: s.LeaseUntil.Sub(now)}
		case s.State != domain.SessionRunning && s.State != domain.SessionQueued:
			return errNothing
		}
		if back = s.State == domain.SessionRunning && s.ChallengeID != "" && !fresh.verified; back {
			return errNothing
		}
		j = &job{session: s, connection: fresh.connection, consent: c}
		if len(s.Sealed) == 0 {
			if broken, err = j.takeCredential(cred, now); err != nil {
				return err
			}
			if broken {
				return errNothing
			}
		}
		return e.start(tx, j, a)
	})
	switch {
	case back:
		return nil, e.suspendAgain(ctx, seen)
	case broken:
		return nil, e.fail(ctx, j, &Failure{Reason: domain.ReasonInterrupted})
	case errors.Is(err, errNothing):
		return nil, nil
	}
	return j, err
}

var errNothing = errors.New("nothing to run")

// loaded is what a transaction on a session begins with.
type loaded struct {
	session    *domain.Session
	connection *domain.Connection
	verified   bool // its challenge, if it had one, is passed
}

func (e *Engine) load(tx domain.Tx, seen *domain.Session, c *domain.Consent) (loaded, *domain.Credential, error) {
	l := loaded{session: &domain.Session{ID: seen.ID}, connection: &domain.Connection{ID: seen.ConnectionID}}
	if err := tx.Get(l.session); err != nil {
		return l, nil, err
	}
	if err := tx.Get(l.connection); err != nil {
		return l, nil, err
	}
	if l.session.ChallengeID != "" {
		challenge := &domain.Challenge{ID: l.session.ChallengeID}
		if err := tx.Get(challenge); err != nil && domain.KindOf(err) != domain.NotFound {
			return l, nil, err
		}
		l.verified = challenge.State == domain.SCAVerified
	}
	cred := &domain.Credential{ConnectionID: c.ConnectionID}
	if err := tx.Get(cred); err != nil {
		if domain.KindOf(err) != domain.NotFound {
			return l, nil, err
		}
		cred = nil
	}
	return l, cred, nil
}

// takeCredential marks a login on the credential. It reports true where a login broke off before: then nobody but a
// person may say that it is tried again.
func (j *job) takeCredential(cred *domain.Credential, now domain.Time) (broken bool, err error) {
	if cred == nil {
		return false, &domain.Error{Kind: domain.Conflict, Code: "credential_missing", Message: "there is no credential; send the investor a reconnect link"}
	}
	scheduled := j.session.Cause == domain.CauseScheduled
	j.judged, j.credential = cred.State, cred
	if cred.State == domain.CredentialTrying || cred.State == domain.CredentialUnconfirmed && scheduled {
		return true, nil
	}
	return false, cred.Move(domain.CredentialTrying, now)
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
			if err := e.renew(ctx, j.session); err != nil && ctx.Err() == nil {
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

func (e *Engine) renew(ctx context.Context, s *domain.Session) error {
	return domain.Perform(ctx, e.Env, e.Store, e.act(s, "session.renewed"), func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		fresh, err := e.mine(tx, s)
		if err != nil {
			return err
		}
		fresh.LeaseUntil = e.Env.Now().Add(e.lease())
		return tx.Put(fresh)
	})
}

// mine reads the session again and makes sure that it still runs: somebody may have cancelled it.
func (e *Engine) mine(tx domain.Tx, s *domain.Session) (*domain.Session, error) {
	fresh := &domain.Session{ID: s.ID}
	if err := tx.Get(fresh); err != nil {
		return nil, err
	}
	if fresh.State != domain.SessionRunning || fresh.Attempts != s.Attempts {
		return nil, errTaken
	}
	return fresh, nil
}

// errTaken stops a worker whose session was taken over, cancelled or erased meanwhile.
var errTaken = &domain.Error{Kind: domain.Conflict, Code: "session_taken", Message: "the session went on without us"}

// refused says whether the consent was in the way.
func refused(err error) bool {
	return domain.KindOf(err) == domain.Forbidden || domain.CodeOf(err) == "consent_unknown"
}

// step calls the connector behind the egress guard. Whatever secrets it was given are wiped afterwards.
func (e *Engine) step(ctx context.Context, s *domain.Session, in Input) (gate *Gate, out Outcome, err error) {
	defer func() {
		for _, secret := range in.Credentials {
			secret.Wipe()
		}
		in.Code.Wipe()
		if v := recover(); v != nil {
			slog.ErrorContext(ctx, "connector panicked", "custodian", e.Custodian.ID, "step", in.Kind)
			err = &Failure{Reason: domain.ReasonInternal}
		}
	}()
	state, err := e.openState(s)
	if err != nil {
		return nil, Outcome{}, err
	}
	defer state.Wipe()
	gate = e.gate(s)
	out, err = e.Connector.Step(ctx, e.visit(s, gate, state), in)
	if err == nil && (out.Challenge == nil) == (out.Portfolio == nil) {
		err = &Failure{Reason: domain.ReasonInternal, Err: errors.New("connector gave not exactly one outcome")}
	}
	return gate, out, err
}

func (e *Engine) openState(s *domain.Session) (domain.Secret, error) {
	if len(s.Sealed) == 0 {
		return domain.Secret{}, nil
	}
	return envelope.Open(e.State, envelope.SessionLabel(s), s.Sealed)
}

func (e *Engine) visit(s *domain.Session, gate *Gate, state domain.Secret) Session {
	return Session{ID: s.ID, Custodian: e.Custodian, HTTP: NewClient(gate), Secrets: e.Secrets, Env: e.Env,
		State: state.Reveal(), Attended: s.Attended(), Language: e.Language}
}

// gate makes the egress guard of one step and records what it refuses.
func (e *Engine) gate(s *domain.Session) *Gate {
	return Guard(e.Custodian, e.Connector.Requests(), e.Network, func(ctx context.Context, method, host, path string) {
		entry := domain.Note(e.Env, "extract", "egress.refused", domain.Actor{Kind: domain.ActorSystem, ID: "extract"},
			s.ClientID, string(s.ID), map[string]string{"method": method, "host": host, "path": path})
		entry.Data.Outcome, entry.Data.ConsentID, entry.Data.ConnectionID = domain.OutcomeDenied, s.ConsentID, s.ConnectionID
		if err := e.Store.Commit(ctx, func(tx domain.Tx) error { return tx.Record(entry) }); err != nil {
			slog.ErrorContext(ctx, "refused request not recorded", "session", s.ID, "code", domain.CodeOf(err))
		}
	})
}
