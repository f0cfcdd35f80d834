package domain

import (
	"context"
	"errors"
	"slices"
)

// Act is something about to be done under a consent, and everything the consent is checked against.
type Act struct {
	Action    string // for example "credential.sealed"; the audit entry's type
	Function  string // which function acts
	Actor     Actor
	ConsentID ConsentID
	Subject   string // what it is done to; the consent where empty
	Origin    string // commitment to the network address, where there is one

	// An investor acts in a visit, and the act says what it needs of it: see Visit.Act. To fn the visit is given as the
	// transaction read it.
	Visit *Visit
	Needs Capability

	// What must fit. An empty field is not compared.
	ClientID     ClientID
	AdvisorID    AdvisorID
	InvestorRef  string
	ConnectionID ConnectionID
	Custodian    CustodianID
	Product      Product
	Purpose      string

	// States in which the consent allows it; empty means ConsentValid alone. Time is compared for valid and received
	// consents unless Late is set, which only acts that take away (revoke, expire, erase) may do: these are possible
	// from any region, and whatever became of the client, too.
	States []ConsentState
	Late   bool

	Details map[string]string // more for the audit entry; fn may add to it
}

// Permits says whether the consent allows the act now; if not, the error says which of its terms does not. An investor's
// act must also be one that their visit is for, whatever became of the consent.
func (c *Consent) Permits(e Env, a *Act) error {
	states := a.States
	if len(states) == 0 {
		states = []ConsentState{ConsentValid}
	}
	switch {
	case a.ClientID != "" && a.ClientID != c.ClientID,
		a.ConnectionID != "" && a.ConnectionID != c.ConnectionID,
		a.InvestorRef != "" && a.InvestorRef != c.InvestorRef,
		a.Visit != nil && (a.Visit.ClientID != c.ClientID || a.Visit.InvestorRef != c.InvestorRef),
		a.AdvisorID != "" && !slices.Contains(c.Advisors, a.AdvisorID):
		return refusal("consent_not_yours", "this consent does not name you")
	case a.Actor.Kind == ActorInvestor && (a.Visit == nil || !a.Visit.May(a.Needs, c.ID)):
		return errVisitPurpose
	case !slices.Contains(states, c.State):
		return refusal("consent_"+string(c.State), "the consent is "+string(c.State)+"; ask the investor for a new one")
	case !a.Late && !e.Now().Before(c.ExpiresAt):
		return refusal("consent_expired", "the consent has expired; ask the investor for a new one")
	case a.Custodian != "" && a.Custodian != c.Custodian:
		return refusal("consent_custodian", "the consent does not cover this custodian")
	case a.Product != "" && !slices.Contains(c.Products, a.Product):
		return refusal("consent_scope", "the consent does not cover "+string(a.Product))
	case a.Purpose != "" && a.Purpose != c.Purpose.Code:
		return refusal("consent_purpose", "the consent was given for another purpose")
	case !a.Late && len(c.Regions) > 0 && !slices.Contains(c.Regions, e.Region):
		return refusal("consent_region", "the client's data may not be kept in this region")
	}
	return nil
}

func refusal(code, message string) *Error {
	return &Error{Kind: Forbidden, Code: code, Message: message}
}

// Perform is the one way to act under a consent. In one transaction it reads the consent, checks that it permits the
// act and that its client may act at all, lets fn take effect, and records the audit entry: no consent, no act; no
// entry, no act. fn may change a's Subject and Details, and must not commit anything by itself. A refusal is recorded
// too, in a transaction of its own, before it is returned: by the consent, by the client's state, or by fn, which
// refuses with a Forbidden error.
func Perform(ctx context.Context, e Env, s Store, a Act, fn func(Tx, *Consent, *Act) error) error {
	var denied *Error
	var seen Consent
	err := s.Commit(ctx, func(tx Tx) error {
		denied, seen = nil, Consent{ID: a.ConsentID, ClientID: a.ClientID}
		act := a
		act.Details = cloneDetails(a.Details)
		c, err := act.permitted(e, tx.Get)
		if c != nil {
			seen = *c
		}
		if err == nil {
			err = fn(tx, c, &act)
		}
		if err != nil {
			denied = refused(err)
			return err
		}
		return tx.Record(act.entry(e, c, OutcomeAllowed, ""))
	})
	if denied == nil {
		return err
	}
	record := s.Commit(ctx, func(tx Tx) error { return tx.Record(a.entry(e, &seen, OutcomeDenied, denied.Code)) })
	return errors.Join(err, record)
}

