package arrows

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rule is one rule of DESIGN: it lists what breaks it.
type rule struct {
	name  string
	check func(*house) []string
}

var rules = []rule{
	{"arrows", arrows},
	{"functions are strangers to one another", strangers},
	{"nothing imports test", nothingImportsTest},
	{"libraries have their place", libraries},
	{"programs have their place", programs},
	{"top level", topLevel},
	{"functions fit a screen", screens},
	{"interfaces are small", interfaces},
	{"function.go is only a face", faces},
	{"names say something", names},
	{"sandbox custodians are marked", sandboxes},
	{"topics", topics},
	{"functions emit what the pipeline says", emissions},
	{"gates", gates},
	{"powers over shards", shardPowers},
	{"routes", routes},
	{"nothing else is served", strayRoutes},
}

// may is what of ours the packages of each folder may import, apart from tests. The longest folder that fits counts;
// after "=" stands a folder without those below it.
var may = map[string][]string{
	"schemas":                          {},
	"shared/domain":                    {},
	"shared/observe":                   {"shared/domain"},
	"shared/envelope":                  {"shared/domain"},
	"shared/trail":                     {"shared/domain"},
	"shared/webhook":                   {"shared/domain", "shared/observe"},
	"shared/serve":                     {"shared/domain", "shared/observe"},
	"shared/backend":                   {"shared/domain"},
	"shared/backend/backendtest":       {"shared/domain", "=shared/backend"},
	"shared/backend/gcp":               {"shared/domain", "shared/observe", "=shared/backend"},
	"shared/backend/sql":               {"shared/domain", "shared/observe", "=shared/backend"},
	"shared/backend/local":             {"shared/domain"},
	"shared/backend/memory":            {"shared/domain"},
	"shared/extraction":                {"shared/domain", "shared/observe", "shared/envelope"},
	"shared/extraction/extractiontest": {"shared/domain", "shared/extraction"},
	"functions":                        {"shared", "schemas"},
	"functions/sluis":                  {"functions", "shared", "schemas"},
	"test":                             {"functions", "shared", "schemas", "test"},
}

// arrows: every package has a place, and imports only what that place allows. domain and schemas know nothing but the
// standard library, in their tests too; nobody's tests know what only stands above them.
func arrows(h *house) (wrong []string) {
	for _, p := range h.packages {
		place := ""
		for folder := range may {
			if within(p.path, folder) && len(folder) > len(place) {
				place = folder
			}
		}
		if place == "" {
			wrong = append(wrong, p.path+" has no place in the house")
			continue
		}
		pure := place == "schemas" || place == "shared/domain"
		for _, f := range p.files {
			for target := range f.imports {
				below, own := ours(target)
				switch {
				case !own && pure && !standard(target), own && pure && below != p.path:
					wrong = append(wrong, f.path+" imports "+target+"; want the standard library alone")
				case !own || below == p.path:
				case f.test && !within(below, "functions"):
				case f.test && within(p.path, "functions"): // strangers looks after these
				case !slices.ContainsFunc(may[place], func(folder string) bool { return reaches(folder, below) }):
					wrong = append(wrong, f.path+" imports "+target)
				}
			}
		}
	}
	return wrong
}

// reaches says whether a folder of may covers a package.
func reaches(folder, below string) bool {
	if one, exact := strings.CutPrefix(folder, "="); exact {
		return below == one
	}
	return within(below, folder)
}

// strangers: no function imports another, except sluis, which is all of them; not even a test does. What is stored
// where, a function learns in function.go only.
func strangers(h *house) (wrong []string) {
	for _, p := range h.packages {
		if !within(p.path, "functions") || within(p.path, "functions/sluis") {
			continue
		}
		for _, f := range p.files {
			for target := range f.imports {
				below, own := ours(target)
				if own && within(below, "functions") && below != p.path {
					wrong = append(wrong, f.path+" imports "+target)
				}
				if own && within(below, "shared/backend") && !f.test && path.Base(f.path) != "function.go" {
					wrong = append(wrong, f.path+" imports "+target+"; only function.go may know a backend")
				}
			}
		}
	}
	return wrong
}

