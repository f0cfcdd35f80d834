package races

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// arrival is a webhook as it came.
type arrival struct {
	header http.Header
	body   []byte
}

// receiver is an endpoint of the client that takes webhooks, refuses them, or holds them.
type receiver struct {
	address netip.AddrPort
	url     string
	id      domain.EndpointID

	mu      sync.Mutex
	came    map[string]int // by webhook-id
	latest  map[string]arrival
	status  int           // of answers
	reached chan struct{} // while somebody waits for the next: closed when it has come
	release chan struct{}
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{came: map[string]int{}, latest: map[string]arrival{}, status: http.StatusNoContent}
	server := httptest.NewServer(r)
	t.Cleanup(func() { r.let(); server.Close() })
	r.address, r.url = netip.MustParseAddrPort(server.Listener.Addr().String()), server.URL
	return r
}

// register makes it an endpoint of the client, for what is tested with it alone.
func (r *receiver) register(t *testing.T, p *journey.Place) {
	t.Helper()
	var made struct {
		ID domain.EndpointID `json:"id"`
	}
	body := map[string]any{"url": r.url, "types": []domain.NoticeType{domain.NoticeConsentGranted}}
	must(t, p.Call(t.Context(), http.MethodPost, "/v1/endpoints", body, &made))
	r.id = made.ID
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 64<<10))
	if err != nil {
		return // whoever sends it comes again
	}
	r.mu.Lock()
	r.latest[req.Header.Get("webhook-id")] = arrival{req.Header.Clone(), body}
	r.came[req.Header.Get("webhook-id")]++
	status, reached, release := r.status, r.reached, r.release
	r.reached = nil
	r.mu.Unlock()
	if reached != nil {
		close(reached)
		<-release
	}
	w.WriteHeader(status)
}

// answer sets the status of what comes.
func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// hold holds the next webhook until let; the channel is closed when it has come.
func (r *receiver) hold() chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reached, r.release = make(chan struct{}), make(chan struct{})
	return r.reached
}

func (r *receiver) let() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.release != nil {
		close(r.release)
		r.reached, r.release = nil, nil
	}
}

// signed says whether a webhook, as it came last, bears a signature of that secret.
func (r *receiver) signed(id, secret string) error {
	verify, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return verify.VerifyIgnoringTimestamp(r.latest[id].body, r.latest[id].header)
}

func (r *receiver) arrivals(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.came[id]
}
