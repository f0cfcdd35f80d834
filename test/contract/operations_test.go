package contract

import (
	"slices"
	"testing"
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
