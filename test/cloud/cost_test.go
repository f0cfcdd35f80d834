package cloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"sluis.internal/functions/sweep"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
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
	r.settled() // what was done before it
	ctx, done := context.WithTimeout(b.Context(), time.Minute)
	defer done()
	if err := act(ctx); err != nil {
		b.Fatal(err)
	}
	return r.settled()
}

// settled waits until functions have nothing more to do, and gives what they cost since it was called last.
func (r *region) settled() map[string]float64 {
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
		for _, f := range r.pipeline.Functions {
			who := r.function(f.Name).identity()
			sum[gcptest.Of(f.Name, keys)] += r.vault.TakeCalls(gcptest.Of(who, method))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, n := range r.calls {
		if name == "push" {
			sum[pushes] += n
		} else {
			sum[calls] += n
			sum[gcptest.Of(name, calls)] += n
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

// refreshes connects a login, and gives the act of one refresh that the clock asks for. The first one is not counted:
// keysets and keys are known afterwards, as they are to a function that has run before.
func (r *region) refreshes(login string) func(*testing.B) func(context.Context) error {
	return func(b *testing.B) func(context.Context) error {
		b.Helper()
		p, clock := r.Player("cost-"+login), r.clock(b)
		for _, w := range []string{"ask", "open", "grant", "login " + login, "done", "refresh", "done"} {
			if err := p.Play(b.Context(), w); err != nil {
				b.Fatalf("%s: %v", w, err)
			}
		}
		return func(ctx context.Context) error {
			told := len(r.Inbox.Webhooks(p.Connection()))
			if err := r.due(ctx, domain.ConnectionID(p.Connection())); err != nil {
				return err
			}
			if _, err := clock.Sweep(ctx); err != nil {
				return err
			}
			for len(r.Inbox.Webhooks(p.Connection())) == told {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(50 * time.Millisecond): // other processes work on it
				}
			}
			return nil
		}
	}
}

// due has a connection's next reading be due. It is not counted.
func (r *region) due(ctx context.Context, id domain.ConnectionID) error {
	env := domain.Env{}
	return r.store.Commit(ctx, func(tx domain.Tx) error {
		c := &domain.Connection{ID: id}
		if err := tx.Get(c); err != nil {
			return err
		}
		c.NextRefreshAt = env.Now()
		return errors.Join(tx.Put(c), tx.Record(domain.Note(env, "test", "connection.due", domain.Actor{}, c.ClientID, string(id), nil)))
	})
}

// clock is sweep without the minute that it goes on publishing what is due.
func (r *region) clock(b *testing.B) *sweep.Service {
	b.Helper()
	direct := os.Getenv("FIRESTORE_EMULATOR_HOST")
	defer os.Setenv("FIRESTORE_EMULATOR_HOST", direct)
	os.Setenv("FIRESTORE_EMULATOR_HOST", r.firestore.For(b, "sweep"))
	store := r.open()
	b.Cleanup(func() { _ = store.Close() })
	contracts, err := domain.ReadContracts(schemas.FS)
	if err != nil {
		b.Fatal(err)
	}
	return &sweep.Service{Store: store, Env: domain.Env{Region: "europe-west4"}, Lives: contracts.Overdue()}
}

// BenchmarkCost prints what acts cost in Google's own units, function by function, and in USD for a thousand of them.
func BenchmarkCost(b *testing.B) {
	r := open(b, options{})
	first := 0
	acts := []struct {
		name  string
		begin func(*testing.B) func(context.Context) error
	}{
		{"first connection, SMS code", func(*testing.B) func(context.Context) error {
			return func(ctx context.Context) error {
				first++
				return r.steps(fmt.Sprint("cost-first-", first), "ask", "open", "grant", "login 20000002", "challenge code", "code 111111", "done")(ctx)
			}
		}},
		{"refresh, nothing changed", r.refreshes("20000044")},
		{"refresh, positions changed", r.refreshes("20000043")},
		{"what that left, swept", r.sweeps},
		{"nothing due, swept", r.sweeps},
		{"webhook retried once", r.retried},
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nact\t%s\tUSD per 1,000\n", strings.Join(columns, "\t"))
	for _, a := range acts {
		b.Run(a.name, func(b *testing.B) {
			do := a.begin(b)
			var bills []map[string]float64
			for b.Loop() {
				bills = append(bills, r.bill(b, do))
			}
			for what, n := range r.row(w, a.name, "", bills) {
				b.ReportMetric(n, what)
			}
			for _, f := range r.pipeline.Functions {
				r.row(w, "  "+f.Name, f.Name, bills)
			}
		})
	}
	_ = w.Flush() // to the terminal
}

// sweeps gives the act of one round of the clock.
func (r *region) sweeps(b *testing.B) func(context.Context) error {
	clock := r.clock(b)
	return func(ctx context.Context) error { _, err := clock.Sweep(ctx); return err }
}

// row prints what an act costs, or one function's part of it if that is anything.
func (r *region) row(w io.Writer, title, who string, bills []map[string]float64) map[string]float64 {
	sum, usd, line := map[string]float64{}, 0.0, title
	for _, what := range columns {
		of := what
		if who != "" {
			of = gcptest.Of(who, what)
		}
		n := median(bills, of)
		usd += n * prices[what] * 1000
		sum[what] = n
		line += fmt.Sprintf("\t%.0f", n)
	}
	if usd > 0 || who == "" {
		fmt.Fprintf(w, "%s\t%.4f\n", line, usd)
	}
	return sum
}

func median(bills []map[string]float64, what string) float64 {
	all := make([]float64, len(bills))
	for i, bill := range bills {
		all[i] = bill[what]
	}
	slices.SortFunc(all, cmp.Compare)
	return all[len(all)/2]
}

// retried gives the act of a test webhook that is refused once and taken the second time, at an address that was verified.
func (r *region) retried(b *testing.B) func(context.Context) error {
	b.Helper()
	came := make(chan struct{}, 100)
	var refuses atomic.Bool // the next one
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if refuses.CompareAndSwap(true, false) {
			w.WriteHeader(http.StatusInternalServerError)
		}
		came <- struct{}{}
	})}
	go func() { _ = server.Serve(r.second) }()
	b.Cleanup(func() { _ = server.Close() })
	endpoint := "/v1/endpoints/" + r.verified(b, "http://"+r.second.Addr().String()+"/")
	<-came
	return func(ctx context.Context) error {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		go func() { _ = r.store.Pump(ctx) }() // publishes what is due; what it asks is not counted
		refuses.Store(true)
		if err := r.Call(ctx, http.MethodPost, endpoint+"/test", nil, nil); err != nil {
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

// verified makes an endpoint and waits until its address has answered the first test.
func (r *region) verified(b *testing.B, url string) string {
	b.Helper()
	var ep struct {
		ID       string
		Verified bool
	}
	if err := r.Call(b.Context(), http.MethodPost, "/v1/endpoints", map[string]string{"url": url}, &ep); err != nil {
		b.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !ep.Verified; time.Sleep(50 * time.Millisecond) {
		if err := r.Call(b.Context(), http.MethodGet, "/v1/endpoints/"+ep.ID, nil, &ep); err != nil {
			b.Fatal(err)
		}
		if time.Now().After(deadline) {
			b.Fatal("the endpoint's address was never verified")
		}
	}
	return ep.ID
}
