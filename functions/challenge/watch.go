package challenge

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"sluis.internal/shared/domain"
)

// How many streams are open at once in one process: of one visit, as many as a browser opens to one host; of one network
// address and one client, a share of all; and in all, half of the connections that a listener takes
// (serve.MaxConnections), so that streams never keep a request out.
const (
	maxOfVisit   = 6
	maxOfAddress = 60
	maxOfClient  = 200
	maxStreams   = 500
)

// crowd is what goes on at once in this process: the open streams by whom they count for, the connections that are
// watched for them, and the challenges that the bank is being asked about.
type crowd struct {
	mu      sync.Mutex
	open    map[string]int
	watches map[domain.ConnectionID]*watch
	asking  map[domain.ChallengeID]bool
}

// share is one of the numbers that a stream counts for.
type share struct {
	of   string
	most int
	full string // what to do where it is used up
}

func (s *Service) shares(r *http.Request, v *domain.Visit) []share {
	return []share{
		{"visit " + v.Hash, maxOfVisit, "this page is open too often; close the other ones"},
		{"address " + s.Door.Network(r), maxOfAddress, "too many pages are open at your network address; close some, or wait"},
		{"client " + string(v.ClientID), maxOfClient, "too many of your wealth manager's or app's pages are open; wait a little"},
		{"all", maxStreams, "too many pages are open at present; wait a little"},
	}
}

// enter counts a stream for all of its shares, or for none where one is used up.
func (c *crowd) enter(shares []share) (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range shares {
		if c.open[s.of] >= s.most {
			return nil, &domain.Error{Kind: domain.RateLimited, Code: "too_many_streams", RetryAfter: heartbeat, Message: s.full}
		}
	}
	if c.open == nil {
		c.open = map[string]int{}
	}
	for _, s := range shares {
		c.open[s.of]++
	}
	return func() { c.leave(shares) }, nil
}

func (c *crowd) leave(shares []share) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range shares {
		if c.open[s.of]--; c.open[s.of] == 0 {
			delete(c.open, s.of)
		}
	}
}

func (c *crowd) ask(id domain.ChallengeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking[id] {
		return false
	}
	if c.asking == nil {
		c.asking = map[domain.ChallengeID]bool{}
	}
	c.asking[id] = true
	return true
}

func (c *crowd) asked(id domain.ChallengeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asking, id)
}

// watch is the one that looks at a connection for all streams of it, from the first that comes to the last that leaves.
type watch struct {
	stop context.CancelFunc
	done chan struct{} // closed when it looks no more

	mu      sync.Mutex
	streams map[chan told]string // to the key of their visit
	newest  told
}

// told is what a watch tells a stream: how things stand, that the visit is over, or that neither can be read.
type told struct {
	at   *standing
	over bool
	err  error
}

// join has a stream of the visit told what the watch of its connection sees, until it leaves. Only the newest is kept for
// a stream that is slow.
func (s *Service) join(v *domain.Visit) (news chan told, leave func()) {
	c := &s.crowd
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.watches[v.ConnectionID]
	if w == nil {
		ctx, stop := context.WithCancel(context.Background())
		w = &watch{stop: stop, done: make(chan struct{}), streams: map[chan told]string{}}
		if c.watches == nil {
			c.watches = map[domain.ConnectionID]*watch{}
		}
		c.watches[v.ConnectionID] = w
		go s.watch(ctx, v.ConnectionID, w)
	}
	news = make(chan told, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams[news] = v.Hash
	if w.newest.at != nil {
		news <- w.newest
	}
	return news, func() { c.part(v.ConnectionID, w, news) }
}

// part takes a stream off its watch. The last one ends the watch, and waits for that.
func (c *crowd) part(id domain.ConnectionID, w *watch, news chan told) {
	c.mu.Lock()
	w.mu.Lock()
	delete(w.streams, news)
	last := len(w.streams) == 0
	w.mu.Unlock()
	if last {
		delete(c.watches, id)
	}
	c.mu.Unlock()
	if last {
		w.stop()
		<-w.done
	}
}

// watch looks at the connection again and again until it is stopped. While somebody looks on and the bank waits for an
// approval elsewhere, it asks the bank at the bank's own interval whether that has come.
func (s *Service) watch(ctx context.Context, id domain.ConnectionID, w *watch) {
	defer close(w.done)
	every := s.Every
	if every == 0 {
		every = 500 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var polled domain.Time
	var at *standing
	for ctx.Err() == nil {
		at = s.tell(ctx, id, w, at)
		if at != nil && at.challenge != nil && s.due(at.challenge, polled) {
			polled = s.Env.Now()
			if err := domain.Recovered(func() error { s.poll(ctx, at.challenge); return nil }); err != nil {
				slog.ErrorContext(ctx, "asking for an approval panicked", "code", domain.CodeOf(err))
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// tell looks once at the connection and at the visits that follow it, and tells each of their streams.
func (s *Service) tell(ctx context.Context, id domain.ConnectionID, w *watch, before *standing) *standing {
	visits := w.visits()
	docs := make([]domain.Document, 0, len(visits))
	for _, v := range visits {
		docs = append(docs, v)
	}
	var at *standing
	err := domain.Recovered(func() (err error) { // nobody else stands behind a watch
		at, err = s.look(ctx, id, before, docs...)
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newest = told{at: at, err: err}
	for news, hash := range w.streams {
		v, n := visits[hash], w.newest
		if v == nil {
			continue // it came just now
		}
		n.over = err == nil && !s.Env.Now().Before(v.ExpiresAt) // the time of one that is not there any more is zero
		select {
		case <-news:
		default:
		}
		news <- n
	}
	return at
}

// visits are those whose streams are open, to be read.
func (w *watch) visits() map[string]*domain.Visit {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]*domain.Visit{}
	for _, hash := range w.streams {
		out[hash] = &domain.Visit{Hash: hash}
	}
	return out
}
