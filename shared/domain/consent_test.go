package domain

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// at noon is a world that stands still.
var still = Env{Clock: func() time.Time { return noon.Time }, Region: "europe-west4"}

// full is a valid consent with every term set.
func full() *Consent {
	return &Consent{ID: "con_1", ClientID: "cli_1", ConnectionID: "conn_1", InvestorRef: "inv-1",
		Purpose: Purpose{Code: "tax"}, Products: []Product{ProductCash, ProductPositions}, Custodian: "comdirect",
		Custodians: []CustodianID{"comdirect", "other"}, Advisors: []AdvisorID{"adv_1", "adv_2"}, Access: AccessRecurring,
		ExpiresAt: noon.Add(time.Hour), Regions: []string{"europe-west4", "local"}, Language: "en", State: ConsentValid}
}

// fits is an act that compares every term and is permitted.
func fits() *Act {
	return &Act{Action: "portfolio.read", ClientID: "cli_1", AdvisorID: "adv_2", InvestorRef: "inv-1", ConnectionID: "conn_1",
		Custodian: "comdirect", Product: ProductCash, Purpose: "tax"}
}

func TestPermitsComparesEveryTerm(t *testing.T) {
	cases := []struct {
		name string
		act  func(*Act)
		with func(*Consent)
		env  func(*Env)
		code string // "" means permitted
	}{
		{name: "everything fits"},
		{name: "nothing is compared", act: func(a *Act) { *a = Act{} }},
		{name: "another client", act: func(a *Act) { a.ClientID = "cli_2" }, code: "consent_not_yours"},
		{name: "another investor", act: func(a *Act) { a.InvestorRef = "inv-2" }, code: "consent_not_yours"},
		{name: "another connection", act: func(a *Act) { a.ConnectionID = "conn_2" }, code: "consent_not_yours"},
		{name: "an advisor not named", act: func(a *Act) { a.AdvisorID = "adv_3" }, code: "consent_not_yours"},
		{name: "an advisor where none is named", with: func(c *Consent) { c.Advisors = nil }, code: "consent_not_yours"},
		{name: "another custodian", act: func(a *Act) { a.Custodian = "other" }, code: "consent_custodian"},
		{name: "a custodian before one is chosen", with: func(c *Consent) { c.Custodian = "" }, code: "consent_custodian"},
		{name: "another product", act: func(a *Act) { a.Product = ProductOrders }, code: "consent_scope"},
		{name: "another purpose", act: func(a *Act) { a.Purpose = "reporting" }, code: "consent_purpose"},
		{name: "another region", env: func(e *Env) { e.Region = "us-east1" }, code: "consent_region"},
		{name: "no region stated here", env: func(e *Env) { e.Region = "" }, code: "consent_region"},
		{name: "no region asked for", with: func(c *Consent) { c.Regions = nil }, env: func(e *Env) { e.Region = "us-east1" }},
		{name: "the last moment", with: func(c *Consent) { c.ExpiresAt = noon.Add(time.Millisecond) }},
		{name: "the moment it ends", with: func(c *Consent) { c.ExpiresAt = noon }, code: "consent_expired"},
		{name: "past its time, taking away", with: func(c *Consent) { c.ExpiresAt = noon.Add(-time.Hour) }, act: func(a *Act) { a.Late = true }},
		{name: "another client, taking away", act: func(a *Act) { a.Late, a.ClientID = true, "cli_2" }, code: "consent_not_yours"},
		{name: "no time set", with: func(c *Consent) { c.ExpiresAt = Time{} }, code: "consent_expired"},
		{name: "a stranger learns nothing of the state", act: func(a *Act) { a.ClientID = "cli_2" }, with: func(c *Consent) { c.State = ConsentRevoked }, code: "consent_not_yours"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			consent, act, env := full(), fits(), still
			if c.act != nil {
				c.act(act)
			}
			if c.with != nil {
				c.with(consent)
			}
			if c.env != nil {
				c.env(&env)
			}
			wantRefusal(t, consent.Permits(env, act), c.code)
		})
	}
}

func wantRefusal(t *testing.T, err error, code string) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if KindOf(err) != Forbidden || CodeOf(err) != code {
		t.Errorf("got %v, want forbidden %s", err, code)
	}
}

// Every state of the consent against every set of one state that an act may ask for, and against none.
func TestPermitsByState(t *testing.T) {
	for _, state := range AnyConsentState {
		for _, asked := range append(AnyConsentState, "") {
			for _, late := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, asked %q, late %v", state, asked, late), func(t *testing.T) {
					c, a := full(), fits()
					c.State, a.Late = state, late
					want := state == ConsentValid
					if asked != "" {
						a.States, want = []ConsentState{asked}, state == asked
					}
					code := "consent_" + string(state)
					if want {
						code = ""
					}
					wantRefusal(t, c.Permits(still, a), code)
				})
			}
		}
		t.Run("any state, "+string(state), func(t *testing.T) {
			c, a := full(), fits()
			c.State, a.States = state, AnyConsentState
			wantRefusal(t, c.Permits(still, a), "")
		})
	}
}

