package domain

// Entry is one line of the audit log: who did what, on what, under which consent and purpose, from where, with what
// outcome, when. It commits in the transaction of the act it tells of. It holds identifiers and salted commitments,
// never personal data or secrets. As JSON it is a CloudEvents 1.0 event.
type Entry struct {
	SpecVersion string    `json:"specversion"` // "1.0"
	ID          EntryID   `json:"id"`
	Source      string    `json:"source"` // "/functions/" + the function that acts
	Type        string    `json:"type"`   // "sluis." + the action, for example sluis.consent.granted
	Subject     string    `json:"subject"`
	Time        Time      `json:"time"`
	ClientID    ClientID  `json:"clientid,omitempty"` // CloudEvents extension attribute, for queries
	Data        EntryData `json:"data"`
}

// EntryData is the body of an Entry.
type EntryData struct {
	Actor        Actor             `json:"actor"`
	ConsentID    ConsentID         `json:"consent_id,omitempty"`
	ConnectionID ConnectionID      `json:"connection_id,omitempty"`
	Custodian    CustodianID       `json:"custodian,omitempty"`
	Purpose      string            `json:"purpose,omitempty"`
	Outcome      Outcome           `json:"outcome"`
	Reason       string            `json:"reason,omitempty"`  // an error code or a Reason
	Origin       string            `json:"origin,omitempty"`  // a salted commitment to the network address
	Details      map[string]string `json:"details,omitempty"` // states, counts, identifiers
}

func (*Entry) Kind() DocumentKind { return "audit_entry" }
func (e *Entry) Key() string      { return string(e.ID) }

// Actor is who acted.
type Actor struct {
	Kind ActorKind `json:"kind"`
	ID   string    `json:"id"`
	Key  KeyID     `json:"key_id,omitempty"` // the API key used
}

// ActorKind is the role in which somebody acted.
type ActorKind string

const (
	ActorClient   ActorKind = "client"
	ActorAdvisor  ActorKind = "advisor"
	ActorReviewer ActorKind = "reviewer"
	ActorInvestor ActorKind = "investor"
	ActorOperator ActorKind = "operator"
	ActorSystem   ActorKind = "system" // a function, by the clock or by an event
)

// Outcome is how an act ended.
type Outcome string

const (
	OutcomeAllowed Outcome = "allowed"
	OutcomeDenied  Outcome = "denied"
	OutcomeFailed  Outcome = "failed"
)

// Erasure is a certificate: what was erased, when, by whose wish, and what is left of it where, for how long. It is signed
// once the shards are destroyed and the sessions at the bank are closed, and outlives what it tells of.
type Erasure struct {
	ID           ErasureID      `json:"id"`
	ClientID     ClientID       `json:"client_id"`
	ConsentID    ConsentID      `json:"consent_id"`
	ConnectionID ConnectionID   `json:"connection_id"`
	Scope        ErasureScope   `json:"scope"`
	Cause        string         `json:"cause"`
	Actor        Actor          `json:"actor"`
	Erased       map[string]int `json:"erased"` // documents by kind; of sessions, states at the bank; and shards
	ErasedAt     Time           `json:"erased_at"`
	// ReadableUntil is until when a copy might still be read: by a process that opened it before, or with a copy of its
	// shard. Where it is missing, from ErasedAt on nobody can, with whatever keys and copies.
	ReadableUntil Time `json:"readable_until,omitzero"`
	// BackupsUntil is until when backups may hold copies. Where it is missing, Sluis was not told.
	BackupsUntil Time   `json:"backups_until,omitzero"`
	KeyID        string `json:"key_id"`
	Signature    []byte `json:"signature"` // Ed25519 over the certificate's canonical JSON without the signature
}

func (*Erasure) Kind() DocumentKind { return "erasure" }
func (e *Erasure) Key() string      { return string(e.ID) }

// ErasureScope is how much was erased.
type ErasureScope string

const (
	EraseCredentials ErasureScope = "credentials"
	EraseData        ErasureScope = "data"
	EraseAll         ErasureScope = "all"
)
