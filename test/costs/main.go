// Command costs computes what an installation in Google Cloud costs a month, from what acts were measured to need (test/cloud),
// Google's list prices and what is assumed of the rest: all three stand in costs.json. It writes the tables of the runbook.
//
//	go run ./test/costs            # prints them
//	go run ./test/costs -write     # writes them into terraform/README.md
package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

//go:embed costs.json
var inputs []byte

const (
	runbook = "terraform/README.md"
	begin   = "<!-- costs: written by go run ./test/costs -write -->\n"
	end     = "<!-- /costs -->\n"
)

func main() {
	write := flag.Bool("write", false, "write them into "+runbook)
	flag.Parse()
	m, err := Read(inputs)
	if err == nil && *write {
		err = rewrite(m.Markdown())
	} else if err == nil {
		fmt.Print(m.Markdown())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "costs:", err)
		os.Exit(1)
	}
}

func rewrite(tables string) error {
	raw, err := os.ReadFile(runbook)
	if err != nil {
		return err
	}
	before, _, ok := strings.Cut(string(raw), begin)
	_, after, closed := strings.Cut(string(raw), end)
	if !ok || !closed {
		return fmt.Errorf("%s has no place for the tables", runbook)
	}
	return os.WriteFile(runbook, []byte(before+begin+tables+end+after), 0o644)
}

// Model is costs.json.
type Model struct {
	AsOf        string                `json:"as_of"`
	Sizes       []float64             `json:"sizes"`
	Measured    string                `json:"measured"`
	Acts        map[string]Act        `json:"acts"`
	Assumptions map[string]Assumption `json:"assumptions"`
	Prices      map[string]Price      `json:"prices"`

	used map[string]bool // assumptions and prices that a line asked for
}

// Act is what one act needs of Google, as test/cloud counts it.
type Act struct {
	Name      string  `json:"name"`
	Reads     float64 `json:"reads"`
	Writes    float64 `json:"writes"`
	Deletes   float64 `json:"deletes"`
	Published float64 `json:"published"` // and pushed as often
	KMS       float64 `json:"kms"`
}

func (a Act) times(n float64) Act {
	return Act{a.Name, a.Reads * n, a.Writes * n, a.Deletes * n, a.Published * n, a.KMS * n}
}

func (a Act) plus(b Act) Act {
	return Act{a.Name, a.Reads + b.Reads, a.Writes + b.Writes, a.Deletes + b.Deletes, a.Published + b.Published, a.KMS + b.KMS}
}

// Assumption is what nobody measured.
type Assumption struct {
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Why   string  `json:"why"`
}

// Price is one of Google's list prices. Seen is empty where it could not be verified.
type Price struct {
	USD  float64 `json:"usd"`
	Per  float64 `json:"per"`
	Unit string  `json:"unit"`
	At   string  `json:"at"`
	Seen string  `json:"seen"`
	Note string  `json:"note"`
}

// Read reads a model, and refuses what it does not know.
func Read(raw []byte) (*Model, error) {
	m := &Model{used: map[string]bool{}}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("reading costs.json: %w", err)
	}
	for _, line := range m.Lines(1) { // everything is asked for once
		if line.USD < 0 {
			return nil, fmt.Errorf("%s costs less than nothing", line.Name)
		}
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(m.Assumptions)), slices.Collect(maps.Keys(m.Prices))) {
		if !m.used[name] {
			return nil, fmt.Errorf("%q is in costs.json, and no line asks for it", name)
		}
	}
	return m, nil
}

// a is the value of an assumption.
func (m *Model) a(name string) float64 {
	v, ok := m.Assumptions[name]
	if !ok {
		panic("costs.json has no assumption " + name)
	}
	m.used[name] = true
	return v.Value
}

// pay is what n of something cost.
func (m *Model) pay(name string, n float64) float64 {
	p, ok := m.Prices[name]
	if !ok || p.Per == 0 {
		panic("costs.json has no price " + name)
	}
	m.used[name] = true
	return p.USD / p.Per * n
}

const (
	hours = 730.0           // in a month
	kib   = 1.0 / (1 << 20) // of a GiB
)

// Line is what one part costs a month.
type Line struct {
	Name string
	USD  float64
}

// acts are all acts of a month, and the sessions among them.
func (m *Model) acts(connections float64) (sum Act, sessions, opened float64) {
	refreshes, firsts := connections*m.a("refreshes"), connections*m.a("new")
	changed := refreshes * m.a("changed")
	sum = m.Acts["first"].times(firsts).plus(m.Acts["same"].times(refreshes - changed)).plus(m.Acts["changed"].times(changed))
	sum = sum.plus(m.Acts["retried"].times(changed * m.a("retried")))
	readings := connections * m.a("reads")
	sum.Reads += readings * m.a("read_documents")
	sum.KMS += readings // its data key is opened; functions keep one for ten minutes at most
	return sum, refreshes + firsts, readings
}