// Allowed says whether a might be performed at this moment, and gives back the consent where there is one. It acts on
// nothing and records nothing: a look before what no transaction can hold, such as a request to a bank. What lies beside
// is read with it; of that, what does not exist stays as it was.
func Allowed(ctx context.Context, e Env, s Store, a Act, beside ...Document) (*Consent, error) {
	return a.permitted(e, func(docs ...Document) error {
		docs, beside = append(docs, beside...), nil
		return s.Get(ctx, docs...)
	})
}

// permitted reads the consent and gives it back where there is one; the error says why the act may not be.
func (a *Act) permitted(e Env, get func(...Document) error) (*Consent, error) {
	c, client := &Consent{ID: a.ConsentID}, &Client{ID: a.ClientID}
	docs := []Document{c}
	if client.ID != "" && !a.Late {
		docs = append(docs, client)
	}
	visit := a.visit()
	if visit != nil {
		docs = append(docs, visit)
	}
	switch err := IgnoreNotFound(get(docs...)); {
	case err != nil:
		return nil, err
	case c.State == "":
		return nil, errUnknown
	}
	if err := c.Permits(e, a); err != nil {
		return c, err
	}
	if visit != nil {
		if err := visit.admits(a, e.Now()); err != nil {
			return c, err
		}
		a.Visit = visit
	}
	if a.Late {
		return c, nil
	}
	if client.ID == "" {
		client.ID = c.ClientID
		if err := IgnoreNotFound(get(client)); err != nil {
			return c, err
		}
	}
	if client.State != ClientActive {
		return c, refusal("client_suspended", "the client behind this consent may not ask for data at present; ask them")
	}
	return c, nil
}

// visit is what is to be read of the visit again: whoever comes has none yet.
func (a *Act) visit() *Visit {
	if a.Visit == nil || a.Needs == MayVisit {
		return nil
	}
	return &Visit{Hash: a.Visit.Hash}
}

var errUnknown = &Error{Kind: NotFound, Code: "consent_unknown", Message: "there is no such consent; check the identifier"}

// refused is err if it is a no to the act rather than a failure, and nil otherwise.
func refused(err error) (denied *Error) {
	if KindOf(err) == Forbidden || errors.Is(err, errUnknown) || errors.Is(err, errVisitEnded) {
		errors.As(err, &denied)
	}
	return denied
}

// entry tells of the act under c.
func (a *Act) entry(e Env, c *Consent, outcome Outcome, reason string) *Entry {
	subject := a.Subject
	if subject == "" {
		subject = string(a.ConsentID)
	}
	return &Entry{SpecVersion: "1.0", ID: NewID[EntryID](e), Source: "/functions/" + a.Function,
		Type: "sluis." + a.Action, Subject: subject, Time: e.Now(), ClientID: c.ClientID,
		Data: EntryData{Actor: a.Actor, ConsentID: c.ID, ConnectionID: c.ConnectionID, Custodian: c.Custodian,
			Purpose: c.Purpose.Code, Outcome: outcome, Reason: reason, Origin: a.Origin, Details: a.Details}}
}

// Also records within tx one more act that the same transaction makes under the same consent, by the same actor.
func (a Act) Also(e Env, tx Tx, c *Consent, action, subject string) error {
	a.Action, a.Subject, a.Details = action, subject, nil
	return tx.Record(a.entry(e, c, OutcomeAllowed, ""))
}

// Note makes an entry for an act that needs no consent: a client's keys, endpoints and settings, and housekeeping.
func Note(e Env, function, action string, actor Actor, client ClientID, subject string, details map[string]string) *Entry {
	return &Entry{SpecVersion: "1.0", ID: NewID[EntryID](e), Source: "/functions/" + function, Type: "sluis." + action,
		Subject: subject, Time: e.Now(), ClientID: client,
		Data: EntryData{Actor: actor, Outcome: OutcomeAllowed, Details: details}}
}

func cloneDetails(m map[string]string) map[string]string {
	out := make(map[string]string, len(m)+2)
	for k, v := range m {
		out[k] = v
	}
	return out
}
