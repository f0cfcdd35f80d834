// Package contract holds what Sluis says against what it promised: the schemas of schemas/. Other tests use a [Checker]
// on every answer, webhook, message and audit entry that they see, so that a member that nobody described, or one that
// has gone, is found where it first shows.
package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
)

// base is where the schemas stand, as far as their references are concerned. Nothing is fetched from there.
const base = "https://sluis.invalid/schemas/"

// Checker validates against the schemas. It is safe for concurrent use.
type Checker struct {
	api      map[string]any // openapi.yaml
	bundle   map[string]any // openapi.json, as clients have it
	mu       sync.Mutex     // guards what follows
	compiler *jsonschema.Compiler
	compiled map[string]*jsonschema.Schema
}

// New reads the schemas that are built in.
func New() (*Checker, error) {
	c := &Checker{compiler: jsonschema.NewCompiler(), compiled: map[string]*jsonschema.Schema{}}
	c.compiler.AssertFormat()
	names, err := fs.Glob(schemas.FS, "*.schema.json")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		raw, err := schemas.FS.ReadFile(name)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		if err := c.compiler.AddResource(base+name, doc); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	if c.api, err = readAPI(); err != nil {
		return nil, err
	}
	if err := c.compiler.AddResource(base+"openapi.yaml", c.api); err != nil {
		return nil, err
	}
	if c.bundle, err = readBundle(); err != nil {
		return nil, err
	}
	return c, c.compiler.AddResource(base+"openapi.json", c.bundle)
}

// readBundle makes openapi.json anew, so that what is tested is what its sources say.
func readBundle() (map[string]any, error) {
	raw, err := Bundle(schemas.FS)
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("reading openapi.json: %w", err)
	}
	return document.(map[string]any), nil
}

// readAPI reads openapi.yaml as JSON would be read.
func readAPI() (map[string]any, error) {
	raw, err := schemas.FS.ReadFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	var doc any
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("reading openapi.yaml: %w", err)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("reading openapi.yaml: %w", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading openapi.yaml: %w", err)
	}
	api, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("reading openapi.yaml: it is not an object")
	}
	return api, nil
}

// Webhook checks the body of a webhook.
func (c *Checker) Webhook(body []byte) error { return c.against("webhook.schema.json", body) }

// Event checks a message on the bus, as JSON.
func (c *Checker) Event(body []byte) error { return c.against("event.schema.json", body) }

// Entry checks a line of the audit log, as JSON.
func (c *Checker) Entry(body []byte) error { return c.against("audit-entry.schema.json", body) }

// records names the schema of each product's records.
var records = map[domain.Product]string{domain.ProductAccounts: "account", domain.ProductCash: "cash_balance",
	domain.ProductPositions: "position", domain.ProductTransactions: "transaction", domain.ProductOrders: "order",
	domain.ProductLiabilities: "liability"}

// Record checks one record of a product, as the API gives it.
func (c *Checker) Record(product domain.Product, line []byte) error {
	name, ok := records[product]
	if !ok {
		return fmt.Errorf("there is no product %q", product)
	}
	return c.against("portfolio.schema.json#/$defs/"+name, line)
}

// Answer checks an answer of the API, or of the pages' JSON endpoints: that the path template, the method and the
// status are described, and that the body is as described, in openapi.yaml and in the document that clients have. An
// answer without a body has an empty one.
func (c *Checker) Answer(method, template string, status int, body []byte) error {
	where := fmt.Sprintf("%s %s %d", method, template, status)
	if err := c.described("openapi.yaml", c.api, method, template, status, body); err != nil {
		return fmt.Errorf("%s: openapi.yaml: %w", where, err)
	}
	var err error
	for _, written := range c.written(template) {
		if err = c.described("openapi.json", c.bundle, method, written, status, body); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s: openapi.json: %w", where, err)
	}
	if err := times(body); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	if status >= 400 {
		return sameStatus(where, status, body)
	}
	return nil
}

