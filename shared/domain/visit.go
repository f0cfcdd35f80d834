package domain

import (
	"crypto/sha256"
	"encoding/base64"
	"time"
)

// Link is a single-use invitation for an investor. Its token stands only in the address the client passes on; the
// document's key is the token's hash.
type Link struct {
	Hash      string    `json:"hash"`
	ConsentID ConsentID `json:"consent_id"`
	ClientID  ClientID  `json:"client_id"`
	Purpose   LinkUse   `json:"purpose"`
	UsedAt    Time      `json:"used_at,omitzero"`
	CreatedAt Time      `json:"created_at"`
	ExpiresAt Time      `json:"expires_at"`
}

func (*Link) Kind() DocumentKind { return "link" }
func (l *Link) Key() string      { return l.Hash }

// LinkUse is what a link leads to.
type LinkUse string

const (
	LinkConsent   LinkUse = "consent"   // read the request and decide
	LinkReconnect LinkUse = "reconnect" // enter credentials again, or pass SCA again
	LinkManage    LinkUse = "manage"    // see consents, withdraw, erase
)

// Lives of links and visits.
const (
	LinkLife  = 72 * time.Hour
	VisitLife = 30 * time.Minute
)

// Use marks the link used. A link that was used or has expired is Gone.
func (l *Link) Use(at Time) error {
	if !l.UsedAt.IsZero() || !at.Before(l.ExpiresAt) {
		return &Error{Kind: Gone, Code: "link_used", Message: "this link was used or has expired; ask for a new one"}
	}
	l.UsedAt = at
	return nil
}

// Visit is an investor's browser session after a link. Its cookie's value stands only in the browser; the document's
// key is the value's hash.
type Visit struct {
	Hash         string       `json:"hash"`
	ConsentID    ConsentID    `json:"consent_id"`
	ConnectionID ConnectionID `json:"connection_id"`
	ClientID     ClientID     `json:"client_id"`
	InvestorRef  string       `json:"investor_ref"`
	Purpose      LinkUse      `json:"purpose"`
	Sealings     int          `json:"sealings"` // what was sealed, and uses of the login that is held
	CreatedAt    Time         `json:"created_at"`
	ExpiresAt    Time         `json:"expires_at"`
	Pseudonym    Pseudonym    `json:"-"` // of the investor: the door that lets them in gives it, as it holds the key
}

// Pseudonym is an investor in the audit log, under one consent: "inv_" and 22 characters that only the holder of the
// pseudonym key can join with the client's reference. Entries outlive the consent and the client's list of investors, so
// the reference itself stands in none.
type Pseudonym string

// Actor is the investor as the audit log names them.
func (p Pseudonym) Actor() Actor {
	if p == "" {
		p = "inv_unknown" // nobody said who it is; never the reference
	}
	return Actor{Kind: ActorInvestor, ID: string(p)}
}

func (*Visit) Kind() DocumentKind { return "visit" }
func (v *Visit) Key() string      { return v.Hash }

// Actor is the visiting investor as the audit log names them.
func (v *Visit) Actor() Actor { return v.Pseudonym.Actor() }

// HashToken is how links and visits are looked up without keeping their tokens: base64url of SHA-256. The tokens have
// at least 128 random bits, so that a plain hash is enough.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
