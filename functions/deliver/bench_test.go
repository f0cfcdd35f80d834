package deliver

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/webhook"
)

// BenchmarkDeliver compares a delivery (load, open the secret, sign, check the address, send, note, all in memory) with
// the bare signed POST that it cannot do without, to the same server: ×bare is how many times as long it takes.
func BenchmarkDeliver(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer server.Close()
	service, ep, body := benched(b, server)
	var whole, bare time.Duration
	for b.Loop() {
		now := service.Env.Now()
		n := &domain.Notice{ID: domain.NewID[domain.NoticeID](service.Env), ClientID: ep.ClientID, Type: domain.NoticePortfolioUpdated, CreatedAt: now, ExpiresAt: now.Add(domain.NoticeLife)}
		d := &domain.Delivery{ID: deliveryID(n.ID, ep.ID), NoticeID: n.ID, EndpointID: ep.ID, ClientID: ep.ClientID, Type: n.Type, State: domain.DeliveryPending, NextAt: now}
		service.Store.(*memory).seed(n, d)
		start := time.Now()
		if err := service.Deliver(b.Context(), domain.Event{Topic: domain.TopicDelivery, Subject: d.Key(), NotBefore: now}); err != nil {
			b.Fatal(err)
		}
		whole += time.Since(start)
		if err := service.Store.Get(b.Context(), d); err != nil || d.State != domain.DeliveryDelivered {
			b.Fatal(err, d)
		}
		start = time.Now()
		if err := post(server.URL, n.ID, body); err != nil {
			b.Fatal(err)
		}
		bare += time.Since(start)
	}
	b.ReportMetric(float64(whole)/float64(bare), "×bare")
	b.ReportMetric(float64(whole.Microseconds())/float64(b.N), "us/delivery")
}

var benchSecret = domain.NewSecret([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))

// post signs and posts, and no more.
func post(url string, id domain.NoticeID, body []byte) error {
	now := domain.At(time.Now())
	signature, err := webhook.Sign(id, now, body, benchSecret)
	if err != nil {
		return err
	}
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(webhook.HeaderID, string(id))
	r.Header.Set(webhook.HeaderTimestamp, webhook.Timestamp(now))
	r.Header.Set(webhook.HeaderSignature, signature)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return response.Body.Close()
}

func benched(b *testing.B, server *httptest.Server) (*Service, *domain.Endpoint, []byte) {
	b.Helper()
	store, key := newMemory(), newAEAD()
	sender := webhook.NewSender(domain.Env{}, webhook.Options{Rules: webhook.Rules{Allow: []netip.AddrPort{netip.MustParseAddrPort(server.Listener.Addr().String())}}})
	s := &Service{Store: store, Close: key, Open: key, Sender: sender}
	client := &domain.Client{ID: domain.NewID[domain.ClientID](s.Env), State: domain.ClientActive}
	ep := &domain.Endpoint{ID: domain.NewID[domain.EndpointID](s.Env), ClientID: client.ID, URL: server.URL, State: domain.EndpointEnabled}
	secret, sealed, err := s.newSecret(b.Context(), ep)
	if err != nil {
		b.Fatal(err)
	}
	secret.Wipe()
	ep.Secret = sealed
	store.seed(client, ep)
	body, err := webhook.Render(&domain.Notice{ID: "evt_1", ClientID: client.ID, Type: domain.NoticePortfolioUpdated})
	if err != nil {
		b.Fatal(err)
	}
	return s, ep, body
}