// nothingImportsTest: test stands outside. Its packages may help one another.
func nothingImportsTest(h *house) (wrong []string) {
	for _, p := range h.packages {
		for _, f := range p.files {
			for target := range f.imports {
				if below, own := ours(target); own && within(below, "test") && !within(p.path, "test") {
					wrong = append(wrong, f.path+" imports "+target)
				}
			}
		}
	}
	return wrong
}

// libraries that only one place may know.
var places = []struct {
	what    string
	imports []string // prefixes of import paths
	where   func(*folder, *file) bool
}{
	{"cloud SDKs", []string{"cloud.google.com/go", "google.golang.org/api", "google.golang.org/grpc", "google.golang.org/genproto",
		"github.com/googleapis", "github.com/tink-crypto/tink-go-gcpkms", "firebase.google.com/go", "github.com/aws", "github.com/Azure"},
		func(p *folder, f *file) bool {
			return within(p.path, "shared/backend/gcp") || p.path == "test/cloudbuild" && f.test // reads cloudbuild.yaml by Cloud Build's own schema
		}},
	{"SQL drivers", []string{"database/sql", "modernc.org/sqlite", "github.com/mattn/go-sqlite3", "github.com/ncruces/go-sqlite3", "github.com/jackc",
		"github.com/lib/pq", "github.com/riverqueue"},
		func(p *folder, _ *file) bool { return within(p.path, "shared/backend/sql") }},
	{"OpenTelemetry", []string{"go.opentelemetry.io"},
		func(p *folder, f *file) bool { return within(p.path, "shared/observe") || f.test }},
	{"functions-framework", []string{"github.com/GoogleCloudPlatform/functions-framework-go"},
		func(p *folder, f *file) bool {
			return within(p.path, "functions") && !within(p.path, "functions/sluis") && path.Base(f.path) == "function.go"
		}},
}

func libraries(h *house) (wrong []string) {
	for _, p := range h.packages {
		for _, f := range p.files {
			for target := range f.imports {
				for _, l := range places {
					if slices.ContainsFunc(l.imports, func(prefix string) bool { return within(target, prefix) }) && !l.where(p, f) {
						wrong = append(wrong, f.path+" imports "+target+": "+l.what+" have their place elsewhere")
					}
				}
			}
		}
	}
	return wrong
}

// programs: package main only in functions/sluis and under test.
func programs(h *house) (wrong []string) {
	for _, p := range h.packages {
		for _, f := range p.files {
			if f.syntax.Name.Name == "main" && p.path != "functions/sluis" && !within(p.path, "test") {
				wrong = append(wrong, f.path+" is a program")
			}
		}
	}
	return wrong
}

var (
	allowedTop  = []string{"functions", "shared", "terraform", "schemas", "test", "go.mod", "go.sum", "cloudbuild.yaml", "README.md"}
	requiredTop = []string{"functions", "shared", "schemas", "test", "go.mod", "go.sum", "README.md"}
)

func topLevel(h *house) (wrong []string) {
	for _, name := range h.top {
		if !slices.Contains(allowedTop, name) && !strings.HasPrefix(name, ".") {
			wrong = append(wrong, name+" does not belong at the top level")
		}
	}
	for _, name := range requiredTop {
		if !slices.Contains(h.top, name) {
			wrong = append(wrong, name+" is missing at the top level")
		}
	}
	return wrong
}

const screen = 80

// screens: no function is longer than a screen.
func screens(h *house) (wrong []string) {
	for _, p := range h.packages {
		for _, f := range p.files {
			for _, d := range f.syntax.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && f.length(fn) > screen {
					wrong = append(wrong, fmt.Sprintf("%s: %s has %d lines", f.path, fn.Name.Name, f.length(fn)))
				}
			}
		}
	}
	return wrong
}

// largeInterfaces are those that DESIGN names with more than four methods.
var largeInterfaces = map[string]bool{"shared/domain.Tx": true}

const maxMethods = 4

func interfaces(h *house) (wrong []string) {
	known := map[string]*interfaceIn{}
	for _, p := range h.packages {
		for _, f := range p.files {
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				if spec, ok := n.(*ast.TypeSpec); ok {
					if t, ok := spec.Type.(*ast.InterfaceType); ok {
						known[p.path+"."+spec.Name.Name] = &interfaceIn{p, f, t}
					}
				}
				return true
			})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if n := known[name].methods(known, 0); n > maxMethods && !largeInterfaces[name] {
			wrong = append(wrong, fmt.Sprintf("%s has %d methods", name, n))
		}
	}
	return wrong
}

