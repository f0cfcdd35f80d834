// Command openapi writes schemas/openapi.json, the one document that clients load, from openapi.yaml and the
// *.schema.json beside it. Run it in the module's root, or by go generate ./schemas, after a change to any of them.
package main

import (
	"flag"
	"log"
	"os"
	"path/filepath"

	"sluis.internal/test/contract"
)

func main() {
	log.SetFlags(0)
	folder := flag.String("schemas", "schemas", "the folder of the contracts")
	flag.Parse()
	document, err := contract.Bundle(os.DirFS(*folder))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*folder, "openapi.json"), document, 0o644); err != nil {
		log.Fatal(err)
	}
}
