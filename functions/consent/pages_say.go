package consent

import (
	"html/template"
	"strings"

	"golang.org/x/text/language"
	"golang.org/x/text/language/display"

	"sluis.internal/shared/domain"
)

// Bank is the name of the custodian that the investor chose, or "" before.
func (p *sheet) Bank(v View) string {
	if v.Custodian != nil {
		return v.Custodian.Name
	}
	return string(v.Connection.Custodian)
}

// country is a country's name in the page's language, and its code where that is unknown.
func (p *sheet) country(code string) string {
	region, err := language.ParseRegion(code)
	if err != nil {
		return code
	}
	if name := display.Regions(p.tag).Name(region); name != "" {
		return name
	}
	return code
}

// offer is one custodian to choose.
type offer struct {
	ID                   domain.CustodianID
	Name, Country, Lacks string // Lacks: what is asked for and this custodian has not
	Sandbox, Chosen      bool
}

// Offers are the custodians to choose from. A single one is chosen already.
func (p *sheet) Offers() []offer {
	var all []offer
	for _, c := range p.View.Custodians {
		o := offer{ID: c.ID, Name: c.Name, Country: p.country(c.Country), Sandbox: c.Sandbox, Chosen: len(p.View.Custodians) == 1}
		var lacks []string
		for _, want := range p.View.Consent.Products {
			if !contains(c.Products, want) {
				lacks = append(lacks, p.Term("product", want))
			}
		}
		o.Lacks = strings.Join(lacks, ", ")
		all = append(all, o)
	}
	return all
}

func contains(all []domain.Product, one domain.Product) bool {
	for _, p := range all {
		if p == one {
			return true
		}
	}
	return false
}

// keeping says of some products how long their readings are kept.
type keeping struct{ Products, Text string }

// Kept groups the consent's products by what is kept of them.
func (p *sheet) Kept(c domain.Consent) ([]keeping, error) {
	var all []keeping
	for _, product := range c.Products {
		saving := c.SavingFor(product)
		text := p.Term("saving", saving.Scope)
		if saving.Scope == domain.SaveHistory {
			var err error
			if text, err = p.N("saving.history", saving.Days); err != nil {
				return nil, err
			}
		}
		name, known := p.Term("product", product), false
		for i := range all {
			if known = all[i].Text == text; known {
				all[i].Products += ", " + name
				break
			}
		}
		if !known {
			all = append(all, keeping{name, text})
		}
	}
	return all, nil
}

// Regions says where the data is kept: where the consent allows and this process works.
func (p *sheet) Regions(c domain.Consent) string {
	names := c.Regions
	if len(names) == 0 {
		names = []string{p.region}
	}
	said := make([]string, len(names))
	for i, name := range names {
		said[i] = p.Term("region", name)
	}
	return p.And(said)
}

// field is one input of the login form.
type field struct {
	ID, Name, Type, Label, Complete string
	Min, Max                        int
	Digits, Secret                  bool
}

// Fields are the custodian's credentials as inputs. The inputs get no name, so that no form can carry them off.
func (p *sheet) Fields() []field {
	var all []field
	for _, c := range p.View.Custodian.Credentials {
		f := field{ID: "f-" + c.Name, Name: c.Name, Type: "text", Label: c.Label[p.Lang], Complete: "username", Min: c.Min, Max: c.Max,
			Digits: c.Digits, Secret: c.Kind == "password"}
		if f.Label == "" {
			f.Label = c.Label["en"]
		}
		if f.Secret {
			f.Type, f.Complete = "password", "current-password"
		}
		all = append(all, f)
	}
	return all
}

// Again says whether the login that lies sealed may be tried once more.
func (p *sheet) Again() bool { return p.View.CredentialFits && retryable(p.View.CredentialState) }

// Unconfirmed says whether nobody knows what the bank thought of that login.
func (p *sheet) Unconfirmed() bool { return p.View.CredentialState == domain.CredentialUnconfirmed }

