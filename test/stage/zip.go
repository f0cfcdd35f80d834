package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Manifest is the file beside the zips that says which belong together: the SHA-256 of each source's. It is a file of
// Terraform's variables.
const Manifest = "manifest.json"

// Pack makes a zip of every staged folder below staged, as zips/SOURCE-SHA256.zip, and the manifest. What is the same has
// the same name, so that a zip that was deployed is never another one later, and only what changed is deployed.
func Pack(staged, zips string) error {
	folders, err := os.ReadDir(staged)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(zips, fs.ModePerm); err != nil {
		return err
	}
	sums := map[string]string{}
	for _, f := range folders {
		raw, err := pack(os.DirFS(filepath.Join(staged, f.Name())))
		if err != nil {
			return fmt.Errorf("packing %s: %w", f.Name(), err)
		}
		sum := sha256.Sum256(raw)
		sums[f.Name()] = hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(zips, f.Name()+"-"+sums[f.Name()]+".zip"), raw, 0o644); err != nil {
			return err
		}
	}
	raw, err := json.MarshalIndent(map[string]any{"sources": sums}, "", "  ") // which sorts the names
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(zips, Manifest), append(raw, '\n'), 0o644)
}

// epoch stands in every zip for the time of every file: the earliest that the format knows. The time of a checkout would
// make each build a different zip.
var epoch = time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC)

// pack makes a zip that depends on names and contents alone (and on Go's compressor): no times, no owners, no modes, in
// the order of the names.
func pack(folder fs.FS) ([]byte, error) {
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestCompression) })
	err := fs.WalkDir(folder, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(folder, name)
		if err != nil {
			return err
		}
		h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: epoch}
		h.SetMode(0o644)
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = w.Write(raw)
		}
		return err
	})
	if err == nil {
		err = z.Close() // writes what the buffer still lacks
	}
	return out.Bytes(), err
}
