package contract

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is what shared/domain declares, as far as the contracts repeat it.
type source struct {
	structs   map[string]*ast.StructType
	kinds     map[string]string   // struct to the kind its Kind method returns
	constants map[string][]string // named string type to the values of its constants
	lists     map[string][]string // variable to the strings of its literal
}

// domainSource parses shared/domain.
func domainSource(t *testing.T) *source {
	t.Helper()
	s := &source{map[string]*ast.StructType{}, map[string]string{}, map[string][]string{}, map[string][]string{}}
	files, err := filepath.Glob("../../shared/domain/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no source: %v", err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				s.method(d)
			case *ast.GenDecl:
				s.declare(d)
			}
		}
	}
	return s
}

// method notes what a method Kind() DocumentKind returns.
func (s *source) method(d *ast.FuncDecl) {
	if d.Name.Name != "Kind" || d.Recv == nil || len(d.Body.List) != 1 {
		return
	}
	star, ok := d.Recv.List[0].Type.(*ast.StarExpr)
	ret, ok2 := d.Body.List[0].(*ast.ReturnStmt)
	if ok && ok2 && len(ret.Results) == 1 {
		if text, ok := literal(ret.Results[0]); ok {
			s.kinds[star.X.(*ast.Ident).Name] = text
		}
	}
}

func (s *source) declare(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if st, ok := spec.Type.(*ast.StructType); ok {
				s.structs[spec.Name.Name] = st
			}
		case *ast.ValueSpec:
			named, _ := spec.Type.(*ast.Ident)
			for i, v := range spec.Values {
				if text, ok := literal(v); ok && named != nil && d.Tok == token.CONST {
					s.constants[named.Name] = append(s.constants[named.Name], text)
				}
				if list, ok := v.(*ast.CompositeLit); ok && d.Tok == token.VAR {
					for _, e := range list.Elts {
						if text, ok := literal(e); ok {
							s.lists[spec.Names[i].Name] = append(s.lists[spec.Names[i].Name], text)
						}
					}
				}
			}
		}
	}
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// members lists the JSON members of a struct, those of embedded ones included, and which of them are strings of text.
func (s *source) members(t *testing.T, name string) []string {
	t.Helper()
	st, ok := s.structs[name]
	if !ok {
		t.Fatalf("shared/domain has no struct %s", name)
	}
	var out []string
	for _, f := range st.Fields.List {
		if len(f.Names) == 0 {
			out = append(out, s.members(t, f.Type.(*ast.Ident).Name)...)
			continue
		}
		if f.Tag == nil {
			continue
		}
		tag, _ := strconv.Unquote(f.Tag.Value)
		member, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if member != "" && member != "-" {
			out = append(out, member)
		}
	}
	slices.Sort(out)
	return out
}

// routes lists the routes of pipeline.json that answer with JSON, or with something else that openapi.yaml describes:
// those of the API, and those of the pages that are not pages themselves. consent serves the pages.
func routes(t *testing.T) []string {
	t.Helper()
	var pipeline struct {
		Functions []struct {
			Name   string
			Routes []struct{ Host, Method, Path string }
		}
	}
	readJSON(t, "pipeline.json", &pipeline)
	var out []string
	for _, f := range pipeline.Functions {
		for _, r := range f.Routes {
			if r.Host == "api" || r.Host == "pages" && f.Name != "consent" {
				out = append(out, r.Method+" "+r.Path)
			}
		}
	}
	slices.Sort(out)
	return out
}
