// Package observetest receives what an Exporter sends, for tests.
package observetest

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collecttraces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"
)

// Receiver is an OTLP endpoint.
type Receiver struct {
	URL string

	mu     sync.Mutex
	spans  []Span
	points map[string]Point // by process, name and labels: the newest, as they add up
	raw    [][]byte
	hold   chan struct{} // while it is not nil, nobody is answered until it is closed
	status int           // instead of taking anything in
	asked  int
}

// Span is one span.
type Span struct {
	Service, Name     string
	Trace, ID, Parent string
	Links             []string // the traces that it links to
	Attributes        map[string]string
	Failed            bool
}

// Point is one metric with one set of labels, of one process.
type Point struct {
	Service, Name string
	Labels        map[string]string
	Count         int64   // of a counter, or of a histogram's values
	Sum           float64 // of a histogram's values
}

// NewReceiver listens on this machine.
func NewReceiver(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{points: map[string]Point{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, q *http.Request) {
		var body collecttraces.ExportTraceServiceRequest
		r.take(w, q, &body, func() { r.traces(&body) })
	})
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, q *http.Request) {
		var body collectmetrics.ExportMetricsServiceRequest
		r.take(w, q, &body, func() { r.metrics(&body) })
	})
	s := httptest.NewServer(mux)
	t.Cleanup(func() { r.Hold(false); s.Close() })
	r.URL = s.URL
	return r
}

// Hold lets whoever exports wait for an answer, or no longer.
func (r *Receiver) Hold(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hold != nil {
		close(r.hold)
		r.hold = nil
	}
	if on {
		r.hold = make(chan struct{})
	}
}

// Refuse answers with a status and takes nothing in; 0 ends that.
func (r *Receiver) Refuse(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *Receiver) take(w http.ResponseWriter, q *http.Request, body proto.Message, keep func()) {
	raw, err := io.ReadAll(q.Body)
	r.mu.Lock()
	hold, status := r.hold, r.status
	r.asked++
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-q.Context().Done():
			return
		}
	}
	if err == nil && status == 0 {
		err = proto.Unmarshal(raw, body)
	}
	if err != nil || status != 0 {
		w.WriteHeader(max(status, http.StatusBadRequest))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw = append(r.raw, raw)
	keep()
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (r *Receiver) traces(body *collecttraces.ExportTraceServiceRequest) {
	for _, of := range body.ResourceSpans {
		service := texts(of.Resource.Attributes)["service.name"]
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				var links []string
				for _, l := range s.Links {
					links = append(links, string(l.TraceId))
				}
				r.spans = append(r.spans, Span{Links: links, Service: service, Name: s.Name, Trace: string(s.TraceId), ID: string(s.SpanId), Parent: string(s.ParentSpanId),
					Attributes: texts(s.Attributes), Failed: s.Status.GetCode() != 0})
			}
		}
	}
}

func (r *Receiver) metrics(body *collectmetrics.ExportMetricsServiceRequest) {
	for _, of := range body.ResourceMetrics {
		about := texts(of.Resource.Attributes)
		for _, scope := range of.ScopeMetrics {
			for _, m := range scope.Metrics {
				for _, p := range points(m) {
					p.Service, p.Name = about["service.name"], m.Name
					r.points[about["service.instance.id"]+" "+m.Name+" "+key(p.Labels)] = p
				}
			}
		}
	}
}

func points(m *metrics.Metric) (all []Point) {
	for _, p := range m.GetSum().GetDataPoints() {
		all = append(all, Point{Labels: texts(p.Attributes), Count: p.GetAsInt()})
	}
	for _, p := range m.GetHistogram().GetDataPoints() {
		all = append(all, Point{Labels: texts(p.Attributes), Count: int64(p.Count), Sum: p.GetSum()})
	}
	return all
}

func texts(all []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range all {
		if text, ok := kv.Value.Value.(*common.AnyValue_StringValue); ok {
			out[kv.Key] = text.StringValue
		} else {
			out[kv.Key] = strings.TrimPrefix(kv.Value.String(), "int_value:")
		}
	}
	return out
}

func key(labels map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(name + "=" + labels[name] + " ")
	}
	return b.String()
}

// Spans are all that came.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// Points are the newest of every metric.
func (r *Receiver) Points() []Point {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.points))
}

// Raw is everything that came, as it came.
func (r *Receiver) Raw() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.raw)
}

// Asked is how often somebody came, also in vain.
func (r *Receiver) Asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// Count adds up a metric over all processes, of the points that have all of the labels ("key", "value", ...).
func (r *Receiver) Count(name string, labels ...string) (n int64) {
	for _, p := range r.Points() {
		if p.Name == name && p.has(labels) {
			n += p.Count
		}
	}
	return n
}

func (p Point) has(labels []string) bool {
	for i := 0; i < len(labels); i += 2 {
		if p.Labels[labels[i]] != labels[i+1] {
			return false
		}
	}
	return true
}
