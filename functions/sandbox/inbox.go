package sandbox

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Bounds of the inbox.
const (
	maxBody     = 64 << 10 // of one webhook; Sluis sends at most 20 kB
	maxMessages = 500      // kept to be shown
	maxIDs      = 10_000   // remembered, to know a repetition
	maxAhead    = 1_000    // webhooks of one connection that came before an earlier one
	maxWatchers = 32       // pages that follow the inbox live
)

// message is a webhook that was verified.
type message struct {
	ID        string    // webhook-id: the same on every attempt
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"` // when the fact came to be
	Data      struct {
		Sequence     int64  `json:"sequence"` // 1, 2, 3 … of the connection; 0 where there is none
		ConnectionID string `json:"connection_id"`
		InvestorRef  string `json:"investor_ref"`
		State        string `json:"state"`
		Reason       string `json:"reason"`
		Subject      string `json:"subject"`
	} `json:"data"`
	Received time.Time
	Copies   int // how often it came
}

// inbox receives webhooks. Webhooks arrive at least once and in no promised order: the webhook-id tells repetitions,
// the sequence tells the order and what is missing.
type inbox struct {
	verifier *standardwebhooks.Webhook
	fault    error // why nothing can be verified
	now      func() time.Time

	mu       sync.Mutex
	messages []*message          // newest last
	byID     map[string]*message // nil where the message is no longer kept
	ids      []string            // keys of byID, oldest first
	runs     map[string]*run     // by connection
	refused  int
	watchers map[chan *message]struct{}
}

// newInbox verifies with secret, which begins with whsec_.
func newInbox(secret string, now func() time.Time) *inbox {
	in := &inbox{now: now, byID: map[string]*message{}, runs: map[string]*run{}, watchers: map[chan *message]struct{}{}}
	in.verifier, in.fault = standardwebhooks.NewWebhook(secret)
	// Without this check anybody could sign: the library takes the empty secret too.
	if in.fault == nil && (!strings.HasPrefix(secret, "whsec_") || len(secret) < len("whsec_")+32) {
		in.fault = errors.New("the webhook secret must be whsec_ and base64 of at least 24 bytes")
	}
	return in
}

// ServeHTTP takes one webhook: verify the bytes as they came, note it, answer. Work that takes longer belongs after the
// answer, for a slow answer counts as a failure and has the webhook sent again.
func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if in.fault != nil {
		http.Error(w, "no secret to verify with", http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		in.refuse(w, http.StatusBadRequest, "body unreadable or too large")
		return
	}
	// Verify also refuses what was signed more than five minutes ago, so that nobody can send an old webhook again.
	if err := in.verifier.Verify(body, r.Header); err != nil {
		in.refuse(w, http.StatusUnauthorized, "not verified")
		return
	}
	m := &message{ID: r.Header.Get(standardwebhooks.HeaderWebhookID), Received: in.now(), Copies: 1}
	if err := json.Unmarshal(body, m); err != nil || m.Type == "" || m.Data.Sequence < 0 {
		in.refuse(w, http.StatusBadRequest, "not a notice")
		return
	}
	in.take(m)
	w.WriteHeader(http.StatusNoContent)
}

func (in *inbox) refuse(w http.ResponseWriter, status int, why string) {
	in.mu.Lock()
	in.refused++
	in.mu.Unlock()
	http.Error(w, why, status)
}

// take notes a verified webhook, once.
func (in *inbox) take(m *message) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if before, seen := in.byID[m.ID]; seen {
		if before != nil {
			before.Copies++
		}
		return
	}
	in.byID[m.ID], in.ids = m, append(in.ids, m.ID)
	if len(in.ids) > maxIDs {
		delete(in.byID, in.ids[0])
		in.ids = in.ids[1:]
	}
	in.messages = append(in.messages, m)
	if len(in.messages) > maxMessages {
		in.byID[in.messages[0].ID] = nil
		in.messages = in.messages[1:]
	}
	if m.Data.ConnectionID != "" && m.Data.Sequence > 0 {
		in.run(m.Data.ConnectionID).add(m.Data.Sequence)
	}
	for watcher := range in.watchers {
		select {
		case watcher <- m:
		default: // it is behind already, and looks at everything when it comes
		}
	}
}

