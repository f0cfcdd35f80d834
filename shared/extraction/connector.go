// Package extraction is the step engine: it takes one session at a bank one step further, and is the only place where
// both gates are opened.
//
// A connector knows one protocol and keeps nothing. The engine owns everything else: it re-checks the consent, marks
// the credential before the bank is called (so that no refused password is ever tried twice), opens the gates, calls
// the connector, and commits what came of it: a challenge, for which the session is suspended, or a portfolio, which
// is read record by record into encrypted parts. The egress guard stands between connector and network and lets only
// those requests pass that the connector declared, and after login only reading ones.
package extraction

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"time"

	"sluis.internal/shared/domain"
)

// Connector advances one session by one step. It keeps nothing between calls and is safe for concurrent use.
type Connector interface {
	// Requests declares every request the connector may make; the egress guard refuses all others.
	Requests() []Request

	// Step advances the session and says where that led: to a Challenge or to a Portfolio. An error that is a
	// *Failure says what to do about it; any other is internal.
	Step(ctx context.Context, s Session, in Input) (Outcome, error)

	// End closes the session at the bank, as far as s.State lets it. It is called once a portfolio has been stored
	// and when a session is given up, at least once, so a session that is already closed is no error.
	End(ctx context.Context, s Session) error
}

// Session is what a connector may know of a session.
type Session struct {
	ID        domain.SessionID
	Custodian domain.Custodian
	HTTP      *http.Client // passes the egress guard; has no cookie jar and follows no redirects
	Secrets   domain.Secrets
	Env       domain.Env
	State     []byte // what the connector put into its last Challenge or Portfolio; nil before login
	Attended  bool   // the investor is at the page: only then may a challenge be asked of the bank
	Language  string
	Products  []domain.Product // those consented to; the engine pulls no others
}

// InputKind is what a step is for.
type InputKind string

const (
	InputLogin  InputKind = "login"  // Credentials are given; State is nil
	InputCode   InputKind = "code"   // Code is given
	InputPoll   InputKind = "poll"   // has the investor approved elsewhere?
	InputSelect InputKind = "select" // another method: Method is given
	InputRenew  InputKind = "renew"  // issue the challenge again
	InputResume InputKind = "resume" // State is a Portfolio's: read it, without a login
)

// Input is what drives a step. Its secrets are wiped by the engine after the step.
type Input struct {
	Kind        InputKind
	Credentials map[string]domain.Secret // by domain.CredentialField.Name
	Code        domain.Secret
	Method      string
}

// Outcome is exactly one of a Challenge and a Portfolio.
type Outcome struct {
	Challenge *Challenge
	Portfolio *Portfolio
}

// Challenge is what the bank asks. Status is one of SCARequired (the session is not attended: nothing was asked of
// the bank yet), SCASelection, SCAIssued, SCAAwaiting, SCARejected (a wrong code; TriesLeft says how many more the
// bank allows) and SCAExpired.
type Challenge struct {
	Status    domain.SCAState
	Flow      domain.SCAFlow
	Method    string
	Methods   []domain.SCAMethod
	Display   domain.Display
	TriesLeft int
	PollEvery time.Duration // FlowDecoupled
	Lasts     time.Duration // from now; 0 means five minutes
	State     []byte        // given back with the next step
}

// Portfolio is an open door: SCA is passed or was not asked, and the records can be read. The engine calls Read only
// for products consented to, in the order of domain.Products, and pulls each sequence once, to its end or to its
// first error. Records need not fit in memory. A product without an entry in Read is one the custodian has not.
type Portfolio struct {
	State []byte // lets a later Step read again (InputResume), and End close the session
	Read  map[domain.Product]Records
}

// Records yields a product's records. Their Provenance says SourceID and AsOf; the engine fills in the rest. Account
// IDs and references are the custodian's own: the engine replaces them with ours.
type Records = iter.Seq2[domain.Record, error]

// Failure is why a step did not lead anywhere, in terms the engine can act upon.
type Failure struct {
	Reason     domain.Reason
	Retry      bool          // passing: the same step may succeed later
	RetryAfter time.Duration // with Retry: no sooner
	Unjudged   bool          // the bank certainly did not look at the last password or code, nor issue the challenge asked for last
	Accepted   bool          // at login: the bank took the password, and what failed came after it
	Err        error         // for the log; holds no secret and no personal data
}

func (f *Failure) Error() string {
	if f.Err == nil {
		return string(f.Reason)
	}
	return fmt.Sprintf("%s: %v", f.Reason, f.Err)
}

func (f *Failure) Unwrap() error { return f.Err }

// Phase is when a request may be made.
type Phase string

const (
	PhaseLogin Phase = "login" // until the door is open
	PhaseRead  Phase = "read"  // once it is: GET only, whatever is declared
	PhaseEnd   Phase = "end"   // closing the session at the bank
)

// Request is one kind of request a connector may make. Endpoint names an entry of the custodian's Endpoints, whose
// scheme, host and port must match; Path is a template relative to its path, in which {name} stands for one segment.
type Request struct {
	Method   string
	Endpoint string
	Path     string
	Phase    Phase
	Counts   domain.BankCount // what the bank may count of it towards locking the access; see Uncounted
}
