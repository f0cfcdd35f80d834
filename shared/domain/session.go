package domain

import "time"

// Session is one visit to the bank for one connection: it begins with a login and ends with one portfolio version or
// a reason. While the bank waits for the investor it is suspended: a sealed, short-lived record, and nothing runs.
type Session struct {
	ID           SessionID    `json:"id"`
	ClientID     ClientID     `json:"client_id"`
	ConsentID    ConsentID    `json:"consent_id"`
	ConnectionID ConnectionID `json:"connection_id"`
	Custodian    CustodianID  `json:"custodian"`
	Cause        Cause        `json:"cause"`
	State        SessionState `json:"state"`
	Reason       Reason       `json:"reason,omitempty"`
	ChallengeID  ChallengeID  `json:"challenge_id,omitempty"`
	PortfolioID  PortfolioID  `json:"portfolio_id,omitempty"`
	Sealed       []byte       `json:"sealed,omitempty"`     // the connector's state at the bank, under the session key
	Shard        ShardID      `json:"shard,omitempty"`      // needed to open it: its credential's SessionShard
	Records      int          `json:"records"`              // read so far, for the progress shown
	Attempts     int          `json:"attempts"`             // how often it was claimed; fences off a worker that lost its lease
	Retries      int          `json:"retries"`              // passing failures so far
	LeaseUntil   Time         `json:"lease_until,omitzero"` // whoever runs it has it until then
	CreatedAt    Time         `json:"created_at"`
	UpdatedAt    Time         `json:"updated_at"`
	EndedAt      Time         `json:"ended_at,omitzero"`
	ExpiresAt    Time         `json:"expires_at"`
}

func (*Session) Kind() DocumentKind { return "session" }
func (s *Session) Key() string      { return string(s.ID) }

// BankSession is how long a session at a bank lasts that nobody closes: after that the bank has forgotten it.
const BankSession = 30 * time.Minute

// Attended reports whether the investor is at the page: only then may a bank be asked for an SCA challenge.
func (s *Session) Attended() bool { return s.Cause.Attended() }

// Lane is whom its events are for: the client, or the investor who is at the page, who takes turns with whole clients.
func (s *Session) Lane() string {
	if s.Attended() {
		return string(s.ConnectionID)
	}
	return string(s.ClientID)
}

// Cause is why a session began.
type Cause string

const (
	CauseFirst     Cause = "first"     // the investor just sealed a credential
	CauseReconnect Cause = "reconnect" // the investor is back, to log in or pass SCA again
	CauseRequested Cause = "requested" // the client asked for fresh data
	CauseScheduled Cause = "scheduled" // it was due
)

// Attended reports whether the investor began it.
func (c Cause) Attended() bool { return c == CauseFirst || c == CauseReconnect }

// SessionState is where a session stands.
type SessionState string

const (
	SessionQueued    SessionState = "queued"
	SessionRunning   SessionState = "running"
	SessionSuspended SessionState = "suspended" // waits for SCA
	SessionComplete  SessionState = "complete"
	SessionFailed    SessionState = "failed"
	SessionCancelled SessionState = "cancelled" // the consent ended, or the connection was removed
)

// SessionMoves is the law of SessionState. Running to queued is a retry after a passing failure.
var SessionMoves = Moves[SessionState]{
	SessionQueued:    {SessionRunning, SessionFailed, SessionCancelled},
	SessionRunning:   {SessionQueued, SessionSuspended, SessionComplete, SessionFailed, SessionCancelled},
	SessionSuspended: {SessionRunning, SessionFailed, SessionCancelled},
	SessionComplete:  {},
	SessionFailed:    {},
	SessionCancelled: {},
}

// Move brings the session to another state, with the reason where there is one. A session that leaves running gives
// up its lease.
func (s *Session) Move(to SessionState, why Reason, at Time) error {
	if err := SessionMoves.Check("session", s.State, to); err != nil {
		return err
	}
	s.State, s.Reason, s.UpdatedAt = to, why, at
	if to != SessionRunning {
		s.LeaseUntil = Time{}
	}
	if SessionMoves.Final(to) {
		s.EndedAt = at
	}
	return nil
}

// Reason is why something failed, paused or waits. It is shown to clients and, translated, to investors.
type Reason string

const (
	ReasonCredentialsRefused Reason = "credentials_refused" // the bank refused the login; enter it anew
	ReasonAccountLocked      Reason = "account_locked"      // the bank locked the access; unlock it there
	ReasonActionRequired     Reason = "action_required"     // the bank wants something done on its own page first
	ReasonSCARequired        Reason = "sca_required"        // an unattended refresh met SCA; the investor must come back
	ReasonSCARejected        Reason = "sca_rejected"        // the investor or the bank said no
	ReasonSCAExpired         Reason = "sca_expired"         // nobody answered in time
	ReasonBankUnavailable    Reason = "bank_unavailable"    // the bank did not answer, or with a failure
	ReasonRateLimited        Reason = "rate_limited"        // the bank asked for a pause
	ReasonBankAnswer         Reason = "bank_answer"         // the bank's answer could not be understood
	ReasonInterrupted        Reason = "interrupted"         // a login broke off; only a person's word repeats it
	ReasonEgressRefused      Reason = "egress_refused"      // a request outside the connector's declaration was stopped
	ReasonConsentEnded       Reason = "consent_ended"
	ReasonCredentialsErased  Reason = "credentials_erased"
	ReasonDataErased         Reason = "data_erased"
	ReasonInternal           Reason = "internal"
)

