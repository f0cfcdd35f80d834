package deliver

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/webhook"
)

// types are the facts that were sent to an address, in order.
func (b *bed) types(url string) (out []string) {
	for _, s := range b.sent {
		if s.url == url {
			_, kind, _ := strings.Cut(s.body, `"type":"`)
			kind, _, _ = strings.Cut(kind, `"`)
			out = append(out, kind)
		}
	}
	return out
}

func (b *bed) made(c *caller, url string) *domain.Endpoint {
	b.t.Helper()
	out := c.want(201, "POST", "/v1/endpoints", fmt.Sprintf(`{"url":%q}`, url))
	if out["verified"] != false {
		b.t.Errorf("a new address: %v", out)
	}
	return b.reload(&domain.Endpoint{ID: domain.EndpointID(out["id"].(string))})
}

// TestAddressIsVerifiedFirst: a new address gets tests and nothing else until one is answered with 2xx; what was to be told
// meanwhile waits, costs nothing, and comes then, each once.
func TestAddressIsVerifiedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		up := false
		b.answer = func(sent) (webhook.Result, error) {
			if up {
				return status(204), nil
			}
			return status(404), nil
		}
		const url = "https://a.example.com/hook"
		ep := b.made(c, url)
		var notices []*domain.Notice
		for range 250 {
			notices = append(notices, b.raise(domain.NoticePortfolioUpdated))
		}
		b.run(3 * time.Hour)
		for _, kind := range b.types(url) {
			if kind != "endpoint.test" {
				t.Fatalf("%s was sent to an address that nobody verified", kind)
			}
		}
		if n := len(b.sent); n != 5 {
			t.Errorf("%d tests in three hours, want 5", n)
		}
		if d := b.delivery(notices[0], ep); d.State != domain.DeliveryWaiting || !d.NextAt.IsZero() || len(b.entriesOf("delivery.postponed")) != 0 {
			t.Errorf("what waits: %+v, %d entries", d, len(b.entriesOf("delivery.postponed")))
		}
		if out := c.want(409, "POST", "/v1/replays", fmt.Sprintf(`{"endpoint_id":%q,"from":"2000-01-01T00:00:00Z","to":"2100-01-01T00:00:00Z"}`, ep.ID)); out["code"] != "endpoint_unverified" {
			t.Errorf("a replay: %v", out)
		}
		up = true
		c.want(202, "POST", "/v1/endpoints/"+ep.Key()+"/test", "")
		b.run(time.Minute)
		if got := c.want(200, "GET", "/v1/endpoints/"+ep.Key(), ""); got["verified"] != true || got["verified_at"] == nil {
			t.Errorf("verified: %v", got)
		}
		count := map[string]int{}
		for _, kind := range b.types(url) {
			count[kind]++
		}
		if count["portfolio.updated"] != len(notices) {
			t.Errorf("sent %v", count)
		}
		for _, n := range notices {
			if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered || len(d.Attempts) != 1 {
				t.Fatalf("delivery %+v", d)
			}
		}
		if len(b.entriesOf("endpoint.verified")) != 1 || len(b.entriesOf("deliveries.released")) != 3 {
			t.Errorf("%d, %d entries", len(b.entriesOf("endpoint.verified")), len(b.entriesOf("deliveries.released")))
		}
	})
}

// TestChangedAddressIsVerifiedAnew: what was on its way to the old address waits; an answer from the old one shows nothing.
func TestChangedAddressIsVerifiedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		ep := b.endpoint("https://old.example.com/")
		later := false
		b.answer = func(s sent) (webhook.Result, error) {
			if strings.Contains(s.url, "new") && !later {
				return status(500), nil
			}
			if strings.Contains(s.body, "endpoint.test") { // while the old address answers its test, it is changed
				c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"url":"https://new.example.com/"}`)
			}
			return status(200), nil
		}
		c.want(202, "POST", "/v1/endpoints/"+ep.Key()+"/test", "")
		b.run(2 * time.Second)
		if got := b.reload(ep); !got.Unverified {
			t.Fatalf("the old address verified the new one: %+v", got)
		}
		n := b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Second)
		if d := b.delivery(n, ep); d.State != domain.DeliveryWaiting {
			t.Errorf("delivery %+v", d)
		}
		b.answer, later = nil, true
		b.run(time.Hour)
		if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered {
			t.Errorf("delivery %+v, endpoint %+v", d, b.reload(ep))
		}
	})
}

// TestWhatIsOnItsWayWaits: a delivery that was pending when the address changed goes to nobody who has not asked for it.
func TestWhatIsOnItsWayWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		ep := b.endpoint("https://old.example.com/")
		b.answer = func(sent) (webhook.Result, error) { return status(500), nil }
		n := b.raise(domain.NoticePortfolioUpdated)
		b.run(time.Second)
		c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"url":"https://victim.example.com/"}`)
		b.run(48 * time.Hour)
		for _, kind := range b.types("https://victim.example.com/") {
			if kind != "endpoint.test" {
				t.Fatalf("%s was sent there", kind)
			}
		}
		if n := len(b.types("https://victim.example.com/")); n != webhook.Tries {
			t.Errorf("%d tests in two days, want %d", n, webhook.Tries)
		}
		if d := b.delivery(n, ep); d.State != domain.DeliveryWaiting {
			t.Errorf("delivery %+v", d)
		}
		c.want(204, "DELETE", "/v1/endpoints/"+ep.Key(), "")
		b.run(time.Minute)
		if d := b.delivery(n, ep); d.State != domain.DeliveryCancelled || d.Reason != "endpoint_removed" {
			t.Errorf("delivery %+v", d)
		}
	})
}

