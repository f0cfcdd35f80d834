package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"sluis.internal/functions/sluis/home"
)

// TestReadmeShowsTheFlow holds README's drawing and pipeline.json together.
func TestReadmeShowsTheFlow(t *testing.T) {
	p, err := home.ReadPipeline()
	if err != nil {
		t.Fatal(err)
	}
	var drawing bytes.Buffer
	if err := draw(&drawing, p); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```mermaid\n"+drawing.String()+"```") {
		t.Errorf("README does not show the flow as it is; put this there:\n%s", drawing.String())
	}
}
