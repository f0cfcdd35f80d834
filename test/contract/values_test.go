package contract

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/webhook"
)

var env = domain.Env{Clock: func() time.Time { return time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC) }}

// Values with every member set.
var (
	yes    = true
	amount = domain.Amount{Value: "-12.50", Currency: "EUR"}
	price  = domain.Price{Value: "91.25", Currency: "EUR", Percent: true, AsOf: "2026-01-30"}
	origin = domain.Provenance{Source: "sandbox-comdirect", SourceID: "4711", AsOf: "2026-01-30T17:00:00Z", RetrievedAt: env.Now(),
		ConsentID: domain.NewID[domain.ConsentID](env)}
	security = domain.Security{Identifiers: []domain.Identifier{{Scheme: "ISIN", Value: "DE0001102580"}}, Name: "Bund",
		MIC: "XETR", CFI: "DBFTFB", Kind: domain.SecurityBond,
		Option: &domain.OptionTerms{Underlying: "DAX", Type: "call", Strike: amount, Expiry: "2026-12-18", Multiplier: "5"},
		Bond:   &domain.BondTerms{Coupon: "1.5", Maturity: "2032-02-15"}}
	decimal = domain.Decimal("10")
	actor   = domain.Actor{Kind: domain.ActorClient, ID: string(domain.NewID[domain.ClientID](env)), Key: domain.NewID[domain.KeyID](env)}
)

