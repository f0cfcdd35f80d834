package domain

import (
	"encoding/json"
	"testing"
)

// Every document says its kind, no two the same, and a key that its JSON form holds too, so that whoever finds it in a
// list can name it.
func TestDocumentsNameThemselves(t *testing.T) {
	seen := map[DocumentKind]bool{}
	for _, c := range []struct {
		doc   Document
		kind  DocumentKind
		field string // of the key
	}{
		{&Client{ID: "k"}, "client", "id"}, {&Advisor{ID: "k"}, "advisor", "id"}, {&APIKey{ID: "k"}, "api_key", "id"},
		{&Consent{ID: "k"}, "consent", "id"}, {&Connection{ID: "k"}, "connection", "id"},
		{&Credential{ConnectionID: "k"}, "credential", "connection_id"}, {&DataKey{ConnectionID: "k"}, "data_key", "connection_id"},
		{&Portfolio{ID: "k"}, "portfolio", "id"}, {&Part{ID: "k"}, "part", "id"}, {&Link{Hash: "k"}, "link", "hash"},
		{&Visit{Hash: "k"}, "visit", "hash"}, {&Session{ID: "k"}, "session", "id"}, {&Challenge{ID: "k"}, "challenge", "id"},
		{&Notice{ID: "k"}, "notice", "id"}, {&Endpoint{ID: "k"}, "endpoint", "id"}, {&Delivery{ID: "k"}, "delivery", "id"},
		{&Once{ID: "k"}, "once", "id"}, {&Entry{ID: "k"}, "audit_entry", "id"}, {&Erasure{ID: "k"}, "erasure", "id"},
		{&LooseShard{ID: "k"}, "loose_shard", "id"},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			if c.doc.Kind() != c.kind || c.doc.Key() != "k" || seen[c.kind] {
				t.Errorf("kind %s, key %s, seen before %v", c.doc.Kind(), c.doc.Key(), seen[c.kind])
			}
			seen[c.kind] = true
			raw, err := json.Marshal(c.doc)
			if err != nil {
				t.Fatal(err)
			}
			var fields map[string]any
			if err := json.Unmarshal(raw, &fields); err != nil || fields[c.field] != "k" {
				t.Errorf("%s holds no key in %s: %v", raw, c.field, err)
			}
		})
	}
}

func TestRecordsSayTheirProduct(t *testing.T) {
	records := []Record{&Account{}, &CashBalance{}, &Position{}, &Transaction{}, &Order{}, &Liability{}}
	for i, r := range records {
		if r.Product() != Products[i] {
			t.Errorf("%T is of %s", r, r.Product())
		}
		r.Origin().SourceID = "x"
		if r.Origin().SourceID != "x" {
			t.Errorf("%T: its provenance cannot be filled in", r)
		}
	}
}

func TestBindingsNameAllFour(t *testing.T) {
	c := &Connection{ID: "conn_1", ClientID: "cli_1", ConsentID: "con_1", Custodian: "comdirect"}
	if got := c.Binding(); got != (Binding{"cli_1", "con_1", "conn_1", "comdirect"}) {
		t.Errorf("%+v", got)
	}
	v := &Visit{InvestorRef: "inv-1"}
	if v.Actor() != (Actor{Kind: ActorInvestor, ID: "inv-1"}) {
		t.Errorf("%+v", v.Actor())
	}
}
