package access

import (
	_ "embed"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/test/contract"
)

//go:embed rules.txt
var rules string

// row is one line of rules.txt with the bodies below it.
type row struct {
	name   string
	words  map[string]string // by column
	bodies []string          // one empty body where none stands there
}

// section reads the rows of one section of rules.txt.
func section(t *testing.T, name string) []row {
	t.Helper()
	_, text, found := strings.Cut(rules, "\n["+name+"]")
	if !found {
		t.Fatalf("rules.txt has no section %s", name)
	}
	text, _, _ = strings.Cut(text, "\n[")
	var columns []string
	var rows []row
	for _, line := range strings.Split(text, "\n")[1:] {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, " "):
			last := &rows[len(rows)-1]
			last.bodies = append(slices.DeleteFunc(last.bodies, func(b string) bool { return b == "" }), strings.TrimSpace(line))
		case columns == nil:
			columns = words[1:]
		default:
			r := row{words: map[string]string{}, bodies: []string{""}}
			if r.name = words[0]; words[0] == "POST" {
				r.name, words = "POST "+words[1], words[1:]
			}
			if len(words) != len(columns)+1 {
				t.Fatalf("rules.txt: %q has %d words, want %d", line, len(words)-1, len(columns))
			}
			for i, c := range columns {
				r.words[c] = words[i+1]
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// operations are those of openapi.yaml, by name.
func operations(t *testing.T) map[string]contract.Operation {
	t.Helper()
	c, err := contract.New()
	must(t, err)
	all, err := c.Operations()
	must(t, err)
	out := map[string]contract.Operation{}
	for _, op := range all {
		out[op.ID] = op
	}
	return out
}

// TestEveryRouteHasARow: rules.txt has a row for every operation and every page, and none for anything else.
func TestEveryRouteHasARow(t *testing.T) {
	var want, got []string
	described := map[string]bool{}
	for name, op := range operations(t) {
		described[op.Method+" "+op.Template] = true
		if op.Investor {
			name = "investor " + name
		}
		want = append(want, name)
	}
	p, err := home.ReadPipeline()
	must(t, err)
	for _, f := range p.Functions {
		for _, r := range f.Routes {
			if r.Host == "pages" && !described[r.Method+" "+r.Path] {
				want = append(want, "page "+strings.TrimPrefix(r.Method+" "+r.Path, "GET "))
			}
		}
	}
	for prefix, name := range map[string]string{"": "api", "investor ": "investor", "page ": "pages"} {
		for _, r := range section(t, name) {
			got = append(got, prefix+r.name)
		}
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("rules.txt has no row for %s", name)
		}
	}
	for i, name := range got {
		if !slices.Contains(want, name) || slices.Contains(got[:i], name) {
			t.Errorf("rules.txt has a row %s too many", name)
		}
	}
}

// idPattern finds the prefix of an identifier in a schema's pattern.
var idPattern = regexp.MustCompile(`([a-z]+)_\[0-9a-hjkmnp-tv-z\]`)

// slot is one place of a request in which an identifier, an investor's reference or a cursor stands.
type slot struct {
	in   string // path, query or body
	name string // of the parameter or the member
	kind string // the identifier's prefix, "ref" or "cursor"
}

// slots finds the places of an operation in which something of another tenant's could be named.
func slots(op contract.Operation) []slot {
	var all []slot
	for _, p := range op.Parameters {
		if kind := kindOf(p.Name, p.Schema); kind != "" {
			all = append(all, slot{p.In, p.Name, kind})
		}
	}
	properties, _ := op.Body["properties"].(map[string]any)
	for name, schema := range properties {
		s, _ := schema.(map[string]any)
		if items, ok := s["items"].(map[string]any); ok {
			s = items
		}
		if kind := kindOf(name, s); kind != "" && kind != "ref" {
			all = append(all, slot{"body", name, kind})
		}
	}
	return all
}

func kindOf(name string, schema map[string]any) string {
	pattern, _ := schema["pattern"].(string)
	if m := idPattern.FindStringSubmatch(pattern); m != nil {
		return m[1]
	}
	return map[string]string{"cursor": "cursor", "investor_ref": "ref"}[name]
}

// TestEverySlotIsFilled: each place that takes an identifier is filled by one of the bodies of its row, so that a new
// one is tried with another tenant's.
func TestEverySlotIsFilled(t *testing.T) {
	ops, n := operations(t), 0
	for _, r := range slices.Concat(section(t, "api"), section(t, "investor")) {
		for _, s := range slots(ops[r.name]) {
			n++
			if s.in != "body" || s.kind == "cursor" {
				continue
			}
			if !slices.ContainsFunc(r.bodies, func(b string) bool { return strings.Contains(b, s.name) && strings.Contains(b, "$"+s.kind) }) {
				t.Errorf("%s: no body in rules.txt has %s with $%s", r.name, s.name, s.kind)
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d places were found", n)
	}
}