func allRecords() []domain.Record {
	return []domain.Record{
		&domain.Account{Provenance: origin, ID: "acc_1", Type: domain.AccountSecurities, Name: "Depot", Number: "1", IBAN: "DE00",
			Currency: "EUR", Value: &amount, Managed: &yes, Owners: []domain.Party{{Name: "A", Role: "owner"}}},
		&domain.CashBalance{Provenance: origin, AccountID: "acc_1", Booked: amount, Available: &amount, Margin: &amount, CashInPositions: true},
		&domain.Position{Provenance: origin, AccountID: "acc_1", Security: security, Quantity: "10", Unit: domain.UnitFace, Side: "long",
			Price: &price, Value: &amount, Accrued: &amount, Cost: &amount, CostPrice: &price, FX: &domain.FX{Original: amount, Rate: "1.08"},
			Lots: []domain.TaxLot{{Acquired: "2025-01-02", Quantity: "10", Cost: &amount}}},
		&domain.Transaction{Provenance: origin, AccountID: "acc_1", Type: domain.TransactionBuy, Subtype: "Kauf", TradeDate: "2026-01-02",
			SettleDate: "2026-01-04", Pending: true, Security: &security, Quantity: "1", Price: &price, Gross: &amount, Fees: &amount,
			Tax: &amount, Net: &amount, Text: "x", Cancels: "4710"},
		&domain.Order{Provenance: origin, AccountID: "acc_1", Security: &security, Side: "buy", Type: "limit", State: "open",
			Quantity: "1", Filled: "0", Limit: &price, Placed: "2026-01-02", GoodTill: "2026-02-02"},
		&domain.Liability{Provenance: origin, AccountID: "acc_1", Type: "lombard", Outstanding: amount, Limit: &amount, Rate: "3.1", Maturity: "2030-01-01"},
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// full checks that a value leaves no member out, so that the schema is really tried.
func full(t *testing.T, src *source, name string, text []byte) {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	if have, want := slices.Sorted(maps.Keys(m)), src.members(t, name); !slices.Equal(have, want) {
		t.Errorf("the test's %s has %q, want %q", name, have, want)
	}
}

func TestRecords(t *testing.T) {
	src, c := domainSource(t), checker(t)
	names := []string{"Account", "CashBalance", "Position", "Transaction", "Order", "Liability"}
	for i, r := range allRecords() {
		text := marshal(t, r)
		full(t, src, names[i], text)
		if err := c.Record(r.Product(), text); err != nil {
			t.Errorf("%s: %v", names[i], err)
		}
		for name, spoil := range map[string]func(map[string]any){
			"an unknown member": func(m map[string]any) { m["surprise"] = 1 },
			"no source":         func(m map[string]any) { delete(m, "source_id") },
			"no time":           func(m map[string]any) { m["retrieved_at"] = "" },
		} {
			var m map[string]any
			if err := json.Unmarshal(text, &m); err != nil {
				t.Fatal(err)
			}
			spoil(m)
			if c.Record(r.Product(), marshal(t, m)) == nil {
				t.Errorf("a %s with %s is taken", names[i], name)
			}
		}
	}
	for _, number := range []string{`10`, `"1e3"`, `"+1"`, `"01"`, `"1."`, `""`} {
		text := strings.Replace(string(marshal(t, allRecords()[2])), `"quantity":"10"`, `"quantity":`+number, 1)
		if c.Record(domain.ProductPositions, []byte(text)) == nil {
			t.Errorf("the quantity %s is taken", number)
		}
	}
	if c.Record("secrets", []byte(`{}`)) == nil {
		t.Error("a product unheard of is taken")
	}
}

func TestSmallestRecords(t *testing.T) {
	c := checker(t)
	few := domain.Provenance{Source: "comdirect", RetrievedAt: env.Now(), ConsentID: origin.ConsentID}
	plain := domain.Security{Identifiers: []domain.Identifier{}, Kind: domain.SecurityOther}
	for _, r := range []domain.Record{
		&domain.Account{Provenance: few, ID: "acc_1", Type: domain.AccountCash, Currency: "EUR"},
		&domain.CashBalance{Provenance: few, AccountID: "acc_1", Booked: amount},
		&domain.Position{Provenance: few, AccountID: "acc_1", Security: plain, Quantity: "1", Unit: domain.UnitUnits, Side: "short"},
		&domain.Transaction{Provenance: few, AccountID: "acc_1", Type: domain.TransactionOther},
		&domain.Order{Provenance: few, AccountID: "acc_1", Side: "sell", Type: "market", State: "done", Quantity: "1"},
		&domain.Liability{Provenance: few, AccountID: "acc_1", Type: "loan", Outstanding: amount},
	} {
		if err := c.Record(r.Product(), marshal(t, r)); err != nil {
			t.Errorf("%s: %v", r.Product(), err)
		}
	}
}

func TestReconciliationAndCertificate(t *testing.T) {
	src, c := domainSource(t), checker(t)
	sum := marshal(t, domain.Reconciliation{AccountID: "acc_1", Currency: "EUR", Stated: &decimal, Computed: "9.5", Difference: &decimal, Unvalued: 1})
	full(t, src, "Reconciliation", sum)
	cert := marshal(t, domain.Erasure{ID: domain.NewID[domain.ErasureID](env), ClientID: domain.NewID[domain.ClientID](env),
		ConsentID: origin.ConsentID, ConnectionID: domain.NewID[domain.ConnectionID](env), Scope: domain.EraseAll,
		Cause: "consent_expired", Actor: actor, Erased: map[string]int{"part": 3, "data_key": 1}, ErasedAt: env.Now(),
		ReadableUntil: env.Now(), BackupsUntil: env.Now(), KeyID: "k", Signature: make([]byte, 64)})
	full(t, src, "Erasure", cert)
	if err := c.against("portfolio.schema.json#/$defs/reconciliation", sum); err != nil {
		t.Error(err)
	}
	if err := c.Answer("DELETE", "/v1/connections/{connection}", 200, cert); err != nil {
		t.Error(err)
	}
	unsigned := strings.Replace(string(cert), `"signature":"`+strings.Repeat("A", 86), `"signature":"`, 1)
	if c.Answer("DELETE", "/v1/connections/{connection}", 200, []byte(unsigned)) == nil {
		t.Error("a certificate without a signature is taken")
	}
}

func TestWebhooks(t *testing.T) {
	c := checker(t)
	for _, kind := range domain.NoticeTypes {
		n := &domain.Notice{ID: domain.NewID[domain.NoticeID](env), ClientID: domain.NewID[domain.ClientID](env), Type: kind, CreatedAt: env.Now()}
		if strings.HasPrefix(string(kind), "endpoint.") {
			n.State, n.Subject = string(domain.EndpointEnabled), string(domain.NewID[domain.EndpointID](env))
		} else {
			n.ConsentID, n.ConnectionID, n.Custodian = origin.ConsentID, domain.NewID[domain.ConnectionID](env), "comdirect"
			n.InvestorRef, n.Sequence, n.State = "inv-1", 7, string(domain.ConnectionPaused)
			n.Reason, n.Subject = domain.ReasonSCARequired, string(domain.NewID[domain.SessionID](env))
		}
		body, err := webhook.Render(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Webhook(body); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for _, spoilt := range []string{
			strings.Replace(string(body), `"client_id"`, `"password":"x","client_id"`, 1),
			strings.Replace(string(body), `"type":"`, `"type":"x`, 1),
			strings.Replace(string(body), `"state":"`, `"state":"x`, 1),
			strings.Replace(string(body), `"sequence":7,`, ``, 1),
		} {
			if spoilt != string(body) && c.Webhook([]byte(spoilt)) == nil {
				t.Errorf("this is taken: %s", spoilt)
			}
		}
	}
}

func TestEvents(t *testing.T) {
	src, c := domainSource(t), checker(t)
	id, lane := domain.NewID[domain.EventID](env), string(domain.NewID[domain.ClientID](env))
	whole := marshal(t, domain.Event{ID: id, Topic: domain.TopicSession, Subject: string(domain.NewID[domain.SessionID](env)),
		Custodian: "comdirect", Lane: lane, NotBefore: env.Now(), Attempt: 1})
	full(t, src, "Event", whole)
	good := map[domain.Topic]string{
		domain.TopicNotice:   string(domain.NewID[domain.NoticeID](env)),
		domain.TopicDelivery: string(domain.NewID[domain.DeliveryID](env)),
		domain.TopicErasure:  string(domain.NewID[domain.ConnectionID](env)),
	}
	if err := c.Event(whole); err != nil {
		t.Error(err)
	}
	for topic, subject := range good {
		if err := c.Event(marshal(t, domain.Event{ID: id, Topic: topic, Subject: subject, Lane: lane})); err != nil {
			t.Errorf("%s: %v", topic, err)
		}
		for other, wrong := range good {
			if other != topic && c.Event(marshal(t, domain.Event{ID: id, Topic: topic, Subject: wrong, Lane: lane})) == nil {
				t.Errorf("%s about %s is taken", topic, wrong)
			}
		}
	}
	session := string(domain.NewID[domain.SessionID](env))
	for name, e := range map[string]domain.Event{
		"no custodian":      {ID: id, Topic: domain.TopicSession, Subject: session, Lane: lane},
		"no topic":          {ID: id, Subject: session, Lane: lane},
		"a name":            {ID: id, Topic: domain.TopicSession, Subject: "Jane Doe", Custodian: "comdirect", Lane: lane},
		"no id":             {Topic: domain.TopicErasure, Subject: good[domain.TopicErasure], Lane: lane},
		"no lane":           {ID: id, Topic: domain.TopicErasure, Subject: good[domain.TopicErasure]},
		"a lane of its own": {ID: id, Topic: domain.TopicErasure, Subject: good[domain.TopicErasure], Lane: "flood"},
	} {
		if c.Event(marshal(t, e)) == nil {
			t.Errorf("an event with %s is taken", name)
		}
	}
}

func TestEntries(t *testing.T) {
	src, c := domainSource(t), checker(t)
	entry := domain.Note(env, "portfolio", "portfolio.read", actor, domain.NewID[domain.ClientID](env), "pf_1", map[string]string{"count": "3"})
	entry.Data.ConsentID, entry.Data.ConnectionID, entry.Data.Custodian = origin.ConsentID, domain.NewID[domain.ConnectionID](env), "comdirect"
	entry.Data.Purpose, entry.Data.Outcome, entry.Data.Reason, entry.Data.Origin = "tax", domain.OutcomeDenied, "consent_scope", strings.Repeat("x", 22)
	text := marshal(t, entry)
	full(t, src, "Entry", text)
	full(t, src, "EntryData", marshal(t, entry.Data))
	full(t, src, "Actor", marshal(t, entry.Data.Actor))
	if err := c.Entry(text); err != nil {
		t.Error(err)
	}
	few := domain.Note(env, "sweep", "retention.applied", domain.Actor{Kind: domain.ActorSystem, ID: "sweep"}, "", "link", nil)
	if err := c.Entry(marshal(t, few)); err != nil {
		t.Error(err)
	}
	for name, spoilt := range map[string]string{
		"an unknown member":  strings.Replace(string(text), `"outcome"`, `"address":"192.0.2.1","outcome"`, 1),
		"a network address":  strings.Replace(string(text), strings.Repeat("x", 22), "192.0.2.1", 1),
		"no actor":           strings.Replace(string(text), `"kind":"client",`, ``, 1),
		"another function":   strings.Replace(string(text), "/functions/", "/", 1),
		"another CloudEvent": strings.Replace(string(text), `"1.0"`, `"0.3"`, 1),
	} {
		if spoilt == string(text) || c.Entry([]byte(spoilt)) == nil {
			t.Errorf("an entry with %s is taken", name)
		}
	}
}

func TestAnswers(t *testing.T) {
	c := checker(t)
	consents, consent := "/v1/consents", "/v1/consents/{consent}"
	problem := `{"type":"about:blank","title":"Not Found","status":404,"code":"not_found","detail":"x"}`
	for _, a := range []struct {
		name, method, path string
		status             int
		body               string
		good               bool
	}{
		{"an empty page", "GET", consents, 200, `{"data":[]}`, true},
		{"a page with more", "GET", consents, 200, `{"data":[],"next":"x"}`, true},
		{"no data", "GET", consents, 200, `{}`, false},
		{"null data", "GET", consents, 200, `{"data":null}`, false},
		{"an unknown member", "GET", consents, 200, `{"data":[],"total":1}`, false},
		{"a half consent", "GET", consents, 200, `{"data":[{"id":"con_1"}]}`, false},
		{"another method", "PUT", consents, 200, `{}`, false},
		{"another path", "GET", "/v1/secrets", 200, `{}`, false},
		{"a status not described", "GET", consents, 206, `{"data":[]}`, false},
		{"nothing where nothing is due", "DELETE", consent, 204, ``, true},
		{"something where nothing is due", "DELETE", consent, 204, `{}`, false},
		{"nothing where something is due", "GET", consent, 200, ``, false},
		{"a problem described", "GET", consent, 404, problem, true},
		{"any other problem", "GET", consents, 404, problem, true},
		{"a problem of another status", "GET", consents, 409, problem, false},
		{"a problem without a code", "GET", consents, 404, `{"type":"about:blank","title":"x","status":404}`, false},
		{"a problem with internals", "GET", consents, 404, strings.Replace(problem, `"code"`, `"stack":"x","code"`, 1), false},
		{"not JSON", "GET", consents, 200, `<html>`, false},
		{"a stream", "GET", "/challenge/events", 200, "event: state\n", true},
		{"a picture", "GET", "/challenge/{challenge}/image", 200, "\x89PNG", true},
	} {
		if err := c.Answer(a.method, a.path, a.status, []byte(a.body)); (err == nil) != a.good {
			t.Errorf("%s: %v", a.name, err)
		}
	}
}
