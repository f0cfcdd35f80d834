package serve

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"sluis.internal/shared/domain"
)

// Limits bounds the pace of each caller with a token bucket, in this process; a front door may add a wider limit. The
// nil Limits bounds nothing.
type Limits struct {
	perMinute int
	mu        sync.Mutex
	callers   map[string]*caller
}

type caller struct {
	bucket *rate.Limiter
	seen   domain.Time
}

// maxCallers bounds the memory of Limits: above it, callers not seen for a minute are forgotten.
const maxCallers = 10000

// NewLimits allows each caller perMinute requests a minute, and as many at once.
func NewLimits(perMinute int) *Limits {
	return &Limits{perMinute: perMinute, callers: map[string]*caller{}}
}

// take counts one request of who and sets the headers of draft-ietf-httpapi-ratelimit-headers-10.
func (l *Limits) take(w http.ResponseWriter, who string, now domain.Time) error {
	if l == nil {
		return nil
	}
	c := l.caller(who, now)
	allowed := c.bucket.AllowN(now.Time, 1)
	left := max(c.bucket.TokensAt(now.Time), 0)
	perToken := time.Minute / time.Duration(l.perMinute)
	reset := int((time.Duration((float64(l.perMinute)-left)*float64(perToken)) + time.Second - 1) / time.Second)
	w.Header().Set("RateLimit-Policy", fmt.Sprintf(`"default";q=%d;w=60`, l.perMinute))
	w.Header().Set("RateLimit", fmt.Sprintf(`"default";r=%d;t=%d`, int(left), reset))
	if !allowed {
		return &domain.Error{Kind: domain.RateLimited, Code: "rate_limited", RetryAfter: max(perToken, time.Second),
			Message: "too many requests; wait as Retry-After says"}
	}
	return nil
}

func (l *Limits) caller(who string, now domain.Time) *caller {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.callers[who]
	if c == nil {
		l.forget(now)
		c = &caller{bucket: rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)}
		l.callers[who] = c
	}
	c.seen = now
	return c
}

// forget makes room. A caller not seen for a minute has a full bucket again, so nothing is lost; if all were seen
// just now, the map starts anew rather than grow.
func (l *Limits) forget(now domain.Time) {
	if len(l.callers) < maxCallers {
		return
	}
	for who, c := range l.callers {
		if now.Sub(c.seen) > time.Minute {
			delete(l.callers, who)
		}
	}
	if len(l.callers) >= maxCallers {
		clear(l.callers)
	}
}
