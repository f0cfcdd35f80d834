package cloud

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"sluis.internal/shared/backend/gcp/gcptest"
)

// Google's list prices in USD for one of each, without the free quota: Firestore's for the European multi-region, which
// is the dearest (https://cloud.google.com/firestore/pricing), Cloud KMS's for software keys
// (https://cloud.google.com/kms/pricing), Pub/Sub's 40 a TiB for a message published and pushed, each counted as 1 kB
// (https://cloud.google.com/pubsub/pricing, 2026-09-20), and functions' calls without their time
// (https://cloud.google.com/functions/pricing).
var prices = map[string]float64{
	gcptest.Reads: 0.06 / 100_000, gcptest.Writes: 0.18 / 100_000, gcptest.Deletes: 0.02 / 100_000,
	gcptest.Published: 40.0 / (1 << 30), pushes: 40.0 / (1 << 30), keys: 0.03 / 10_000, calls: 0.40 / 1_000_000,
}

const (
	pushes = "pushed"
	keys   = "KMS"
	calls  = "calls"
)

// columns of the table.
var columns = []string{gcptest.Reads, gcptest.Writes, gcptest.Deletes, gcptest.Published, pushes, keys, calls}

// bill counts what an act costs until the dust has settled.
func (r *region) bill(b *testing.B, act func(ctx context.Context) error) map[string]float64 {
	b.Helper()
	r.take()
	ctx, done := context.WithTimeout(b.Context(), time.Minute)
	defer done()
	if err := act(ctx); err != nil {
		b.Fatal(err)
	}
	sum := map[string]float64{}
	for quiet := 0; quiet < 4; time.Sleep(250 * time.Millisecond) { // functions work on after the last answer
		more := r.take()
		quiet++
		for what, n := range more {
			sum[what] += float64(n)
			quiet = 0
		}
	}
	return sum
}

// take is what was counted since the last time.
func (r *region) take() map[string]int {
	sum := r.firestore.Take()
	for what, n := range r.pubsub.Take() {
		sum[what] += n
	}
	for _, method := range []string{"Encrypt", "Decrypt", "AsymmetricDecrypt", "AsymmetricSign", "GetPublicKey", "ListCryptoKeyVersions"} {
		sum[keys] += r.vault.TakeCalls(method)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, n := range r.calls {
		if name == "push" {
			sum[pushes] += n
		} else {
			sum[calls] += n
		}
	}
	r.calls = map[string]int{}
	maps.DeleteFunc(sum, func(_ string, n int) bool { return n == 0 })
	return sum
}

// steps makes an act of a journey's steps.
func (r *region) steps(name string, words ...string) func(context.Context) error {
	p := r.Player(name)
	return func(ctx context.Context) error {
		for _, w := range words {
			if err := p.Play(ctx, w); err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
		}
		return nil
	}
}

// refreshes connects a login, and gives the act of one refresh without the investor, asked for by the client. The first
// ones are not counted: keysets and keys are known afterwards, as they are to a function that has run before.
func (r *region) refreshes(b *testing.B, login string) func(context.Context) error {
	b.Helper()
	p := r.Player("cost-" + login)
	play := func(ctx context.Context, words ...string) error {
		for _, w := range words {
			if err := p.Play(ctx, w); err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
		}
		return nil
	}
	if err := play(b.Context(), "ask", "open", "grant", "login "+login, "done", "refresh", "done"); err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context) error { return play(ctx, "refresh", "done") }
}

// BenchmarkCost prints what acts cost in Google's own units, and in USD for a thousand of them.
func BenchmarkCost(b *testing.B) {
	r := open(b, options{})
	same, changed := r.refreshes(b, "20000044"), r.refreshes(b, "20000043")
	first := 0
	acts := []struct {
		name string
		do   func(context.Context) error
	}{
		{"first connection, SMS code", func(ctx context.Context) error {
			first++
			return r.steps(fmt.Sprint("cost-first-", first), "ask", "open", "grant", "login 20000002", "challenge code", "code 111111", "done")(ctx)
		}},
		{"refresh, nothing changed", same},
		{"refresh, positions changed", changed},
		{"webhook retried once", r.retried(b)},
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nact\t%s\tUSD per 1,000\n", strings.Join(columns, "\t"))
	for _, a := range acts {
		b.Run(a.name, func(b *testing.B) {
			var bills []map[string]float64
			for b.Loop() {
				bills = append(bills, r.bill(b, a.do))
			}
			usd := 0.0
			fmt.Fprint(w, a.name)
			for _, what := range columns {
				n := median(bills, what)
				usd += n * prices[what] * 1000
				b.ReportMetric(n, what)
				fmt.Fprintf(w, "\t%.0f", n)
			}
			fmt.Fprintf(w, "\t%.4f\n", usd)
		})
	}
	_ = w.Flush() // to the terminal
}

func median(bills []map[string]float64, what string) float64 {
	all := make([]float64, len(bills))
	for i, bill := range bills {
		all[i] = bill[what]
	}
	slices.SortFunc(all, cmp.Compare)
	return all[len(all)/2]
}

// retried gives the act of a test webhook that is refused once and taken the second time.
func (r *region) retried(b *testing.B) func(context.Context) error {
	b.Helper()
	var made struct{ ID string }
	if err := r.Call(b.Context(), http.MethodPost, "/v1/endpoints", map[string]string{"url": "http://" + r.second.Addr().String() + "/"}, &made); err != nil {
		b.Fatal(err)
	}
	came, n := make(chan struct{}, 100), 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n%2 == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
		came <- struct{}{}
	})}
	go func() { _ = server.Serve(r.second) }()
	b.Cleanup(func() { _ = server.Close() })
	return func(ctx context.Context) error {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		go func() { _ = r.store.Pump(ctx) }() // publishes what is due; what it asks is not counted
		if err := r.Call(ctx, http.MethodPost, "/v1/endpoints/"+made.ID+"/test", nil, nil); err != nil {
			return err
		}
		for range 2 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-came:
			}
		}
		return nil
	}
}
