package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/webhook"
)

// deliver has a webhook sent to the inbox.
func (h *house) deliver() (cost, error) {
	path := "/v1/endpoints/" + h.endpoint + "/test"
	if err := h.Call(context.Background(), http.MethodPost, path, map[string]string{}, nil); err != nil {
		return cost{}, err
	}
	return h.await(domain.TopicDelivery)
}

// poster signs and posts a webhook to the inbox, and no more. The inbox takes it for one of ours.
func (h *house) poster(tb testing.TB) func() error {
	tb.Helper()
	body, err := webhook.Render(&domain.Notice{ID: domain.NewID[domain.NoticeID](domain.Env{}), ClientID: "cli_1", Type: domain.NoticeEndpointTest})
	must(tb, err)
	client := &http.Client{Transport: &http.Transport{}}
	return func() error {
		now, id := domain.Env{}.Now(), domain.NewID[domain.NoticeID](domain.Env{})
		signature, err := webhook.Sign(id, now, body, domain.NewSecret([]byte(h.secret)))
		if err != nil {
			return err
		}
		r, err := http.NewRequest(http.MethodPost, h.Inbox.URL(), bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(webhook.HeaderID, string(id))
		r.Header.Set(webhook.HeaderTimestamp, webhook.Timestamp(now))
		r.Header.Set(webhook.HeaderSignature, signature)
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body) // the status is the answer
		if resp.Body.Close(); resp.StatusCode != http.StatusNoContent {
			return fmt.Errorf("the inbox answers %d", resp.StatusCode)
		}
		return nil
	}
}

// note commits one audit entry, which is the least that a durable act takes.
func (h *house) note() error {
	e := domain.Note(h.home.Env, "bench", "bench.noted", domain.Actor{Kind: domain.ActorSystem, ID: "bench"}, "cli_1", "bench", nil)
	return h.home.Commit(context.Background(), func(tx domain.Tx) error { return tx.Record(e) })
}
