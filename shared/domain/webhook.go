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
	Subject      string       `json:"subject,omitempty"` // the portfolio, session, erasure or endpoint it is about
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
)

// NoticeTypes lists every type.
var NoticeTypes = []NoticeType{NoticeConsentGranted, NoticeConsentRejected, NoticeConsentExpired, NoticeConsentRevoked,
	NoticeConsentTerminated, NoticeConnectionActive, NoticeConnectionPaused, NoticeConnectionAwaiting,
	NoticePortfolioUpdated, NoticeErasureCompleted, NoticeEndpointDisabled, NoticeEndpointTest}

// Tell makes the next notice of a connection and asks for its delivery. The caller puts the connection.
func Tell(e Env, tx Tx, c *Connection, t NoticeType, subject string) error {
	c.Sequence++
	now := e.Now()
	n := &Notice{ID: NewID[NoticeID](e), ClientID: c.ClientID, ConsentID: c.ConsentID, ConnectionID: c.ID,
		Custodian: c.Custodian, InvestorRef: c.InvestorRef, Type: t, Sequence: c.Sequence, State: string(c.State),
		Reason: c.Reason, Subject: subject, CreatedAt: now, ExpiresAt: now.Add(NoticeLife)}
	if err := tx.Put(n); err != nil {
		return err
	}
	return tx.Emit(Event{Topic: TopicNotice, Subject: n.Key(), Lane: string(n.ClientID)})
}

// Endpoint is where a client wants its webhooks.
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
	e.State, e.UpdatedAt = to, at
	return nil
}

// Delivery is one notice on its way to one endpoint, with every attempt.
type Delivery struct {
	ID         DeliveryID    `json:"id"`
	NoticeID   NoticeID      `json:"notice_id"`
	EndpointID EndpointID    `json:"endpoint_id"`
	ClientID   ClientID      `json:"client_id"`
	Type       NoticeType    `json:"type"`
	State      DeliveryState `json:"state"`
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
	DeliveryPending   DeliveryState = "pending"
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryFailed    DeliveryState = "failed"    // every retry was used
	DeliveryCancelled DeliveryState = "cancelled" // the endpoint was removed or disabled
)

// DeliveryMoves is the law of DeliveryState. A replay makes any ended delivery pending again.
var DeliveryMoves = Moves[DeliveryState]{
	DeliveryPending:   {DeliveryDelivered, DeliveryFailed, DeliveryCancelled},
	DeliveryDelivered: {DeliveryPending},
	DeliveryFailed:    {DeliveryPending},
	DeliveryCancelled: {DeliveryPending},
}

// Move brings the delivery to another state.
func (d *Delivery) Move(to DeliveryState, at Time) error {
	if err := DeliveryMoves.Check("delivery", d.State, to); err != nil {
		return err
	}
	d.State, d.UpdatedAt = to, at
	return nil
}