func TestPermitsChangesNothing(t *testing.T) {
	c, a := full(), fits()
	before := fmt.Sprintf("%+v %+v", *c, *a)
	for range 2 {
		if err := c.Permits(still, a); err != nil {
			t.Fatal(err)
		}
	}
	if after := fmt.Sprintf("%+v %+v", *c, *a); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
}

func TestGrantOfAConsent(t *testing.T) {
	cases := []struct {
		name      string
		with      func(*Consent)
		custodian CustodianID
		kind      Kind
		code      string
	}{
		{name: "one of those offered", custodian: "other"},
		{name: "any, where all are offered", with: func(c *Consent) { c.Custodians = nil }, custodian: "third"},
		{name: "one not offered", custodian: "third", kind: Invalid, code: "invalid_field"},
		{name: "none", custodian: "", kind: Invalid, code: "invalid_field"},
		{name: "none, where all are offered", with: func(c *Consent) { c.Custodians = nil }, kind: Invalid, code: "invalid_field"},
		{name: "too late", with: func(c *Consent) { c.ExpiresAt = noon }, custodian: "other", kind: Gone, code: "consent_expired"},
		{name: "after the grant", with: func(c *Consent) { c.State = ConsentValid }, custodian: "other", kind: Conflict, code: "consent_state"},
		{name: "after a no", with: func(c *Consent) { c.State = ConsentRejected }, custodian: "other", kind: Conflict, code: "consent_state"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			consent := full()
			consent.State, consent.Custodian = ConsentReceived, ""
			if c.with != nil {
				c.with(consent)
			}
			before := consent.State
			err := consent.Grant(c.custodian, noon)
			if c.code == "" {
				if err != nil || consent.State != ConsentValid || consent.Custodian != c.custodian || consent.DecidedAt != noon {
					t.Errorf("%v, %+v", err, consent)
				}
				return
			}
			if KindOf(err) != c.kind || CodeOf(err) != c.code || consent.State != before || consent.Custodian != "" {
				t.Errorf("got %v and %+v, want %s %s and no change", err, consent, c.kind, c.code)
			}
		})
	}
}

func TestValidateConsent(t *testing.T) {
	advisors, custodians := make([]AdvisorID, 21), make([]CustodianID, 101)
	cases := []struct {
		name  string
		with  func(*Consent)
		field string // "" means accepted
	}{
		{"as it should be", func(*Consent) {}, ""},
		{"longest reference", func(c *Consent) { c.InvestorRef = strings.Repeat("Az9._:-", 10)[:64] }, ""},
		{"reference too long", func(c *Consent) { c.InvestorRef = strings.Repeat("a", 65) }, "/investor_ref"},
		{"empty reference", func(c *Consent) { c.InvestorRef = "" }, "/investor_ref"},
		{"reference with a space", func(c *Consent) { c.InvestorRef = "a b" }, "/investor_ref"},
		{"e-mail address", func(c *Consent) { c.InvestorRef = "a@b.example" }, "/investor_ref"},
		{"letter beyond ASCII", func(c *Consent) { c.InvestorRef = "é" }, "/investor_ref"},
		{"unknown purpose", func(c *Consent) { c.Purpose.Code = "" }, "/purpose/code"},
		{"longest text", func(c *Consent) { c.Purpose.Text = strings.Repeat("é", 280) }, ""},
		{"text too long", func(c *Consent) { c.Purpose.Text = strings.Repeat("é", 281) }, "/purpose/text"},
		{"no product", func(c *Consent) { c.Products = nil }, "/products"},
		{"every product", func(c *Consent) { c.Products = Products }, ""},
		{"unknown product", func(c *Consent) { c.Products = []Product{"cards"} }, "/products"},
		{"product twice", func(c *Consent) { c.Products = []Product{ProductCash, ProductCash} }, "/products"},
		{"one reading", func(c *Consent) { c.Access = AccessOnce }, ""},
		{"unknown access", func(c *Consent) { c.Access = "" }, "/access"},
		{"already over", func(c *Consent) { c.ExpiresAt = noon }, "/expires_at"},
		{"longest life", func(c *Consent) { c.ExpiresAt = noon.Add(MaxConsent) }, ""},
		{"too long a life", func(c *Consent) { c.ExpiresAt = noon.Add(MaxConsent + time.Millisecond) }, "/expires_at"},
		{"unknown language", func(c *Consent) { c.Language = "it" }, "/language"},
		{"many advisors", func(c *Consent) { c.Advisors = advisors[:20] }, ""},
		{"too many advisors", func(c *Consent) { c.Advisors = advisors }, "/advisors"},
		{"many custodians", func(c *Consent) { c.Custodians = custodians[:100] }, ""},
		{"too many custodians", func(c *Consent) { c.Custodians = custodians }, "/custodians"},
	}
	for _, code := range PurposeCodes {
		cases = append(cases, struct {
			name  string
			with  func(*Consent)
			field string
		}{"purpose " + code, func(c *Consent) { c.Purpose.Code = code }, ""})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			consent := full()
			c.with(consent)
			wantField(t, consent.Validate(noon), c.field)
		})
	}
}

