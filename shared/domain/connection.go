package domain

// Connection is one consent at one custodian: its state is how well it is doing, and Products says of each product
// whether the last reading has all of it.
type Connection struct {
	ID              ConnectionID              `json:"id"`
	ClientID        ClientID                  `json:"client_id"`
	ConsentID       ConsentID                 `json:"consent_id"`
	InvestorRef     string                    `json:"investor_ref"`
	Custodian       CustodianID               `json:"custodian,omitempty"`
	State           ConnectionState           `json:"state"`
	Reason          Reason                    `json:"reason,omitempty"` // why it is paused or waits for credentials
	SessionID       SessionID                 `json:"session_id,omitempty"`
	PortfolioID     PortfolioID               `json:"portfolio_id,omitempty"` // the newest version
	Versions        int64                     `json:"versions"`
	Staged          bool                      `json:"staged,omitempty"` // parts were stored that perhaps no version names: sweep looks
	Sequence        int64                     `json:"sequence"`         // of the last notice
	Products        map[Product]ProductStatus `json:"products,omitempty"`
	NextRefreshAt   Time                      `json:"next_refresh_at,omitzero"`
	LastRefreshedAt Time                      `json:"last_refreshed_at,omitzero"`
	CreatedAt       Time                      `json:"created_at"`
	UpdatedAt       Time                      `json:"updated_at"`
}

func (*Connection) Kind() DocumentKind { return "connection" }
func (c *Connection) Key() string      { return string(c.ID) }

// ConnectionState is how a connection does.
type ConnectionState string

const (
	ConnectionPending  ConnectionState = "pending"              // the investor has not decided
	ConnectionAwaiting ConnectionState = "awaiting_credentials" // granted, or the bank refused what it was given
	ConnectionBusy     ConnectionState = "connecting"           // first reading, or one after a pause
	ConnectionSCA      ConnectionState = "awaiting_sca"         // the bank asks, the investor is at the page
	ConnectionActive   ConnectionState = "active"               // read, and refreshed if the consent is recurring
	ConnectionPaused   ConnectionState = "paused"               // needs the investor or the client; Reason says why
	ConnectionRemoved  ConnectionState = "removed"              // over; nothing is left but this line
)

// ConnectionMoves is the law of ConnectionState.
var ConnectionMoves = Moves[ConnectionState]{
	ConnectionPending:  {ConnectionAwaiting, ConnectionRemoved},
	ConnectionAwaiting: {ConnectionBusy, ConnectionRemoved},
	ConnectionBusy:     {ConnectionSCA, ConnectionActive, ConnectionPaused, ConnectionAwaiting, ConnectionRemoved},
	ConnectionSCA:      {ConnectionBusy, ConnectionPaused, ConnectionAwaiting, ConnectionRemoved},
	ConnectionActive:   {ConnectionBusy, ConnectionPaused, ConnectionAwaiting, ConnectionRemoved},
	ConnectionPaused:   {ConnectionBusy, ConnectionAwaiting, ConnectionRemoved},
	ConnectionRemoved:  {},
}

// Move brings the connection to another state, with the reason where there is one.
func (c *Connection) Move(to ConnectionState, why Reason, at Time) error {
	if err := ConnectionMoves.Check("connection", c.State, to); err != nil {
		return err
	}
	c.State, c.Reason, c.UpdatedAt = to, why, at
	if to != ConnectionActive {
		c.NextRefreshAt = Time{}
	}
	return nil
}

