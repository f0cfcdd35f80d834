package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// packed packs folders and returns the manifest's sources.
func packed(t *testing.T, staged string) (zips string, sources map[string]string) {
	t.Helper()
	zips = t.TempDir()
	if err := Pack(staged, zips); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(zips, Manifest))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]map[string]string
	if err := json.Unmarshal(raw, &m); err != nil || len(m) != 1 {
		t.Fatalf("%s: %v", raw, err)
	}
	return zips, m["sources"]
}

// TestPack stages and packs everything twice: the zips have the same names, each is named for its bytes, and holds the
// staged folder, nothing more.
func TestPack(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, out := range []string{first, second} {
		if err := Stage("../..", out); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, f := range []string{"seal/go.mod", "seal/function.go"} {
		if err := os.Chtimes(filepath.Join(second, f), old, old); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(second, f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	zips, sources := packed(t, first)
	if _, again := packed(t, second); !maps.Equal(sources, again) {
		t.Errorf("the same sources are packed as\n%v and\n%v", sources, again)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(sources)), slices.Sorted(maps.Keys(holds))) {
		t.Errorf("packed are %v", slices.Sorted(maps.Keys(sources)))
	}
	for source, want := range sources {
		raw, err := os.ReadFile(filepath.Join(zips, source+"-"+want+".zip"))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(raw); want != hex.EncodeToString(sum[:]) {
			t.Errorf("%s is not named for its bytes: %s", source, want)
		}
		same(t, raw, filepath.Join(first, source))
	}
}

// same compares a zip with a folder.
func same(t *testing.T, raw []byte, folder string) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	var inZip, inFolder []string
	for _, f := range z.File {
		inZip = append(inZip, f.Name)
		got, err := fs.ReadFile(z, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(folder, f.Name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %s differs: %v", folder, f.Name, err)
		}
	}
	err = fs.WalkDir(os.DirFS(folder), ".", func(name string, d fs.DirEntry, err error) error {
		if !d.IsDir() {
			inFolder = append(inFolder, name)
		}
		return err
	})
	if err != nil || !slices.Equal(inZip, inFolder) {
		t.Errorf("%s holds %v, its zip %v: %v", folder, inFolder, inZip, err)
	}
}

// TestPackTellsApart: another byte, another name of a file, and a file more each make another zip.
func TestPackTellsApart(t *testing.T) {
	seen := map[string]string{}
	for name, folder := range map[string]fstest.MapFS{
		"as it is":     {"a/b.go": {Data: []byte("package b")}},
		"another byte": {"a/b.go": {Data: []byte("package c")}},
		"another name": {"a/c.go": {Data: []byte("package b")}},
		"a file more":  {"a/b.go": {Data: []byte("package b")}, "go.mod": {}},
	} {
		raw, err := pack(folder)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[string(raw)]; ok {
			t.Errorf("%s and %s make the same zip", name, other)
		}
		seen[string(raw)] = name
	}
	if err := Pack(filepath.Join(t.TempDir(), "nothing"), t.TempDir()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a folder that is not there is packed: %v", err)
	}
}
