package contract

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sluis.internal/schemas"
)

// Operation is one thing that openapi.yaml says can be asked. Its schemas are whole: every reference is followed.
type Operation struct {
	ID, Method, Template string
	Investor             bool // called by our pages in the investor's browser, with a visit's cookie instead of a key
	Parameters           []Parameter
	Body                 map[string]any // schema of its JSON body; nil where it takes none
	BodyRequired         bool
}

// Parameter is one that stands in the path, the query or a header.
type Parameter struct {
	Name, In string
	Schema   map[string]any
}

// Operations lists everything that openapi.yaml describes, by path and method.
func (c *Checker) Operations() ([]Operation, error) {
	paths, _ := c.api["paths"].(map[string]any)
	var all []Operation
	for template, item := range paths {
		methods, _ := item.(map[string]any)
		for method, described := range methods {
			if !isMethod(method) {
				continue
			}
			op, err := c.operation(template, method, described)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", method, template, err)
			}
			all = append(all, op)
		}
	}
	slices.SortFunc(all, func(a, b Operation) int {
		return cmp.Or(cmp.Compare(a.Template, b.Template), cmp.Compare(a.Method, b.Method))
	})
	return all, nil
}

// isMethod reports whether a member of a path item is an operation.
func isMethod(key string) bool {
	return key == "get" || key == "post" || key == "put" || key == "patch" || key == "delete"
}

func (c *Checker) operation(template, method string, described any) (Operation, error) {
	whole, err := c.whole(described, "openapi.yaml")
	if err != nil {
		return Operation{}, err
	}
	text, err := json.Marshal(whole)
	if err != nil {
		return Operation{}, err
	}
	var in struct {
		ID          string           `json:"operationId"`
		Security    []map[string]any `json:"security"`
		Parameters  []Parameter      `json:"parameters"`
		RequestBody struct {
			Required bool `json:"required"`
			Content  map[string]struct {
				Schema map[string]any `json:"schema"`
			} `json:"content"`
		} `json:"requestBody"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return Operation{}, err
	}
	op := Operation{ID: in.ID, Method: strings.ToUpper(method), Template: template, Parameters: in.Parameters,
		Body: in.RequestBody.Content["application/json"].Schema, BodyRequired: in.RequestBody.Required}
	op.Investor = slices.ContainsFunc(in.Security, func(s map[string]any) bool { return s["visit"] != nil })
	return op, nil
}

// whole is v, which stands in file, with every reference replaced by what it refers to; what stands beside a reference
// adds to it.
func (c *Checker) whole(v any, file string) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		if ref, ok := v["$ref"].(string); ok {
			there, err := c.follow(ref, file)
			if err != nil {
				return nil, err
			}
			maps.Copy(out, there)
		}
		for key, member := range v {
			if key == "$ref" || key == "responses" || key == "example" {
				continue
			}
			whole, err := c.whole(member, file)
			if err != nil {
				return nil, err
			}
			out[key] = whole
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, member := range v {
			whole, err := c.whole(member, file)
			if err != nil {
				return nil, err
			}
			out[i] = whole
		}
		return out, nil
	}
	return v, nil
}

// follow finds what a reference in file refers to.
func (c *Checker) follow(ref, file string) (map[string]any, error) {
	name, fragment, _ := strings.Cut(ref, "#/")
	doc := any(c.api)
	if name = cmp.Or(name, file); name != "openapi.yaml" {
		raw, err := schemas.FS.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	for key := range strings.SplitSeq(fragment, "/") {
		m, _ := doc.(map[string]any)
		doc = m[key]
	}
	whole, err := c.whole(doc, name)
	if err != nil {
		return nil, err
	}
	there, ok := whole.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s refers to nothing", ref)
	}
	return there, nil
}

// Request checks the JSON body of a request.
func (c *Checker) Request(method, template string, body []byte) error {
	at := []string{"paths", template, strings.ToLower(method), "requestBody", "content", "application/json", "schema"}
	return c.against("openapi.yaml#/"+pointer(at), body)
}
