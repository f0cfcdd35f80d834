package domain

// Notice is one fact that a client is told: the content of a webhook. It is made in the transaction that makes the
// fact, with the connection's next sequence number, so that a client can tell that nothing is missing.
type Notice struct {
	ID           NoticeID     `json:"id"` // the webhook-id, the same on every attempt
	ClientID     ClientID     `json:"client_id"`
	ConsentID    ConsentID    `json:"consent_id"`
	ConnectionID ConnectionID `json:"connection_id"`
	Custodian    CustodianID  `json:"custodian,omitempty"`
	InvestorRef  string       `json:"investor_ref"`
	Type         NoticeType   `json:"type"`
	Sequence     int64        `json:"sequence"` // 1, 2, 3 … of the connection
	State        string       `json:"state,omitempty"`
	Reason       Reason       `json:"reason,omitempty"`
	Subject      string       `json:"subject,omitempty"` // the portfolio, session, erasure, endpoint or key it is about
	CreatedAt    Time         `json:"created_at"`
	ExpiresAt    Time         `json:"expires_at"`
}

func (*Notice) Kind() DocumentKind { return "notice" }
func (n *Notice) Key() string      { return string(n.ID) }

// NoticeType names a fact.
type NoticeType string

const (
	NoticeConsentGranted     NoticeType = "consent.granted"
	NoticeConsentRejected    NoticeType = "consent.rejected"
	NoticeConsentExpired     NoticeType = "consent.expired"
	NoticeConsentRevoked     NoticeType = "consent.revoked"
	NoticeConsentTerminated  NoticeType = "consent.terminated"
	NoticeConnectionActive   NoticeType = "connection.active"
	NoticeConnectionPaused   NoticeType = "connection.paused"
	NoticeConnectionAwaiting NoticeType = "connection.awaiting_credentials"
	NoticePortfolioUpdated   NoticeType = "portfolio.updated"
	NoticeErasureCompleted   NoticeType = "erasure.completed"
	NoticeEndpointDisabled   NoticeType = "endpoint.disabled"
	NoticeEndpointTest       NoticeType = "endpoint.test"
	NoticeKeyExpiring        NoticeType = "key.expiring"
)

// NoticeTypes lists every type.
var NoticeTypes = []NoticeType{NoticeConsentGranted, NoticeConsentRejected, NoticeConsentExpired, NoticeConsentRevoked,
	NoticeConsentTerminated, NoticeConnectionActive, NoticeConnectionPaused, NoticeConnectionAwaiting,
	NoticePortfolioUpdated, NoticeErasureCompleted, NoticeEndpointDisabled, NoticeEndpointTest, NoticeKeyExpiring}

// Tell makes the next notice of a connection and asks for its delivery. The caller puts the connection.
func Tell(e Env, tx Tx, c *Connection, t NoticeType, subject string) error {
	c.Sequence++
	now := e.Now()
	n := &Notice{ID: NewID[NoticeID](e), ClientID: c.ClientID, ConsentID: c.ConsentID, ConnectionID: c.ID,
		Custodian: c.Custodian, InvestorRef: c.InvestorRef, Type: t, Sequence: c.Sequence, State: string(c.State),
		Reason: c.Reason, Subject: subject, CreatedAt: now, ExpiresAt: now.Add(NoticeLife)}
	return n.Raise(tx)
}

// NewNotice makes a notice that belongs to no connection, so that it has no sequence: about an endpoint or a key.
func NewNotice(e Env, client ClientID, t NoticeType, subject, state string) *Notice {
	now := e.Now()
	return &Notice{ID: NewID[NoticeID](e), ClientID: client, Type: t, State: state, Subject: subject, CreatedAt: now, ExpiresAt: now.Add(NoticeLife)}
}

// Raise puts the notice and asks for its delivery.
func (n *Notice) Raise(tx Tx) error {
	if err := tx.Put(n); err != nil {
		return err
	}
	return tx.Emit(Event{Topic: TopicNotice, Subject: n.Key(), Lane: string(n.ClientID)})
}

