package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"sluis.internal/functions/sluis/home"
)

type flowCommand struct{}

// Run prints the drawing that stands in README.
func (flowCommand) Run() error {
	p, err := home.ReadPipeline()
	if err != nil {
		return err
	}
	return draw(os.Stdout, p)
}

// draw writes the pipeline as a Mermaid flowchart: functions as boxes, topics as stadiums; who calls, emits and
// listens as arrows; the gates a function closes and opens in its box.
func draw(w io.Writer, p home.Pipeline) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n  client([client])\n  investor([investor's browser])\n  bank([custodian])\n")
	for _, name := range slices.Sorted(maps.Keys(p.Topics)) {
		fmt.Fprintf(&b, "  %s[/%s/]\n", node(string(name)), name)
	}
	for _, f := range p.Functions {
		fmt.Fprintf(&b, "  %s[\"<b>%s</b>%s\"]\n", f.Name, f.Name, gates(f))
	}
	for _, f := range p.Functions {
		arrows(&b, f)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func gates(f home.Function) string {
	text := ""
	if len(f.Close) > 0 {
		text += "<br/>closes " + strings.Join(f.Close, ", ")
	}
	if len(f.Open) > 0 {
		text += "<br/>opens " + strings.Join(f.Open, ", ")
	}
	return text
}

func arrows(b *strings.Builder, f home.Function) {
	hosts := map[string]bool{}
	for _, r := range f.Routes {
		hosts[r.Host] = true
	}
	if hosts["api"] {
		fmt.Fprintf(b, "  client --> %s\n", f.Name)
	}
	if hosts["pages"] {
		fmt.Fprintf(b, "  investor --> %s\n", f.Name)
	}
	for _, called := range f.Calls {
		fmt.Fprintf(b, "  %s -- sealed answer --> %s\n", f.Name, called)
	}
	if f.Trigger != "" {
		fmt.Fprintf(b, "  %s ==> %s\n", node(string(f.Trigger)), f.Name)
	}
	for _, t := range f.Emits {
		fmt.Fprintf(b, "  %s ==> %s\n", f.Name, node(string(t)))
	}
	switch f.Name {
	case "extract", "answer":
		fmt.Fprintf(b, "  %s -. GET only after login .-> bank\n", f.Name)
	case "deliver":
		fmt.Fprintf(b, "  %s -. signed webhook .-> client\n", f.Name)
	}
}

// node is a topic's name as a Mermaid identifier.
func node(topic string) string { return strings.ReplaceAll(topic, "-", "_") }
