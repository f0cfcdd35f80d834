package bench

import (
	"errors"
	"flag"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// BenchmarkGates closes and opens a credential's two gates.
func BenchmarkGates(b *testing.B) {
	g := newGates(b)
	sealed, err := g.seal()
	must(b, err)
	against := "one RSA-4096 and two AES operations"
	b.Run("seal", func(b *testing.B) {
		compare(b, row{act: "seal", against: against}, often(10, func() error {
			_, err := g.seal()
			return err
		}), often(10, bareSealing()))
	})
	b.Run("open", func(b *testing.B) {
		compare(b, row{act: "open", against: against}, spent(func() error { return g.open(sealed) }), spent(bareOpening(b)))
	})
}

// BenchmarkHome does what a whole home does, each act against its yardstick.
func BenchmarkHome(b *testing.B) {
	far := startBank(b)
	h := openHouse(b, far.address)
	calls := "the calls to the bank, decoded once; one opening"
	for _, c := range []struct {
		row
		sides func(*house, *testing.B) (ours, bare act)
	}{
		{row{act: "refresh", against: calls, aim: 1.3}, refreshing(sameData)},
		{row{act: "far", against: calls, aim: 1.3}, func(h *house, b *testing.B) (act, act) {
			ours, bare := refreshing(sameData)(h, b)
			far.away(b, 10*time.Millisecond)
			b.Cleanup(func() { far.away(b, 0) })
			return ours, bare
		}},
		{row{act: "changed", against: calls}, refreshing(changedData)},
		{row{act: "large", against: calls, aim: 1.3}, refreshing(largeData)},
		{row{act: "delivery", against: "a bare signed POST", aim: 2}, func(h *house, b *testing.B) (act, act) { return h.deliver, spent(h.poster(b)) }},
		{row{act: "noted", against: "a bare signed POST and the smallest commit"}, func(h *house, b *testing.B) (act, act) {
			post := h.poster(b)
			return h.deliver, spent(func() error { return errors.Join(post(), h.note()) })
		}},
		{row{act: "page", against: "the same bytes as a static file"}, func(h *house, b *testing.B) (act, act) { return served(b, h.consentPage(b)) }},
		{row{act: "records", against: "the same bytes as a static file"}, func(h *house, b *testing.B) (act, act) {
			return served(b, h.recordsPage(h.connect(b, sameData)))
		}},
	} {
		b.Run(c.act, func(b *testing.B) {
			if c.act == "large" && !*long {
				b.Skip("takes minutes; -long has it run")
			}
			ours, bare := c.sides(h, b)
			h.settle(b)
			compare(b, c.row, ours, bare)
		})
	}
}

// BenchmarkStart starts the program as it is installed, on data that it has run on before.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	build := func(name, pkg string) string {
		path := filepath.Join(dir, name)
		if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
			b.Fatalf("building %s: %v\n%s", pkg, err, out)
		}
		return path
	}
	sluis, bare := build("sluis", "sluis.internal/functions/sluis"), build("bare", "./bareserver")
	free := "127.0.0.1:0"
	ours := start(sluis, "serve", "--no-sandbox", "--data", filepath.Join(dir, "data"), "--api", free, "--pages", free)
	_, err := ours() // makes keys and tables
	must(b, err)
	compare(b, row{act: "start", against: "a Go program with as many listeners"}, ours, start(bare))
}

// BenchmarkCommit has shared/backend/sql measure, which alone may use a database without our store around it.
func BenchmarkCommit(b *testing.B) {
	r := row{act: "commit", against: "the same bytes by prepared statements", aim: 1.5, pairs: 1}
	for b.Loop() {
		out, err := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkCommit$", "-benchtime",
			flag.Lookup("test.benchtime").Value.String(), "sluis.internal/shared/backend/sql").CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		metric := func(unit string) float64 {
			found := regexp.MustCompile(`([0-9.e+]+) ` + unit).FindSubmatch(out)
			if found == nil {
				b.Fatalf("no %s in\n%s", unit, out)
			}
			v, err := strconv.ParseFloat(string(found[1]), 64)
			must(b, err)
			return v
		}
		r.ours.wall = time.Duration(metric("us/commit") * 1000)
		r.bare.wall = time.Duration(metric("us/bare") * 1000)
		r.ratio[0] = metric("×bare")
	}
	b.ReportMetric(r.ratio[0], "×bare")
	table = append(table, r)
}