func (in *inbox) run(connection string) *run {
	if in.runs[connection] == nil {
		in.runs[connection] = &run{through: -1}
	}
	return in.runs[connection]
}

// know tells the inbox what the API says of a connection: its newest sequence number, and whether it is older than this
// inbox. What an older connection sent before is not expected here.
func (in *inbox) know(c *connection, older bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	r := in.run(c.ID)
	r.newest = max(r.newest, c.Sequence)
	if r.through >= 0 {
		return
	}
	r.through = 0
	if older {
		r.through = c.Sequence
		if len(r.ahead) > 0 {
			r.through = min(r.through, r.ahead[0]-1)
		}
	}
	r.from = r.through
	r.close()
}

// run is which sequence numbers of one connection have come.
type run struct {
	from    int64   // up to here they came before this app began
	through int64   // up to here none is missing; -1 while the beginning is unknown
	ahead   []int64 // those that came beyond through, ascending
	newest  int64   // the connection's newest, as the API last said
}

func (r *run) add(n int64) {
	r.newest = max(r.newest, n)
	at, there := slices.BinarySearch(r.ahead, n)
	if there || r.through >= 0 && n <= r.through {
		return
	}
	r.ahead = slices.Insert(r.ahead, at, n)
	r.close()
}

// close moves through forward as far as nothing is missing. One who waits too long for a missing webhook gives it up,
// so that memory stays bounded.
func (r *run) close() {
	for r.through >= 0 && len(r.ahead) > 0 && (r.ahead[0] == r.through+1 || len(r.ahead) > maxAhead) {
		r.through, r.ahead = r.ahead[0], r.ahead[1:]
	}
	if r.through < 0 && len(r.ahead) > maxAhead {
		r.ahead = r.ahead[1:]
	}
}

// missing lists at most 20 sequence numbers that are known to exist and have not come.
func (r *run) missing() []int64 {
	var out []int64
	for n := r.through + 1; r.through >= 0 && n <= r.newest && len(out) < 20; n++ {
		if _, there := slices.BinarySearch(r.ahead, n); !there {
			out = append(out, n)
		}
	}
	return out
}

// line is a row of a list of webhooks: a message, or the gap where one is missing.
type line struct {
	*message
	Missing int64
}

// recent lists the newest messages, newest first.
func (in *inbox) recent(most int) []line {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []line
	for _, m := range slices.Backward(in.messages) {
		if len(out) == most {
			break
		}
		shown := *m
		out = append(out, line{message: &shown})
	}
	return out
}

// of lists the messages of one connection by their sequence, newest first, with its gaps.
func (in *inbox) of(connection string) []line {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []line
	for _, m := range in.messages {
		if m.Data.ConnectionID == connection {
			shown := *m
			out = append(out, line{message: &shown})
		}
	}
	if r := in.runs[connection]; r != nil {
		for _, n := range r.missing() {
			out = append(out, line{Missing: n})
		}
	}
	slices.SortStableFunc(out, func(a, b line) int { return int(b.number() - a.number()) })
	return out
}

func (l line) number() int64 {
	if l.message == nil {
		return l.Missing
	}
	return l.Data.Sequence
}

// gaps says how many webhooks of a connection are missing.
func (in *inbox) gaps(connection string) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if r := in.runs[connection]; r != nil {
		return len(r.missing())
	}
	return 0
}

// refusals says how many requests were not verified.
func (in *inbox) refusals() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.refused
}

// watch gives a channel that gives what comes; stop ends it. It is nil where too many watch already.
func (in *inbox) watch() (came <-chan *message, stop func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.watchers) >= maxWatchers {
		return nil, nil
	}
	watcher := make(chan *message, 8)
	in.watchers[watcher] = struct{}{}
	return watcher, func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		delete(in.watchers, watcher)
	}
}
