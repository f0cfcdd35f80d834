package webhook

import (
	"bytes"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

func fixed(at time.Time, random byte) domain.Env {
	return domain.Env{Clock: func() time.Time { return at }, Rand: bytes.NewReader(bytes.Repeat([]byte{random}, 1<<12))}
}

func TestDelay(t *testing.T) {
	low, high := fixed(time.Time{}, 0), fixed(time.Time{}, 0xff)
	want := []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour}
	for i, d := range want {
		shortest, ok := Delay(low, i+1, 0)
		longest, _ := Delay(high, i+1, 0)
		if !ok || shortest != d*85/100 || longest <= d*114/100 || longest > d*115/100 {
			t.Errorf("after try %d: %v to %v, want %v and 15 %% either way", i+1, shortest, longest, d)
		}
	}
	for _, tries := range []int{0, -1, Tries, Tries + 1} {
		if _, ok := Delay(low, tries, 0); ok {
			t.Errorf("after try %d there is a next one", tries)
		}
	}
	for name, c := range map[string]struct {
		tries       int
		after, want time.Duration
	}{
		"longer than the schedule":  {1, time.Hour, time.Hour},
		"shorter than the schedule": {2, time.Second, 5 * time.Minute * 85 / 100},
		"at most a day":             {1, 1000 * time.Hour, 24 * time.Hour},
	} {
		if got, _ := Delay(low, c.tries, c.after); got != c.want {
			t.Errorf("Retry-After %s: wait is %v, want %v", name, got, c.want)
		}
	}
}

func TestBreaker(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now, ep := domain.At(start), &domain.Endpoint{}
	failure := Result{Attempt: domain.Attempt{Status: 500, Failure: FailureStatus}}
	for range breakerFrom - 1 {
		Failed(ep, failure, now)
	}
	if !ep.OpenAfter.IsZero() {
		t.Fatal("the breaker opened too early")
	}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		Failed(ep, failure, now)
		if got := ep.OpenAfter.Sub(now); got != want*time.Minute {
			t.Fatalf("opening %d: for %v, want %v minutes", i+1, got, int(want))
		}
		before := ep.Failures
		Failed(ep, failure, now.Add(time.Second))
		if ep.Failures != before || ep.OpenAfter.Sub(now) != want*time.Minute {
			t.Fatal("what was on its way when the breaker opened counts again")
		}
		now = ep.OpenAfter
	}
	if ep.FailingSince != domain.At(start) {
		t.Error("the first failure's time was lost")
	}
	Succeeded(ep)
	if ep.Failures != 0 || !ep.OpenAfter.IsZero() || !ep.FailingSince.IsZero() {
		t.Errorf("after a success: %+v", ep)
	}
}

func TestBusyEndpointMakesEverybodyWait(t *testing.T) {
	now := domain.At(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for name, c := range map[string]struct {
		status      int
		after, want time.Duration
	}{
		"429":              {429, time.Minute, time.Minute},
		"503":              {503, time.Hour, time.Hour},
		"capped":           {503, 1000 * time.Hour, time.Hour},
		"410":              {410, 0, time.Hour},
		"500 is about one": {500, time.Hour, 0},
		"not said":         {429, 0, 0},
	} {
		ep := &domain.Endpoint{}
		Failed(ep, Result{Attempt: domain.Attempt{Status: c.status, Failure: FailureStatus}, RetryAfter: c.after}, now)
		got := time.Duration(0)
		if !ep.OpenAfter.IsZero() {
			got = ep.OpenAfter.Sub(now)
		}
		if got != c.want {
			t.Errorf("%s: everybody waits %v, want %v", name, got, c.want)
		}
	}
}

func TestAfterBreakerSpreads(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ep := &domain.Endpoint{OpenAfter: domain.At(start.Add(time.Hour))}
	if got := AfterBreaker(fixed(start, 0), ep); got != ep.OpenAfter {
		t.Errorf("earliest %v, want %v", got, ep.OpenAfter)
	}
	if got := AfterBreaker(fixed(start, 0xff), ep); !got.After(ep.OpenAfter.Add(5*time.Minute)) || got.After(ep.OpenAfter.Add(6*time.Minute)) {
		t.Errorf("latest %v, want just below a tenth of the wait later", got)
	}
	for name, e := range map[string]*domain.Endpoint{"closed": {}, "over": {OpenAfter: domain.At(start)}} {
		if got := AfterBreaker(fixed(start, 0), e); !got.IsZero() {
			t.Errorf("%s: waits until %v", name, got)
		}
	}
}

func TestGivenUp(t *testing.T) {
	now := domain.At(time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC))
	for name, c := range map[string]struct {
		failures int
		since    time.Duration
		gone     time.Duration // since the first 410; 0 without one
		want     domain.DisabledBy
	}{
		"five days":             {5, 120 * time.Hour, 0, domain.DisabledFailing},
		"not yet":               {99, 120*time.Hour - time.Millisecond, 0, ""},
		"too few were observed": {4, 500 * time.Hour, 0, ""},
		"one 410":               {1, time.Millisecond, time.Millisecond, ""},
		"many at once":          {9, time.Minute, time.Minute, ""},
		"again an hour later":   {2, time.Hour, time.Hour, domain.DisabledGone},
		"never failed":          {},
	} {
		ep := &domain.Endpoint{Failures: c.failures, FailingSince: now.Add(-c.since)}
		if c.gone > 0 {
			ep.GoneSince = now.Add(-c.gone)
		}
		if got := GivenUp(ep, now); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	ep := &domain.Endpoint{}
	for _, code := range []int{410, 500} { // something else in between: it is there
		Failed(ep, Result{Attempt: domain.Attempt{Status: code, Failure: FailureStatus}}, now)
	}
	if !ep.GoneSince.IsZero() {
		t.Error("the 410 before counts still")
	}
}