// TestNobodyIsFlooded: however many endpoints name one host, of however many clients, and however often they change and
// ask for tests, it gets so many attempts a minute; and a client makes so many, whatever hosts it names.
func TestNobodyIsFlooded(t *testing.T) {
	for name, c := range map[string]struct {
		url  func(i int) string
		most int
	}{
		"one host":       {func(i int) string { return fmt.Sprintf("https://victim.example.com/%d", i) }, maxOfHost},
		"other ports":    {func(i int) string { return fmt.Sprintf("https://Victim.example.com:%d/", 8000+i) }, maxOfHost},
		"names of one's": {func(i int) string { return fmt.Sprintf("https://v%d.example.com/", i) }, 3 * maxOfClient},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				b.answer = func(sent) (webhook.Result, error) { return status(403), nil }
				for who := range 3 {
					client := &domain.Client{ID: domain.NewID[domain.ClientID](b.Env), State: domain.ClientActive}
					b.client = client
					api := b.open(domain.RoleClient, client)
					var made []string
					for i := range maxEndpoints {
						made = append(made, b.made(api, c.url(100*who+i)).Key())
					}
					for i := range 50 {
						api.want(200, "PATCH", "/v1/endpoints/"+made[i%len(made)], fmt.Sprintf(`{"url":%q}`, c.url(1000*who+i)))
					}
				}
				b.run(10 * time.Minute)
				minutes := map[time.Time]int{}
				for _, s := range b.sent {
					minutes[s.at.Truncate(time.Minute)]++
				}
				for at, n := range minutes {
					if n > c.most {
						t.Errorf("%d attempts in the minute of %s, want at most %d", n, at, c.most)
					}
				}
				if len(b.sent) < 2*c.most {
					t.Errorf("only %d attempts in all", len(b.sent))
				}
			})
		})
	}
}

// TestTestsArePaced: a client may ask for another test of an address that is not verified, but not all the time.
func TestTestsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		at := "/v1/endpoints/" + b.made(c, "https://a.example.com/").Key() + "/test"
		if status, out, h := c.call("POST", at, ""); status != 429 || out["code"] != "test_pending" || h.Get("Retry-After") != "10" {
			t.Errorf("%d %v", status, out)
		}
		time.Sleep(10 * time.Second)
		c.want(202, "POST", at, "")
	})
}

// TestConsentIsCheckedAgain: what waits for a slow endpoint when its consent ends is not told any more, but that it has
// ended and that all is erased; the delivery says why.
func TestConsentIsCheckedAgain(t *testing.T) {
	told := map[domain.NoticeType]bool{domain.NoticeConsentRejected: true, domain.NoticeConsentExpired: true, domain.NoticeConsentRevoked: true,
		domain.NoticeConsentTerminated: true, domain.NoticeErasureCompleted: true}
	for name, end := range map[string]func(*domain.Consent){
		"consent_revoked":    func(c *domain.Consent) { c.State = domain.ConsentRevoked },
		"consent_terminated": func(c *domain.Consent) { c.State = domain.ConsentTerminated },
		"consent_rejected":   func(c *domain.Consent) { c.State = domain.ConsentRejected },
		"consent_expired":    func(c *domain.Consent) { c.ExpiresAt = domain.At(time.Now()) }, // nobody has noted it yet
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t)
				ep := b.endpoint("https://slow.example.com/")
				down := true
				b.answer = func(sent) (webhook.Result, error) {
					if down {
						return status(500), nil
					}
					return status(200), nil
				}
				notices := map[domain.NoticeType]*domain.Notice{}
				for _, kind := range domain.NoticeTypes {
					if !strings.HasPrefix(string(kind), "endpoint.") && !strings.HasPrefix(string(kind), "key.") {
						notices[kind] = b.raise(kind)
					}
				}
				b.run(time.Second)
				tried := len(b.sent)
				for _, n := range notices {
					c := &domain.Consent{ID: n.ConsentID}
					if err := b.store.Get(t.Context(), c); err != nil {
						t.Fatal(err)
					}
					end(c)
					b.store.seed(c)
				}
				down = false
				b.run(48 * time.Hour)
				for kind, n := range notices {
					d := b.delivery(n, ep)
					if told[kind] && d.State != domain.DeliveryDelivered || !told[kind] && (d.State != domain.DeliveryCancelled || d.Reason != name) {
						t.Errorf("%s is %s, %q", kind, d.State, d.Reason)
					}
				}
				for _, s := range b.sent[tried:] {
					if strings.Contains(s.body, "portfolio.") || strings.Contains(s.body, "connection.") {
						t.Errorf("sent after the end: %s", s.body)
					}
				}
				if e := b.entriesOf("delivery.cancelled"); len(e) != len(notices)-len(told) || e[0].Data.Reason != name {
					t.Errorf("%d entries", len(e))
				}
			})
		})
	}
}

