package serve

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sluis.internal/shared/domain"
)

// Parameter is a query parameter that a route takes. What a route does not declare is refused, as an unknown member of a
// body is: a filter that is misspelt must not answer with everything.
type Parameter struct {
	Name  string
	Words []string // the values it may have; nil where others are possible
	want  string   // what is wrong with a value that check refuses
	check func(string) bool
}

// Limit and Cursor are what every list that has pages takes.
var (
	Limit = Parameter{Name: "limit", want: "want 1 to 1000", check: func(s string) bool {
		n, err := strconv.Atoi(s)
		return err == nil && 1 <= n && n <= 1000
	}}
	Cursor = Parameter{Name: "cursor", want: "use the cursor of the page before, unchanged", check: func(s string) bool { return 0 < len(s) && len(s) <= 512 }}
)

// InvestorRef is the filter by the client's own name for an investor.
var InvestorRef = Parameter{Name: "investor_ref", want: "want 1 to 64 characters", check: func(s string) bool { return 0 < len(s) && len(s) <= 64 }}

// Word is a parameter of a closed list.
func Word[T ~string](name string, words ...T) Parameter {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = string(w)
	}
	return Parameter{Name: name, Words: texts, want: "want one of " + strings.Join(texts, ", "),
		check: func(s string) bool { return slices.Contains(texts, s) }}
}

// ID is a parameter that is an identifier.
func ID[T ~string](name string, parse func(string) (T, error)) Parameter {
	_, err := parse("")
	return Parameter{Name: name, want: messageOf(err), check: func(s string) bool { _, err := parse(s); return err == nil }}
}

// Flag is a parameter that is true or false.
func Flag(name string) Parameter {
	return Parameter{Name: name, want: "want true or false", check: func(s string) bool { return s == "true" || s == "false" }}
}

// Text is a parameter of so many bytes at most that its handler checks further; want says what it should be.
func Text(name, want string, most int) Parameter {
	return Parameter{Name: name, want: want, check: func(s string) bool { return 0 < len(s) && len(s) <= most }}
}

// Route is one that a door was told of.
type Route struct {
	Pattern string
	Query   []Parameter
}

// Routes lists the routes registered so far.
func (d *Door) Routes() []Route { return slices.Clone(d.routes) }

// takes notes what a route takes.
func (d *Door) takes(pattern string, query []Parameter) {
	d.routes = append(d.routes, Route{pattern, query})
}

// query reads the query of a request to a route that takes these parameters, and says everything that is wrong with it.
// Each stands once, has a value, and the query parses: of one that does not, a part would silently be left out.
func query(r *http.Request, takes []Parameter) (url.Values, error) {
	sent, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &domain.Error{Kind: domain.Invalid, Code: "invalid_query", Field: "query", Message: "the query is malformed; write every character but letters and digits as % and two hexadecimal digits"}
	}
	var faults domain.Faults
	for _, name := range slices.SortedFunc(maps.Keys(sent), cmp.Compare[string]) {
		i := slices.IndexFunc(takes, func(p Parameter) bool { return p.Name == name })
		switch {
		case i < 0:
			faults.Form("unknown_parameter", shortened(name), unknown(name, takes))
		case len(sent[name]) > 1:
			faults.Add(name, "send this parameter once")
		case !takes[i].check(sent[name][0]):
			faults.Add(name, "%s", takes[i].want)
		}
	}
	return sent, faults.Err()
}

// unknown says what to do about a parameter that there is not.
func unknown(name string, takes []Parameter) string {
	if len(takes) == 0 {
		return "there is no such parameter; this address takes none"
	}
	names := make([]string, len(takes))
	for i, p := range takes {
		names[i] = p.Name
	}
	slices.Sort(names)
	text := "there is no such parameter; "
	if near := domain.Nearest(name, names); near != "" {
		text += "did you mean " + near + "? "
	}
	return text + "This address takes " + strings.Join(names, ", ")
}

// shortened bounds what is repeated of a caller's own words.
func shortened(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Param is a declared query parameter; "" where it was not sent.
func (c *Call) Param(name string) string { return c.query.Get(name) }

// Paging is the parameters limit (1 to 1000, default 100) and cursor.
func (c *Call) Paging() (limit int, cursor string) {
	limit = 100
	if n, err := strconv.Atoi(c.Param("limit")); err == nil {
		limit = n
	}
	return limit, c.Param("cursor")
}
