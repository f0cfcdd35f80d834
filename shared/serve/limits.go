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

// maxCallers bounds the memory of Limits: at that many, some are forgotten.
const maxCallers = 10000

// NewLimits allows each caller perMinute requests a minute, and as many at once; none below 1, which bounds nothing.
func NewLimits(perMinute int) *Limits {
	if perMinute < 1 {
		return nil
	}
	return &Limits{perMinute: perMinute, callers: map[string]*caller{}}
}

// take counts one request of who and sets the headers of draft-ietf-httpapi-ratelimit-headers-10.
func (l *Limits) take(w http.ResponseWriter, who string, now domain.Time) error {
	if l == nil {
		return nil
	}
	c := l.caller(who, now)
	allowed := c.bucket.AllowN(now.Time, 1)
	l.say(w, c.bucket.TokensAt(now.Time))
	if !allowed {
		return l.refusal()
	}
	return nil
}

// show says what who has left, and counts nothing.
func (l *Limits) show(w http.ResponseWriter, who string, now domain.Time) {
	if l == nil {
		return
	}
	l.mu.Lock()
	c := l.callers[who]
	l.mu.Unlock()
	left := float64(l.perMinute)
	if c != nil {
		left = c.bucket.TokensAt(now.Time)
	}
	l.say(w, left)
}

// say sets the headers for somebody who has so much left.
func (l *Limits) say(w http.ResponseWriter, left float64) {
	left = max(left, 0)
	reset := int((time.Duration((float64(l.perMinute)-left)*float64(l.perToken())) + time.Second - 1) / time.Second)
	w.Header().Set("RateLimit-Policy", fmt.Sprintf(`"default";q=%d;w=60`, l.perMinute))
	w.Header().Set("RateLimit", fmt.Sprintf(`"default";r=%d;t=%d`, int(left), reset))
}

// show says what the caller's network address has left, until we know who calls.
func (d *Door) show(w http.ResponseWriter, r *http.Request) {
	if w.Header().Get("RateLimit") == "" {
		d.Limits.show(w, "address:"+d.Network(r), d.Env.Now())
	}
}

// count counts one against who.
func (l *Limits) count(who string, now domain.Time) {
	if l != nil {
		l.caller(who, now).bucket.AllowN(now.Time, 1)
	}
}

// spent refuses who if nothing is left, and counts nothing.
func (l *Limits) spent(who string, now domain.Time) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	c := l.callers[who]
	l.mu.Unlock()
	if c == nil || c.bucket.TokensAt(now.Time) >= 1 {
		return nil
	}
	return l.refusal()
}

func (l *Limits) refusal() error {
	return &domain.Error{Kind: domain.RateLimited, Code: "rate_limited", RetryAfter: max(l.perToken(), time.Second),
		Message: "too many requests; wait as Retry-After says"}
}

// perToken is how long one request takes to be allowed again.
func (l *Limits) perToken() time.Duration { return time.Minute / time.Duration(l.perMinute) }

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

// forget makes room. A caller not seen for a minute has a full bucket again, so nothing is lost. If that is not
// enough, some of the others go, whoever they are: a crowd of newcomers must not free everybody at once, nor make us
// look through all of them each time.
func (l *Limits) forget(now domain.Time) {
	if len(l.callers) < maxCallers {
		return
	}
	for who, c := range l.callers {
		if now.Sub(c.seen) > time.Minute {
			delete(l.callers, who)
		}
	}
	for who := range l.callers {
		if len(l.callers) <= maxCallers-maxCallers/10 {
			return
		}
		delete(l.callers, who)
	}
}
