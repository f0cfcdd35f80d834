package domain

import (
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// Custodian is a row of custodians.json: a bank, broker or depot, and how it is spoken to.
type Custodian struct {
	ID          CustodianID       `json:"id"`
	Name        string            `json:"name"`
	Country     string            `json:"country"`   // ISO 3166-1 alpha-2
	Protocol    string            `json:"protocol"`  // names the folder under functions/extract
	Endpoints   map[string]string `json:"endpoints"` // base URLs by name; each is https
	Credentials []CredentialField `json:"credentials"`
	Methods     []SCAMethod       `json:"methods"`
	Products    []Product         `json:"products"`
	Secrets     []string          `json:"secrets,omitempty"` // names in Secrets that the connector needs
	Unattended  bool              `json:"unattended"`        // whether a refresh can pass without the investor
	RefreshHour int               `json:"refresh_hours"`     // hours between scheduled refreshes
	Rules       BankRules         `json:"rules"`             // what it and the law allow
	Sandbox     bool              `json:"sandbox"`           // only for practice; never in a deployed function
	Quirks      []string          `json:"quirks,omitempty"`
}

// CredentialField is one field of a custodian's login.
type CredentialField struct {
	Name   string            `json:"name"`
	Kind   string            `json:"kind"`  // text or password
	Label  map[string]string `json:"label"` // by language
	Min    int               `json:"min"`   // characters
	Max    int               `json:"max"`   // characters
	Digits bool              `json:"digits"`
	Login  bool              `json:"login"` // names the access: what the bank counts by
}

// Fits says what is wrong with a value's shape, or nil. It never repeats the value.
func (f *CredentialField) Fits(value []byte) error {
	n := utf8.RuneCount(value)
	switch {
	case n < max(1, f.Min) || f.Max > 0 && n > f.Max:
		return fmt.Errorf("%s has the wrong length", f.Name)
	case f.Digits && !allDigits(value):
		return fmt.Errorf("%s is more than digits", f.Name)
	}
	return nil
}

func allDigits(value []byte) bool {
	for _, b := range value {
		if b < '0' || b > '9' {
			return false
		}
	}
	return true
}

// Login is the value of the field that names the access, and the error that says which value has the wrong shape. A
// custodian without such a field has no logins to lock.
func (c *Custodian) Login(values map[string]Secret) (login []byte, err error) {
	for i := range c.Credentials {
		f := &c.Credentials[i]
		if err := f.Fits(values[f.Name].Reveal()); err != nil {
			return nil, err
		}
		if f.Login {
			login = values[f.Name].Reveal()
		}
	}
	return login, nil
}

// HasLogin says whether the custodian has logins that it counts by.
func (c *Custodian) HasLogin() bool {
	return slices.ContainsFunc(c.Credentials, func(f CredentialField) bool { return f.Login })
}

// BankRules are what a custodian and the law allow, as data. Where the contract with a custodian says otherwise, its row
// does.
type BankRules struct {
	Locks    map[BankCount]LockRule `json:"locks"`    // what locks an access; a counter without a row locks nothing
	Readings ReadingRule            `json:"readings"` // without the investor
	Logins   ReadingRule            `json:"logins"`   // with the investor at the page
	BackOff  map[Reason][]int       `json:"back_off"` // minutes until the next login, after one failure, two, and so on
}

// LockRule says how a bank's counter locks an access, and what sets it back to nothing.
type LockRule struct {
	At           int       `json:"at"`                     // that many lock it
	ResetBy      BankCount `json:"reset_by"`               // one of these that was right
	HealsMinutes int       `json:"heals_minutes,omitzero"` // where the bank forgets by itself
}

// ReadingRule bounds how often something happens.
type ReadingRule struct {
	Most  int   `json:"most"`         // 0 is without bound
	Hours int   `json:"hours"`        // within any so many; where a bank counts by its own day, 25 covers the longest
	Per   PerOf `json:"per,omitzero"` // what the custodian counts by; nothing is as PerAccess
}

func (r ReadingRule) window() time.Duration { return time.Duration(r.Hours) * time.Hour }

// PerOf is what a custodian counts readings by.
type PerOf string

const (
	PerAccess   PerOf = "access"
	PerAccount  PerOf = "account"
	PerEndpoint PerOf = "endpoint"
	PerConsent  PerOf = "consent"
)
