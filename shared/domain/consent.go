package domain

import (
	"net/url"
	"slices"
	"time"
)

// Consent is what an investor allows: which data (Products), from where (Custodian), for whom (client and Advisors),
// why (Purpose), how often (Access) and until when (ExpiresAt). The client asks for it, only the investor grants it,
// and either ends it. One consent covers one custodian and has one connection, as in the Berlin Group's
// NextGenPSD2 XS2A framework, whose consentStatus values the states translate.
type Consent struct {
	ID           ConsentID          `json:"id"`
	ClientID     ClientID           `json:"client_id"`
	ConnectionID ConnectionID       `json:"connection_id"`
	InvestorRef  string             `json:"investor_ref"` // the client's own opaque name for the investor
	Purpose      Purpose            `json:"purpose"`
	Products     []Product          `json:"products"`
	Custodians   []CustodianID      `json:"custodians,omitempty"` // the choice offered; empty means every one available
	Custodian    CustodianID        `json:"custodian,omitempty"`  // the investor's choice, set by the grant
	Advisors     []AdvisorID        `json:"advisors,omitempty"`
	Access       Access             `json:"access"`
	ExpiresAt    Time               `json:"expires_at"`
	Saving       map[Product]Saving `json:"saving"`            // as declared when asked: what the investor agreed to
	Regions      []string           `json:"regions,omitempty"` // as declared when asked
	Language     string             `json:"language"`          // one of Languages
	ReturnURL    string             `json:"return_url,omitempty"`
	State        ConsentState       `json:"state"`
	CreatedAt    Time               `json:"created_at"`
	DecidedAt    Time               `json:"decided_at,omitzero"`
	EndedAt      Time               `json:"ended_at,omitzero"`
	UpdatedAt    Time               `json:"updated_at"`
}

func (*Consent) Kind() DocumentKind { return "consent" }
func (c *Consent) Key() string      { return string(c.ID) }

// Purpose says why the data is read. GDPR Article 5(1)(b).
type Purpose struct {
	Code string `json:"code"`           // one of PurposeCodes
	Text string `json:"text,omitempty"` // up to 280 characters, in the investor's language
}

// PurposeCodes are the purposes a consent may have.
var PurposeCodes = []string{"wealth_overview", "investment_advice", "discretionary_management", "reporting", "tax", "risk_profile"}

// Access says how often the data may be read.
type Access string

const (
	AccessOnce      Access = "one_off"   // one reading
	AccessRecurring Access = "recurring" // refreshed until the consent ends
)

// MaxConsent is the longest life of a consent. Commission Delegated Regulation (EU) 2018/389 (RTS), Article 10 as
// amended by (EU) 2022/2360: SCA is renewed at least every 180 days.
const MaxConsent = 180 * 24 * time.Hour

// Languages are those the investor pages speak.
var Languages = []string{"en", "de", "nl", "es", "fr", "pt"}

// ConsentState is where a consent stands.
type ConsentState string

const (
	ConsentReceived   ConsentState = "received"   // asked for; the investor has not decided (Berlin Group: received)
	ConsentValid      ConsentState = "valid"      // granted (valid)
	ConsentRejected   ConsentState = "rejected"   // denied (rejected)
	ConsentExpired    ConsentState = "expired"    // its time is over (expired)
	ConsentRevoked    ConsentState = "revoked"    // withdrawn by the investor (revokedByPsu)
	ConsentTerminated ConsentState = "terminated" // ended by the client (terminatedByTpp)
)

// ConsentStates lists every state.
var ConsentStates = []ConsentState{ConsentReceived, ConsentValid, ConsentRejected, ConsentExpired, ConsentRevoked, ConsentTerminated}

// ConsentMoves is the law of ConsentState.
var ConsentMoves = Moves[ConsentState]{
	ConsentReceived:   {ConsentValid, ConsentRejected, ConsentExpired, ConsentTerminated},
	ConsentValid:      {ConsentExpired, ConsentRevoked, ConsentTerminated},
	ConsentRejected:   {},
	ConsentExpired:    {},
	ConsentRevoked:    {},
	ConsentTerminated: {},
}

