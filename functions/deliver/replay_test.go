package deliver

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/webhook"
)

func TestReplayOfDeliveryAndNotice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		one, two := b.endpoint("https://a.example.com/"), b.endpoint("https://b.example.com/")
		n := b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Hour)
		d := b.delivery(n, one)
		if out := c.want(202, "POST", "/v1/replays", `{"delivery_id":"`+d.Key()+`"}`); out["replayed"] != 1.0 || out["next"] != nil {
			t.Errorf("answer: %v", out)
		}
		if again := b.delivery(n, one); again.State != domain.DeliveryPending || again.Tries != 0 || len(again.Attempts) != 1 {
			t.Errorf("begun again: %+v", again)
		}
		if out := c.want(202, "POST", "/v1/replays", `{"delivery_id":"`+d.Key()+`"}`); out["replayed"] != 0.0 || len(b.store.events) != 1 {
			t.Errorf("what is due anyway was begun again: %v", out)
		}
		b.run(time.Hour)
		if len(b.sent) != 3 || b.sent[2].id != n.ID || b.sent[2].url != one.URL || b.sent[2].body != b.sent[0].body {
			t.Fatalf("sent: %+v", b.sent)
		}
		third := b.endpoint("https://c.example.com/") // did not exist when the notice was raised
		if out := c.want(202, "POST", "/v1/replays", `{"notice_id":"`+n.Key()+`"}`); out["replayed"] != 3.0 {
			t.Errorf("answer: %v", out)
		}
		b.run(time.Hour)
		for _, ep := range []*domain.Endpoint{one, two, third} {
			if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered {
				t.Errorf("delivery: %+v", d)
			}
		}
		if len(b.sent) != 6 || len(b.entriesOf("deliveries.replayed")) != 2 {
			t.Errorf("%d attempts, %d entries", len(b.sent), len(b.entriesOf("deliveries.replayed")))
		}
		c.want(200, "PATCH", "/v1/endpoints/"+one.Key(), `{"state":"disabled"}`)
		c.want(409, "POST", "/v1/replays", `{"delivery_id":"`+d.Key()+`"}`)
		c.want(204, "DELETE", "/v1/endpoints/"+one.Key(), "")
		c.want(404, "POST", "/v1/replays", `{"delivery_id":"`+d.Key()+`"}`)
	})
}

// A replay of what waits for a later try brings it forward, and the old event does no harm.
func TestReplayBringsForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		ep := b.endpoint("https://a.example.com/")
		down := true
		b.answer = func(sent) (webhook.Result, error) {
			if down {
				return status(500), nil
			}
			return status(200), nil
		}
		n := b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Hour)
		tries := len(b.sent)
		down = false
		c.want(202, "POST", "/v1/replays", `{"delivery_id":"`+b.delivery(n, ep).Key()+`"}`)
		b.run(time.Second)
		if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered || len(b.sent) != tries+1 {
			t.Fatalf("delivery %+v after %d more attempts", d, len(b.sent)-tries)
		}
		b.run(48 * time.Hour)
		if len(b.sent) != tries+1 || len(b.store.events) != 0 {
			t.Errorf("the old event had an effect: %d attempts", len(b.sent)-tries)
		}
	})
}

// An endpoint that was disabled for a while gets everything of that time, and only what it wants.
func TestReplayOfARange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		ep := b.endpoint("https://a.example.com/", domain.NoticePortfolioUpdated)
		b.endpoint("https://b.example.com/")
		ep.State = domain.EndpointDisabled
		b.store.seed(ep)
		start := b.Env.Now()
		const raised = replayMost + 250
		for i := range raised {
			kind := domain.NoticePortfolioUpdated
			if i%10 == 9 {
				kind = domain.NoticeConsentGranted
			}
			b.raise(kind)
			b.store.take() // nobody heard of it
			time.Sleep(time.Second)
		}
		c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"state":"enabled"}`)
		b.store.take()                                 // that it is to be looked after
		late := b.raise(domain.NoticePortfolioUpdated) // outside of the range
		b.store.take()
		request := func(cursor string) string {
			return fmt.Sprintf(`{"endpoint_id":%q,"from":%q,"to":%q,"cursor":%q}`, ep.ID, start, late.CreatedAt, cursor)
		}
		before := len(b.sent)
		first := c.want(202, "POST", "/v1/replays", request(""), "Idempotency-Key", "r")
		if again := c.want(202, "POST", "/v1/replays", request(""), "Idempotency-Key", "r"); again["next"] != first["next"] || again["replayed"] != first["replayed"] {
			t.Errorf("the same request again: %v, %v", first, again)
		}
		if first["replayed"] != float64(replayMost*9/10) || first["next"] == nil {
			t.Fatalf("first: %v", first)
		}
		second := c.want(202, "POST", "/v1/replays", request(first["next"].(string)))
		if second["replayed"] != 225.0 || second["next"] != nil {
			t.Fatalf("second: %v", second)
		}
		b.run(time.Hour)
		ids := map[domain.NoticeID]int{}
		for _, s := range b.sent[before:] {
			if ids[s.id]++; s.url != ep.URL || s.id == late.ID {
				t.Fatalf("sent: %+v", s)
			}
		}
		if len(ids) != raised*9/10 || len(b.sent)-before != len(ids) {
			t.Errorf("%d notices in %d attempts, want %d", len(ids), len(b.sent)-before, raised*9/10)
		}
		c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"state":"disabled"}`)
		c.want(409, "POST", "/v1/replays", request(""))
	})
}

// A replay of a range that breaks off: the same key answers how far it came, and the rest goes on from there.
func TestReplayThatBreaksOff(t *testing.T) {
	for _, how := range []fault{failsBefore, failsAfter} {
		t.Run(fmt.Sprint(how), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				c := b.open(domain.RoleClient, b.client)
				start := b.Env.Now()
				for range 3 * replayBatch {
					b.raise(domain.NoticePortfolioUpdated)
					b.store.take()
				}
				time.Sleep(time.Second)
				ep := b.endpoint("https://a.example.com/")
				body := func(cursor any) string {
					text, _ := cursor.(string)
					return fmt.Sprintf(`{"endpoint_id":%q,"from":%q,"to":%q,"cursor":%q}`, ep.ID, start, b.Env.Now(), text)
				}
				base := b.store.commits
				b.store.fault = func(commit int) fault {
					if commit == base+2 {
						return how
					}
					return sound
				}
				c.want(503, "POST", "/v1/replays", body(nil), "Idempotency-Key", "r")
				out := c.want(202, "POST", "/v1/replays", body(nil), "Idempotency-Key", "r")
				for i := 0; out["next"] != nil && i < 5; i++ {
					out = c.want(202, "POST", "/v1/replays", body(out["next"]))
				}
				b.run(time.Hour)
				if len(b.sent) != 3*replayBatch {
					t.Errorf("%d attempts, want %d", len(b.sent), 3*replayBatch)
				}
			})
		})
	}
}
