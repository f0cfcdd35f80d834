package webhook

import (
	"encoding/binary"
	"time"

	"sluis.internal/shared/domain"
)

// delays is how long to wait after each failed try: Standard Webhooks' own schedule, about 28 hours in all.
var delays = [...]time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
	10 * time.Hour, 10 * time.Hour}

// Tries is how often a delivery is tried at most before it has failed.
const Tries = len(delays) + 1

// MaxRetryAfter bounds what an endpoint may ask for with Retry-After, for what it answered. Everything else waits for no
// longer than the breaker lets it: one hint of one server behind an address says little of all.
const MaxRetryAfter = 24 * time.Hour

// Bounds of the breaker and of patience.
const (
	breakerFrom  = 5           // failures in a row that open it
	breakerFirst = time.Minute // how long it is open at first; each further failure doubles it
	breakerMost  = time.Hour
	patience     = 5 * 24 * time.Hour // of failure without one success, then an endpoint is disabled
	goneFor      = time.Hour          // after a first 410 Gone: another one then is believed
)

// Delay is how long to wait after so many failed tries, spread by 15 % either way so that what failed together does
// not come back together. It is never shorter than what the endpoint asked for. ok is false when no try is left.
func Delay(e domain.Env, tries int, retryAfter time.Duration) (wait time.Duration, ok bool) {
	if tries < 1 || tries > len(delays) {
		return 0, false
	}
	return max(spread(e, delays[tries-1]), min(retryAfter, MaxRetryAfter)), true
}

// spread is d, up to 15 % more or less.
func spread(e domain.Env, d time.Duration) time.Duration {
	part := float64(binary.BigEndian.Uint32(e.Random(4))) / (1 << 32) // 0 to 1
	return time.Duration(float64(d) * (0.85 + 0.3*part))
}

// AfterBreaker is when to try at an endpoint whose breaker is open: when it closes, and up to a tenth of the wait
// later, so that what waited does not come all at once. It is the zero Time if the breaker is not open.
func AfterBreaker(e domain.Env, ep *domain.Endpoint) domain.Time {
	wait := ep.OpenAfter.Sub(e.Now())
	if ep.OpenAfter.IsZero() || wait <= 0 {
		return domain.Time{}
	}
	part := float64(binary.BigEndian.Uint32(e.Random(4))) / (1 << 32)
	return ep.OpenAfter.Add(time.Duration(float64(wait) * part / 10))
}

// Succeeded closes the breaker.
func Succeeded(ep *domain.Endpoint) {
	ep.Failures, ep.FailingSince, ep.OpenAfter, ep.GoneSince = 0, domain.Time{}, domain.Time{}, domain.Time{}
}

// Failed counts a failure against the endpoint and opens the breaker when there were enough in a row. What was on its
// way when the breaker opened does not count again. If the endpoint itself said how long to wait, everybody waits.
func Failed(ep *domain.Endpoint, r Result, now domain.Time) {
	if ep.FailingSince.IsZero() {
		ep.FailingSince = now
	}
	if !now.Before(ep.OpenAfter) {
		ep.Failures++
		if over := ep.Failures - breakerFrom; over >= 0 {
			ep.OpenAfter = now.Add(min(breakerFirst<<min(over, 6), breakerMost))
		}
	}
	switch {
	case !r.Gone():
		ep.GoneSince = domain.Time{}
	case ep.GoneSince.IsZero():
		ep.GoneSince = now
	}
	wait := time.Duration(0)
	if r.Busy() {
		wait = min(r.RetryAfter, breakerMost)
	}
	if r.Gone() {
		wait = goneFor
	}
	if until := now.Add(wait); wait > 0 && until.After(ep.OpenAfter) {
		ep.OpenAfter = until
	}
}

// GivenUp is why an endpoint is to be disabled, or "": it said 410 Gone, and nothing else for an hour after that, as one
// such answer may be a deployment's mistake; or it has failed for five days without one success, seen by at least as many
// failures as open the breaker.
func GivenUp(ep *domain.Endpoint, now domain.Time) domain.DisabledBy {
	switch {
	case !ep.GoneSince.IsZero() && now.Sub(ep.GoneSince) >= goneFor:
		return domain.DisabledGone
	case ep.Failures >= breakerFrom && now.Sub(ep.FailingSince) >= patience:
		return domain.DisabledFailing
	}
	return ""
}
