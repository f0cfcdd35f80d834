package arrows

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// good is a small house in which nothing is wrong.
func good() map[string]string {
	return map[string]string{
		".gitignore": "/sluis-data/\n",
		".ci/run":    "",
		"go.mod":     "", "go.sum": "", "README.md": "", "terraform/main.tf": "", "sluis-data/db": "",
		"schemas/schemas.go":                                  `package schemas; import _ "embed"`,
		"schemas/custodians.json":                             `[{"id":"bank","endpoints":{"api":"https://api.bank.de"}},{"id":"sandbox-bank","sandbox":true,"endpoints":{"api":"https://x.sandbox.invalid"}}]`,
		"schemas/pipeline.json":                               goodPipeline,
		"shared/domain/domain.go":                             goodDomain,
		"shared/domain/domain_test.go":                        `package domain_test; import ("testing"; "sluis.internal/shared/domain")`,
		"shared/envelope/envelope.go":                         `package envelope; import ("sluis.internal/shared/domain"; "github.com/go-jose/go-jose/v4")`,
		"shared/serve/serve.go":                               `package serve; import "sluis.internal/shared/domain"`,
		"shared/serve/serve_test.go":                          `package serve; import ("sluis.internal/shared/backend/sql"; "sluis.internal/schemas")`,
		"shared/backend/sql/sql.go":                           `package sql; import ("database/sql"; _ "modernc.org/sqlite"; "sluis.internal/shared/backend"; "sluis.internal/shared/domain")`,
		"shared/backend/rules.go":                             `package backend; import "sluis.internal/shared/domain"`,
		"shared/backend/gcp/gcp.go":                           `package gcp; import ("cloud.google.com/go/firestore"; "sluis.internal/shared/domain")`,
		"shared/extraction/extraction.go":                     `package extraction; import ("sluis.internal/shared/domain"; "sluis.internal/shared/envelope")`,
		"shared/extraction/extractiontest/extractiontest.go":  `package extractiontest; import "sluis.internal/shared/extraction"`,
		"functions/seal/seal.go":                              `package seal; import d "sluis.internal/shared/domain"; func f(m mux) { m.Handle("POST /seal"); emit(d.TopicSession) }`,
		"functions/seal/function.go":                          `package seal; import ("github.com/GoogleCloudPlatform/functions-framework-go/functions"; "sluis.internal/shared/backend/gcp")`,
		"functions/seal/seal_test.go":                         `package seal; import ("sluis.internal/shared/backend/sql"; "sluis.internal/schemas"); func g(m mux) { m.Handle("GET /anything") }`,
		"functions/extract/bank/bank.go":                      `package bank; import "sluis.internal/shared/extraction"`,
		"functions/sandbox/bank/bank.go":                      `package bank; func f(m mux) { m.Handle("GET /banks/own/path") }`,
		"functions/sluis/main.go":                             `package main; import ("sluis.internal/functions/seal"; "sluis.internal/shared/backend/sql"; "sluis.internal/schemas")`,
		"test/journeys/journeys.go":                           `package main; import ("sluis.internal/functions/seal"; "sluis.internal/test/contract")`,
		"test/contract/contract.go":                           `package contract`,
		"test/contract/node_modules/some/strange.go":          `this is not even Go`,
		"test/contract/testdata/src/shared/util/violation.go": `package util`,
	}
}

const goodPipeline = `{"topics": {"session-requested": {}}, "keys": {"inner": {}, "outer": {}, "display": {}}, "functions": [
	{"name": "seal", "routes": [{"host": "pages", "method": "POST", "path": "/seal"}, {"host": "pages", "method": "GET", "path": "/{$}"},
		{"host": "pages", "method": "GET", "path": "/seal/{id}/image"}], "emits": ["session-requested"], "close": ["outer"], "calls": ["answer"]},
	{"name": "extract", "trigger": "session-requested", "open": ["inner", "outer"]},
	{"name": "answer", "source": "extract", "routes": [{"host": "internal", "method": "POST", "path": "/answer"}], "open": ["inner"]}]}`

