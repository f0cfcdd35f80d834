package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/webhook"
)

func TestNotifyMakesOneDeliveryForEachEndpointThatWantsIt(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *bed, ep *domain.Endpoint)
		types  []domain.NoticeType
		want   int
	}{
		"wants all":            {want: 1},
		"wants this one":       {types: []domain.NoticeType{domain.NoticePortfolioUpdated}, want: 1},
		"wants another one":    {types: []domain.NoticeType{domain.NoticeConsentGranted}},
		"disabled":             {change: func(_ *bed, ep *domain.Endpoint) { ep.State = domain.EndpointDisabled }},
		"removed":              {change: func(_ *bed, ep *domain.Endpoint) { ep.State = domain.EndpointRemoved }},
		"another client's":     {change: func(_ *bed, ep *domain.Endpoint) { ep.ClientID = domain.NewID[domain.ClientID](domain.Env{}) }},
		"client suspended":     {change: func(b *bed, _ *domain.Endpoint) { b.client.State = domain.ClientSuspended }},
		"client left for ever": {change: func(b *bed, _ *domain.Endpoint) { b.client.State = domain.ClientClosed }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			ep := b.endpoint("https://a.example.com/", c.types...)
			if c.change != nil {
				c.change(b, ep)
			}
			b.store.seed(ep, b.client)
			n := b.raise(domain.NoticePortfolioUpdated)
			event, _ := b.store.take()
			for range 3 { // the event comes again
				if err := b.handle(event); err != nil {
					t.Fatal(err)
				}
			}
			made := all[domain.Delivery](b.store)
			if len(made) != c.want || len(b.store.events) != c.want || len(b.entriesOf("deliveries.made")) != c.want {
				t.Fatalf("%d deliveries, %d events, %d entries; want %d of each", len(made), len(b.store.events), len(b.entriesOf("deliveries.made")), c.want)
			}
			if c.want == 0 {
				return
			}
			if d := made[0]; d.State != domain.DeliveryPending || d.NoticeID != n.ID || d.EndpointID != ep.ID || d.ExpiresAt != n.ExpiresAt || b.store.events[0].Subject != d.Key() {
				t.Errorf("delivery: %+v", d)
			}
			if e := b.entriesOf("deliveries.made")[0]; e.Data.ConnectionID != n.ConnectionID || e.Data.ConsentID != n.ConsentID || e.ClientID != n.ClientID {
				t.Errorf("entry: %+v", e)
			}
		})
	}
}

func TestEventsOfWhatIsGoneAreDropped(t *testing.T) {
	b := newBed(t)
	for topic, subject := range map[domain.Topic]string{domain.TopicNotice: "evt_" + strings.Repeat("0", 26), domain.TopicDelivery: "dlv_" + strings.Repeat("0", 26)} {
		if err := b.handle(domain.Event{Topic: topic, Subject: subject}); err != nil {
			t.Errorf("%s: %v", topic, err)
		}
		if err := b.handle(domain.Event{Topic: topic, Subject: "nonsense"}); domain.KindOf(err) != domain.Invalid {
			t.Errorf("%s of nonsense: %v", topic, err)
		}
	}
}

func TestDeliveryIDs(t *testing.T) {
	old := domain.NewID[domain.NoticeID](domain.Env{Clock: func() time.Time { return time.Unix(1e9, 0) }})
	young := domain.NewID[domain.NoticeID](domain.Env{Clock: func() time.Time { return time.Unix(1e9, 1e6) }})
	id := deliveryID(old, "ep_1")
	if _, err := domain.ParseID[domain.DeliveryID](string(id)); err != nil {
		t.Error(err)
	}
	if id != deliveryID(old, "ep_1") || id == deliveryID(old, "ep_2") || id == deliveryID(young, "ep_1") {
		t.Error("an identifier does not follow from notice and endpoint")
	}
	for i := range 20 {
		if ep := domain.EndpointID(fmt.Sprint("ep_", i)); deliveryID(old, ep) >= deliveryID(young, ep) {
			t.Error("deliveries do not sort by the time of their notices")
		}
	}
}

func TestDeliverOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		ep := b.endpoint("https://a.example.com/")
		n := b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Hour)
		d := b.delivery(n, ep)
		if d.State != domain.DeliveryDelivered || d.Tries != 1 || len(d.Attempts) != 1 || d.Attempts[0].Status != 200 || !d.NextAt.IsZero() {
			t.Errorf("delivery: %+v", d)
		}
		var body webhook.Body
		if err := json.Unmarshal([]byte(b.sent[0].body), &body); err != nil || len(b.sent) != 1 {
			t.Fatal(err, len(b.sent))
		}
		if body.Data.ID != n.ID || body.Data.Sequence != 1 || body.Data.ConnectionID != n.ConnectionID || b.sent[0].id != n.ID {
			t.Errorf("sent %+v", b.sent[0])
		}
		if err := b.handle(domain.Event{Topic: domain.TopicNotice, Subject: n.Key()}); err != nil { // the notice's event comes again, late
			t.Fatal(err)
		}
		if b.run(time.Hour); len(b.sent) != 1 || b.delivery(n, ep).State != domain.DeliveryDelivered {
			t.Errorf("told again: %d attempts", len(b.sent))
		}
		entry := b.entriesOf("webhook.sent")[0]
		if entry.Subject != d.Key() || entry.Data.Outcome != domain.OutcomeAllowed || entry.Data.Details["status"] != "200" || entry.Data.ConsentID != n.ConsentID {
			t.Errorf("entry: %+v", entry)
		}
	})
}

func TestScheduleOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		ep := b.endpoint("https://a.example.com/")
		b.answer = func(sent) (webhook.Result, error) { return status(500), nil }
		n := b.raise(domain.NoticePortfolioUpdated)
		b.run(7 * 24 * time.Hour)
		want := []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour}
		if len(b.sent) != len(want)+1 {
			t.Fatalf("%d attempts, want %d", len(b.sent), len(want)+1)
		}
		exact := 0
		for i, w := range want {
			got := b.sent[i+1].at.Sub(b.sent[i].at)
			if got < w*84/100 || got > w*116/100 {
				t.Errorf("wait %d was %v, want about %v", i+1, got, w)
			}
			if got == w {
				exact++
			}
			if b.sent[i+1].body != b.sent[0].body || b.sent[i+1].id != b.sent[0].id {
				t.Errorf("attempt %d differs: %+v", i+2, b.sent[i+1])
			}
		}
		d := b.delivery(n, ep)
		if d.State != domain.DeliveryFailed || d.Tries != webhook.Tries || len(d.Attempts) != webhook.Tries || exact == len(want) {
			t.Errorf("in the end: %+v, %d waits without jitter", d, exact)
		}
		if len(b.store.events) != 0 {
			t.Errorf("events are left: %v", b.store.events)
		}
		if e := b.entriesOf("webhook.sent"); len(e) != webhook.Tries || e[0].Data.Outcome != domain.OutcomeFailed || e[0].Data.Reason != "status" {
			t.Errorf("entries: %d, %+v", len(e), e[0])
		}
	})
}

func TestRetryAfterIsRespected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.endpoint("https://a.example.com/")
		b.answer = func(sent) (webhook.Result, error) {
			r := status(200)
			if len(b.sent) == 1 {
				r = status(503)
				r.RetryAfter = 90 * time.Minute
			}
			return r, nil
		}
		asked := b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Minute)
		b.raise(domain.NoticePortfolioUpdated) // the endpoint asked everybody to wait: for an hour they do
		b.run(24 * time.Hour)
		if len(b.sent) != 3 {
			t.Fatalf("%d attempts, want 3", len(b.sent))
		}
		for _, s := range b.sent[1:] {
			want := time.Hour
			if s.id == asked.ID {
				want = 90 * time.Minute
			}
			if wait := s.at.Sub(b.sent[0].at); wait < want || wait > want*11/10 {
				t.Errorf("called again after %v, want %v", wait, want)
			}
		}
	})
}

func TestGoneDisablesTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		gone, other := b.endpoint("https://gone.example.com/"), b.endpoint("https://other.example.com/", domain.NoticeEndpointDisabled)
		b.answer = func(s sent) (webhook.Result, error) {
			if strings.Contains(s.url, "gone") {
				return status(410), nil
			}
			return status(200), nil
		}
		n := b.raise(domain.NoticePortfolioUpdated)
		b.run(2 * time.Hour)
		if ep := b.reload(gone); ep.State != domain.EndpointDisabled || ep.Disabled != domain.DisabledGone {
			t.Errorf("endpoint: %+v", ep)
		}
		if d := b.delivery(n, gone); d.State != domain.DeliveryCancelled || d.Reason != "endpoint_disabled" || len(d.Attempts) != 2 {
			t.Errorf("delivery: %+v", d)
		}
		if len(b.sent) != 3 || b.sent[2].url != other.URL || !strings.Contains(b.sent[2].body, `"subject":"`+gone.Key()+`"`) {
			t.Fatalf("sent: %+v", b.sent)
		}
		if e := b.entriesOf("endpoint.disabled"); len(e) != 1 || e[0].Data.Details["cause"] != "gone" || e[0].Subject != gone.Key() {
			t.Errorf("entries: %+v", e)
		}
		b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Hour)
		if len(b.sent) != 3 {
			t.Error("a disabled endpoint was called")
		}
	})
}

func TestBreakerLetsOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		ep := b.endpoint("https://a.example.com/")
		down := true
		b.answer = func(sent) (webhook.Result, error) {
			if down {
				return webhook.Result{Attempt: domain.Attempt{Failure: webhook.FailureTimeout}}, nil
			}
			return status(200), nil
		}
		var notices []*domain.Notice
		for range 8 {
			notices = append(notices, b.raise(domain.NoticePortfolioUpdated))
		}
		b.run(0)
		if len(b.sent) != 5 || b.reload(ep).OpenAfter.IsZero() {
			t.Fatalf("%d attempts before the breaker opened, want 5", len(b.sent))
		}
		waiting := 0
		for _, n := range notices {
			if d := b.delivery(n, ep); d.Tries == 0 && !d.NextAt.Before(b.reload(ep).OpenAfter) {
				waiting++
			}
		}
		if waiting != 3 || len(b.entriesOf("delivery.postponed")) != 3 {
			t.Errorf("%d deliveries wait with %d entries, want 3", waiting, len(b.entriesOf("delivery.postponed")))
		}
		b.run(50 * time.Second)
		if len(b.sent) != 5 {
			t.Error("the endpoint was called while its breaker was open")
		}
		down = false
		b.run(time.Hour)
		for _, n := range notices {
			if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered {
				t.Errorf("delivery: %+v", d)
			}
		}
		if ep := b.reload(ep); ep.Failures != 0 || !ep.OpenAfter.IsZero() || !ep.FailingSince.IsZero() {
			t.Errorf("the breaker stays open: %+v", ep)
		}
	})
}

func TestFiveDaysOfFailureDisable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		bad, good := b.endpoint("https://bad.example.com/"), b.endpoint("https://good.example.com/")
		b.answer = func(s sent) (webhook.Result, error) {
			if s.url == bad.URL {
				return status(500), nil
			}
			return status(200), nil
		}
		start, told := time.Now(), 0
		for range 30 { // every six hours for a week and a half
			b.raise(domain.NoticePortfolioUpdated)
			told++
			b.run(6 * time.Hour)
			if days := time.Since(start).Hours() / 24; days < 5 && b.reload(bad).State != domain.EndpointEnabled {
				t.Fatalf("disabled after %.1f days", days)
			}
		}
		b.run(40 * time.Hour)
		if ep := b.reload(bad); ep.State != domain.EndpointDisabled {
			t.Fatalf("endpoint: %+v", ep)
		}
		at := b.entriesOf("endpoint.disabled")[0].Time.Sub(domain.At(start))
		if at < 5*24*time.Hour || at > 5*24*time.Hour+12*time.Hour {
			t.Errorf("disabled after %v", at)
		}
		disabled := 0
		for _, s := range b.sent {
			if strings.Contains(s.body, `"endpoint.disabled"`) && s.url == good.URL {
				disabled++
			}
			if s.url == bad.URL && s.at.Sub(start) > at {
				t.Error("the disabled endpoint was called")
			}
		}
		if disabled != 1 {
			t.Errorf("the other endpoint was told %d times", disabled)
		}
		for _, d := range all[domain.Delivery](b.store) {
			if d.State == domain.DeliveryPending || d.EndpointID == good.ID && d.State != domain.DeliveryDelivered {
				t.Errorf("delivery: %+v", d)
			}
		}
		if len(b.store.events) != 0 {
			t.Errorf("%d events are left", len(b.store.events))
		}
	})
}

func TestNothingIsSentForASuspendedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		ep := b.endpoint("https://a.example.com/")
		n := b.raise(domain.NoticePortfolioUpdated)
		event, _ := b.store.take()
		if err := b.handle(event); err != nil {
			t.Fatal(err)
		}
		b.client.State = domain.ClientSuspended
		b.store.seed(b.client)
		b.run(time.Hour)
		if d := b.delivery(n, ep); d.State != domain.DeliveryCancelled || len(b.sent) != 0 {
			t.Errorf("delivery %+v after %d attempts", d, len(b.sent))
		}
		if e := b.entriesOf("delivery.cancelled"); len(e) != 1 || e[0].Data.Reason != "client_suspended" {
			t.Errorf("entries: %+v", e)
		}
	})
}

