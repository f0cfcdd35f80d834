package contract

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/getkin/kin-openapi/openapi3"

	"sluis.internal/schemas"
)

// bundled is schemas/openapi.json, which clients load.
func bundled(t *testing.T) map[string]any {
	t.Helper()
	var document map[string]any
	readJSON(t, "openapi.json", &document)
	return document
}

func TestTheBundleIsUpToDate(t *testing.T) {
	want, err := Bundle(schemas.FS)
	if err != nil {
		t.Fatal(err)
	}
	have, err := schemas.FS.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("schemas/openapi.json is not what its sources say: run go generate ./schemas")
	}
}

func TestTheBundleIsValid(t *testing.T) {
	raw, err := schemas.FS.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(raw) // with no way to anything outside
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.DisableExamplesValidation()); err != nil {
		t.Error(err)
	}
}

// TestGeneratorsUnderstandTheBundle: what some generator of clients cannot read, or reads in another way, is not there.
// test/clients runs three of them; this says why one fails.
func TestGeneratorsUnderstandTheBundle(t *testing.T) {
	document, refs := bundled(t), 0
	walk(document, nil, func(at []string, m map[string]any) {
		if slices.Contains(at, "example") {
			return
		}
		if ref, ok := m["$ref"].(string); ok {
			refs++
			if _, err := within(document, strings.TrimPrefix(ref, "#")); err != nil || !strings.HasPrefix(ref, "#/components/") {
				t.Errorf("%v refers to %s", at, ref)
			}
		}
		if len(at) > 0 && at[len(at)-1] == "properties" {
			for name, schema := range m {
				property, ok := schema.(map[string]any)
				if !ok {
					t.Errorf("%v: %s is %v and not a schema", at, name, schema)
				} else if property["default"] != nil {
					t.Errorf("%v: %s has a default, which makes it required in some clients", at, name)
				}
			}
			return
		}
		for _, keyword := range []string{"if", "then", "else", "const", "oneOf", "anyOf", "allOf", "not", "$defs"} {
			if m[keyword] != nil {
				t.Errorf("%v has %s", at, keyword)
			}
		}
	})
	if refs < 300 {
		t.Errorf("only %d references were found", refs)
	}
}

// taken are the names that generators use for types of their own.
var taken = []string{
	"client", "clientinterface", "clientoption", "clientwithresponses", "clientwithresponsesinterface", "requesteditorfn",
	"httprequestdoer", "serverinterface", "option", "server", "serveroption", "handler", "invoker", "middleware", "route",
	"labeler", "errorhandler", "securityhandler", "securitysource", "unimplementedhandler", "operationname", "error", "response",
	"request", "string", "number", "object", "array", "map", "set", "promise", "record", "symbol", "function", "paths", "components",
	"operations", "webhooks",
}

// TestNamesOfComponentsAreFree: each is one type in a client, whatever its section, and however a language writes it.
func TestNamesOfComponentsAreFree(t *testing.T) {
	document := bundled(t)
	seen := map[string]string{}
	claim := func(name, by string) {
		key := strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(name))
		if seen[key] != "" {
			t.Errorf("%s and %s have the same name", by, seen[key])
		}
		if slices.Contains(taken, key) {
			t.Errorf("%s has a name that generators use themselves", by)
		}
		seen[key] = by
	}
	for section, list := range document["components"].(map[string]any) {
		if section == "headers" { // no generator makes types of them
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(list.(map[string]any))) {
			claim(name, section+"/"+name)
		}
	}
	for template, item := range document["paths"].(map[string]any) {
		for method, operation := range item.(map[string]any) {
			if o, ok := operation.(map[string]any); ok && isMethod(method) {
				claim(o["operationId"].(string)+"Params", "parameters of "+method+" "+template)
				claim(o["operationId"].(string)+"Response", "answer of "+method+" "+template)
			}
		}
	}
}

// TestWhatIsSentIsClosedAndWhatIsAnsweredOpen: answers may gain members, requests may not have unknown ones.
func TestWhatIsSentIsClosedAndWhatIsAnsweredOpen(t *testing.T) {
	document := bundled(t)
	walk(document["webhooks"], nil, func(at []string, m map[string]any) {
		if m["additionalProperties"] == false {
			t.Errorf("webhooks %v is closed", at)
		}
	})
	schemas := document["components"].(map[string]any)["schemas"].(map[string]any)
	for name, closed := range map[string]bool{"ConsentRequest": true, "Replay": true, "Narrowing": true, "Consent": false, "Purpose": false,
		"Problem": false, "Position": false, "Amount": false} {
		if (schemas[name].(map[string]any)["additionalProperties"] == false) != closed {
			t.Errorf("%s: closed is not %v", name, closed)
		}
	}
}

// everyHeader is what every answer says of its headers.
const everyHeader = `"headers": {
	"RateLimit": {"description": "What is left: \"default\";r=requests;t=seconds until full again.", "schema": {"type": "string"}},
	"RateLimit-Policy": {"description": "The limit: \"default\";q=requests;w=seconds.", "schema": {"type": "string"}},
	"Request-Id": {"description": "Our name for the request: tell it when you ask about the answer.", "schema": {"type": "string"}}}, `