// Credential is a connection's login, behind both gates. A connection has at most one; its key is the connection's.
type Credential struct {
	ID           CredentialID    `json:"id"`
	ConnectionID ConnectionID    `json:"connection_id"`
	ConsentID    ConsentID       `json:"consent_id"`
	ClientID     ClientID        `json:"client_id"`
	Custodian    CustodianID     `json:"custodian"`
	State        CredentialState `json:"state"`
	InnerKey     string          `json:"inner_key"`     // kid of the first gate
	Sealed       []byte          `json:"sealed"`        // the second gate's ciphertext of the compact JWE
	Shard        ShardID         `json:"shard"`         // needed to open it
	SessionShard ShardID         `json:"session_shard"` // needed to open the states of the sessions that it begins
	CreatedAt    Time            `json:"created_at"`
	TriedAt      Time            `json:"tried_at,omitzero"`
	UpdatedAt    Time            `json:"updated_at"`
}

func (*Credential) Kind() DocumentKind { return "credential" }
func (c *Credential) Key() string      { return string(c.ConnectionID) }

// CredentialState is what the bank thinks of a credential, as far as we know.
type CredentialState string

const (
	CredentialSealed      CredentialState = "sealed"      // never tried, or tried without being judged
	CredentialTrying      CredentialState = "trying"      // a login is under way; written before the bank is called
	CredentialAccepted    CredentialState = "accepted"    // the bank took it last time
	CredentialRefused     CredentialState = "refused"     // the bank refused it: never tried again
	CredentialUnconfirmed CredentialState = "unconfirmed" // a login broke off and we do not know: only a person's word tries it again
)

// CredentialMoves is the law of CredentialState.
var CredentialMoves = Moves[CredentialState]{
	CredentialSealed:      {CredentialTrying},
	CredentialTrying:      {CredentialAccepted, CredentialRefused, CredentialUnconfirmed, CredentialSealed},
	CredentialAccepted:    {CredentialTrying},
	CredentialUnconfirmed: {CredentialTrying},
	CredentialRefused:     {},
}

// Move brings the credential to another state.
func (c *Credential) Move(to CredentialState, at Time) error {
	if err := CredentialMoves.Check("credential", c.State, to); err != nil {
		return err
	}
	if to == CredentialTrying {
		c.TriedAt = at
	}
	c.State, c.UpdatedAt = to, at
	return nil
}

// DataKey is a connection's own keyset for portfolio data, wrapped by the portfolio key. Destroying it makes every
// copy of that data unreadable, wherever it lies. Its key is the connection's.
type DataKey struct {
	ConnectionID ConnectionID `json:"connection_id"`
	ClientID     ClientID     `json:"client_id"`
	ConsentID    ConsentID    `json:"consent_id"`
	Custodian    CustodianID  `json:"custodian"`
	Wrapped      []byte       `json:"wrapped"`
	Shard        ShardID      `json:"shard"` // needed to unwrap it
	CreatedAt    Time         `json:"created_at"`
	RewrapAt     Time         `json:"rewrap_at"` // when to look whether an older version of the portfolio key wrapped it
}

func (*DataKey) Kind() DocumentKind { return "data_key" }
func (k *DataKey) Key() string      { return string(k.ConnectionID) }

// Look implements Aging. Extraction does it.
func (k *DataKey) Look(until, next Time) (due bool, e Event) {
	if !k.RewrapAt.Before(until) {
		return false, Event{}
	}
	k.RewrapAt = next
	return true, Event{Topic: TopicSession, Subject: k.Key(), Custodian: k.Custodian, Lane: string(k.ClientID)}
}

// Binding is what both gates and every keyset are tied to: a ciphertext moved to another client, consent, connection
// or custodian does not open.
type Binding struct {
	ClientID     ClientID
	ConsentID    ConsentID
	ConnectionID ConnectionID
	Custodian    CustodianID
}

// Binding is the credential's.
func (c *Credential) Binding() Binding {
	return Binding{c.ClientID, c.ConsentID, c.ConnectionID, c.Custodian}
}

// Binding is the keyset's.
func (k *DataKey) Binding() Binding {
	return Binding{k.ClientID, k.ConsentID, k.ConnectionID, k.Custodian}
}

// Binding is the connection's.
func (c *Connection) Binding() Binding { return Binding{c.ClientID, c.ConsentID, c.ID, c.Custodian} }
