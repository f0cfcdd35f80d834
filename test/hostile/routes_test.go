package hostile

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/test/contract"
)

// route is one thing that can be asked: an operation of openapi.yaml, or one of the investor's pages, which only
// pipeline.json lists.
type route struct {
	contract.Operation
	page bool
}

// allRoutes are those of both contracts, so that what is new is attacked without anybody writing a line.
func allRoutes(c *contract.Checker) ([]route, error) {
	operations, err := c.Operations()
	if err != nil {
		return nil, err
	}
	var all []route
	known := map[string]bool{}
	for _, o := range operations {
		all = append(all, route{Operation: o})
		known[o.Method+" "+o.Template] = true
	}
	p, err := home.ReadPipeline()
	if err != nil {
		return nil, err
	}
	for _, f := range p.Functions {
		for _, r := range f.Routes {
			if name := r.Method + " " + r.Path; r.Host == "pages" && !known[name] {
				all = append(all, route{contract.Operation{ID: name, Method: r.Method, Template: r.Path, Investor: true}, true})
			}
		}
	}
	return all, nil
}

func (r route) String() string { return r.Method + " " + r.Template }

func (r route) host() string {
	if r.Investor {
		return "pages"
	}
	return "api"
}

// visit is the one in which an investor may come here.
func (r route) visit() string {
	switch {
	case strings.HasPrefix(r.Template, "/consent"), strings.HasPrefix(r.Template, "/i/"):
		return "pending"
	case r.Template == "/me" || r.Template == "/done" || r.Template == "/me/revoke":
		return "read"
	}
	return "asked"
}

// words are texts for whatever pattern or format a schema asks for.
var words = []string{"sandbox-comdirect", "https://app.example.com/done", "Jane Doe"}

// sample is a good value for a schema, as the world has it: identifiers are of things that exist.
func (b *bed) sample(schema map[string]any) any {
	if list, ok := schema["enum"].([]any); ok {
		return list[0]
	}
	for _, of := range []string{"oneOf", "anyOf"} {
		if list, ok := schema[of].([]any); ok && schema["properties"] == nil {
			return b.sample(list[0].(map[string]any))
		}
	}
	switch schema["type"] {
	case "object":
		return b.objects(schema)[0]
	case "array":
		return []any{b.sample(schema["items"].(map[string]any))}
	case "integer":
		return cmp.Or(schema["minimum"], any(1))
	case "boolean":
		return true
	}
	return b.text(schema)
}

// objects have every member, or, where the schema lets only some stand together, those of each choice.
func (b *bed) objects(schema map[string]any) (all []map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	whole := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(properties)) { // from before to
		whole[name] = b.sample(properties[name].(map[string]any))
	}
	list, _ := schema["oneOf"].([]any)
	for _, choice := range list {
		chosen, _ := choice.(map[string]any)["required"].([]any)
		one := maps.Clone(whole)
		maps.DeleteFunc(one, func(name string, _ any) bool { return !slices.Contains(chosen, any(name)) })
		all = append(all, one)
	}
	if len(all) == 0 {
		all = append(all, whole)
	}
	return all
}

var idPattern = regexp.MustCompile(`^\^([a-z]+)_\[`)

func (b *bed) text(schema map[string]any) string {
	pattern, _ := schema["pattern"].(string)
	if found := idPattern.FindStringSubmatch(pattern); found != nil {
		if id := b.ids[found[1]]; id != "" {
			return id
		}
		panic("the world has nothing with an identifier like " + pattern + ": add it")
	}
	switch schema["format"] {
	case "date-time":
		b.texts++ // each later than the one before, so that a range is one
		return b.now.Add(24*time.Hour + time.Duration(b.texts)*time.Second).UTC().Format(time.RFC3339)
	case "uri":
		return words[1]
	}
	for _, w := range words {
		if ok, err := regexp.MatchString(pattern, w); ok && err == nil {
			return w
		}
	}
	panic("no word fits " + pattern + ": add one")
}

// choices are bodies of which the schema alone does not say what fits the world.
var choices = map[string]string{
	"createKey":       `{"role":"client","label":"Jane Doe"}`,
	"createLink":      `{"purpose":"reconnect"}`,
	"narrowConsent":   `{"products":["accounts"],"advisors":[]}`,
	"answerChallenge": `{"challenge_id":"{chal}","kind":"select","method":"M_TAN"}`,
	"seal":            `{"jwe":"{jwe}"}`,
}

// good is a good body for the route.
func (b *bed) good(r route) []byte { return b.goods(r)[0] }

// goods are good bodies for the route: several where only some members may stand together.
func (b *bed) goods(r route) (all [][]byte) {
	switch choice := choices[r.ID]; {
	case r.page:
		return [][]byte{[]byte("custodian=sandbox-comdirect&consent_id=" + b.ids["con"])}
	case r.Body == nil:
		return [][]byte{nil}
	case choice != "":
		return [][]byte{[]byte(strings.NewReplacer("{chal}", b.ids["chal"], "{jwe}", b.sealed).Replace(choice))}
	}
	for _, sample := range b.objects(r.Body) {
		text, err := json.Marshal(sample)
		if err != nil {
			panic(err)
		}
		all = append(all, text)
	}
	return all
}