// TestReplayOfWhatIsMissing: three facts came, the endpoint was disabled for three more, and one was given up: what is
// missing is counted first, and then it comes; what came stays.
func TestReplayOfWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		ep := b.endpoint("https://a.example.com/", domain.NoticePortfolioUpdated)
		start := b.Env.Now()
		tell := func(n int) (out []*domain.Notice) {
			for range n {
				out = append(out, b.raise(domain.NoticePortfolioUpdated))
				b.run(time.Second)
			}
			return out
		}
		came := tell(3)
		failed := b.delivery(tell(1)[0], ep)
		failed.State = domain.DeliveryFailed
		b.store.seed(failed)
		c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"state":"disabled"}`)
		missed := tell(3)
		c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"state":"enabled"}`)
		b.run(time.Second)
		request := func(more string) string {
			return fmt.Sprintf(`{"endpoint_id":%q,"from":%q,"to":%q%s}`, ep.ID, start, b.Env.Now(), more)
		}
		before, commits := len(b.sent), len(b.store.entries)
		for more, want := range map[string]float64{`,"dry_run":true`: 7, `,"state":"all","dry_run":true`: 7, `,"state":"undelivered","dry_run":true`: 4} {
			if out := c.want(200, "POST", "/v1/replays", request(more)); out["replayed"] != want || out["dry_run"] != true {
				t.Errorf("%s: %v, want %v", more, out, want)
			}
		}
		if b.run(time.Minute); len(b.sent) != before || len(b.store.entries) != commits {
			t.Fatal("a dry run did something")
		}
		if out := c.want(202, "POST", "/v1/replays", request(`,"state":"undelivered"`)); out["replayed"] != 4.0 {
			t.Errorf("%v", out)
		}
		b.run(time.Minute)
		if len(b.sent)-before != 4 {
			t.Errorf("%d came again, want 4", len(b.sent)-before)
		}
		for _, n := range append(came, missed...) {
			if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered || len(d.Attempts) != 1 {
				t.Errorf("delivery %+v", d)
			}
		}
		c.want(400, "POST", "/v1/replays", request(`,"state":"failed"`))
		if out := c.want(200, "POST", "/v1/replays", request(`,"state":"undelivered","dry_run":true`)); out["replayed"] != 0.0 {
			t.Errorf("afterwards: %v", out)
		}
	})
}

// TestOneGoneIsNoEnd: one 410 may be a deployment's mistake: nothing is sent for an hour, and then all goes on. Only when it
// comes again the endpoint is disabled, and says why.
func TestOneGoneIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		c := b.open(domain.RoleClient, b.client)
		ep := b.endpoint("https://only.example.com/")
		b.answer = func(sent) (webhook.Result, error) {
			if len(b.sent) == 1 {
				return status(410), nil
			}
			return status(200), nil
		}
		n := b.raise(domain.NoticePortfolioUpdated)
		b.run(50 * time.Minute)
		if len(b.sent) != 1 || b.reload(ep).State != domain.EndpointEnabled {
			t.Fatalf("%d attempts, %+v", len(b.sent), b.reload(ep))
		}
		b.run(time.Hour)
		if d := b.delivery(n, ep); d.State != domain.DeliveryDelivered || !b.reload(ep).GoneSince.IsZero() {
			t.Errorf("%+v, %+v", d, b.reload(ep))
		}
		b.answer = func(sent) (webhook.Result, error) { return status(410), nil }
		b.raise(domain.NoticePortfolioUpdated)
		b.run(3 * time.Hour)
		if got := c.want(200, "GET", "/v1/endpoints/"+ep.Key(), ""); got["state"] != "disabled" || got["disabled_reason"] != "gone" {
			t.Errorf("%v", got)
		}
		if got := c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"state":"enabled"}`); got["disabled_reason"] != nil {
			t.Errorf("%v", got)
		}
		if got := c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"state":"disabled"}`); got["disabled_reason"] != "client" {
			t.Errorf("%v", got)
		}
	})
}

// TestReviewersSeeOrigins: path and query of an address may hold a client's secret.
func TestReviewersSeeOrigins(t *testing.T) {
	b := newBed(t)
	ep := b.endpoint("https://a.example.com:8443/hook/s3cret?token=s3cret")
	for role, want := range map[domain.Role]string{domain.RoleClient: ep.URL, domain.RoleReviewer: "https://a.example.com:8443"} {
		c := b.open(role, b.client)
		one, list := c.want(200, "GET", "/v1/endpoints/"+ep.Key(), ""), data(c.want(200, "GET", "/v1/endpoints", ""))
		if one["url"] != want || list[0].(map[string]any)["url"] != want {
			t.Errorf("%s sees %v and %v", role, one["url"], list[0])
		}
	}
}
