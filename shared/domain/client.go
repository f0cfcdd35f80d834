package domain

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"strings"
	"time"
)

// Client is who asks for data: a wealth manager or an investment app, under contract with the operator.
type Client struct {
	ID            ClientID           `json:"id"`
	Name          string             `json:"name"` // shown to investors
	State         ClientState        `json:"state"`
	Saving        map[Product]Saving `json:"saving"`                   // what may be kept, per product; missing means latest
	Regions       []string           `json:"regions,omitempty"`        // where data may be kept; empty means anywhere this operator runs
	ReturnOrigins []string           `json:"return_origins,omitempty"` // scheme://host[:port] that an investor may be sent back to
	Logo          Picture            `json:"logo,omitzero"`            // what the client's Logo holds
	CreatedAt     Time               `json:"created_at"`
	UpdatedAt     Time               `json:"updated_at"`
}

func (*Client) Kind() DocumentKind { return "client" }
func (c *Client) Key() string      { return string(c.ID) }

// Picture describes an image: the first 16 hexadecimal digits of its SHA-256, and its size in pixels.
type Picture struct {
	Digest string `json:"digest"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
}

// Logo is the image that investors see beside the client's name. It is a document of its own, so that nobody who only
// asks about the client reads it.
type Logo struct {
	ClientID  ClientID `json:"client_id"`
	MediaType string   `json:"media_type"` // image/png or image/jpeg
	Image     []byte   `json:"image"`
	UpdatedAt Time     `json:"updated_at"`
}

func (*Logo) Kind() DocumentKind { return "logo" }
func (l *Logo) Key() string      { return string(l.ClientID) }

// ClientState says whether a client may act.
type ClientState string

const (
	ClientActive    ClientState = "active"
	ClientSuspended ClientState = "suspended"
	ClientClosed    ClientState = "closed"
)

// ClientMoves is the law of ClientState.
var ClientMoves = Moves[ClientState]{
	ClientActive:    {ClientSuspended, ClientClosed},
	ClientSuspended: {ClientActive, ClientClosed},
	ClientClosed:    {},
}

// Move brings the client to another state.
func (c *Client) Move(to ClientState, at Time) error {
	if err := ClientMoves.Check("client", c.State, to); err != nil {
		return err
	}
	c.State, c.UpdatedAt = to, at
	return nil
}

// SavingFor is what may be kept of product: the client's declaration, or the latest version where it declares nothing.
func (c *Client) SavingFor(p Product) Saving {
	if s, ok := c.Saving[p]; ok {
		return s
	}
	return Saving{Scope: SaveLatest}
}

// Saving declares how much of one product may be kept.
type Saving struct {
	Scope SavingScope `json:"scope"`
	Days  int         `json:"days,omitzero"` // with SaveHistory: 1 to 3650
}

// SavingScope is none, latest or history.
type SavingScope string

const (
	SaveNone    SavingScope = "none"    // never written; only counts and completeness are
	SaveLatest  SavingScope = "latest"  // the newest version only
	SaveHistory SavingScope = "history" // every version of the last Days days
)

// Validate checks the scope and its days.
func (s Saving) Validate(field string) error {
	switch {
	case s.Scope != SaveNone && s.Scope != SaveLatest && s.Scope != SaveHistory:
		return Invalidf(field+"/scope", "want none, latest or history")
	case s.Scope == SaveHistory && (s.Days < 1 || s.Days > 3650):
		return Invalidf(field+"/days", "want 1 to 3650 days of history")
	case s.Scope != SaveHistory && s.Days != 0:
		return Invalidf(field+"/days", "only the scope history has days; leave it out")
	}
	return nil
}

// Advisor is a person at the client who may read what consents that name them allow.
type Advisor struct {
	ID        AdvisorID    `json:"id"`
	ClientID  ClientID     `json:"client_id"`
	Name      string       `json:"name"` // shown to investors
	State     AdvisorState `json:"state"`
	CreatedAt Time         `json:"created_at"`
	UpdatedAt Time         `json:"updated_at"`
}

func (*Advisor) Kind() DocumentKind { return "advisor" }
func (a *Advisor) Key() string      { return string(a.ID) }

// AdvisorState says whether an advisor may read.
type AdvisorState string

const (
	AdvisorActive  AdvisorState = "active"
	AdvisorRemoved AdvisorState = "removed"
)

// AdvisorMoves is the law of AdvisorState.
var AdvisorMoves = Moves[AdvisorState]{AdvisorActive: {AdvisorRemoved}, AdvisorRemoved: {}}

// Move brings the advisor to another state.
func (a *Advisor) Move(to AdvisorState, at Time) error {
	if err := AdvisorMoves.Check("advisor", a.State, to); err != nil {
		return err
	}
	a.State, a.UpdatedAt = to, at
	return nil
}

// Role is what an API key may do.
type Role string

const (
	RoleClient   Role = "client"   // everything of its client
	RoleAdvisor  Role = "advisor"  // reads what consents that name this advisor allow
	RoleReviewer Role = "reviewer" // reads consents, states and the audit log; never a portfolio
)

// APIKey lets a program act for a client. Only a hash of its secret is kept; the secret is shown once.
//
// The keys that follow one another by rotation are a line, named after the first. Within it each key is replaced once, so
// that the line can be walked from its first key to its newest (ReplacedBy). A key of before there were lines has none
// until it is rotated, and no end.
type APIKey struct {
	ID         KeyID     `json:"id"`
	ClientID   ClientID  `json:"client_id"`
	Role       Role      `json:"role"`
	Admin      bool      `json:"admin,omitzero"`       // with RoleClient: may make, rotate and revoke keys
	AdvisorID  AdvisorID `json:"advisor_id,omitempty"` // with RoleAdvisor
	Label      string    `json:"label,omitempty"`
	State      KeyState  `json:"state"`
	Hash       []byte    `json:"hash"` // SHA-256 of the 256-bit secret
	Line       KeyID     `json:"line,omitempty"`
	ReplacedBy KeyID     `json:"replaced_by,omitempty"` // by a rotation: from then on it only reads
	ExpiresAt  Time      `json:"expires_at,omitzero"`   // it opens nothing from then on
	WarnAt     Time      `json:"warn_at,omitzero"`      // when its client is to be told of that; zero once it was
	CreatedAt  Time      `json:"created_at"`
	UpdatedAt  Time      `json:"updated_at"`
}

// Lives of keys: how long one opens where nothing else is said, how long at most, and how long before its end its client
// is told. One that lives no longer than that has its client told of nothing.
const (
	KeyLife    = 365 * 24 * time.Hour
	MaxKeyLife = 2 * KeyLife
	KeyWarning = 30 * 24 * time.Hour
)

func (*APIKey) Kind() DocumentKind { return "api_key" }
func (k *APIKey) Key() string      { return string(k.ID) }

// KeyState says whether a key opens anything.
type KeyState string

const (
	KeyActive  KeyState = "active"
	KeyRevoked KeyState = "revoked"
)

// KeyStates lists every state.
var KeyStates = []KeyState{KeyActive, KeyRevoked}

// KeyMoves is the law of KeyState.
var KeyMoves = Moves[KeyState]{KeyActive: {KeyRevoked}, KeyRevoked: {}}

// Move brings the key to another state.
func (k *APIKey) Move(to KeyState, at Time) error {
	if err := KeyMoves.Check("api_key", k.State, to); err != nil {
		return err
	}
	k.State, k.UpdatedAt = to, at
	return nil
}

// NewAPIKey makes an active key that lives for KeyLife and begins a line, and the token to show once: "sluis_" + key id +
// "_" + 43 characters of base64url.
func NewAPIKey(e Env, client ClientID, role Role, advisor AdvisorID, label string) (*APIKey, Secret) {
	secret := base64.RawURLEncoding.EncodeToString(e.Random(32))
	hash := sha256.Sum256([]byte(secret))
	now := e.Now()
	k := &APIKey{ID: NewID[KeyID](e), ClientID: client, Role: role, AdvisorID: advisor, Label: label,
		State: KeyActive, Hash: hash[:], CreatedAt: now, UpdatedAt: now}
	k.Line = k.ID
	k.Lasts(KeyLife)
	return k, NewSecret([]byte("sluis_" + string(k.ID) + "_" + secret))
}

// Lasts sets the key's end, counted from when it was made, and when its client is to be told.
func (k *APIKey) Lasts(life time.Duration) {
	k.ExpiresAt, k.WarnAt = k.CreatedAt.Add(life), Time{}
	if life > KeyWarning {
		k.WarnAt = k.ExpiresAt.Add(-KeyWarning)
	}
}

// First is the identifier of the first key of the line: its own, where there were no lines when it was made.
func (k *APIKey) First() KeyID {
	if k.Line == "" {
		return k.ID
	}
	return k.Line
}

// Replaced says whether a rotation has put another key in this one's place, so that it only reads. Of a key of before
// there were lines its end says so, as then only a rotation set one.
func (k *APIKey) Replaced() bool {
	return k.ReplacedBy != "" || k.Line == "" && !k.ExpiresAt.IsZero()
}

// Administers says whether the key may make, rotate and revoke keys. A client's key of before that was a right of its own
// keeps it.
func (k *APIKey) Administers() bool {
	return k.Role == RoleClient && !k.Replaced() && (k.Admin || k.Line == "")
}

// Lives says whether the key opens anything.
func (k *APIKey) Lives(now Time) bool {
	return k.State == KeyActive && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}

// Replace puts fresh in the key's place: of the same role, rights and line. The key itself only reads from then on, and
// ends after overlap, or before where its own end comes first.
func (k *APIKey) Replace(fresh *APIKey, overlap time.Duration, now Time) error {
	if k.State != KeyActive || k.Replaced() {
		return &Error{Kind: Conflict, Code: "key_over",
			Message: "this key was rotated or revoked already; rotate the newest one, or make a new key"}
	}
	fresh.Role, fresh.AdvisorID, fresh.Label, fresh.Admin = k.Role, k.AdvisorID, k.Label, k.Administers()
	k.Line = k.First()
	fresh.Line, k.ReplacedBy = k.Line, fresh.ID
	if until := now.Add(overlap); k.ExpiresAt.IsZero() || until.Before(k.ExpiresAt) {
		k.ExpiresAt = until
	}
	k.WarnAt, k.UpdatedAt = Time{}, now
	if overlap > 0 {
		return nil
	}
	return k.Move(KeyRevoked, now)
}

// SplitAPIKey takes a token apart; ok is false if it has not the shape of one.
func SplitAPIKey(token string) (id KeyID, secret string, ok bool) {
	body, found := strings.CutPrefix(token, "sluis_")
	if !found || len(body) != len("key_")+26+1+43 {
		return "", "", false
	}
	id, err := ParseID[KeyID](body[:30])
	return id, body[31:], err == nil && body[30] == '_'
}

// Matches says whether secret is this key's, good or over. It takes the same time whatever the secret is.
func (k *APIKey) Matches(secret string) bool {
	hash := sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(hash[:], k.Hash) == 1
}

// Opens says whether secret is this key's and the key is still good.
func (k *APIKey) Opens(secret string, now Time) bool {
	return k.Matches(secret) && k.Lives(now)
}

// Principal is who an authenticated API request acts for.
type Principal struct {
	Role      Role
	ClientID  ClientID
	AdvisorID AdvisorID // with RoleAdvisor
	KeyID     KeyID
	Admin     bool // may administer keys
	ReadOnly  bool // a key that was replaced
}

// Actor is the principal as the audit log names it.
func (p Principal) Actor() Actor {
	if p.Role == RoleAdvisor {
		return Actor{Kind: ActorAdvisor, ID: string(p.AdvisorID), Key: p.KeyID}
	}
	if p.Role == RoleReviewer {
		return Actor{Kind: ActorReviewer, ID: string(p.KeyID), Key: p.KeyID}
	}
	return Actor{Kind: ActorClient, ID: string(p.ClientID), Key: p.KeyID}
}

// Sees says whether the principal may know of the consent at all: its own client's, and for an advisor one that
// names them.
func (p Principal) Sees(c *Consent) bool {
	if p.ClientID != c.ClientID {
		return false
	}
	return p.Role != RoleAdvisor || slices.Contains(c.Advisors, p.AdvisorID)
}
