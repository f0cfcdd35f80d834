// Command stage makes, for each deployable function, the folder that is uploaded to Google Cloud: go.mod and go.sum, the
// packages of ours that the function needs, each in its place, and one package at the root that imports the function. Google's
// Go buildpack wants just that one package there, and finds the function's entry points by FUNCTION_TARGET.
//
//	go run ./test/stage [-build] [-zip ZIPS] DIR
//
// makes DIR/consent, DIR/seal and so on, one folder for each source in schemas/pipeline.json and each protocol of an
// extraction. Functions that come from one source share a folder. With -build it also does to each what the buildpack would
// do: the program is DIR/consent/function.bin, and so on. With -zip it packs each folder into ZIPS, named for what is in it,
// and writes ZIPS/manifest.json, which says which zips belong together.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const module = "sluis.internal"

func main() {
	compile := flag.Bool("build", false, "build each folder, too")
	zips := flag.String("zip", "", "pack each folder into this one, too")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: go run ./test/stage [-build] [-zip ZIPS] DIR")
		os.Exit(2)
	}
	err := Stage(".", flag.Arg(0))
	if err == nil && *zips != "" {
		err = Pack(flag.Arg(0), *zips) // before a build leaves its own files there
	}
	if err == nil && *compile {
		err = Build(flag.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "staging:", err)
		os.Exit(1)
	}
}

// Build builds every staged folder below out.
func Build(out string) error {
	staged, err := os.ReadDir(out)
	for _, s := range staged {
		if _, failed := build(filepath.Join(out, s.Name())); failed != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", s.Name(), failed))
		}
	}
	return err
}

// face is the program that the buildpack generates around a function whose entry points register themselves.
const face = `package main

import (
	"log"
	"os"

	_ "sluis.internal"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
)

func main() {
	if err := funcframework.StartHostPort("127.0.0.1", os.Getenv("PORT")); err != nil {
		log.Fatal(err)
	}
}
`

// build builds a staged folder as the buildpack does: a main package of its own below it, a tidy go.mod, no cgo. Only
// that it listens on this machine alone is our own.
func build(dir string) (program string, err error) {
	app := filepath.Join(dir, "functions.local", "app")
	if err := os.MkdirAll(app, fs.ModePerm); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(app, "main.go"), []byte(face), 0o644); err != nil {
		return "", err
	}
	for _, args := range [][]string{{"mod", "tidy"}, {"build", "-trimpath", "-o", "function.bin", "./functions.local/app"}} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return filepath.Join(dir, "function.bin"), nil
}

// Stage makes the folders below out, which must be empty or not there, from the module in root.
func Stage(root, out string) error {
	if there, err := os.ReadDir(out); err == nil && len(there) > 0 {
		return fmt.Errorf("%s is not empty; name another folder, or remove it", out)
	}
	sources, err := Sources(root)
	if err != nil {
		return err
	}
	for _, source := range sources {
		if err := stage(root, filepath.Join(out, Name(source)), source); err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
	}
	return nil
}

// Name is the folder that a source is staged in: extract/comdirect becomes extract-comdirect.
func Name(source string) string { return strings.ReplaceAll(source, "/", "-") }

// Sources lists the folders below functions that are deployed, as pipeline.json says.
func Sources(root string) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(root, "schemas", "pipeline.json"))
	if err != nil {
		return nil, err
	}
	var p struct {
		Functions []struct{ Name, Source, Per string }
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("reading pipeline.json: %w", err)
	}
	var sources []string
	for _, f := range p.Functions {
		folder := f.Source
		if folder == "" {
			folder = f.Name
		}
		if f.Per != "custodian" {
			sources = append(sources, folder)
			continue
		}
		faces, err := filepath.Glob(filepath.Join(root, "functions", folder, "*", "function.go"))
		if err != nil {
			return nil, err
		}
		for _, face := range faces {
			sources = append(sources, path.Join(folder, filepath.Base(filepath.Dir(face))))
		}
	}
	slices.Sort(sources)
	return slices.Compact(sources), nil
}

// pkg is what `go list` says of a package.
type pkg struct {
	Dir, ImportPath     string
	Standard            bool
	GoFiles, EmbedFiles []string
	Module              *struct{ Path string }
}

func stage(root, out, source string) error {
	packages, err := list(root, "./functions/"+source)
	if err != nil {
		return err
	}
	for _, p := range packages {
		if p.Standard || p.Module == nil || p.Module.Path != module {
			continue
		}
		below := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, f := range append(p.GoFiles, p.EmbedFiles...) {
			if err := copyFile(filepath.Join(p.Dir, f), filepath.Join(out, below, f)); err != nil {
				return err
			}
		}
	}
	for _, f := range []string{"go.mod", "go.sum"} {
		if err := copyFile(filepath.Join(root, f), filepath.Join(out, f)); err != nil {
			return err
		}
	}
	face := fmt.Sprintf("// Package function is what Google's Go buildpack builds: the function and its entry points.\npackage function\n\n"+
		"import (\n\t_ \"github.com/GoogleCloudPlatform/functions-framework-go/functions\"\n\n\t_ \"%s/functions/%s\"\n)\n", module, source)
	return os.WriteFile(filepath.Join(out, "function.go"), []byte(face), 0o644)
}

// list asks Go which packages one needs, itself included, for the machines that functions run on.
func list(root, target string) ([]pkg, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,ImportPath,Standard,GoFiles,EmbedFiles,Module", target)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	var failed bytes.Buffer
	cmd.Stderr = &failed
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, failed.String())
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		all = append(all, p)
	}
}

func copyFile(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), fs.ModePerm); err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o644)
}