const goodDomain = `package domain

type Topic string

const TopicSession Topic = "session-requested"

type Tx interface{ A(); B(); C(); D(); E() }
type Store interface{ A(); B(); C(); D() }
type id interface { ~string | ~int; prefix() string }
`

func goodMuxes() map[string]*http.ServeMux {
	return map[string]*http.ServeMux{"seal": mux("POST /seal", "GET /{$}", "GET /seal/{id}/image")}
}

func mux(patterns ...string) *http.ServeMux {
	m := http.NewServeMux()
	for _, p := range patterns {
		m.Handle(p, http.NotFoundHandler())
	}
	return m
}

// plant builds a house of files, and of muxes.
func plant(t *testing.T, files map[string]string, muxes map[string]*http.ServeMux) *house {
	t.Helper()
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	h, err := read(root)
	if err != nil {
		t.Fatal(err)
	}
	h.muxes = muxes
	return h
}

func TestGoodHouse(t *testing.T) {
	h := plant(t, good(), goodMuxes())
	for _, r := range rules {
		if wrong := r.check(h); len(wrong) > 0 {
			t.Errorf("%s: %v", r.name, wrong)
		}
	}
}

func lines(n int) string { return strings.Repeat("\n", n) }

// planted are the ways to break each rule: some files added to a good house, and what is said of it.
var planted = []struct {
	rule  string
	files map[string]string
	muxes map[string]*http.ServeMux // instead of the good ones
	want  string
}{
	{"arrows", map[string]string{"shared/domain/x.go": `package domain; import "github.com/shopspring/decimal"`}, nil, "shared/domain/x.go imports github.com/shopspring/decimal"},
	{"arrows", map[string]string{"shared/domain/x.go": `package domain; import "sluis.internal/schemas"`}, nil, "shared/domain/x.go imports"},
	{"arrows", map[string]string{"shared/domain/x_test.go": `package domain; import "sluis.internal/shared/backend/sql"`}, nil, "shared/domain/x_test.go imports"},
	{"arrows", map[string]string{"shared/domain/x_test.go": `package domain; import "github.com/google/go-cmp/cmp"`}, nil, "shared/domain/x_test.go imports"},
	{"arrows", map[string]string{"shared/domain/x_windows.go": `package domain; import "golang.org/x/sys/windows"`}, nil, "shared/domain/x_windows.go imports"},
	{"arrows", map[string]string{"shared/domain/x.go": "//go:build never\n\npackage domain\n\nimport \"sluis.internal/shared/serve\""}, nil, "shared/domain/x.go imports"},
	{"arrows", map[string]string{"schemas/x.go": `package schemas; import "sluis.internal/shared/domain"`}, nil, "schemas/x.go imports"},
	{"arrows", map[string]string{"schemas/x.go": `package schemas; import "gopkg.in/yaml.v3"`}, nil, "schemas/x.go imports"},
	{"arrows", map[string]string{"shared/envelope/x.go": `package envelope; import "sluis.internal/shared/serve"`}, nil, "shared/envelope/x.go imports"},
	{"arrows", map[string]string{"shared/serve/x.go": `package serve; import "sluis.internal/shared/envelope"`}, nil, "shared/serve/x.go imports"},
	{"arrows", map[string]string{"shared/serve/x.go": `package serve; import "sluis.internal/schemas"`}, nil, "shared/serve/x.go imports"},
	{"arrows", map[string]string{"shared/webhook/x.go": `package webhook; import "sluis.internal/shared/serve"`}, nil, "shared/webhook/x.go imports"},
	{"arrows", map[string]string{"shared/trail/x.go": `package trail; import "sluis.internal/shared/envelope"`}, nil, "shared/trail/x.go imports"},
	{"arrows", map[string]string{"shared/backend/sql/x.go": `package sql; import "sluis.internal/shared/envelope"`}, nil, "shared/backend/sql/x.go imports"},
	{"arrows", map[string]string{"shared/backend/gcp/x.go": `package gcp; import "sluis.internal/shared/backend/sql"`}, nil, "shared/backend/gcp/x.go imports"},
	{"arrows", map[string]string{"shared/extraction/x.go": `package extraction; import "sluis.internal/shared/serve"`}, nil, "shared/extraction/x.go imports"},
	{"arrows", map[string]string{"shared/extraction/x.go": `package extraction; import "sluis.internal/shared/domainlike"`, "shared/domainlike/x.go": `package domainlike`}, nil, "shared/domainlike has no place"},
	{"arrows", map[string]string{"shared/serve/x.go": `package serve; import "sluis.internal/functions/seal"`}, nil, "shared/serve/x.go imports"},
	{"arrows", map[string]string{"shared/serve/x_test.go": `package serve; import "sluis.internal/functions/seal"`}, nil, "shared/serve/x_test.go imports"},
	{"arrows", map[string]string{"functions/seal/x.go": `package seal; import "sluis.internal/test/contract"`}, nil, "functions/seal/x.go imports"},
	{"arrows", map[string]string{"shared/newcomer/x.go": `package newcomer`}, nil, "shared/newcomer has no place"},
	{"arrows", map[string]string{"x.go": `package sluis`}, nil, ". has no place"},

	{"functions are strangers to one another", map[string]string{"functions/seal/x.go": `package seal; import "sluis.internal/functions/extract/bank"`}, nil, "functions/seal/x.go imports"},
	{"functions are strangers to one another", map[string]string{"functions/seal/x_test.go": `package seal; import "sluis.internal/functions/sandbox/bank"`}, nil, "functions/seal/x_test.go imports"},
	{"functions are strangers to one another", map[string]string{"functions/extract/other/x.go": `package other; import "sluis.internal/functions/extract/bank"`}, nil, "functions/extract/other/x.go imports"},
	{"functions are strangers to one another", map[string]string{"functions/sandbox/x.go": `package sandbox; import "sluis.internal/functions/sluis"`}, nil, "functions/sandbox/x.go imports"},
	{"functions are strangers to one another", map[string]string{"functions/seal/x.go": `package seal; import "sluis.internal/shared/backend/sql"`}, nil, "only function.go may know a backend"},

	{"nothing imports test", map[string]string{"shared/serve/x_test.go": `package serve; import "sluis.internal/test/contract"`}, nil, "shared/serve/x_test.go imports"},
	{"nothing imports test", map[string]string{"functions/sluis/x.go": `package main; import "sluis.internal/test/contract"`}, nil, "functions/sluis/x.go imports"},

	{"libraries have their place", map[string]string{"functions/sluis/x.go": `package main; import "cloud.google.com/go/pubsub/v2"`}, nil, "cloud SDKs"},
	{"libraries have their place", map[string]string{"shared/backend/sql/x.go": `package sql; import "google.golang.org/grpc"`}, nil, "cloud SDKs"},
	{"libraries have their place", map[string]string{"functions/seal/function.go": `package seal; import "cloud.google.com/go/kms/apiv1"`}, nil, "cloud SDKs"},
	{"libraries have their place", map[string]string{"test/cloudbuild/x.go": `package cloudbuild; import "cloud.google.com/go/cloudbuild/apiv1/v2/cloudbuildpb"`}, nil, "cloud SDKs"},
	{"libraries have their place", map[string]string{"test/journeys/x_test.go": `package journeys; import "cloud.google.com/go/cloudbuild/apiv1/v2/cloudbuildpb"`}, nil, "cloud SDKs"},
	{"libraries have their place", map[string]string{"shared/envelope/x.go": `package envelope; import "github.com/tink-crypto/tink-go-gcpkms/v2/integration/gcpkms"`}, nil, "cloud SDKs"},
	{"libraries have their place", map[string]string{"shared/serve/x_test.go": `package serve; import "database/sql"`}, nil, "SQL drivers"},
	{"libraries have their place", map[string]string{"functions/sluis/x.go": `package main; import "github.com/jackc/pgx/v5"`}, nil, "SQL drivers"},
	{"libraries have their place", map[string]string{"shared/backend/gcp/x.go": `package gcp; import "modernc.org/sqlite"`}, nil, "SQL drivers"},
	{"libraries have their place", map[string]string{"shared/serve/x.go": `package serve; import "go.opentelemetry.io/otel/trace"`}, nil, "OpenTelemetry"},
	{"libraries have their place", map[string]string{"functions/seal/seal.go": `package seal; import "github.com/GoogleCloudPlatform/functions-framework-go/functions"`}, nil, "functions-framework"},
	{"libraries have their place", map[string]string{"functions/sluis/function.go": `package main; import "github.com/GoogleCloudPlatform/functions-framework-go/funcframework"`}, nil, "functions-framework"},
	{"libraries have their place", map[string]string{"shared/serve/function.go": `package serve; import "github.com/GoogleCloudPlatform/functions-framework-go/functions"`}, nil, "functions-framework"},

	{"programs have their place", map[string]string{"functions/seal/cmd/main.go": `package main`}, nil, "functions/seal/cmd/main.go is a program"},
	{"programs have their place", map[string]string{"shared/serve/gen.go": "//go:build ignore\n\npackage main"}, nil, "shared/serve/gen.go is a program"},
	{"programs have their place", map[string]string{"functions/sluisctl/main.go": `package main`}, nil, "functions/sluisctl/main.go is a program"},

	{"top level", map[string]string{"Makefile": ""}, nil, "Makefile does not belong"},
	{"top level", map[string]string{"cmd/x.txt": ""}, nil, "cmd does not belong"},
	{"top level", map[string]string{"sluis": ""}, nil, "sluis does not belong"},
	{"top level", map[string]string{"README.md": remove}, nil, "README.md is missing"},
	{"top level", map[string]string{"go.sum": remove}, nil, "go.sum is missing"},

	{"functions fit a screen", map[string]string{"shared/serve/x.go": "package serve\n\nfunc Long() {" + lines(80) + "}\n"}, nil, "Long has 81 lines"},
	{"functions fit a screen", map[string]string{"shared/serve/x_test.go": "package serve\n\nfunc (h *house) Long() {" + lines(80) + "}\n"}, nil, "Long has 81 lines"},

	{"interfaces are small", map[string]string{"shared/serve/x.go": `package serve; type Wide interface { A(); B(); C(); D(); E() }`}, nil, "shared/serve.Wide has 5 methods"},
	{"interfaces are small", map[string]string{"shared/serve/x.go": `package serve; type Tx interface { A(); B(); C(); D(); E() }`}, nil, "shared/serve.Tx has 5 methods"},
	{"interfaces are small", map[string]string{"shared/serve/x.go": `package serve; import "sluis.internal/shared/domain"; type Wide interface { domain.Store; E() }`}, nil, "shared/serve.Wide has 5 methods"},
	{"interfaces are small", map[string]string{"shared/serve/x.go": `package serve; import d "sluis.internal/shared/domain"; type Wide interface { d.Store; error }`}, nil, "shared/serve.Wide has 5 methods"},
	{"interfaces are small", map[string]string{"shared/serve/x.go": `package serve; type Half interface { A(); B(); C() }; type Wide interface { Half; D(); E() }`}, nil, "shared/serve.Wide has 5 methods"},
	{"interfaces are small", map[string]string{"shared/serve/x_test.go": `package serve; type wide interface { A(); B(); C(); D(); E() }`}, nil, "shared/serve.wide has 5 methods"},

	{"function.go is only a face", map[string]string{"functions/seal/function.go": "package seal" + lines(21)}, nil, "has 21 lines"},
	{"function.go is only a face", map[string]string{"shared/serve/function.go": "package serve"}, nil, "no function's face"},
	{"function.go is only a face", map[string]string{"functions/sluis/function.go": "package main"}, nil, "no function's face"},

	{"names say something", map[string]string{"shared/serve/util/x.go": `package util`}, nil, "shared/serve/util says nothing"},
	{"names say something", map[string]string{"shared/serve/x.go": `package serve; type doorImpl struct{}`}, nil, "doorImpl says nothing"},
	{"names say something", map[string]string{"shared/serve/x_test.go": `package serve; type MockStore struct{}`}, nil, "MockStore says nothing"},

	{"powers over shards", map[string]string{"functions/seal/x.go": `package seal; import "sluis.internal/shared/domain"; var x domain.ShardReader`}, nil, "functions/seal/x.go may read shards"},
	{"powers over shards", map[string]string{"functions/other/x.go": `package other; import d "sluis.internal/shared/domain"; var x d.Shards`}, nil, "functions/other/x.go may all shards"},
	{"gates", change(`"emits": ["session-requested"]`, `"shards": ["read"], "emits": ["session-requested"]`), nil, "has no key for what they are for"},
	{"gates", change(`"emits": ["session-requested"]`, `"shards": ["make", "destroy"], "emits": ["session-requested"]`), nil, "may do more with them"},
	{"gates", change(`"emits": ["session-requested"]`, `"shards": ["keep"], "emits": ["session-requested"]`), nil, "which is no power"},
	{"sandbox custodians are marked", custodians(`{"id":"sandbox-x","endpoints":{"api":"https://x.invalid"}}`), nil, "sandbox-x: marked as sandbox is false"},
	{"sandbox custodians are marked", custodians(`{"id":"bank","sandbox":true,"endpoints":{"api":"https://x.invalid"}}`), nil, "bank: marked as sandbox is true"},
	{"sandbox custodians are marked", custodians(`{"id":"bank","endpoints":{"api":"https://x.sandbox.invalid"}}`), nil, "bank: marked as sandbox is false, and its address"},
	{"sandbox custodians are marked", custodians(`{"id":"bank","endpoints":{"api":"https://127.0.0.1:8443"}}`), nil, "bank: marked as sandbox is false, and its address"},
	{"sandbox custodians are marked", custodians(`{"id":"bank","endpoints":{"api":"https://api.bank.de","auth":"https://localhost:1"}}`), nil, "and its address is https://localhost:1"},
	{"sandbox custodians are marked", custodians(`{"id":"sandbox-x","sandbox":true,"endpoints":{"api":"https://api.bank.de"}}`), nil, "sandbox-x: marked as sandbox is true, and its address"},
	{"sandbox custodians are marked", custodians(`{"id":"bank","endpoints":{"api":"http://api.bank.de"}}`), nil, "no https address"},
	{"sandbox custodians are marked", custodians(`{"id":"bank"}`), nil, "bank has no endpoint"},

	{"topics", map[string]string{"shared/domain/x.go": `package domain; const TopicNew Topic = "new"`}, nil, "domain's topic new is not in pipeline.json"},
	{"topics", change(`"topics": {`, `"topics": {"new": {}, `), nil, "pipeline.json's topic new is not in domain"},
	{"topics", change(`"emits": ["session-requested"]`, `"emits": []`), nil, "nobody emits session-requested"},
	{"topics", change(`"trigger": "session-requested"`, `"trigger": ""`), nil, "session-requested is taken by 0 functions"},
	{"topics", change(`"source": "extract",`, `"source": "extract", "trigger": "session-requested",`), nil, "session-requested is taken by 2 functions"},
	{"topics", change(`"emits": ["session-requested"]`, `"emits": ["session-requested", "other"]`), nil, "seal names the topic other"},

	{"functions emit what the pipeline says", change(`"emits": ["session-requested"]`, `"emits": []`), nil, "functions/seal/seal.go names session-requested"},
	{"functions emit what the pipeline says", map[string]string{"shared/domain/x.go": `package domain; const TopicNotice Topic = "notice"`,
		"functions/seal/x.go": `package seal; import "sluis.internal/shared/domain"; func x() { domain.Tell() }`}, nil, "functions/seal/x.go names notice"},
	{"functions emit what the pipeline says", map[string]string{"functions/other/x.go": `package other; import "sluis.internal/shared/domain"; var x = domain.TopicSession`}, nil, "does not give to other"},

	{"functions emit what the pipeline says", map[string]string{"functions/extract/bank/x.go": `package bank; import "sluis.internal/shared/domain"; var x = domain.TopicSession`}, nil, "does not give to extract"},

	{"gates", change(`"close": ["outer"]`, `"close": ["outer"], "open": ["outer"]`), nil, "seal opens outer"},
	{"gates", change(`"close": ["outer"]`, `"open": ["inner"]`), nil, "seal opens inner"},
	{"gates", change(`"close": ["outer"]`, `"close": ["outer"], "open": ["display"]`), nil, "seal closes outer and opens display"},
	{"gates", change(`"close": ["outer"]`, `"close": ["own"]`), nil, "the key own, which is not declared"},
	{"gates", change(`"calls": ["answer"]`, `"calls": ["nobody"]`), nil, "seal calls nobody"},

	{"routes", nil, map[string]*http.ServeMux{"seal": mux("POST /seal", "GET /{$}")}, "GET /seal/{id}/image belongs to seal and is registered by []"},
	{"routes", nil, map[string]*http.ServeMux{"seal": mux("POST /seal", "GET /{$}", "GET /seal/{name}/image")}, "GET /seal/{id}/image belongs to seal"},
	{"routes", nil, map[string]*http.ServeMux{"seal": mux("GET /seal", "GET /{$}", "GET /seal/{id}/image")}, "POST /seal belongs to seal"},
	{"routes", nil, map[string]*http.ServeMux{"seal": mux("POST /seal", "GET /", "GET /seal/{id}/image")}, "GET /{$} belongs to seal"},
	{"routes", nil, map[string]*http.ServeMux{"seal": goodMuxes()["seal"], "extract": mux("POST /seal")}, "POST /seal belongs to seal and is registered by [extract seal]"},
	{"routes", nil, map[string]*http.ServeMux{"extract": goodMuxes()["seal"]}, "belongs to seal and is registered by [extract]"},
	{"routes", nil, map[string]*http.ServeMux{"seal": goodMuxes()["seal"], "other": mux("GET /other")}, "other has a mux"},

	{"nothing else is served", map[string]string{"functions/seal/x.go": `package seal; func x(m mux) { m.HandleFunc("GET /debug", nil) }`}, nil, "functions/seal/x.go registers GET /debug"},
	{"nothing else is served", map[string]string{"functions/other/x.go": `package other; func x(s S) { s.Door.API(mux, "POST /seal", roles, f) }`}, nil, "functions/other/x.go registers POST /seal"},
}