// AnyConsentState is for acts that only take away: they are done whatever became of the consent.
var AnyConsentState = []ConsentState{ConsentReceived, ConsentValid, ConsentRejected, ConsentExpired, ConsentRevoked, ConsentTerminated}

// Move brings the consent to another state.
func (c *Consent) Move(to ConsentState, at Time) error {
	if err := ConsentMoves.Check("consent", c.State, to); err != nil {
		return err
	}
	if c.DecidedAt.IsZero() && (to == ConsentValid || to == ConsentRejected) {
		c.DecidedAt = at
	}
	if ConsentMoves.Final(to) {
		c.EndedAt = at
	}
	c.State, c.UpdatedAt = to, at
	return nil
}

// Grant is the investor's yes, for one of the custodians offered.
func (c *Consent) Grant(custodian CustodianID, at Time) error {
	if !at.Before(c.ExpiresAt) {
		return &Error{Kind: Gone, Code: "consent_expired", Message: "the time to use this consent is over; ask for a new one"}
	}
	if custodian == "" || len(c.Custodians) > 0 && !slices.Contains(c.Custodians, custodian) {
		return Invalidf("custodian", "choose one of the custodians offered")
	}
	if err := c.Move(ConsentValid, at); err != nil {
		return err
	}
	c.Custodian = custodian
	return nil
}

// SavingFor is what may be kept of product under this consent.
func (c *Consent) SavingFor(p Product) Saving {
	if s, ok := c.Saving[p]; ok {
		return s
	}
	return Saving{Scope: SaveLatest}
}

// Validate checks everything a client may set in a new consent; now is when it asks.
func (c *Consent) Validate(now Time) error {
	var f Faults
	if !refShape(c.InvestorRef) {
		f.Add("/investor_ref", "want 1 to 64 letters, digits or . _ : - that name the investor to you; no e-mail address or name")
	}
	if !slices.Contains(PurposeCodes, c.Purpose.Code) {
		f.Add("/purpose/code", "want one of %q", PurposeCodes)
	}
	if len([]rune(c.Purpose.Text)) > 280 {
		f.Add("/purpose/text", "want at most 280 characters")
	}
	c.validateProducts(&f)
	if c.Access != AccessOnce && c.Access != AccessRecurring {
		f.Add("/access", "want one_off or recurring")
	}
	if !c.ExpiresAt.After(now) {
		f.Add("/expires_at", "want a time in the future")
	}
	if c.ExpiresAt.After(now.Add(MaxConsent)) {
		f.Add("/expires_at", "want at most 180 days from now")
	}
	if !slices.Contains(Languages, c.Language) {
		f.Add("/language", "want one of %q", Languages)
	}
	if len(c.Advisors) > 20 {
		f.Add("/advisors", "want at most 20 advisors")
	}
	if len(c.Custodians) > 100 {
		f.Add("/custodians", "want at most 100 custodians")
	}
	return f.Err()
}

func (c *Consent) validateProducts(f *Faults) {
	if len(c.Products) == 0 {
		f.Add("/products", "name at least one product")
	}
	for i, p := range c.Products {
		if !slices.Contains(Products, p) || slices.Contains(c.Products[:i], p) {
			f.Add("/products", "want each of %q at most once", Products)
		}
	}
}

// ValidateReturn checks that the return address stands on one of the client's declared origins.
func (c *Consent) ValidateReturn(origins []string) error {
	if c.ReturnURL == "" {
		return nil
	}
	u, err := url.Parse(c.ReturnURL)
	if err != nil || len(c.ReturnURL) > 2000 || u.User != nil || (u.Scheme != "https" && u.Scheme != "http") ||
		!slices.Contains(origins, u.Scheme+"://"+u.Host) {
		return Invalidf("/return_url", "want an address on one of the origins declared for your account")
	}
	return nil
}

func refShape(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == ':' || r == '-') {
			return false
		}
	}
	return true
}
