package observe

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"sluis.internal/shared/domain"
)

// Options say who tells, and to whom.
type Options struct {
	Function   string // service.name; OTEL_SERVICE_NAME goes before it
	Project    string // of Google Cloud, where there is one
	Region     string
	Custodians []domain.Custodian
	Client     *http.Client  // shows who we are to the endpoint; nil shows nothing
	Every      time.Duration // between two exports; 0 means 10 s, which is as often as Cloud Monitoring likes it
}

const (
	usualEvery = 10 * time.Second
	exportTime = 5 * time.Second        // of one export; what is not taken in by then is dropped
	endTime    = 250 * time.Millisecond // that a request may wait for an export
	lastTime   = 2 * time.Second        // that a process may, before it ends
	patience   = 6                      // exports that are left out after one that failed
)

// Exporter takes spans and counts in, and sends them to an OTLP endpoint (over HTTP, as protobuf) now and then. Spans that
// it has no room for are dropped; counts add up until they are sent.
type Exporter struct {
	every  time.Duration
	spans  *trace.TracerProvider
	counts *metric.MeterProvider
	now    func() time.Time
	done   chan struct{}
	group  sync.WaitGroup

	mu      sync.Mutex
	next    time.Time     // when an export is due
	running chan struct{} // of the export under way; nil where there is none
}

// Open begins to export where the environment says to: OTEL_EXPORTER_OTLP_ENDPOINT, and the other variables of
// OpenTelemetry's specification with it. Which traces are kept say OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG
// (parentbased_traceidratio and 0.1: a tenth, and all of those that a caller keeps); unset keeps all. Where no endpoint is
// named it returns nil, which every method takes.
func Open(ctx context.Context, o Options) (*Exporter, error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return nil, nil
	}
	traces := []otlptracehttp.Option{otlptracehttp.WithTimeout(exportTime), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{})}
	metrics := []otlpmetrichttp.Option{otlpmetrichttp.WithTimeout(exportTime), otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{})}
	if o.Client != nil {
		traces, metrics = append(traces, otlptracehttp.WithHTTPClient(o.Client)), append(metrics, otlpmetrichttp.WithHTTPClient(o.Client))
	}
	spans, err := otlptracehttp.New(ctx, traces...)
	if err != nil {
		return nil, fmt.Errorf("opening the export of spans: %w", err)
	}
	counts, err := otlpmetrichttp.New(ctx, metrics...)
	if err != nil {
		return nil, fmt.Errorf("opening the export of metrics: %w", err)
	}
	who, err := about(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("opening the export: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(failed))
	x := &Exporter{every: cmp.Or(o.Every, usualEvery), now: time.Now, done: make(chan struct{}),
		spans:  trace.NewTracerProvider(trace.WithResource(who), trace.WithBatcher(spans, trace.WithBatchTimeout(time.Hour), trace.WithExportTimeout(exportTime))),
		counts: metric.NewMeterProvider(metric.WithResource(who), metric.WithReader(metric.NewPeriodicReader(counts, metric.WithInterval(time.Hour), metric.WithTimeout(exportTime))))}
	i, err := newInstruments(x.spans.Tracer(scope), x.counts.Meter(scope), o.Custodians)
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	live.Store(i)
	x.group.Go(x.run)
	return x, nil
}

// about is what everything that this process tells has in common. The instance keeps apart what several processes of one
// function count. https://docs.cloud.google.com/stackdriver/docs/reference/telemetry/v1.metrics
func about(ctx context.Context, o Options) (*resource.Resource, error) {
	instance := make([]byte, 8)
	rand.Read(instance) // never fails
	all := []attribute.KeyValue{attribute.String("service.name", o.Function), attribute.String("service.instance.id", hex.EncodeToString(instance))}
	if o.Project != "" {
		all = append(all, attribute.String("gcp.project_id", o.Project), attribute.String("cloud.platform", "gcp_cloud_run"))
	}
	if o.Region != "" {
		all = append(all, attribute.String("cloud.region", o.Region))
	}
	return resource.New(ctx, resource.WithAttributes(all...), resource.WithFromEnv())
}

// run exports what is due while nobody else does: where a processor is there between requests.
func (x *Exporter) run() {
	tick := time.NewTicker(x.every)
	defer tick.Stop()
	for {
		select {
		case <-x.done:
			return
		case <-tick.C:
			x.begin(false)
		}
	}
}

// Ended is called at the end of a request. A function has no processor between requests (Cloud Run takes it away), so what
// is due is exported now, and the request waits for it for a quarter of a second at most, once in Options.Every. While
// an export takes longer, or after one that failed, nobody waits.
func (x *Exporter) Ended() {
	if x == nil {
		return
	}
	if running := x.begin(false); running != nil {
		wait(running, endTime)
	}
}

// Flush exports everything now, and says whether that was done before ctx ended.
func (x *Exporter) Flush(ctx context.Context) bool {
	if x == nil {
		return true
	}
	for ctx.Err() == nil {
		if running := x.begin(true); running != nil {
			select {
			case <-running:
				return true
			case <-ctx.Done():
				return false
			}
		}
		wait(x.underWay(), exportTime) // which may have begun too early for the newest
	}
	return false
}

func wait(running <-chan struct{}, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-running:
	case <-timer.C:
	}
}

var nothing = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (x *Exporter) underWay() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running == nil {
		return nothing
	}
	return x.running
}

// begin begins an export if one is due, or in any case, and returns what is closed at its end; nil if there is none to
// begin, or one is under way.
func (x *Exporter) begin(anyway bool) <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running != nil || !anyway && x.now().Before(x.next) {
		return nil
	}
	running := make(chan struct{})
	x.running, x.next = running, x.now().Add(x.every)
	x.group.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), exportTime)
		defer cancel()
		err := x.export(ctx)
		x.mu.Lock()
		defer x.mu.Unlock()
		if err != nil {
			x.next = x.now().Add(patience * x.every)
			failed(err)
		}
		x.running = nil
		close(running)
	})
	return running
}

func failed(err error) { slog.Warn("telemetry was not exported", "error", err) }

// export sends both kinds at the same time.
func (x *Exporter) export(ctx context.Context) error {
	counted := make(chan error, 1)
	go func() { counted <- x.counts.ForceFlush(ctx) }()
	err := x.spans.ForceFlush(ctx)
	return errors.Join(err, <-counted)
}

// AtTermination exports once more when the platform ends the process, and then lets it end.
func (x *Exporter) AtTermination() {
	if x == nil {
		return
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		signal.Stop(ended)
		ctx, cancel := context.WithTimeout(context.Background(), lastTime)
		defer cancel()
		x.Flush(ctx)
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Signal(syscall.SIGTERM) // it ends as it would have without us
		}
	}()
}

// Close exports what is left, within a bounded time, and stops. What is told afterwards is told to nobody.
func (x *Exporter) Close() error {
	if x == nil {
		return nil
	}
	live.Store(nil)
	close(x.done)
	ctx, cancel := context.WithTimeout(context.Background(), lastTime)
	defer cancel()
	x.Flush(ctx)
	stop, cancelStop := context.WithCancel(context.Background())
	cancelStop() // everything was exported, or will not be
	_ = errors.Join(x.spans.Shutdown(stop), x.counts.Shutdown(stop))
	return nil
}