func TestBundle(t *testing.T) {
	const head = "openapi: 3.1.0\nwebhooks: {}\n"
	for name, c := range map[string]struct{ api, words, want string }{
		"a reference to another file": {
			head + `
paths: {/a: {post: {requestBody: {schema: {$ref: "w.schema.json#/$defs/an_id"}}}}}
components: {schemas: {}, parameters: {}, responses: {}}`,
			`{"$defs": {"an_id": {"x-type": "AnID", "type": "object", "properties": {"other": {"$ref": "#/$defs/other"}}},
				"other": {"type": "string", "const": "a"}}}`,
			`{"openapi": "3.1.0", "webhooks": {}, "paths": {"/a": {"post": {"requestBody": {"schema": {"$ref": "#/components/schemas/AnID"}}}}},
				"components": {"parameters": {}, "responses": {}, "schemas": {"AnID": {"type": "object", "properties": {"other":
				{"$ref": "#/components/schemas/Other"}}}, "Other": {"type": "string", "enum": ["a"]}}}}`},
		"conditions, choices and defaults": {
			head + `
paths: {/a: {post: {requestBody: {schema: {$ref: "#/components/schemas/A"}}}}}
components:
  schemas:
    A:
      type: object
      properties: {b: {description: "B.", type: integer, default: 3}, if: {anyOf: [{enum: [x]}, {const: y}, {$ref: "#/components/schemas/C"}]}}
      oneOf: [{required: [b]}, {required: [if]}]
      if: {properties: {b: false}}
      then: {required: [if]}
    C: {type: string, enum: [x, z]}
  parameters: {}
  responses: {}`,
			`{}`,
			`{"openapi": "3.1.0", "webhooks": {}, "paths": {"/a": {"post": {"requestBody": {"schema": {"$ref": "#/components/schemas/A"}}}}},
				"components": {"parameters": {}, "responses": {}, "schemas": {"A": {"type": "object", "properties": {"b": {"description":
				"B. Left out, it is 3.", "type": "integer"}, "if": {"type": "string", "enum": ["x", "y", "z"]}}},
				"C": {"type": "string", "enum": ["x", "z"]}}}}`},
		"parameters and answers": {
			head + `
paths: {/a: {get: {parameters: [{$ref: "#/components/parameters/A"}], responses: {default: {$ref: "#/components/responses/A"}}}}}
components:
  schemas: {A: {type: object, additionalProperties: false}}
  parameters: {A: {name: a}}
  responses: {A: {schema: {$ref: "#/components/schemas/A"}}}`,
			`{}`,
			`{"openapi": "3.1.0", "webhooks": {}, "paths": {"/a": {"get": {"parameters": [{"$ref": "#/components/parameters/AParameter"}],
				"responses": {"default": {"$ref": "#/components/responses/AAnswer"}}}}}, "components": {"schemas": {"A": {"type": "object"}},
				"parameters": {"AParameter": {"name": "a"}}, "responses": {"AAnswer": {` + everyHeader + `"schema": {"$ref": "#/components/schemas/A"}}}}}`},
		"a path for each": {
			head + `
paths:
  /a/{kind}:
    x-each: {parameter: Kind, page: Page, values: {b: {operation: getB, summary: "B", page: BPage, records: "w.schema.json#/$defs/b"}}}
    get: {operationId: getAny, parameters: [{$ref: "#/components/parameters/Kind"}], responses: {"200": {$ref: "#/components/schemas/Page"}}}
components:
  schemas: {Page: {type: object, properties: {data: {anyOf: []}}}}
  parameters: {Kind: {name: kind}}
  responses: {}`,
			`{"$defs": {"b": {"type": "string"}}}`,
			`{"openapi": "3.1.0", "webhooks": {}, "paths": {"/a/b": {"get": {"operationId": "getB", "summary": "B", "parameters": [],
				"responses": {"200": {"$ref": "#/components/schemas/BPage"}}}}}, "components": {"parameters": {}, "responses": {},
				"schemas": {"BPage": {"type": "object", "properties": {"data": {"type": "array", "items": {"$ref": "#/components/schemas/B"}}}},
				"B": {"type": "string"}}}}`},
	} {
		have, err := Bundle(files(c.api, c.words))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var value any
		if err := json.Unmarshal([]byte(c.want), &value); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want, _ := json.MarshalIndent(value, "", " "); string(have) != string(want)+"\n" {
			t.Errorf("%s: have %s, want %s", name, have, want)
		}
	}
}

func TestBundleRefuses(t *testing.T) {
	const tail = "\ncomponents: {schemas: {A: {type: string}}, parameters: {}, responses: {}}"
	for name, paths := range map[string]string{
		"a name taken":       `{/a: {get: {$ref: "w.schema.json#/$defs/a"}}}`,
		"nothing there":      `{/a: {get: {$ref: "w.schema.json#/$defs/x"}}}`,
		"no such file":       `{/a: {get: {$ref: "x.schema.json#/$defs/x"}}}`,
		"no such page":       `{"/a/{b}": {x-each: {parameter: B, page: B}}}`,
		"an odd x-each":      `{"/a/{b}": {x-each: 1}}`,
		"what is no mapping": `{/a: {get: {$ref: "w.schema.json#/$defs/list"}}}`,
	} {
		if out, err := Bundle(files("paths: "+paths+tail, `{"$defs": {"a": {"type": "string"}, "list": []}}`)); err == nil {
			t.Errorf("%s is taken: %s", name, out)
		}
	}
}

func files(api, words string) fs.FS {
	return fstest.MapFS{"openapi.yaml": {Data: []byte(api)}, "w.schema.json": {Data: []byte(words)}}
}