// Each commit in turn fails before it applies, or after: the queue hands the event out again, and in the end there is
// one delivery, delivered. What was sent twice had the same identifier and body.
func TestCrashBeforeAndAfterEachCommit(t *testing.T) {
	for _, how := range []fault{failsBefore, failsAfter} {
		for at := 1; at <= 6; at++ {
			t.Run(fmt.Sprint(how, " at ", at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBed(t)
					one, two := b.endpoint("https://a.example.com/"), b.endpoint("https://b.example.com/")
					refused := map[string]bool{}
					b.answer = func(s sent) (webhook.Result, error) { // each endpoint fails once
						if !refused[s.url] {
							refused[s.url] = true
							return status(500), nil
						}
						return status(200), nil
					}
					n := b.raise(domain.NoticePortfolioUpdated)
					base, broke := b.store.commits, 0
					b.store.fault = func(commit int) fault {
						if commit == base+at {
							broke++
							return how
						}
						return sound
					}
					b.run(24 * time.Hour)
					if made := all[domain.Delivery](b.store); len(made) != 2 || len(b.store.events) != 0 {
						t.Fatalf("%d deliveries, %d events left", len(made), len(b.store.events))
					}
					for _, ep := range []*domain.Endpoint{one, two} {
						if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered {
							t.Errorf("delivery: %+v", d)
						}
					}
					if len(b.sent) < 4 && how == failsAfter || len(b.sent) > 5 || at <= 5 && broke != 1 {
						t.Errorf("%d attempts, %d faults", len(b.sent), broke)
					}
					for _, s := range b.sent {
						if s.id != n.ID || s.body != b.sent[0].body {
							t.Errorf("sent again in another form: %+v", s)
						}
					}
				})
			})
		}
	}
}

// The process dies between sending and noting it.
func TestWhatWasSentIsNotedThoughTheProcessStops(t *testing.T) {
	b := newBed(t)
	ep := b.endpoint("https://a.example.com/")
	n := b.raise(domain.NoticePortfolioUpdated)
	event, _ := b.store.take()
	if err := b.handle(event); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	b.answer = func(sent) (webhook.Result, error) { stop(); return status(200), nil }
	due, _ := b.store.take()
	if err := b.Deliver(ctx, due); err != nil {
		t.Fatal(err)
	}
	if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered {
		t.Errorf("delivery: %+v", d)
	}
}

func TestOurOwnFaultsDoNotCount(t *testing.T) {
	b := newBed(t)
	ep := b.endpoint("https://a.example.com/")
	n := b.raise(domain.NoticePortfolioUpdated)
	event, _ := b.store.take()
	if err := b.handle(event); err != nil {
		t.Fatal(err)
	}
	due, _ := b.store.take()
	b.answer = func(sent) (webhook.Result, error) { return webhook.Result{}, context.Canceled }
	if err := b.Deliver(t.Context(), due); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	moved := *b.reload(ep)
	moved.Secret = b.endpoint("https://b.example.com/").Secret // a secret of another endpoint does not open here
	b.store.seed(&moved)
	b.answer = nil
	if err := b.Deliver(t.Context(), due); err == nil {
		t.Error("a secret of another endpoint signs")
	}
	if d := b.delivery(n, ep); d.State != domain.DeliveryPending || d.Tries != 0 || len(d.Attempts) != 0 || b.reload(ep).Failures != 0 {
		t.Errorf("delivery: %+v", d)
	}
}

// Two take the same event at once: both send, and exactly one plans what follows.
func TestTwoAtOnce(t *testing.T) {
	for name, first := range map[string]int{"delivered": 200, "failed": 500} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			ep := b.endpoint("https://a.example.com/")
			n := b.raise(domain.NoticePortfolioUpdated)
			event, _ := b.store.take()
			if err := b.handle(event); err != nil {
				t.Fatal(err)
			}
			due, _ := b.store.take()
			var both sync.WaitGroup
			both.Add(2)
			b.answer = func(sent) (webhook.Result, error) { both.Done(); both.Wait(); return status(first), nil }
			var done sync.WaitGroup
			for range 2 {
				done.Go(func() {
					if err := b.handle(due); err != nil {
						t.Error(err)
					}
				})
			}
			done.Wait()
			d := b.delivery(n, ep)
			if len(d.Attempts) != 2 || d.Tries != 1 || len(b.entriesOf("webhook.sent")) != 2 {
				t.Errorf("delivery: %+v", d)
			}
			if want := map[int]int{200: 0, 500: 1}[first]; len(b.store.events) != want {
				t.Errorf("%d events follow, want %d", len(b.store.events), want)
			}
		})
	}
}

func TestOldEventsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		ep := b.endpoint("https://a.example.com/")
		b.answer = func(sent) (webhook.Result, error) { return status(500), nil }
		n := b.raise(domain.NoticePortfolioUpdated)
		event, _ := b.store.take()
		if err := b.handle(event); err != nil {
			t.Fatal(err)
		}
		first, _ := b.store.take()
		for range 3 {
			if err := b.handle(first); err != nil {
				t.Fatal(err)
			}
		}
		if len(b.sent) != 1 || len(b.store.events) != 1 {
			t.Fatalf("an event that came again: %d attempts, %d events", len(b.sent), len(b.store.events))
		}
		// The right event, from a queue whose clock is a little ahead of ours.
		next, _ := b.store.take()
		if err := b.handle(next); err != nil || len(b.sent) != 2 {
			t.Errorf("the event of this very try was dropped: %v, %d attempts", err, len(b.sent))
		}
		if d := b.delivery(n, ep); d.Tries != 2 {
			t.Errorf("delivery: %+v", d)
		}
	})
}

func TestAttemptsKeptAreBounded(t *testing.T) {
	b := newBed(t)
	ep := b.endpoint("https://a.example.com/")
	n := b.raise(domain.NoticePortfolioUpdated)
	event, _ := b.store.take()
	if err := b.handle(event); err != nil {
		t.Fatal(err)
	}
	d := b.delivery(n, ep)
	for i := range domain.MaxAttemptsKept {
		d.Attempts = append(d.Attempts, domain.Attempt{Duration: int64(i)})
	}
	b.store.seed(d)
	due, _ := b.store.take()
	if err := b.handle(due); err != nil {
		t.Fatal(err)
	}
	if d := b.delivery(n, ep); len(d.Attempts) != domain.MaxAttemptsKept || d.Attempts[0].Duration != 1 || d.Attempts[49].Status != 200 {
		t.Errorf("%d attempts are kept, the first %+v", len(d.Attempts), d.Attempts[0])
	}
}

func TestRotationSignsWithBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		ep := b.endpoint("https://a.example.com/")
		old := b.secretOf(ep, ep.Secret)
		_, sealed, err := b.newSecret(t.Context(), ep)
		if err != nil {
			t.Fatal(err)
		}
		ep.Previous, ep.PreviousEnds, ep.Secret = ep.Secret, b.Env.Now().Add(24*time.Hour), sealed
		b.store.seed(ep)
		fresh := b.secretOf(ep, sealed)
		b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Minute)
		time.Sleep(24 * time.Hour)
		b.answer = func(sent) (webhook.Result, error) { return status(500), nil }
		b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Second)
		if got := b.sent[0].secrets; len(got) != 2 || got[0] != fresh || got[1] != old {
			t.Errorf("during the overlap %d secrets sign, want the new one and the old one", len(got))
		}
		if got := b.sent[1].secrets; len(got) != 1 || got[0] != fresh {
			t.Errorf("after the overlap %d secrets sign, want the new one", len(got))
		}
		if ep := b.reload(ep); len(ep.Previous) != 0 || !ep.PreviousEnds.IsZero() {
			t.Error("the old secret is kept after its end")
		}
	})
}

func TestNoSecretInStoreOrLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		ep := b.endpoint("https://a.example.com/hook?token=canary")
		b.answer = func(sent) (webhook.Result, error) { return status(500), nil }
		b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Hour)
		secret := b.secretOf(ep, ep.Secret)
		for key, raw := range b.store.docs {
			if strings.Contains(string(raw), secret) || strings.Contains(string(raw), "canary") && key != name(ep) {
				t.Errorf("%s shows a secret", key)
			}
		}
		for _, e := range b.store.entries {
			if raw, err := json.Marshal(e); err != nil || strings.Contains(string(raw), "canary") || strings.Contains(string(raw), "whsec_") {
				t.Errorf("entry %s shows a secret: %v", e.Type, err)
			}
		}
	})
}