// Challenge is one question of the bank's SCA within a session. The answer never is part of it.
type Challenge struct {
	ID           ChallengeID  `json:"id"`
	SessionID    SessionID    `json:"session_id"`
	ClientID     ClientID     `json:"client_id"`
	ConsentID    ConsentID    `json:"consent_id"`
	ConnectionID ConnectionID `json:"connection_id"`
	Custodian    CustodianID  `json:"custodian"`
	State        SCAState     `json:"state"`
	Flow         SCAFlow      `json:"flow,omitempty"`
	Method       string       `json:"method,omitempty"` // the bank's own name, for example P_TAN
	Methods      []SCAMethod  `json:"methods,omitempty"`
	Display      []byte       `json:"display,omitempty"` // a Display as JSON, sealed under the display key
	TriesLeft    int          `json:"tries_left"`
	PollSeconds  int          `json:"poll_seconds,omitzero"` // decoupled: the bank's interval
	CreatedAt    Time         `json:"created_at"`
	UpdatedAt    Time         `json:"updated_at"`
	AnswerBy     Time         `json:"answer_by"`
	ExpiresAt    Time         `json:"expires_at"`
}

func (*Challenge) Kind() DocumentKind { return "challenge" }
func (c *Challenge) Key() string      { return string(c.ID) }

// SCAMethod is one way the bank offers to pass its SCA.
type SCAMethod struct {
	ID   string  `json:"id"`   // the bank's own name
	Flow SCAFlow `json:"flow"` // what the investor will have to do
	Kind string  `json:"kind"` // sms, call, email, push_code, totp, chip_card, coordinate_card, photo_tan, qr, flicker, app, redirect
}

// SCAFlow is what happens between bank and investor.
type SCAFlow string

const (
	FlowCode      SCAFlow = "code"      // the investor types a code
	FlowDecoupled SCAFlow = "decoupled" // the investor approves elsewhere; we ask the bank whether
	FlowRedirect  SCAFlow = "redirect"  // the bank's own page
)

// Display is what the investor is shown of a challenge. It may hold personal data (a masked number) and is kept sealed.
type Display struct {
	Destination string `json:"destination,omitempty"` // masked, for example +49-170-12XXXX
	Text        string `json:"text,omitempty"`        // the bank's own words
	Image       []byte `json:"image,omitempty"`
	MediaType   string `json:"media_type,omitempty"` // of Image
	Digits      int    `json:"digits,omitzero"`      // length of the code, where the bank says
	URL         string `json:"url,omitempty"`        // with FlowRedirect
}

// Empty says whether there is nothing to show.
func (d *Display) Empty() bool {
	return d.Destination == "" && d.Text == "" && len(d.Image) == 0 && d.URL == ""
}

// SCAState is where a challenge stands. Berlin Group scaStatus maps onto it: received and psuIdentified to required,
// psuAuthenticated to method_selection, scaMethodSelected and started to challenge_issued or awaiting_user,
// unconfirmed to awaiting_user, finalised to verified, failed to failed or rejected, exempted to exempt.
type SCAState string

const (
	SCARequired  SCAState = "required"
	SCASelection SCAState = "method_selection"
	SCAIssued    SCAState = "challenge_issued" // we wait for a code
	SCAAwaiting  SCAState = "awaiting_user"    // we wait for an act elsewhere
	SCAVerified  SCAState = "verified"
	SCARejected  SCAState = "rejected" // a wrong code, or the investor said no
	SCAExpired   SCAState = "expired"
	SCAFailed    SCAState = "failed"
	SCAExempt    SCAState = "exempt"
)

// SCAMoves is the law of SCAState. A rejected challenge is answered again only while tries are left; an expired one is
// issued anew while its session lasts.
var SCAMoves = Moves[SCAState]{
	SCARequired:  {SCASelection, SCAIssued, SCAAwaiting, SCAExempt, SCAFailed, SCAExpired},
	SCASelection: {SCAIssued, SCAAwaiting, SCAFailed, SCAExpired},
	SCAIssued:    {SCASelection, SCAAwaiting, SCAVerified, SCARejected, SCAExpired, SCAFailed},
	SCAAwaiting:  {SCASelection, SCAIssued, SCAVerified, SCARejected, SCAExpired, SCAFailed},
	SCARejected:  {SCASelection, SCAIssued, SCAAwaiting, SCAExpired, SCAFailed},
	SCAExpired:   {SCASelection, SCAIssued, SCAAwaiting, SCAFailed},
	SCAVerified:  {},
	SCAFailed:    {},
	SCAExempt:    {},
}

// Move brings the challenge to another state.
func (c *Challenge) Move(to SCAState, at Time) error {
	if err := SCAMoves.Check("challenge", c.State, to); err != nil {
		return err
	}
	c.State, c.UpdatedAt = to, at
	if SCAMoves.Final(to) {
		c.Display = nil
	}
	return nil
}

// AnswerKind is what the investor does about a challenge.
type AnswerKind string

const (
	AnswerCode   AnswerKind = "code"   // submits a code, sealed by the browser
	AnswerPoll   AnswerKind = "poll"   // waits: ask the bank whether it is done
	AnswerSelect AnswerKind = "select" // takes another method
	AnswerRenew  AnswerKind = "renew"  // wants a new image or message
	AnswerCancel AnswerKind = "cancel" // gives up
)

// AnswerRequest goes from challenge to the extraction that opens it. SealedCode is a compact JWE; it is opened in
// memory, used in the same request and kept nowhere.
type AnswerRequest struct {
	SessionID   SessionID   `json:"session_id"`
	ChallengeID ChallengeID `json:"challenge_id"`
	Kind        AnswerKind  `json:"kind"`
	Method      string      `json:"method,omitempty"`
	SealedCode  string      `json:"sealed_code,omitempty"`
}