type interfaceIn struct {
	folder *folder
	file   *file
	syntax *ast.InterfaceType
}

// methods counts the methods, those of embedded interfaces of ours included; an embedded one of anybody else's counts
// as one.
func (i *interfaceIn) methods(known map[string]*interfaceIn, depth int) (n int) {
	for _, m := range i.syntax.Methods.List {
		if len(m.Names) > 0 {
			n += len(m.Names)
			continue
		}
		name := ""
		switch t := m.Type.(type) {
		case *ast.Ident:
			name = i.folder.path + "." + t.Name
		case *ast.SelectorExpr:
			for target := range i.file.imports {
				if x, ok := t.X.(*ast.Ident); ok && i.file.local(target) == x.Name {
					below, _ := ours(target)
					name = below + "." + t.Sel.Name
				}
			}
		default: // a set of types
			continue
		}
		if embedded := known[name]; embedded != nil && depth < 10 {
			n += embedded.methods(known, depth+1)
		} else {
			n++
		}
	}
	return n
}

const faceLines = 20

// faces: function.go lies with a function, registers and wires, and is short.
func faces(h *house) (wrong []string) {
	for _, p := range h.packages {
		for _, f := range p.files {
			if path.Base(f.path) != "function.go" {
				continue
			}
			if !within(p.path, "functions") || within(p.path, "functions/sluis") {
				wrong = append(wrong, f.path+" is no function's face")
			}
			if f.lines > faceLines {
				wrong = append(wrong, fmt.Sprintf("%s has %d lines, want at most %d", f.path, f.lines, faceLines))
			}
		}
	}
	return wrong
}

var (
	emptyPackage = regexp.MustCompile(`(^|/)(utils?|helpers?|common|misc|mocks?|base|lib)(/|$)`)
	emptyType    = regexp.MustCompile(`(Impl|Mock|Manager|Helper|Utils?)$|^(I[A-Z][a-z]+er|Mock[A-Z].*)$`)
)

// names: no package of odds and ends, no type that is named for being a type.
func names(h *house) (wrong []string) {
	for _, p := range h.packages {
		if emptyPackage.MatchString(p.path) {
			wrong = append(wrong, p.path+" says nothing of what is in it")
		}
		for _, f := range p.files {
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				if spec, ok := n.(*ast.TypeSpec); ok && emptyType.MatchString(spec.Name.Name) {
					wrong = append(wrong, f.path+": type "+spec.Name.Name+" says nothing of what it is")
				}
				return true
			})
		}
	}
	return wrong
}

// sandboxes: a custodian to practise on is marked as one, and has no address on the internet (RFC 2606, section 2); a
// real one has no other.
func sandboxes(h *house) (wrong []string) {
	for _, c := range h.custodians {
		if strings.HasPrefix(c.ID, "sandbox") != c.Sandbox {
			wrong = append(wrong, fmt.Sprintf("%s: marked as sandbox is %t", c.ID, c.Sandbox))
		}
		if len(c.Endpoints) == 0 {
			wrong = append(wrong, c.ID+" has no endpoint")
		}
		for _, address := range c.Endpoints {
			u, err := url.Parse(address)
			if err != nil || u.Scheme != "https" {
				wrong = append(wrong, c.ID+": "+address+" is no https address")
				continue
			}
			if practice(u.Hostname()) != c.Sandbox {
				wrong = append(wrong, fmt.Sprintf("%s: marked as sandbox is %t, and its address is %s", c.ID, c.Sandbox, address))
			}
		}
	}
	return wrong
}

// practice says whether a host can be nobody's bank.
func practice(host string) bool {
	_, err := netip.ParseAddr(host)
	last := host[strings.LastIndex(host, ".")+1:]
	return err == nil || slices.Contains([]string{"invalid", "test", "localhost", "internal", "local", "example"}, last)
}

