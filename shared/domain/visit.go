package domain

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
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
	Origin    string    `json:"origin,omitempty"` // commitment to the network address of who made it
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
// key is the value's hash. What a visit may do follows from its purpose ([Visit.May]); a credential it may enter only
// after its own Confirmation.
type Visit struct {
	Hash         string        `json:"hash"`
	ConsentID    ConsentID     `json:"consent_id"`
	ConnectionID ConnectionID  `json:"connection_id"`
	ClientID     ClientID      `json:"client_id"`
	InvestorRef  string        `json:"investor_ref"`
	Purpose      LinkUse       `json:"purpose"`
	Confirmation *Confirmation `json:"confirmation,omitempty"` // what its investor confirmed; nil before
	Sealings     int           `json:"sealings"`               // what was sealed, and uses of the login that is held
	CreatedAt    Time          `json:"created_at"`
	ExpiresAt    Time          `json:"expires_at"`
	Pseudonym    Pseudonym     `json:"-"` // of the investor: the door that lets them in gives it, as it holds the key
}

// NewVisit begins the visit that l opens, for c. hash is that of its cookie.
func NewVisit(hash string, l *Link, c *Consent, now Time) *Visit {
	return &Visit{Hash: hash, ConsentID: c.ID, ConnectionID: c.ConnectionID, ClientID: c.ClientID,
		InvestorRef: c.InvestorRef, Purpose: l.Purpose, CreatedAt: now, ExpiresAt: now.Add(VisitLife)}
}

func (*Visit) Kind() DocumentKind { return "visit" }
func (v *Visit) Key() string      { return v.Hash }

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

// Confirmation is what an investor was shown and said yes to: proof of consent names the very text
// (GDPR Articles 4(11) and 7(1)).
type Confirmation struct {
	Digest   string `json:"digest"`   // SHA-256 of Version, Language and the text, in hex
	Language string `json:"language"` // of the text
	Version  string `json:"version"`  // of the template and words that the text was made of
	At       Time   `json:"at"`
}

// Details is the confirmation as the audit entry of the act tells it.
func (c Confirmation) Details(into map[string]string) {
	into["text_digest"], into["text_language"], into["text_version"] = c.Digest, c.Language, c.Version
}

// Capability is one thing that a visit lets its investor do.
type Capability string

const (
	MayVisit   Capability = "visit"   // come, and see what the visit is about: every visit
	MayDecide  Capability = "decide"  // grant or deny
	MayConfirm Capability = "confirm" // say yes to what is shown before a credential is entered
	MayConnect Capability = "connect" // enter a credential, or have the one that is held used again
	MayAnswer  Capability = "answer"  // see what the bank asks, and answer
	MayManage  Capability = "manage"  // withdraw and erase
)

// capabilities are what a link of each purpose is for. Whoever has a link has these, and nothing else.
var capabilities = map[LinkUse][]Capability{
	LinkConsent:   {MayVisit, MayDecide, MayConfirm, MayConnect, MayAnswer, MayManage},
	LinkReconnect: {MayVisit, MayConfirm, MayConnect, MayAnswer, MayManage},
	LinkManage:    {MayVisit, MayManage},
}

// May says whether the visit lets its investor do what needs a capability under a consent: its own consent alone, but
// for a visit to manage, which is to all consents of that investor with that client.
func (v *Visit) May(need Capability, under ConsentID) bool {
	all := need == MayManage && v.Purpose == LinkManage
	return (all || v.ConsentID == under) && slices.Contains(capabilities[v.Purpose], need)
}

// Act begins the description of an act of the visiting investor under one of their consents, and of what it needs. It is
// the one way to describe one: an act of an investor that it did not make is refused.
func (v *Visit) Act(function, action string, needs Capability, under ConsentID, origin string) Act {
	a := Act{Action: action, Function: function, Actor: v.Actor(), ConsentID: under, Origin: origin, ClientID: v.ClientID,
		InvestorRef: v.InvestorRef, Visit: v, Needs: needs, Details: map[string]string{}}
	if under == v.ConsentID {
		a.ConnectionID = v.ConnectionID
	}
	return a
}

// Why an investor's act is refused.
var (
	errVisitPurpose = refusal("visit_purpose", "this visit is not for that; ask for a link that is")
	errVisitEnded   = &Error{Kind: Unauthenticated, Code: "visit_ended",
		Message: "your visit has ended; open a new link from your wealth manager or app"}
	errConfirmationNeeded = refusal("confirmation_needed", "read what your login is for and confirm it first; then enter it")
)

// admits says whether the visit, as it stands at this moment, lets its investor do what a describes. It must still be
// going on, and what a credential is for must have been confirmed in it.
func (v *Visit) admits(a *Act, now Time) error {
	switch {
	case v.Purpose == "" || !now.Before(v.ExpiresAt):
		return errVisitEnded
	case !v.May(a.Needs, a.ConsentID):
		return errVisitPurpose
	case a.Needs == MayConnect && v.Confirmation == nil:
		return errConfirmationNeeded
	}
	return nil
}

// Actor is the visiting investor as the audit log names them.
func (v *Visit) Actor() Actor { return v.Pseudonym.Actor() }

// Confirm notes within tx that the visit's investor confirmed what c tells of. v is the visit as this transaction read it
// (Act.Visit). The newest visit that confirmed is the one in which a credential may be entered: con is put by the caller.
func (v *Visit) Confirm(tx Tx, con *Connection, c Confirmation) error {
	v.Confirmation, con.Visit = &c, v.Hash
	return tx.Put(v)
}

// HashToken is how links and visits are looked up without keeping their tokens: base64url of SHA-256. The tokens have
// at least 128 random bits, so that a plain hash is enough.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