const remove = "\x00"

func custodians(row string) map[string]string {
	return map[string]string{"schemas/custodians.json": "[" + row + "]"}
}

// change alters the good pipeline.
func change(from, to string) map[string]string {
	if strings.Count(goodPipeline, from) != 1 {
		panic("the pipeline has not once " + from)
	}
	return map[string]string{"schemas/pipeline.json": strings.Replace(goodPipeline, from, to, 1)}
}

// TestEveryRuleCanFail plants one violation at a time.
func TestEveryRuleCanFail(t *testing.T) {
	tried := map[string]bool{}
	for _, p := range planted {
		tried[p.rule] = true
		t.Run(p.rule+"/"+p.want, func(t *testing.T) {
			i := slices.IndexFunc(rules, func(r rule) bool { return r.name == p.rule })
			if i < 0 {
				t.Fatal("there is no such rule")
			}
			files, muxes := good(), p.muxes
			maps.Copy(files, p.files)
			maps.DeleteFunc(files, func(_, text string) bool { return text == remove })
			if muxes == nil {
				muxes = goodMuxes()
			}
			wrong := rules[i].check(plant(t, files, muxes))
			if !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, p.want) }) {
				t.Errorf("said %q", wrong)
			}
		})
	}
	for _, r := range rules {
		if !tried[r.name] {
			t.Errorf("%s: no violation is planted", r.name)
		}
	}
}