// topics: pipeline.json and domain name the same ones, and each is emitted by somebody and taken by somebody.
func topics(h *house) (wrong []string) {
	declared := h.topics()
	for _, value := range declared {
		if _, ok := h.pipeline.Topics[value]; !ok {
			wrong = append(wrong, "domain's topic "+value+" is not in pipeline.json")
		}
	}
	emitted, taken := map[string]bool{}, map[string]int{}
	for _, f := range h.pipeline.Functions {
		for _, t := range f.Emits {
			emitted[t] = true
		}
		if f.Trigger != "" {
			taken[f.Trigger]++
		}
		for _, t := range append([]string{f.Trigger}, f.Emits...) {
			if _, ok := h.pipeline.Topics[t]; !ok && t != "" {
				wrong = append(wrong, f.Name+" names the topic "+t+", which is not declared")
			}
		}
	}
	for name := range h.pipeline.Topics {
		if !slices.Contains(slices.Collect(maps.Values(declared)), name) {
			wrong = append(wrong, "pipeline.json's topic "+name+" is not in domain")
		}
		if !emitted[name] {
			wrong = append(wrong, "nobody emits "+name)
		}
		if taken[name] != 1 {
			wrong = append(wrong, fmt.Sprintf("%s is taken by %d functions", name, taken[name]))
		}
	}
	return wrong
}

// topics are domain's constants of type Topic, by their name.
func (h *house) topics() map[string]string {
	out := map[string]string{}
	for _, p := range h.packages {
		if p.path != "shared/domain" {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok {
					return true
				}
				if t, ok := spec.Type.(*ast.Ident); ok && t.Name == "Topic" {
					for i, v := range spec.Values {
						out[spec.Names[i].Name] = literal(v)
					}
				}
				return true
			})
		}
	}
	return out
}

// literal is the value of a string literal, or "".
func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	text, _ := strconv.Unquote(lit.Value)
	return text
}

// emissions: a function's code names no topic that pipeline.json does not have it emit (what it takes it need not
// name). From there come the rights that it has in the cloud. domain.Tell emits a notice.
func emissions(h *house) (wrong []string) {
	declared, given := h.topics(), map[string]map[string]bool{}
	for _, f := range h.pipeline.Functions {
		if given[f.source()] == nil {
			given[f.source()] = map[string]bool{}
		}
		for _, t := range f.Emits {
			given[f.source()][t] = true
		}
	}
	for _, p := range h.packages {
		name, ok := strings.CutPrefix(p.path, "functions/")
		name, _, _ = strings.Cut(name, "/")
		if !ok || name == "sluis" {
			continue
		}
		for _, f := range p.files {
			local := f.local(module + "/shared/domain")
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok || f.test {
					return true
				}
				topic := declared[s.Sel.Name]
				if s.Sel.Name == "Tell" {
					topic = declared["TopicNotice"]
				}
				if x, ok := s.X.(*ast.Ident); ok && x.Name == local && topic != "" && !given[name][topic] {
					wrong = append(wrong, f.path+" names "+topic+", which pipeline.json does not give to "+name)
				}
				return true
			})
		}
	}
	return wrong
}

// gates: every key that a function closes or opens with is declared; the two gates over credentials are opened by
// extraction alone; and whoever closes the second gate opens nothing.
func gates(h *house) (wrong []string) {
	for _, f := range h.pipeline.Functions {
		for _, key := range slices.Concat(f.Close, f.Open) {
			if _, ok := h.pipeline.Keys[key]; !ok {
				wrong = append(wrong, f.Name+" names the key "+key+", which is not declared")
			}
		}
		for _, key := range []string{"inner", "outer"} {
			if slices.Contains(f.Open, key) && f.source() != "extract" {
				wrong = append(wrong, f.Name+" opens "+key)
			}
		}
		if slices.Contains(f.Close, "outer") && len(f.Open) > 0 {
			wrong = append(wrong, f.Name+" closes outer and opens "+strings.Join(f.Open, ", "))
		}
		wrong = append(wrong, f.shardsFit()...)
		for _, called := range f.Calls {
			if !slices.ContainsFunc(h.pipeline.Functions, func(g function) bool { return g.Name == called }) {
				wrong = append(wrong, f.Name+" calls "+called+", which is not there")
			}
		}
	}
	return wrong
}