func wantField(t *testing.T, err error, field string) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	e, ok := err.(*Error)
	if !ok || e.Kind != Invalid || e.Code != "invalid_field" || e.Field != field || e.Message == "" {
		t.Errorf("got %v, want an invalid %s", err, field)
	}
}

func TestValidateReturn(t *testing.T) {
	origins := []string{"https://app.example", "http://localhost:8090"}
	for url, ok := range map[string]bool{
		"": true, "https://app.example": true, "https://app.example/done?x=1#y": true, "http://localhost:8090/": true,
		"https://evil.example/": false, "https://app.example.evil.example/": false, "https://app.example:444/": false,
		"http://app.example/": false, "https://app.example@evil.example/": false, "https://me@app.example/": false,
		"//app.example/": false, "javascript:alert(1)": false, "https:app.example": false, "/done": false, "https://app.example/\x7f": false,
		"https://app.example/" + strings.Repeat("a", 2000): false,
	} {
		field := ""
		if !ok {
			field = "/return_url"
		}
		t.Run(fmt.Sprintf("%.60q", url), func(t *testing.T) {
			wantField(t, (&Consent{ReturnURL: url}).ValidateReturn(origins), field)
		})
	}
}

func TestSaving(t *testing.T) {
	history := Saving{Scope: SaveHistory, Days: 30}
	c := &Client{Saving: map[Product]Saving{ProductCash: history}}
	k := &Consent{Saving: c.Saving}
	if c.SavingFor(ProductCash) != history || k.SavingFor(ProductCash) != history ||
		c.SavingFor(ProductOrders).Scope != SaveLatest || k.SavingFor(ProductOrders).Scope != SaveLatest || (&Consent{}).SavingFor(ProductCash).Scope != SaveLatest {
		t.Error("a declaration is not followed, or its absence is not the latest version")
	}
	for _, s := range []struct {
		Saving
		field string
	}{
		{Saving{SaveNone, 0}, ""}, {Saving{SaveLatest, 0}, ""}, {Saving{SaveHistory, 1}, ""}, {Saving{SaveHistory, 3650}, ""},
		{Saving{"", 0}, "/x/scope"}, {Saving{"all", 0}, "/x/scope"}, {Saving{SaveHistory, 0}, "/x/days"}, {Saving{SaveHistory, -1}, "/x/days"},
		{Saving{SaveHistory, 3651}, "/x/days"}, {Saving{SaveNone, 1}, "/x/days"}, {Saving{SaveLatest, 1}, "/x/days"},
	} {
		t.Run(fmt.Sprintf("%s %d", s.Scope, s.Days), func(t *testing.T) { wantField(t, s.Validate("/x"), s.field) })
	}
}

func TestWhoSeesAConsent(t *testing.T) {
	c := full()
	for _, p := range []struct {
		name string
		Principal
		want bool
	}{
		{"its client", Principal{Role: RoleClient, ClientID: "cli_1"}, true},
		{"its client's reviewer", Principal{Role: RoleReviewer, ClientID: "cli_1"}, true},
		{"an advisor it names", Principal{Role: RoleAdvisor, ClientID: "cli_1", AdvisorID: "adv_1"}, true},
		{"an advisor it does not name", Principal{Role: RoleAdvisor, ClientID: "cli_1", AdvisorID: "adv_3"}, false},
		{"an advisor without a name", Principal{Role: RoleAdvisor, ClientID: "cli_1"}, false},
		{"another client", Principal{Role: RoleClient, ClientID: "cli_2"}, false},
		{"a named advisor of another client", Principal{Role: RoleAdvisor, ClientID: "cli_2", AdvisorID: "adv_1"}, false},
		{"nobody", Principal{}, false},
	} {
		t.Run(p.name, func(t *testing.T) {
			if got := p.Sees(c); got != p.want {
				t.Errorf("sees %v", got)
			}
		})
	}
	actors := map[Role]Actor{RoleClient: {ActorClient, "cli_1", "key_1"}, RoleAdvisor: {ActorAdvisor, "adv_1", "key_1"}, RoleReviewer: {ActorReviewer, "key_1", "key_1"}}
	for role, want := range actors {
		if got := (Principal{Role: role, ClientID: "cli_1", AdvisorID: "adv_1", KeyID: "key_1"}).Actor(); got != want {
			t.Errorf("%s acts as %+v", role, got)
		}
	}
	if slices.Contains(AnyConsentState, "") {
		t.Error("a consent may stand nowhere")
	}
}
