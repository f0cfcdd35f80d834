package comdirect

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// kind groups requests for faults and FailNext.
type kind string

const (
	kindToken             kind = "token"
	kindRevoke            kind = "revoke"
	kindSession           kind = "session"
	kindBalances          kind = "balances"
	kindTransactions      kind = "transactions"
	kindDepots            kind = "depots"
	kindPositions         kind = "positions"
	kindDepotTransactions kind = "depot-transactions"
	kindOrders            kind = "orders"
	kindInstruments       kind = "instruments"
	kindTrade             kind = "trade" // anything that would change something: always refused
)

var dataKinds = []kind{kindBalances, kindTransactions, kindDepots, kindPositions, kindDepotTransactions, kindOrders,
	kindInstruments}

// fault is how the bank fails.
type fault int

const (
	faultNone    fault = iota
	faultSlow          // every request waits
	faultFlaky         // 500 to the first two requests of a kind in a session
	faultDown          // 500 to all
	faultBusy          // 429 to the first request of a kind in a session; at the login, to every other one
	faultGarbled       // 200 with something that is not JSON
	faultCut           // 200 with a body that breaks off
)

// spoil plays the login's fault for this kind of request. It returns false if the request is answered with that. nth is
// how many requests of this kind there have been in the session, or logins of this number, this one included.
func (b *Bank) spoil(w http.ResponseWriter, r *http.Request, f fault, k kind, nth int) (proceed bool) {
	switch {
	case f == faultSlow:
		return b.opts.Sleep(r.Context(), b.opts.Slow) == nil
	case f == faultDown, f == faultFlaky && nth <= 2:
		refuse(w, http.StatusInternalServerError, "internal", "INTERNER_FEHLER", "Interner Fehler.")
	case f == faultBusy && (nth == 1 || k == kindToken && nth%2 == 1):
		b.busy(w)
	case f == faultGarbled:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"paging":{"index":0,"matches":12},"values":[{"depotId":<html>Wartungsarbeiten</html>`)
	case f == faultCut:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "48000")
		fmt.Fprint(w, `{"paging":{"index":0,"matches":12},"values":[{"depotId":"0F1A2B3C4D5E6F708192A3B4C5D6E7F8","wkn":"SB`)
		_ = http.NewResponseController(w).Flush() // so that the reader sees the beginning
		panic(http.ErrAbortHandler)
	default:
		return true
	}
	return false
}

func (b *Bank) busy(w http.ResponseWriter) {
	seconds := math.Ceil(b.opts.RetryAfter.Seconds())
	w.Header().Set("Retry-After", strconv.Itoa(int(max(seconds, 1))))
	refuse(w, http.StatusTooManyRequests, "rate.limit", "ZU_VIELE_ANFRAGEN", "Zu viele Anfragen.")
}

// failure is one FailNext that has not been used up.
type failure struct {
	number string
	path   string
	status int
	left   int
}

// FailNext answers the next n requests with status and no data. An empty number means every login, an empty path every
// request; otherwise path is a template as in Request.Path.
func (b *Bank) FailNext(number, path string, status, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = append(b.failures, &failure{number: number, path: path, status: status, left: n})
}

// failing takes one matching failure and returns its status, or 0.
func (b *Bank) failing(number, path string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.failures {
		if f.left > 0 && (f.number == "" || f.number == number) && (f.path == "" || f.path == path) {
			f.left--
			return f.status
		}
	}
	return 0
}

// fail answers with the status of a FailNext.
func (b *Bank) fail(w http.ResponseWriter, status int) {
	if status == http.StatusTooManyRequests {
		b.busy(w)
		return
	}
	refuse(w, status, "internal", "INTERNER_FEHLER", http.StatusText(status))
}

// defaults of what may be shortened for tests.
const (
	defaultSlow       = 3 * time.Second
	defaultRetryAfter = time.Second
)
