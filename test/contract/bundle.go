package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Bundle makes openapi.json of openapi.yaml and the *.schema.json in files: one document that refers to nothing outside
// itself, and says only what generators of clients can put in types.
//
//   - What it refers to becomes a component: common.schema.json's consent_id is ConsentID. A whole file, as
//     webhook.schema.json, is put in place.
//   - Components have one name each over all sections, as generators make one type of each: parameters end in Parameter
//     and answers in Answer.
//   - A path with x-each becomes one path for each value of a parameter, so that each has answers of one type.
//   - Conditions are left out, and constants, choices of lists and defaults are put more simply; see plain.
//   - Every answer has the headers that every answer has; see everywhere.
//   - What we answer may have members that are not described; see open.
func Bundle(files fs.FS) ([]byte, error) {
	b := &bundler{files: files, read: map[string]map[string]any{}, from: map[string]string{}, taken: map[string]any{}}
	api, err := b.file("openapi.yaml")
	if err != nil {
		return nil, err
	}
	if err := expand(api); err != nil {
		return nil, err
	}
	for name := range api["components"].(map[string]any)["schemas"].(map[string]any) {
		b.from[name] = "openapi.yaml#/components/schemas/" + name
	}
	whole, err := b.local(api, "openapi.yaml", "")
	if err != nil {
		return nil, err
	}
	document := whole.(map[string]any)
	components := document["components"].(map[string]any)
	maps.Copy(components["schemas"].(map[string]any), b.taken)
	for section, suffix := range suffixes {
		suffixed := map[string]any{}
		for name, component := range components[section].(map[string]any) {
			suffixed[name+suffix] = component
		}
		components[section] = suffixed
	}
	everywhere(document)
	plain(document, document, "")
	open(document)
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err = e.Encode(document)
	return out.Bytes(), err
}

// suffixes end the names of components that are no schemas, by section.
var suffixes = map[string]string{"parameters": "Parameter", "responses": "Answer"}

// bundler collects what one document refers to.
type bundler struct {
	files fs.FS
	read  map[string]map[string]any // by file name
	taken map[string]any            // schemas of other files, by the names that they have in the bundle
	from  map[string]string         // where each schema of the bundle comes from
}

// file reads a JSON or YAML file once.
func (b *bundler) file(name string) (map[string]any, error) {
	if doc, ok := b.read[name]; ok {
		return doc, nil
	}
	raw, err := fs.ReadFile(b.files, name)
	if err != nil {
		return nil, err
	}
	var doc any
	if path.Ext(name) == ".yaml" {
		if err := yaml.Unmarshal(raw, &doc); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		if raw, err = json.Marshal(doc); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	object, ok := doc.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("reading %s: it is not an object", name)
	}
	b.read[name] = object
	return object, nil
}

// local copies v, the value of key in file, with references into the bundle only, and without what no generated type can
// say: conditions, and our own extensions.
func (b *bundler) local(v any, file, key string) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, member := range v {
			ref, isRef := member.(string)
			names := key == "properties" // its members are no keywords
			var err error
			switch {
			case !names && (conditional(name, member) || strings.HasPrefix(name, "x-")):
			case !names && name == "example":
				out[name] = member
			case !names && name == "$ref" && isRef && !strings.Contains(ref, "#"):
				return b.inPlace(ref)
			case !names && name == "$ref" && isRef:
				out[name], err = b.refer(ref, file)
			default:
				out[name], err = b.local(member, file, name)
			}
			if err != nil {
				return nil, err
			}
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, member := range v {
			var err error
			if out[i], err = b.local(member, file, ""); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

// conditional reports whether a keyword says what must hold beside the type: which members go together.
func conditional(keyword string, value any) bool {
	switch keyword {
	case "if", "then", "else":
		return true
	case "oneOf", "anyOf":
		choices, _ := value.([]any)
		return !slices.ContainsFunc(choices, func(choice any) bool {
			m, _ := choice.(map[string]any)
			return m["required"] == nil || len(m) != 1
		})
	}
	return false
}

// refer takes what a reference in file refers to into the bundle, and gives its place there.
func (b *bundler) refer(ref, file string) (string, error) {
	other, fragment, _ := strings.Cut(ref, "#")
	if other == "" {
		other = file
	}
	if other == "openapi.yaml" {
		section := path.Base(path.Dir(fragment))
		return "#" + fragment + suffixes[section], nil
	}
	name := typeName(path.Base(fragment))
	place, at := other+"#"+fragment, "#/components/schemas/"+name
	if from, ok := b.from[name]; ok && from != place {
		return "", fmt.Errorf("%s and %s would both be called %s", place, from, name)
	} else if ok {
		return at, nil
	}
	b.from[name] = place
	doc, err := b.file(other)
	if err != nil {
		return "", err
	}
	schema, err := within(doc, fragment)
	if err != nil {
		return "", fmt.Errorf("%s in %s: %w", ref, file, err)
	}
	b.taken[name], err = b.local(schema, other, "")
	return at, err
}

// inPlace is a whole file's schema.
func (b *bundler) inPlace(file string) (any, error) {
	doc, err := b.file(file)
	if err != nil {
		return nil, err
	}
	schema := maps.Clone(doc)
	for _, key := range []string{"$schema", "$id", "$defs"} {
		delete(schema, key)
	}
	return b.local(schema, file, "")
}

// within finds the object at a JSON Pointer (RFC 6901) without escapes.
func within(doc map[string]any, pointer string) (map[string]any, error) {
	v := any(doc)
	if pointer != "" {
		for key := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
			m, _ := v.(map[string]any)
			v = m[key]
		}
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("there is nothing at %q", pointer)
	}
	return m, nil
}

// typeName is a name as programs write those of types: consent_id is ConsentID.
func typeName(name string) string {
	var out strings.Builder
	for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '_' || r == '-' }) {
		switch word {
		case "id", "fx", "sca", "url":
			out.WriteString(strings.ToUpper(word))
		default:
			out.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return out.String()
}