// toldAfterEnd are the facts about a consent that its client may still be told of once the consent has ended: that it has,
// and that what was held under it is erased. Nothing else of what was read or done for the investor leaves then, whatever
// waits for an endpoint that is slow (GDPR Article 7(3)). A client asks what became of the rest, and is told as much.
var toldAfterEnd = map[NoticeType]bool{NoticeConsentRejected: true, NoticeConsentExpired: true, NoticeConsentRevoked: true,
	NoticeConsentTerminated: true, NoticeErasureCompleted: true}

// Withheld is why the notice must not be told any more, as its consent c stands now, or "". One that is about no consent
// always may.
func (n *Notice) Withheld(c *Consent, now Time) string {
	switch {
	case n.ConsentID == "" || toldAfterEnd[n.Type]:
		return ""
	case c.ID != n.ConsentID || c.State == "":
		return "consent_unknown"
	case c.State != ConsentValid && c.State != ConsentReceived:
		return "consent_" + string(c.State)
	case !now.Before(c.ExpiresAt):
		return "consent_expired"
	}
	return ""
}

// Endpoint is where a client wants its webhooks. Anybody can name any address: until one has answered a test with 2xx,
// nothing else is sent there, and what is to be told waits (DeliveryWaiting). An endpoint of before that was asked counts
// as verified.
type Endpoint struct {
	ID           EndpointID    `json:"id"`
	ClientID     ClientID      `json:"client_id"`
	URL          string        `json:"url"`
	Types        []NoticeType  `json:"types,omitempty"` // empty means all
	State        EndpointState `json:"state"`
	Secret       []byte        `json:"secret"`             // the Standard Webhooks secret, sealed under the webhook key
	Previous     []byte        `json:"previous,omitempty"` // during a rotation: signs beside Secret until PreviousEnds
	PreviousEnds Time          `json:"previous_ends,omitzero"`
	RewrapAt     Time          `json:"rewrap_at,omitzero"` // when to look whether an older version of the webhook key sealed them
	FailingSince Time          `json:"failing_since,omitzero"`
	OpenAfter    Time          `json:"open_after,omitzero"` // the breaker: nothing is sent before then
	Failures     int           `json:"failures"`            // in a row
	GoneSince    Time          `json:"gone_since,omitzero"` // the first 410 of those in a row
	Unverified   bool          `json:"unverified,omitzero"` // its address has not answered a test yet
	VerifiedAt   Time          `json:"verified_at,omitzero"`
	TestedAt     Time          `json:"tested_at,omitzero"`        // when a test was last asked for
	Disabled     DisabledBy    `json:"disabled_reason,omitempty"` // while it is disabled
	CreatedAt    Time          `json:"created_at"`
	UpdatedAt    Time          `json:"updated_at"`
}

func (*Endpoint) Kind() DocumentKind { return "endpoint" }
func (e *Endpoint) Key() string      { return string(e.ID) }

// Look implements Aging. Deliver does it.
func (e *Endpoint) Look(until, next Time) (due bool, event Event) {
	if !e.RewrapAt.Before(until) || e.State == EndpointRemoved {
		return false, Event{}
	}
	e.RewrapAt = next
	return true, Event{Topic: TopicDelivery, Subject: e.Key(), Lane: string(e.ClientID)}
}

// Names gives the endpoint an address, which is to be verified.
func (e *Endpoint) Names(address string) {
	e.URL, e.Unverified, e.VerifiedAt = address, true, Time{}
}

// DisabledBy is why an endpoint is disabled.
type DisabledBy string

const (
	DisabledByClient DisabledBy = "client"
	DisabledGone     DisabledBy = "gone"    // it answered 410 Gone, again and again
	DisabledFailing  DisabledBy = "failing" // for five days
)

// EndpointState says whether webhooks are sent there.
type EndpointState string

const (
	EndpointEnabled  EndpointState = "enabled"
	EndpointDisabled EndpointState = "disabled" // by the client, by 410 Gone, or after 5 days of failure
	EndpointRemoved  EndpointState = "removed"
)