// shardsFit: who reads shards opens something, who makes them closes something, and who destroys them does nothing else
// with them.
func (f *function) shardsFit() (wrong []string) {
	for _, power := range f.Shards {
		switch {
		case !slices.Contains([]string{"make", "read", "destroy"}, power):
			wrong = append(wrong, f.Name+" may "+power+" shards, which is no power over them")
		case power == "read" && len(f.Open) == 0, power == "make" && len(f.Close) == 0:
			wrong = append(wrong, f.Name+" may "+power+" shards, and has no key for what they are for")
		case power == "destroy" && len(f.Shards) > 1:
			wrong = append(wrong, f.Name+" destroys shards, and may do more with them")
		}
	}
	return wrong
}

// shardPowers: a function's code names no power over shards that pipeline.json does not give it. From there come the
// rights that it has in the cloud.
func shardPowers(h *house) (wrong []string) {
	powers, given := map[string]string{"ShardMaker": "make", "ShardReader": "read", "ShardDestroyer": "destroy", "Shards": "all"}, map[string][]string{}
	for _, f := range h.pipeline.Functions {
		given[f.source()] = append(given[f.source()], f.Shards...)
	}
	for _, p := range h.packages {
		name, ok := strings.CutPrefix(p.path, "functions/")
		name, _, _ = strings.Cut(name, "/")
		if !ok || name == "sluis" {
			continue
		}
		for _, f := range p.files {
			local := f.local(module + "/shared/domain")
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok || f.test {
					return true
				}
				power := powers[s.Sel.Name]
				if x, ok := s.X.(*ast.Ident); ok && x.Name == local && power != "" && !slices.Contains(given[name], power) {
					wrong = append(wrong, f.path+" may "+power+" shards, which pipeline.json does not give to "+name)
				}
				return true
			})
		}
	}
	return wrong
}

var parameter = regexp.MustCompile(`\{[a-z]+\}`)

// routes: each route is registered by its function, and by no other.
func routes(h *house) (wrong []string) {
	listed := map[string]bool{}
	for _, f := range h.pipeline.Functions {
		for _, r := range f.Routes {
			if r.Host != "api" && r.Host != "pages" {
				continue
			}
			listed[f.Name] = true
			pattern := r.Method + " " + r.Path
			sample := parameter.ReplaceAllString(strings.TrimSuffix(r.Path, "{$}"), "x")
			var by []string
			for name, mux := range h.muxes {
				if _, got := mux.Handler(&http.Request{Method: r.Method, URL: &url.URL{Path: sample}, Host: "any"}); got == pattern {
					by = append(by, name)
				}
			}
			slices.Sort(by)
			if !slices.Equal(by, []string{f.Name}) {
				wrong = append(wrong, fmt.Sprintf("%s belongs to %s and is registered by %v", pattern, f.Name, by))
			}
		}
	}
	for name := range h.muxes {
		if !listed[name] {
			wrong = append(wrong, name+" has a mux, and no routes in pipeline.json")
		}
	}
	return wrong
}

var routePattern = regexp.MustCompile(`^(GET|HEAD|POST|PUT|PATCH|DELETE) /`)

// strayRoutes: nothing is registered that pipeline.json does not list for that function. The sandbox plays others'
// servers, and sluis stands before all.
func strayRoutes(h *house) (wrong []string) {
	listed := map[string]bool{}
	for _, f := range h.pipeline.Functions {
		for _, r := range f.Routes {
			listed[f.source()+" "+r.Method+" "+r.Path] = true
		}
	}
	for _, p := range h.packages {
		name, ok := strings.CutPrefix(p.path, "functions/")
		name, _, _ = strings.Cut(name, "/")
		if !ok || name == "sluis" || name == "sandbox" {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || f.test {
					return true
				}
				s, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !slices.Contains([]string{"Handle", "HandleFunc", "API", "Investor", "Public", "Stream"}, s.Sel.Name) {
					return true
				}
				for _, arg := range call.Args {
					if text := literal(arg); routePattern.MatchString(text) && !listed[name+" "+text] {
						wrong = append(wrong, f.path+" registers "+text)
					}
				}
				return true
			})
		}
	}
	return wrong
}
