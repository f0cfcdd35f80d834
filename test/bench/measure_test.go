package bench

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"
)

var long = flag.Bool("long", false, "measure the largest portfolio too")

// TestMain runs the tests and prints the table of what was measured; or it is the bank, in a process that a test
// started.
func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(bankVariable); ok {
		if err := beBank(); err != nil {
			fmt.Fprintln(os.Stderr, "bank:", err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	printTable(os.Stdout)
	os.Exit(code)
}

// act is one side of a comparison.
type act func() (cost, error)

// cost is what an act took, of this process.
type cost struct {
	wall, cpu time.Duration
	bytes     uint64 // allocated
	commits   int64  // durable ones, where they were counted
}

// spend does something and says what it took.
func spend(do func() error) (cost, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, wall := processor(), time.Now()
	err := do()
	c := cost{wall: time.Since(wall), cpu: processor() - cpu}
	runtime.ReadMemStats(&after)
	c.bytes = after.TotalAlloc - before.TotalAlloc
	return c, err
}

// spent makes an act of a function.
func spent(do func() error) act { return func() (cost, error) { return spend(do) } }

// often makes an act of something too short for the clock.
func often(n int, do func() error) act {
	return func() (cost, error) {
		c, err := spend(func() error {
			for range n {
				if err := do(); err != nil {
					return err
				}
			}
			return nil
		})
		return cost{wall: c.wall / time.Duration(n), cpu: c.cpu / time.Duration(n), bytes: c.bytes / uint64(n)}, err
	}
}

// processor is the processor time that this process has used.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic("reading the processor time: " + err.Error())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// row is a line of the table.
type row struct {
	act, against string
	aim          float64 // of the ratio of times; 0 means none
	ours, bare   cost    // medians
	ratio        [3]float64
	pairs        int
}

var table []row

// compare does both acts in turns, each as often first as the other, and reports the medians of their ratios.
func compare(b *testing.B, r row, ours, bare act) {
	var of, against []cost
	do := func(a act, to *[]cost) {
		c, err := a()
		if err != nil {
			b.Fatal(err)
		}
		*to = append(*to, c)
	}
	for b.Loop() {
		if len(of)%2 == 0 {
			do(ours, &of)
			do(bare, &against)
		} else {
			do(bare, &against)
			do(ours, &of)
		}
	}
	r.pairs = len(of)
	r.ours, r.bare = middle(of), middle(against)
	for i, get := range []func(cost) float64{cost.time, cost.processor, cost.memory} {
		ratios := make([]float64, len(of))
		for n := range of {
			ratios[n] = get(of[n]) / max(get(against[n]), 1)
		}
		r.ratio[i] = median(ratios)
	}
	b.ReportMetric(r.ratio[0], "×bare")
	b.ReportMetric(r.ratio[1], "×cpu")
	if r.ratio[2] > 0 {
		b.ReportMetric(r.ratio[2], "×memory")
	}
	table = append(table, r)
}

func (c cost) time() float64      { return float64(c.wall) }
func (c cost) processor() float64 { return float64(c.cpu) }
func (c cost) memory() float64    { return float64(c.bytes) }

func median[T cmp.Ordered](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// middle is the median of each member.
func middle(v []cost) cost {
	var m cost
	walls, cpus, bytes := make([]time.Duration, len(v)), make([]time.Duration, len(v)), make([]uint64, len(v))
	for i, c := range v {
		walls[i], cpus[i], bytes[i] = c.wall, c.cpu, c.bytes
	}
	m.wall, m.cpu, m.bytes = median(walls), median(cpus), median(bytes)
	return m
}

// printTable prints all rows; nothing where no benchmark ran.
func printTable(to io.Writer) {
	if len(table) == 0 {
		return
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nact\tagainst\tours\tbare\t×bare\taim\t×cpu\t×memory\tpairs")
	for _, r := range table {
		aim := "-"
		if r.aim > 0 {
			aim = fmt.Sprint(r.aim)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.2f\t%s\t%s\t%s\t%d\n", r.act, r.against, short(r.ours.wall), short(r.bare.wall),
			r.ratio[0], aim, known(r.ratio[1]), known(r.ratio[2]), r.pairs)
	}
	_ = w.Flush() // to the terminal
	fmt.Fprintln(to)
}

// known is a ratio, where it was measured.
func known(ratio float64) string {
	if ratio == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", ratio)
}

func short(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%.3g µs", float64(d.Nanoseconds())/1000)
	}
	return fmt.Sprintf("%.3g ms", float64(d.Microseconds())/1000)
}
