package contract

import (
	"slices"
	"testing"

	"sluis.internal/shared/serve"
)

func TestOperationsAreWhole(t *testing.T) {
	c := checker(t)
	all, err := c.Operations()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(routes(t)) {
		t.Errorf("%d operations, want %d", len(all), len(routes(t)))
	}
	i := slices.IndexFunc(all, func(o Operation) bool { return o.ID == "createConsent" })
	if i < 0 || all[i].Investor || !all[i].BodyRequired || len(all[i].Parameters) != 1 || all[i].Parameters[0].Name != "Idempotency-Key" {
		t.Fatalf("createConsent is %+v", all)
	}
	properties := all[i].Body["properties"].(map[string]any)
	code := properties["purpose"].(map[string]any)["properties"].(map[string]any)["code"].(map[string]any)
	if code["type"] != "string" || len(code["enum"].([]any)) == 0 || properties["access"].(map[string]any)["default"] != "recurring" {
		t.Errorf("references are not followed: %v", code)
	}
	if i = slices.IndexFunc(all, func(o Operation) bool { return o.ID == "seal" }); !all[i].Investor {
		t.Error("seal is not the investor's")
	}
}

func TestRequest(t *testing.T) {
	c := checker(t)
	for body, good := range map[string]bool{`{"name":"Jane Doe"}`: true, `{}`: false, `{"name":1}`: false, `{"name":"a","x":1}`: false} {
		if err := c.Request("POST", "/v1/advisors", []byte(body)); (err == nil) != good {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestRoutesTakeWhatIsDescribed: the query parameters that each route declares, and refuses all others, are those of
// openapi.yaml, and so are the words that they may be.
func TestRoutesTakeWhatIsDescribed(t *testing.T) {
	h := build(t)
	all, err := h.c.Operations()
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string][]serve.Parameter{}
	for _, r := range h.consent.Door.Routes() {
		declared[r.Pattern] = r.Query
	}
	words := 0
	for _, op := range all {
		name := op.Method + " " + op.Template
		takes, ok := declared[name]
		if !ok {
			t.Errorf("%s is not registered", name)
		}
		var have, want []string
		for _, p := range takes {
			have = append(have, p.Name)
		}
		for _, p := range op.Parameters {
			if p.In != "query" {
				continue
			}
			want = append(want, p.Name)
			i := slices.IndexFunc(takes, func(d serve.Parameter) bool { return d.Name == p.Name })
			list, _ := p.Schema["enum"].([]any)
			if i < 0 || len(list) != len(takes[i].Words) {
				t.Errorf("%s: the words of %s are described as %v", name, p.Name, list)
				continue
			}
			for _, word := range list {
				if words++; !slices.Contains(takes[i].Words, word.(string)) {
					t.Errorf("%s: %s may not be %v", name, p.Name, word)
				}
			}
		}
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("%s takes %v, and is described with %v", name, have, want)
		}
	}
	if len(declared) < len(all) || words < 15 {
		t.Errorf("only %d routes and %d words were compared", len(declared), words)
	}
}

func TestTimes(t *testing.T) {
	for text, good := range map[string]bool{`{"a":"2026-01-31T12:00:00.000Z"}`: true, `{"a":"2026-01-31"}`: true, `{"as_of":"2026-01-31T12:00:00+01:00"}`: true,
		`{"a":"2026-01-31T12:00:00Z"}`: false, `[{"b":["2026-01-31T12:00:00.000+00:00"]}]`: false, `{"a":"2026-01-31 12:00:00"}`: false} {
		if err := times([]byte(text)); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}