// A moment looks like the first, and has the form of the second. What a custodian says in its own words may not.
var (
	moment   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:`)
	promised = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$`)
	ownWords = []string{"as_of", "placed", "good_till", "text", "name"}
)

// times checks that every moment in an answer is RFC 3339, in UTC, with milliseconds.
func times(body []byte) error {
	var value any
	if json.Unmarshal(body, &value) != nil {
		return nil // a stream or a picture
	}
	var wrong error
	var visit func(v any, name string)
	visit = func(v any, name string) {
		switch v := v.(type) {
		case map[string]any:
			for key, member := range v {
				visit(member, key)
			}
		case []any:
			for _, member := range v {
				visit(member, name)
			}
		case string:
			if moment.MatchString(v) && !promised.MatchString(v) && !slices.Contains(ownWords, name) {
				wrong = fmt.Errorf("%s is %q, and no time in UTC with milliseconds", name, v)
			}
		}
	}
	visit(value, "")
	return wrong
}

// written gives the paths of openapi.json that a path of openapi.yaml became.
func (c *Checker) written(template string) []string {
	each, ok := at(c.api, []string{"paths", template, "x-each"}).(map[string]any)
	if !ok {
		return []string{template}
	}
	name := at(c.api, []string{"components", "parameters", each["parameter"].(string), "name"}).(string)
	var all []string
	for value := range each["values"].(map[string]any) {
		all = append(all, strings.Replace(template, "{"+name+"}", value, 1))
	}
	return all
}

// described checks that a document describes an answer.
func (c *Checker) described(name string, document map[string]any, method, template string, status int, body []byte) error {
	responses := []string{"paths", template, strings.ToLower(method), "responses"}
	var response any
	path := []string(nil)
	for _, key := range []string{fmt.Sprint(status), fmt.Sprintf("%dXX", status/100), "default"} {
		if key == "default" && status < 400 {
			break
		}
		path = append(append([]string(nil), responses...), key)
		if response = at(document, path); response != nil {
			break
		}
	}
	described, ok := response.(map[string]any)
	if !ok {
		return errors.New("it does not describe this answer")
	}
	if ref, ok := described["$ref"].(string); ok {
		path = strings.Split(strings.TrimPrefix(ref, "#/"), "/")
		described, _ = at(document, path).(map[string]any)
	}
	content, _ := described["content"].(map[string]any)
	if len(content) == 0 {
		if len(body) > 0 {
			return errors.New("no body is described, but there is one")
		}
		return nil
	}
	for _, media := range []string{"application/json", "application/problem+json"} {
		if content[media] != nil {
			return c.against(name+"#/"+pointer(append(path, "content", media, "schema")), body)
		}
	}
	return nil // a stream or an image
}

// sameStatus checks that a problem names the status it came with. RFC 9457, section 3.1.2.
func sameStatus(where string, status int, body []byte) error {
	var problem struct {
		Status int `json:"status"`
	}
	if err := json.Unmarshal(body, &problem); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	if problem.Status != status {
		return fmt.Errorf("%s: the problem says it is %d", where, problem.Status)
	}
	return nil
}

// at finds what stands at a path in openapi.yaml, or nil.
func (c *Checker) at(path []string) any { return at(c.api, path) }

// at finds what stands at a path in a document, or nil.
func at(document map[string]any, path []string) any {
	var v any = document
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// pointer is a path as a JSON Pointer in a URI fragment, without its first slash.
func pointer(path []string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B")
	out := make([]string, len(path))
	for i, key := range path {
		out[i] = escape.Replace(key)
	}
	return strings.Join(out, "/")
}

// against checks JSON text against the schema at a place relative to base.
func (c *Checker) against(place string, text []byte) error {
	schema, err := c.schema(place)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	return schema.Validate(value)
}

func (c *Checker) schema(place string) (*jsonschema.Schema, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.compiled[place]; s != nil {
		return s, nil
	}
	s, err := c.compiler.Compile(base + place)
	if err == nil {
		c.compiled[place] = s
	}
	return s, err
}
