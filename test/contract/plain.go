package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// plain puts in place of what generators do not understand, or understand in different ways, what all of them do: a
// constant is a list of one, a choice of closed lists is one list, and a member's default is said in its description,
// as otherwise some make the member required.
func plain(document map[string]any, v any, key string) {
	switch v := v.(type) {
	case []any:
		for _, member := range v {
			plain(document, member, "")
		}
	case map[string]any:
		for name, member := range v {
			if name != "example" || key == "properties" {
				plain(document, member, name)
			}
		}
		if key == "properties" {
			for _, property := range v {
				say(property.(map[string]any))
			}
			return
		}
		if constant, ok := v["const"].(string); ok {
			delete(v, "const")
			v["type"], v["enum"] = "string", []any{constant}
		}
		if choices, ok := v["anyOf"].([]any); ok {
			if all := values(document, choices); all != nil {
				delete(v, "anyOf")
				v["type"], v["enum"] = "string", all
			}
		}
	}
}

// say moves a member's default into its description.
func say(property map[string]any) {
	preset, ok := property["default"]
	if !ok {
		return
	}
	text, _ := json.Marshal(preset)
	delete(property, "default")
	description, _ := property["description"].(string)
	property["description"] = strings.TrimSpace(fmt.Sprintf("%s Left out, it is %s.", description, text))
}

// values lists what the closed lists among which there is a choice allow; nil if one is something else.
func values(document map[string]any, choices []any) []any {
	var all []any
	for _, choice := range choices {
		schema, _ := choice.(map[string]any)
		if ref, ok := schema["$ref"].(string); ok {
			schema, _ = within(document, strings.TrimPrefix(ref, "#"))
		}
		list, _ := schema["enum"].([]any)
		if constant, ok := schema["const"].(string); ok {
			list = []any{constant}
		}
		if list == nil {
			return nil
		}
		for _, value := range list {
			if !slices.Contains(all, value) {
				all = append(all, value)
			}
		}
	}
	return all
}

// always are the headers that every answer has.
var always = map[string]any{
	"Request-Id":       "Our name for the request: tell it when you ask about the answer.",
	"RateLimit":        "What is left: \"default\";r=requests;t=seconds until full again.",
	"RateLimit-Policy": "The limit: \"default\";q=requests;w=seconds.",
}

// everywhere describes the headers of every answer.
func everywhere(document map[string]any) {
	add := func(v any) {
		answer, ok := v.(map[string]any)
		if !ok || answer["$ref"] != nil {
			return
		}
		headers, _ := answer["headers"].(map[string]any)
		if headers == nil {
			headers = map[string]any{}
			answer["headers"] = headers
		}
		for name, description := range always {
			if headers[name] == nil {
				headers[name] = map[string]any{"description": description, "schema": map[string]any{"type": "string"}}
			}
		}
	}
	for _, answer := range document["components"].(map[string]any)["responses"].(map[string]any) {
		add(answer)
	}
	for _, item := range document["paths"].(map[string]any) {
		for method, operation := range item.(map[string]any) {
			if isMethod(method) {
				answers, _ := operation.(map[string]any)["responses"].(map[string]any)
				for _, answer := range answers {
					add(answer)
				}
			}
		}
	}
}

// open lets answers and webhooks have members that are not described: they may gain some, and a client that refused them
// would break. Only what is sent to us stays closed.
func open(document map[string]any) {
	seen := map[string]bool{}
	var visit func(v any)
	visit = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, member := range v {
				visit(member)
			}
		case map[string]any:
			if v["additionalProperties"] == false {
				delete(v, "additionalProperties")
			}
			if ref, ok := v["$ref"].(string); ok && !seen[ref] {
				seen[ref] = true
				there, _ := within(document, strings.TrimPrefix(ref, "#"))
				visit(there)
			}
			for key, member := range v {
				if key != "example" {
					visit(member)
				}
			}
		}
	}
	visit(document["webhooks"])
	visit(document["components"].(map[string]any)["responses"])
	for _, item := range document["paths"].(map[string]any) {
		for _, operation := range item.(map[string]any) {
			if o, ok := operation.(map[string]any); ok {
				visit(o["responses"])
			}
		}
	}
}

// each is what x-each of a path says: which parameter is written out, and what is asked for with each of its values.
type each struct {
	Parameter string // name of the component
	Page      string // name of the schema of the answer
	Values    map[string]struct {
		Operation string // its operationId
		Summary   string
		Page      string // name of the schema of the answer
		Records   string // a reference to the schema of one record
	}
}

// expand writes out the paths that have x-each.
func expand(api map[string]any) error {
	paths := api["paths"].(map[string]any)
	components := api["components"].(map[string]any)
	schemas, parameters := components["schemas"].(map[string]any), components["parameters"].(map[string]any)
	for template, item := range maps.Clone(paths) {
		said, ok := item.(map[string]any)["x-each"]
		if !ok {
			continue
		}
		text, err := json.Marshal(said)
		if err != nil {
			return err
		}
		var e each
		if err := json.Unmarshal(text, &e); err != nil {
			return fmt.Errorf("x-each of %s: %w", template, err)
		}
		parameter, ok := parameters[e.Parameter].(map[string]any)
		page, isSchema := schemas[e.Page].(map[string]any)
		if !ok || !isSchema {
			return fmt.Errorf("x-each of %s: there is no parameter %s, or no schema %s", template, e.Parameter, e.Page)
		}
		for value, as := range e.Values {
			one := strings.Replace(template, "{"+parameter["name"].(string)+"}", value, 1)
			paths[one] = e.one(item, as.Operation, as.Summary, as.Page)
			typed := clone(page, "", "").(map[string]any)
			typed["properties"].(map[string]any)["data"] = map[string]any{"type": "array", "items": map[string]any{"$ref": as.Records}}
			schemas[as.Page] = typed
		}
		delete(paths, template)
		delete(schemas, e.Page)
		delete(parameters, e.Parameter)
	}
	return nil
}

// one is the path item for one value.
func (e each) one(item any, operation, summary, page string) any {
	one := clone(item, "#/components/schemas/"+e.Page, "#/components/schemas/"+page).(map[string]any)
	delete(one, "x-each")
	get := one["get"].(map[string]any)
	get["operationId"], get["summary"] = operation, summary
	get["parameters"] = slices.DeleteFunc(get["parameters"].([]any), func(p any) bool {
		return p.(map[string]any)["$ref"] == "#/components/parameters/"+e.Parameter
	})
	return one
}

// clone copies a JSON value, with one string for another.
func clone(v any, old, new string) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, member := range v {
			out[key] = clone(member, old, new)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, member := range v {
			out[i] = clone(member, old, new)
		}
		return out
	case string:
		if v == old {
			return new
		}
	}
	return v
}