// EndpointMoves is the law of EndpointState.
var EndpointMoves = Moves[EndpointState]{
	EndpointEnabled:  {EndpointDisabled, EndpointRemoved},
	EndpointDisabled: {EndpointEnabled, EndpointRemoved},
	EndpointRemoved:  {},
}

// Move brings the endpoint to another state.
func (e *Endpoint) Move(to EndpointState, at Time) error {
	if err := EndpointMoves.Check("endpoint", e.State, to); err != nil {
		return err
	}
	e.State, e.UpdatedAt, e.Disabled = to, at, ""
	return nil
}

// Delivery is one notice on its way to one endpoint, with every attempt.
type Delivery struct {
	ID         DeliveryID    `json:"id"`
	NoticeID   NoticeID      `json:"notice_id"`
	EndpointID EndpointID    `json:"endpoint_id"`
	ClientID   ClientID      `json:"client_id"`
	ConsentID  ConsentID     `json:"consent_id,omitempty"` // the notice's
	Type       NoticeType    `json:"type"`
	State      DeliveryState `json:"state"`
	Reason     string        `json:"reason,omitempty"`   // of DeliveryCancelled
	Attempts   []Attempt     `json:"attempts,omitempty"` // the newest MaxAttemptsKept
	Tries      int           `json:"tries"`              // of this run; a replay begins anew
	NextAt     Time          `json:"next_at,omitzero"`
	CreatedAt  Time          `json:"created_at"`
	UpdatedAt  Time          `json:"updated_at"`
	ExpiresAt  Time          `json:"expires_at"`
}

func (*Delivery) Kind() DocumentKind { return "delivery" }
func (d *Delivery) Key() string      { return string(d.ID) }

// MaxAttemptsKept bounds the attempts kept in a delivery.
const MaxAttemptsKept = 50

// Attempt is one try to deliver. Of the answer only the status is kept: bodies may hold anything.
type Attempt struct {
	At       Time   `json:"at"`
	Status   int    `json:"status,omitzero"`   // HTTP; absent where no answer came
	Failure  string `json:"failure,omitempty"` // timeout, refused_address, tls, connection, status
	Duration int64  `json:"duration_ms"`
}

// DeliveryState is where a delivery stands.
type DeliveryState string

const (
	DeliveryWaiting   DeliveryState = "waiting" // for the endpoint's address to be verified: no event is on its way
	DeliveryPending   DeliveryState = "pending"
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryFailed    DeliveryState = "failed"    // every retry was used
	DeliveryCancelled DeliveryState = "cancelled" // the endpoint was removed or disabled, or the consent ended
)

// DeliveryStates lists every state.
var DeliveryStates = []DeliveryState{DeliveryWaiting, DeliveryPending, DeliveryDelivered, DeliveryFailed, DeliveryCancelled}

// DeliveryMoves is the law of DeliveryState. A replay makes any ended delivery pending again.
var DeliveryMoves = Moves[DeliveryState]{
	DeliveryWaiting:   {DeliveryPending, DeliveryCancelled},
	DeliveryPending:   {DeliveryWaiting, DeliveryDelivered, DeliveryFailed, DeliveryCancelled},
	DeliveryDelivered: {DeliveryPending},
	DeliveryFailed:    {DeliveryPending},
	DeliveryCancelled: {DeliveryPending},
}

// Move brings the delivery to another state.
func (d *Delivery) Move(to DeliveryState, at Time) error {
	if err := DeliveryMoves.Check("delivery", d.State, to); err != nil {
		return err
	}
	d.State, d.UpdatedAt, d.Reason = to, at, ""
	return nil
}

// Pace counts what was sent within one minute to one place that has not shown yet that it wants it.
type Pace struct {
	ID        string `json:"id"`
	Count     int    `json:"count"`
	ExpiresAt Time   `json:"expires_at"`
}

func (*Pace) Kind() DocumentKind { return "pace" }
func (p *Pace) Key() string      { return p.ID }
