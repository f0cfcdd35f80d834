package journey

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"sluis.internal/shared/serve"
)

// Inbox receives webhooks and verifies them as any client would, with Standard Webhooks' own library.
type Inbox struct {
	listener net.Listener
	record   *Recorder
	mu       sync.Mutex
	verify   *standardwebhooks.Webhook
	trusted  chan struct{} // closed once there is a secret to verify with
	anyTime  bool
	messages map[string]*message // by webhook-id: each counts once, however often it comes
	refused  int
	changed  chan struct{} // closed at every arrival
}

type message struct {
	Type string `json:"type"`
	Data struct {
		ConnectionID string `json:"connection_id"`
		Sequence     int    `json:"sequence"`
	} `json:"data"`
	digest   [sha256.Size]byte // of the first body
	arrivals int
	changed  bool // a later body was another one
}

// Webhook is what came under one webhook-id.
type Webhook struct {
	ID       string
	Type     string
	Sequence int
	Arrivals int  // how often it came
	Changed  bool // not always with the same body
}

// NewInbox receives at l once it serves.
func NewInbox(l net.Listener, record *Recorder) *Inbox {
	return &Inbox{listener: l, record: record, messages: map[string]*message{}, changed: make(chan struct{}), trusted: make(chan struct{})}
}

// URL is where webhooks are to be sent.
func (in *Inbox) URL() string { return "http://" + in.listener.Addr().String() + "/webhooks" }

// Trust sets the secret that webhooks are signed with.
func (in *Inbox) Trust(secret string) error {
	verify, err := standardwebhooks.NewWebhook(secret)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.verify == nil && verify != nil {
		close(in.trusted)
	}
	in.verify = verify
	return err
}

// AnyTime has webhooks taken whatever time they bear: for instances whose clock is not this one's.
func (in *Inbox) AnyTime() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.anyTime = true
}

// Serve receives until the listener is closed.
func (in *Inbox) Serve() error { return serve.NewServer(in).Serve(in.listener) }

// ServeHTTP takes one webhook.
func (in *Inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	select { // the test of its address may come before the answer that has the secret
	case <-in.trusted:
	case <-time.After(5 * time.Second):
	case <-r.Context().Done():
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	m := &message{digest: sha256.Sum256(body)}
	if err == nil && in.verify != nil {
		err = in.verified(body, r.Header)
	}
	if err == nil {
		err = json.Unmarshal(body, m)
	}
	if err == nil {
		err = in.record.write(Exchange{Kind: "webhook", Body: body})
	}
	if err != nil || in.verify == nil {
		in.refused++
		http.Error(w, "not verified", http.StatusUnauthorized)
		return
	}
	in.keep(r.Header.Get("webhook-id"), m)
	close(in.changed)
	in.changed = make(chan struct{})
	w.WriteHeader(http.StatusNoContent)
}

func (in *Inbox) verified(body []byte, h http.Header) error {
	if in.anyTime {
		return in.verify.VerifyIgnoringTimestamp(body, h)
	}
	return in.verify.Verify(body, h)
}

// keep counts an arrival. Of one that came before only whether it is the same counts.
func (in *Inbox) keep(id string, m *message) {
	if first := in.messages[id]; first != nil {
		first.changed = first.changed || first.digest != m.digest
		m = first
	}
	m.arrivals++
	in.messages[id] = m
}

// Webhooks lists all that came for a connection, in no order. The empty connection's are about endpoints.
func (in *Inbox) Webhooks(connection string) []Webhook {
	in.mu.Lock()
	defer in.mu.Unlock()
	var all []Webhook
	for id, m := range in.messages {
		if m.Data.ConnectionID == connection {
			all = append(all, Webhook{ID: id, Type: m.Type, Sequence: m.Data.Sequence, Arrivals: m.arrivals, Changed: m.changed})
		}
	}
	return all
}

// Refused is how many webhooks could not be verified.
func (in *Inbox) Refused() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.refused
}

// Of lists a connection's webhooks by their sequence; a gap shows as a dash.
func (in *Inbox) Of(connection string) []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	var types []string
	for _, m := range in.messages {
		if m.Data.ConnectionID != connection {
			continue
		}
		for len(types) < m.Data.Sequence {
			types = append(types, "-")
		}
		types[m.Data.Sequence-1] = m.Type
	}
	return types
}

// webhookTime bounds the wait for webhooks: one whose function died is tried again after half a minute.
const webhookTime = 2 * time.Minute

// until waits for a condition that an arriving webhook may fulfil.
func (in *Inbox) until(ctx context.Context, fulfilled func() (bool, error)) error {
	ctx, done := context.WithTimeout(ctx, webhookTime)
	defer done()
	for {
		in.mu.Lock()
		changed := in.changed
		in.mu.Unlock()
		ok, err := fulfilled()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("waited too long")
		case <-changed:
		}
	}
}