// Partly says whether something consented to could not be read.
func (p *sheet) Partly() bool {
	for _, product := range p.View.Consent.Products {
		if p.View.Connection.Products[product].State == domain.ProductFailed {
			return true
		}
	}
	return false
}

// Repeatable says whether a reading that lacks something may be done again: a consent to one reading has had it.
func (p *sheet) Repeatable() bool {
	return p.Partly() && p.View.Consent.Access == domain.AccessRecurring
}

// reading is the table of what was read.
type reading struct {
	Caption string
	Rows    []readRow
	Times   []template.HTML
}

// readRow is one product: its state in words, and how many records there are or why it failed.
type readRow struct{ Name, State, Text, More string }

// Result is the outcome of the last reading, with when the next one is.
func (p *sheet) Result(v View) (reading, error) {
	caption, err := p.T("done.result", "bank", p.Bank(v))
	if err != nil {
		return reading{}, err
	}
	r, err := p.read(v, caption)
	if err == nil && !v.Connection.NextRefreshAt.IsZero() {
		var next template.HTML
		next, err = p.Line("done.next", "time", p.When(v.Connection.NextRefreshAt))
		r.Times = append(r.Times, next)
	}
	return r, err
}

// Reads is the same for the overview, which states the times elsewhere.
func (p *sheet) Reads(v View) (reading, error) {
	caption, err := p.T("me.products")
	if err != nil {
		return reading{}, err
	}
	return p.read(v, caption)
}

func (p *sheet) read(v View, caption string) (reading, error) {
	r := reading{Caption: caption}
	for _, product := range v.Consent.Products {
		status := v.Connection.Products[product]
		row := readRow{Name: p.Term("product", product), State: string(status.State)}
		if status.State == "" {
			row.State = "waiting"
		}
		row.Text = p.Term("productstate", row.State)
		if status.State == domain.ProductFailed {
			row.More = p.Term("reason", status.Reason)
		}
		if status.State == domain.ProductComplete {
			var err error
			if row.More, err = p.N("count", status.Count); err != nil {
				return reading{}, err
			}
		}
		r.Rows = append(r.Rows, row)
	}
	return r, nil
}

// Erasable are the scopes that the investor may have erased under a consent: what is there to erase.
func (p *sheet) Erasable(v View) []domain.ErasureScope {
	if v.Consent.State != domain.ConsentValid || !p.Manages(v) {
		return nil
	}
	var scopes []domain.ErasureScope
	if v.CredentialState != "" {
		scopes = append(scopes, domain.EraseCredentials)
	}
	if v.Connection.PortfolioID != "" {
		scopes = append(scopes, domain.EraseData)
	}
	return append(scopes, domain.EraseAll)
}

// Manages says whether the visit may end what v shows.
func (p *sheet) Manages(v View) bool { return p.Visit.May(domain.MayManage, v.Consent.ID) }

// Connects says whether the visit may enter a login for what it is about.
func (p *sheet) Connects() bool { return p.Visit.May(domain.MayConnect, p.Visit.ConsentID) }

// step is what the investor may do next about a consent.
type step struct{ Path, Text string }

// Next is what the investor should do about the consent of this visit, or nil. Other consents have links of their own.
func (p *sheet) Next(v View) *step {
	if v.Consent.ID != p.Visit.ConsentID || isOver(&v.Consent, p.now) {
		return nil
	}
	switch {
	case v.Consent.State == domain.ConsentReceived && p.Visit.May(domain.MayDecide, v.Consent.ID):
		return &step{"/consent", p.text["me.decide"]}
	case v.Consent.State != domain.ConsentValid || !p.Visit.May(domain.MayConnect, v.Consent.ID):
		return nil
	case v.Connection.State == domain.ConnectionAwaiting, v.Connection.State == domain.ConnectionPaused:
		return &step{"/connect", p.text["me.reconnect"]}
	case v.Connection.State == domain.ConnectionSCA:
		return &step{"/sca", p.text["step.3"]}
	}
	return nil
}
