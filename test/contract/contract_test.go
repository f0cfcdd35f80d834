package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
)

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	raw, err := schemas.FS.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func checker(t *testing.T) *Checker {
	t.Helper()
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpenAPIIsValid(t *testing.T) {
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = true
	loader.ReadFromURIFunc = func(_ *openapi3.Loader, at *url.URL) ([]byte, error) {
		return schemas.FS.ReadFile(path.Base(at.Path))
	}
	doc, err := loader.LoadFromURI(&url.URL{Path: "openapi.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	if !doc.IsOpenAPI31OrLater() {
		t.Errorf("it is OpenAPI %s, want 3.1", doc.OpenAPI)
	}
	if err := doc.Validate(t.Context(), openapi3.DisableExamplesValidation()); err != nil {
		t.Error(err)
	}
}

func TestEveryRouteIsDescribedAndTheReverse(t *testing.T) {
	c := checker(t)
	var described []string
	ids := map[string]string{}
	for template, item := range c.api["paths"].(map[string]any) {
		for method, operation := range item.(map[string]any) {
			if method == "servers" {
				continue
			}
			name := strings.ToUpper(method) + " " + template
			described = append(described, name)
			checkOperation(t, c, name, template, operation.(map[string]any))
			id := operation.(map[string]any)["operationId"].(string)
			if ids[id] != "" {
				t.Errorf("%s and %s have the same operationId", name, ids[id])
			}
			ids[id] = name
		}
	}
	slices.Sort(described)
	for _, r := range routes(t) {
		if !slices.Contains(described, r) {
			t.Errorf("pipeline.json has %s, openapi.yaml has not", r)
		}
	}
	for _, d := range described {
		if !slices.Contains(routes(t), d) {
			t.Errorf("openapi.yaml has %s, pipeline.json has not", d)
		}
	}
}

// checkOperation checks what every operation has: parameters for its path, an Idempotency-Key where it makes
// something, and problems.
func checkOperation(t *testing.T, c *Checker, name, template string, operation map[string]any) {
	t.Helper()
	parameters := map[string]bool{}
	list, _ := operation["parameters"].([]any)
	for _, p := range list {
		ref := p.(map[string]any)["$ref"].(string)
		described, ok := c.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")).(map[string]any)
		if !ok {
			t.Errorf("%s: %s is not there", name, ref)
			continue
		}
		parameters[described["in"].(string)+" "+described["name"].(string)] = true
	}
	for _, segment := range strings.Split(template, "/") {
		if strings.HasPrefix(segment, "{") && !parameters["path "+strings.Trim(segment, "{}")] {
			t.Errorf("%s: the parameter %s is not described", name, segment)
		}
	}
	if strings.HasPrefix(name, "POST /v1/") && !parameters["header Idempotency-Key"] {
		t.Errorf("%s takes an Idempotency-Key, which is not described", name)
	}
	responses := operation["responses"].(map[string]any)
	if responses["default"] == nil {
		t.Errorf("%s describes no problems", name)
	}
	for status, r := range responses {
		headers, _ := r.(map[string]any)["headers"].(map[string]any)
		if strings.HasPrefix(status, "2") && strings.HasPrefix(name[strings.Index(name, " ")+1:], "/v1/") && headers["RateLimit"] == nil {
			t.Errorf("%s %s: the RateLimit header is not described", name, status)
		}
	}
}

// walk visits every object of a JSON value with its path.
func walk(v any, at []string, visit func(at []string, m map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(at, v)
		for key, x := range v {
			walk(x, append(slices.Clone(at), key), visit)
		}
	case []any:
		for i, x := range v {
			walk(x, append(slices.Clone(at), fmt.Sprint(i)), visit)
		}
	}
}

// documents gives every schema file and openapi.yaml.
func documents(t *testing.T, c *Checker) map[string]any {
	t.Helper()
	out := map[string]any{"openapi.yaml": c.api}
	for _, name := range []string{"common", "portfolio", "webhook", "event", "audit-entry"} {
		var v any
		readJSON(t, name+".schema.json", &v)
		out[name+".schema.json"] = v
	}
	return out
}

func TestEverySchemaCompiles(t *testing.T) {
	c, n := checker(t), 0
	for name, doc := range documents(t, c) {
		walk(doc, nil, func(at []string, m map[string]any) {
			if slices.Contains(at, "example") {
				return
			}
			ref, _ := m["$ref"].(string)
			inSchema := name != "openapi.yaml" || slices.Contains(at, "schema") || slices.Contains(at, "schemas")
			if !inSchema {
				if ref != "" && c.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")) == nil {
					t.Errorf("%s %v: %s is not there", name, at, ref)
				}
				return
			}
			if _, typed := m["type"].(string); !typed && ref == "" {
				return
			}
			n++
			place := name
			if len(at) > 0 {
				place += "#/" + pointer(at)
			}
			if _, err := c.schema(place); err != nil {
				t.Errorf("%s: %v", place, err)
			}
		})
	}
	if n < 500 {
		t.Errorf("only %d schemas were found", n)
	}
}

func TestExamplesAreRight(t *testing.T) {
	c, n := checker(t), 0
	walk(c.api, nil, func(at []string, m map[string]any) {
		example, ok := m["example"]
		if !ok || m["schema"] == nil || slices.Contains(at, "example") {
			return
		}
		n++
		text, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.against("openapi.yaml#/"+pointer(append(slices.Clone(at), "schema")), text); err != nil {
			t.Errorf("%v: %v", at, err)
		}
	})
	if n < 40 {
		t.Errorf("only %d examples were found", n)
	}
}

// TestObjectsAreClosed: whatever is not described is refused, for that is how tests find drift.
func TestObjectsAreClosed(t *testing.T) {
	c := checker(t)
	for name, doc := range documents(t, c) {
		walk(doc, nil, func(at []string, m map[string]any) {
			if m["type"] == "object" && m["additionalProperties"] == nil && !slices.Contains(at, "example") {
				t.Errorf("%s %v takes members that nobody described", name, at)
			}
		})
	}
}

func TestEveryKindHasALife(t *testing.T) {
	src := domainSource(t)
	var rows []struct{ Kind, Ends, Field, Life, Why string }
	readJSON(t, "retention.json", &rows)
	lives := map[string]bool{}
	structs := map[string]string{}
	for name, kind := range src.kinds {
		if structs[kind] != "" {
			t.Errorf("%s and %s are of the same kind", name, structs[kind])
		}
		structs[kind] = name
	}
	if len(structs) < 15 {
		t.Fatalf("only %d kinds were found", len(structs))
	}
	for _, row := range rows {
		if lives[row.Kind] {
			t.Errorf("retention.json has %s twice", row.Kind)
		}
		lives[row.Kind] = true
		name, ok := structs[row.Kind]
		if !ok {
			t.Errorf("retention.json has %s, shared/domain has not", row.Kind)
			continue
		}
		if !slices.Contains([]string{"operator", "erase", "ttl", "never"}, row.Ends) || row.Why == "" {
			t.Errorf("%s ends by %q, because %q", row.Kind, row.Ends, row.Why)
		}
		if row.Ends == "ttl" && (row.Field == "" || row.Life == "") {
			t.Errorf("%s ends by itself, but it is not said when", row.Kind)
		}
		if row.Field != "" && !slices.Contains(src.members(t, name), row.Field) {
			t.Errorf("%s has no member %s", row.Kind, row.Field)
		}
	}
	for kind := range structs {
		if !lives[kind] {
			t.Errorf("%s has no row in retention.json", kind)
		}
	}
}

func TestIndexesNameMembers(t *testing.T) {
	src := domainSource(t)
	structs := map[string]string{}
	for name, kind := range src.kinds {
		structs[kind] = name
	}
	var indexes []domain.Index
	readJSON(t, "indexes.json", &indexes)
	seen := map[string]bool{}
	for _, i := range indexes {
		if seen[i.Name] || i.Why == "" || i.Order != "asc" && i.Order != "desc" {
			t.Errorf("%s stands twice, has no reason or no order", i.Name)
		}
		seen[i.Name] = true
		name, ok := structs[string(i.Of)]
		if !ok {
			t.Errorf("%s is of %s, which shared/domain has not", i.Name, i.Of)
			continue
		}
		fields := slices.Clone(i.Equal)
		if i.Range != "" {
			fields = append(fields, i.Range)
		}
		for _, f := range fields {
			if !slices.Contains(src.members(t, name), f) {
				t.Errorf("%s: %s has no member %s", i.Name, i.Of, f)
			}
		}
	}
}

func TestListsAreThoseOfTheCode(t *testing.T) {
	src, c := domainSource(t), checker(t)
	found := map[string]bool{}
	for name, doc := range documents(t, c) {
		walk(doc, nil, func(at []string, m map[string]any) {
			want, key := []string(nil), ""
			if typ, ok := m["x-type"].(string); ok {
				want, key = src.constants[typ], typ
			} else if v, ok := m["x-var"].(string); ok {
				want, key = src.lists[v], v
			} else {
				return
			}
			found[key] = true
			var have []string
			for _, v := range m["enum"].([]any) {
				have = append(have, v.(string))
			}
			slices.Sort(have)
			want = slices.Sorted(slices.Values(want))
			if !slices.Equal(have, want) {
				t.Errorf("%s %v: the contract has %q, the code %q", name, at, have, want)
			}
		})
	}
	// Every list of the code is in a contract, but those that never leave the house.
	inside := []string{"Kind", "CredentialState", "DocumentKind", "ShardUse"}
	for typ := range src.constants {
		if !found[typ] && !slices.Contains(inside, typ) {
			t.Errorf("no contract has the list %s", typ)
		}
	}
}

// mirrors says which schema describes which struct, member by member.
var mirrors = map[string]string{
	"Account": "portfolio.schema.json#/$defs/account", "CashBalance": "portfolio.schema.json#/$defs/cash_balance",
	"Position": "portfolio.schema.json#/$defs/position", "Transaction": "portfolio.schema.json#/$defs/transaction",
	"Order": "portfolio.schema.json#/$defs/order", "Liability": "portfolio.schema.json#/$defs/liability",
	"Amount": "portfolio.schema.json#/$defs/amount", "Price": "portfolio.schema.json#/$defs/price",
	"FX": "portfolio.schema.json#/$defs/fx", "TaxLot": "portfolio.schema.json#/$defs/tax_lot",
	"Party": "portfolio.schema.json#/$defs/party", "Security": "portfolio.schema.json#/$defs/security",
	"Identifier": "portfolio.schema.json#/$defs/identifier", "OptionTerms": "portfolio.schema.json#/$defs/option",
	"BondTerms": "portfolio.schema.json#/$defs/bond", "Reconciliation": "portfolio.schema.json#/$defs/reconciliation",
	"Event": "event.schema.json#", "Entry": "audit-entry.schema.json#",
	"EntryData": "audit-entry.schema.json#/properties/data", "Actor": "common.schema.json#/$defs/actor",
	"SCAMethod": "common.schema.json#/$defs/sca_method", "Erasure": "openapi.yaml#/components/schemas/Certificate",
	"Attempt": "openapi.yaml#/components/schemas/Attempt", "Saving": "openapi.yaml#/components/schemas/Saving",
	"Purpose": "openapi.yaml#/components/schemas/Purpose",
}

func TestSchemasMirrorTheStructs(t *testing.T) {
	src, c := domainSource(t), checker(t)
	docs := documents(t, c)
	for name, place := range mirrors {
		file, at, _ := strings.Cut(place, "#")
		v := docs[file]
		for _, key := range strings.Split(strings.TrimPrefix(at, "/"), "/") {
			if key != "" {
				v = v.(map[string]any)[key]
			}
		}
		schema, ok := v.(map[string]any)
		if !ok {
			t.Errorf("%s is not there", place)
			continue
		}
		have := slices.Sorted(maps.Keys(schema["properties"].(map[string]any)))
		if want := src.members(t, name); !slices.Equal(have, want) {
			t.Errorf("%s: the schema has %q, the struct %q", name, have, want)
		}
	}
}
