// Package arrows holds the house to its plan: who may import whom, where what may lie, and that the contracts in
// schemas say what the code does. The rules are plain functions over a house that was read from its files, so that the
// same functions are tried on small planted houses, in each of which just one thing is wrong.
//
// Run it uncached (go test -count=1 ./test/arrows): the go command does not know that it reads every file.
package arrows

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "sluis.internal"

// house is all that the rules look at.
type house struct {
	top        []string // names at the top level, without what .gitignore says
	packages   []*folder
	pipeline   pipeline
	custodians []custodian
	muxes      map[string]*http.ServeMux // what each function with routes registers, by its name in pipeline.json
}

// folder is one package.
type folder struct {
	path  string // below the module, for example functions/seal
	files []*file
}

// file is one Go file, whatever its build constraints say.
type file struct {
	path    string
	test    bool
	lines   int
	imports map[string]string // path to local name, which is empty unless the file gives one
	set     *token.FileSet
	syntax  *ast.File
}

type pipeline struct {
	Topics    map[string]any `json:"topics"`
	Keys      map[string]any `json:"keys"`
	Functions []function     `json:"functions"`
}

type function struct {
	Name    string   `json:"name"`
	Source  string   `json:"source"`
	Trigger string   `json:"trigger"`
	Emits   []string `json:"emits"`
	Calls   []string `json:"calls"`
	Close   []string `json:"close"`
	Open    []string `json:"open"`
	Shards  []string `json:"shards"`
	Routes  []struct{ Host, Method, Path string }
}

// source is the folder under functions that holds the function.
func (f *function) source() string {
	if f.Source != "" {
		return f.Source
	}
	return f.Name
}

type custodian struct {
	ID        string            `json:"id"`
	Endpoints map[string]string `json:"endpoints"`
	Sandbox   bool              `json:"sandbox"`
}

// read reads a house.
func read(root fs.FS) (*house, error) {
	h := &house{}
	if err := h.readTop(root); err != nil {
		return nil, err
	}
	for name, v := range map[string]any{"schemas/pipeline.json": &h.pipeline, "schemas/custodians.json": &h.custodians} {
		raw, err := fs.ReadFile(root, name)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, v); err != nil {
			return nil, err
		}
	}
	folders := map[string]*folder{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := d.Name(); d.IsDir() && name != "." && (strings.ContainsAny(base[:1], "._") || base == "testdata" || base == "node_modules" || base == "vendor") {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		f, err := readFile(root, name)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		if folders[dir] == nil {
			folders[dir] = &folder{path: dir}
		}
		folders[dir].files = append(folders[dir].files, f)
		return nil
	})
	for _, dir := range slices.Sorted(maps.Keys(folders)) {
		h.packages = append(h.packages, folders[dir])
	}
	return h, err
}

// readTop lists the top level. What git ignores there is somebody's own.
func (h *house) readTop(root fs.FS) error {
	entries, err := fs.ReadDir(root, ".")
	if err != nil {
		return err
	}
	ignored, err := fs.ReadFile(root, ".gitignore")
	if err != nil {
		return err
	}
	own := strings.Fields(string(ignored))
	for _, e := range entries {
		if !slices.Contains(own, "/"+e.Name()) && !slices.Contains(own, "/"+e.Name()+"/") {
			h.top = append(h.top, e.Name())
		}
	}
	return nil
}

func readFile(root fs.FS, name string) (*file, error) {
	raw, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, err
	}
	f := &file{path: name, test: strings.HasSuffix(name, "_test.go"), imports: map[string]string{}, set: token.NewFileSet()}
	f.lines = bytes.Count(raw, []byte("\n"))
	if f.syntax, err = parser.ParseFile(f.set, name, raw, parser.SkipObjectResolution); err != nil {
		return nil, err
	}
	for _, i := range f.syntax.Imports {
		target, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		f.imports[target] = ""
		if i.Name != nil {
			f.imports[target] = i.Name.Name
		}
	}
	return f, nil
}

// length is how many lines a piece of syntax takes.
func (f *file) length(n ast.Node) int {
	return f.set.Position(n.End()).Line - f.set.Position(n.Pos()).Line + 1
}

// local is the name that the file knows an import by, or "" if it does not import it.
func (f *file) local(target string) string {
	name, ok := f.imports[target]
	if ok && name == "" {
		return path.Base(target)
	}
	return name
}

// ours says what an import path is below our module; ok is false for anybody else's.
func ours(target string) (below string, ok bool) {
	if target == module {
		return ".", true
	}
	return strings.CutPrefix(target, module+"/")
}

// standard says whether an import path is the standard library's: only its first element has no dot.
func standard(target string) bool {
	first, _, _ := strings.Cut(target, "/")
	return !strings.Contains(first, ".")
}

// within says whether a package lies in a folder or below it.
func within(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }
