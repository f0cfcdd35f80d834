package deliver

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/webhook"
)

// aead is AES-256-GCM as the webhook key.
type aead struct{ cipher.AEAD }

func newAEAD() aead {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead{gcm}
}

func (a aead) Encrypt(plain, ad []byte) ([]byte, error) {
	nonce := make([]byte, a.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return a.Seal(nonce, nonce, plain, ad), nil
}

func (a aead) Decrypt(sealed, ad []byte) ([]byte, error) {
	if len(sealed) < a.NonceSize() {
		return nil, errors.New("too short")
	}
	return a.Open(nil, sealed[:a.NonceSize()], sealed[a.NonceSize():], ad)
}

// newest is a key that was never rotated.
type newest struct{}

func (newest) Rewrap(_, _ []byte) ([]byte, error) { return nil, nil }

// sent is one attempt as the fake endpoint saw it.
type sent struct {
	at      time.Time
	id      domain.NoticeID
	url     string
	body    string
	secrets []string
}

// bed is a Service on a memory store, with endpoints that answer as told.
type bed struct {
	*Service
	t      *testing.T
	store  *memory
	client *domain.Client
	mu     sync.Mutex
	sent   []sent
	answer func(sent) (webhook.Result, error) // nil takes everything
}

// Send implements Sender.
func (b *bed) Send(_ context.Context, m webhook.Message) (webhook.Result, error) {
	s := sent{at: time.Now(), id: m.ID, url: m.URL, body: string(m.Body)}
	for _, secret := range m.Secrets {
		s.secrets = append(s.secrets, string(secret.Reveal()))
	}
	b.mu.Lock()
	b.sent = append(b.sent, s)
	b.mu.Unlock()
	result, err := status(200), error(nil)
	if b.answer != nil {
		result, err = b.answer(s)
	}
	result.Attempt.At = domain.At(s.at)
	return result, err
}

func status(code int) webhook.Result {
	r := webhook.Result{Attempt: domain.Attempt{Status: code}}
	if code < 200 || code > 299 {
		r.Attempt.Failure = webhook.FailureStatus
	}
	return r
}

func newBed(t *testing.T) *bed {
	store, key := newMemory(), newAEAD()
	b := &bed{t: t, store: store}
	b.client = &domain.Client{ID: domain.NewID[domain.ClientID](domain.Env{}), Name: "Harbour", State: domain.ClientActive}
	store.seed(b.client)
	b.Service = &Service{Store: store, Close: key, Open: key, Renew: newest{}, Sender: b}
	return b
}

// endpoint makes an enabled endpoint.
func (b *bed) endpoint(url string, types ...domain.NoticeType) *domain.Endpoint {
	b.t.Helper()
	now := b.Env.Now()
	ep := &domain.Endpoint{ID: domain.NewID[domain.EndpointID](b.Env), ClientID: b.client.ID, URL: url, Types: types,
		State: domain.EndpointEnabled, CreatedAt: now, UpdatedAt: now}
	secret, sealed, err := b.newSecret(b.t.Context(), ep)
	if err != nil {
		b.t.Fatal(err)
	}
	secret.Wipe()
	ep.Secret = sealed
	b.store.seed(ep)
	return ep
}

// raise makes a notice of a connection and its event.
func (b *bed) raise(t domain.NoticeType) *domain.Notice {
	b.t.Helper()
	err := b.Store.Commit(b.t.Context(), func(tx domain.Tx) error {
		conn := &domain.Connection{ID: domain.NewID[domain.ConnectionID](b.Env), ClientID: b.client.ID, State: domain.ConnectionActive,
			ConsentID: domain.NewID[domain.ConsentID](b.Env), Custodian: "comdirect", InvestorRef: "inv-1"}
		given := &domain.Consent{ID: conn.ConsentID, ClientID: b.client.ID, ConnectionID: conn.ID, State: domain.ConsentValid, ExpiresAt: b.Env.Now().Add(domain.KeyLife)}
		if err := tx.Put(given); err != nil {
			return err
		}
		if err := domain.Tell(b.Env, tx, conn, t, "pf_1"); err != nil {
			return err
		}
		return tx.Record(domain.Note(b.Env, "test", "told", system, b.client.ID, "x", nil))
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	n := &domain.Notice{}
	if err := fill(b.store.docs["notice/"+b.store.events[len(b.store.events)-1].Subject], n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// handle gives one event to its entry point.
func (b *bed) handle(e domain.Event) error {
	if e.Topic == domain.TopicNotice {
		return b.Notify(b.t.Context(), e)
	}
	return b.Deliver(b.t.Context(), e)
}

// run is the queue: it hands out events as they fall due, again if they fail, for so long. Only within a bubble.
func (b *bed) run(long time.Duration) {
	b.t.Helper()
	end := time.Now().Add(long)
	for {
		e, ok := b.store.take()
		if ok && e.NotBefore.Time.After(end) {
			b.store.give(e)
			ok = false
		}
		if !ok {
			time.Sleep(time.Until(end))
			return
		}
		time.Sleep(time.Until(e.NotBefore.Time))
		if e.Attempt++; b.handle(e) != nil {
			if e.Attempt > 20 {
				b.t.Fatalf("%s %s became a dead letter", e.Topic, e.Subject)
			}
			time.Sleep(time.Second)
			b.store.give(e)
		}
	}
}

// delivery is the one delivery of a notice to an endpoint.
func (b *bed) delivery(n *domain.Notice, ep *domain.Endpoint) *domain.Delivery {
	b.t.Helper()
	d := &domain.Delivery{ID: deliveryID(n.ID, ep.ID)}
	if err := b.store.Get(b.t.Context(), d); err != nil {
		b.t.Fatal(err)
	}
	return d
}

// reload reads an endpoint anew.
func (b *bed) reload(ep *domain.Endpoint) *domain.Endpoint {
	b.t.Helper()
	fresh := &domain.Endpoint{ID: ep.ID}
	if err := b.store.Get(b.t.Context(), fresh); err != nil {
		b.t.Fatal(err)
	}
	return fresh
}

// entriesOf are the audit entries of an action.
func (b *bed) entriesOf(action string) []*domain.Entry {
	var out []*domain.Entry
	for _, e := range b.store.entries {
		if e.Type == "sluis."+action {
			out = append(out, e)
		}
	}
	return out
}

// secretOf opens an endpoint's secret.
func (b *bed) secretOf(ep *domain.Endpoint, sealed []byte) string {
	b.t.Helper()
	secret, err := envelope.Open(b.Open, envelope.WebhookLabel(ep), sealed)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(secret.Reveal())
}
