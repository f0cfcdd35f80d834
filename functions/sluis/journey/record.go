package journey

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"

	"sluis.internal/shared/domain"
)

// Recorder writes down what passed between the parts of a demo: API answers, webhooks and events, one JSON object a
// line. The nil Recorder writes nothing.
type Recorder struct {
	mu  sync.Mutex
	out *json.Encoder
}

// Exchange is one line of a Recorder.
type Exchange struct {
	Kind   string          `json:"kind"`             // answer, webhook or event
	Method string          `json:"method,omitempty"` // of an answer
	Path   string          `json:"path,omitempty"`
	Status int             `json:"status,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// NewRecorder writes to w.
func NewRecorder(w io.Writer) *Recorder { return &Recorder{out: json.NewEncoder(w)} }

func (r *Recorder) write(x Exchange) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Encode(x)
}

// answer records an API answer in JSON and gives its body back to be read; pages and pictures are passed over.
func (r *Recorder) answer(resp *http.Response) error {
	media := resp.Header.Get("Content-Type")
	if r == nil || media != "application/json" && media != "application/problem+json" {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return r.write(Exchange{Kind: "answer", Method: resp.Request.Method, Path: resp.Request.URL.Path, Status: resp.StatusCode, Body: body})
}

// Events has every event recorded before it is handled.
func (r *Recorder) Events(handlers map[domain.Topic]domain.Handler) {
	for topic, handle := range handlers {
		handlers[topic] = func(ctx context.Context, e domain.Event) error {
			body, err := json.Marshal(e)
			if err != nil {
				return err
			}
			if err := r.write(Exchange{Kind: "event", Body: body}); err != nil {
				return err
			}
			return handle(ctx, e)
		}
	}
}