// Lines are the parts of a bill for so many connections.
func (m *Model) Lines(connections float64) []Line {
	sum, sessions, _ := m.acts(connections)
	stored := connections*m.a("portfolio_kib")*kib + sessions*12*m.a("entries")*kib
	rsa := sessions * m.a("rsa")
	busy := sessions * (m.a("seconds") + m.a("others"))
	warm := m.a("warm") * hours * 3600
	logs, others := sessions*m.a("log_kib")*kib, sessions*m.a("app_log_kib")*kib
	bank, out := sessions*m.a("bank_kib")*kib, sessions*m.a("out_kib")*kib
	front := sessions * m.a("front")
	instances := m.a("warm") + busy/(hours*3600)
	return []Line{
		{"Firestore, reading and writing", m.pay("reads", sum.Reads) + m.pay("writes", sum.Writes) + m.pay("deletes", sum.Deletes)},
		{"Firestore, storage and backups", m.pay("stored", stored) + m.pay("backup", stored*m.a("copies"))},
		{"Cloud KMS, operations", m.pay("aes", max(0, sum.KMS-rsa)) + m.pay("rsa", rsa)},
		{"Cloud KMS, versions of keys", m.pay("hsm_version", m.a("hsm_versions")) + m.pay("rsa_version", m.a("rsa_versions")) + m.pay("soft_version", m.a("soft_versions"))},
		{"Functions", m.pay("cpu", busy) + m.pay("memory", (busy+warm)*m.a("memory")) + m.pay("idle", warm) + m.pay("request", sessions*m.a("requests"))},
		{"Pub/Sub", m.pay("message", 2*sum.Published)},
		{"Audit logs, searched and archived", m.pay("log", logs) + m.pay("log_month", 12*logs) + m.pay("standard", 3*logs) + m.pay("archive", 9*logs)},
		{"Other logs", m.pay("log", others)},
		{"Load balancer and Cloud Armor", m.pay("rule_hour", hours) + m.pay("balanced", out) + m.pay("policy", 2) + m.pay("rule", m.a("armour_rules")) + m.pay("armoured", front)},
		{"NAT, firewall, internet", m.pay("nat_hour", hours) + m.pay("address_hour", 2*hours) + m.pay("nat", bank) + m.pay("named", bank) + m.pay("out", out)},
		{"Metrics", m.pay("sample", instances*m.a("samples")*6*60*hours)},
		{"Secrets and the clock", m.pay("secret", m.a("secrets")) + m.pay("job", 1)},
	}
}

// Markdown are the runbook's tables.
func (m *Model) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "USD a month, list prices as of %s, without free quotas, discounts and tax; the twelfth month.\n\n| connections |", m.AsOf)
	for _, n := range m.Sizes {
		fmt.Fprintf(&b, " %s |", thousands(n))
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(m.Sizes)) + "\n")
	totals := make([]float64, len(m.Sizes))
	for i, line := range m.Lines(1) {
		fmt.Fprintf(&b, "| %s |", line.Name)
		for j, n := range m.Sizes {
			usd := m.Lines(n)[i].USD
			totals[j] += usd
			fmt.Fprintf(&b, " %s |", thousands(usd))
		}
		b.WriteString("\n")
	}
	b.WriteString("| **in all** |")
	for _, usd := range totals {
		fmt.Fprintf(&b, " **%s** |", thousands(usd))
	}
	b.WriteString("\n| for each connection |")
	for j, n := range m.Sizes {
		fmt.Fprintf(&b, " %.4f |", totals[j]/n)
	}
	fmt.Fprintf(&b, "\n\nMeasured, medians of `%s`:\n\n| act | reads | writes | deletes | published | KMS |\n|---|---:|---:|---:|---:|---:|\n", m.Measured)
	for _, name := range []string{"first", "same", "changed", "retried"} {
		a := m.Acts[name]
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.0f | %.0f | %.0f |\n", a.Name, a.Reads, a.Writes, a.Deletes, a.Published, a.KMS)
	}
	b.WriteString("\nAssumed:\n\n| | | because |\n|---:|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(m.Assumptions)) {
		a := m.Assumptions[name]
		fmt.Fprintf(&b, "| %s | %s | %s |\n", plain(a.Value), a.Unit, a.Why)
	}
	b.WriteString("\nPrices:\n\n| USD | for | seen | |\n|---:|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(m.Prices)) {
		p := m.Prices[name]
		per := ""
		if p.Per != 1 {
			per = thousands(p.Per) + " "
		}
		seen := p.Seen
		if seen == "" {
			seen = "**not verified**"
		}
		fmt.Fprintf(&b, "| %s | %s%s | %s | %s%s |\n", plain(p.USD), per, p.Unit, seen, p.At, note(p.Note))
	}
	b.WriteString("\n")
	return b.String()
}

func note(text string) string {
	text = strings.TrimPrefix(strings.TrimPrefix(text, "not verified"), "; ")
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

func plain(v float64) string {
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.7f", v), "0"), ".")
}

// thousands writes a number for reading: whole above ten, with cents below.
func thousands(v float64) string {
	if v < 10 && v != float64(int(v)) {
		return fmt.Sprintf("%.2f", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
