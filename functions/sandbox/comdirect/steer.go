package comdirect

import (
	"net/http"
	"slices"

	"sluis.internal/shared/domain"
)

// Request is one request that the bank saw. It names who asked for what and how that went, never with which secret.
type Request struct {
	At     domain.Time `json:"at"`
	Login  string      `json:"login,omitempty"` // empty where nobody known asked
	Method string      `json:"method"`
	Path   string      `json:"path"`   // a template, for example /api/brokerage/v3/depots/{depotId}/positions
	Status int         `json:"status"` // HTTP; 0 where the answer broke off before it began
}

// maxLog bounds the request log; the oldest half is dropped.
const maxLog = 20_000

func (b *Bank) note(login, method, path string, status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.log) >= maxLog {
		b.log = slices.Clone(b.log[maxLog/2:])
	}
	b.log = append(b.log, Request{At: b.opts.Env.Now(), Login: login, Method: method, Path: path, Status: status})
}

// Requests returns the newest requests, oldest first: at least the last 10,000.
func (b *Bank) Requests() []Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.log)
}

// Attempts is how many logins with this number were tried, whatever became of them.
func (b *Bank) Attempts(number string) int {
	return look(b, number, func(p *person) int { return p.Attempts })
}

// Refused is how many logins with this number were refused for their PIN.
func (b *Bank) Refused(number string) int {
	return look(b, number, func(p *person) int { return p.Refused })
}

// Visits is how many sessions this number has had.
func (b *Bank) Visits(number string) int {
	return look(b, number, func(p *person) int { return p.Visits })
}

// Challenges is how many challenges were issued since the last right answer; at five the access is locked.
func (b *Bank) Challenges(number string) int {
	return look(b, number, func(p *person) int { return p.Open })
}

// InRow is how many logins were refused since the last that was taken; at three the access is locked.
func (b *Bank) InRow(number string) int {
	return look(b, number, func(p *person) int { return p.InRow })
}

// Wrong is how many wrong TANs were given since the last right one; at three the access is locked.
func (b *Bank) Wrong(number string) int {
	return look(b, number, func(p *person) int { return p.Wrong })
}

// Locked says whether this access is locked.
func (b *Bank) Locked(number string) bool {
	l := find(number)
	return l != nil && l.locked || look(b, number, func(p *person) bool { return p.Locked })
}

// look reads something of a person without making one up.
func look[T any](b *Bank, number string, of func(*person) T) T {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.memory.People[number] == nil {
		return of(&person{})
	}
	return of(b.person(number))
}

// OpenSessions is how many sessions of this number are neither revoked nor expired; of all numbers, if it is empty.
func (b *Bank) OpenSessions(number string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	open, now := 0, b.opts.Env.Now()
	for _, s := range b.memory.Sessions {
		if !s.over(now) && (number == "" || s.Login == number) {
			open++
		}
	}
	return open
}

// Approve does what the investor would in the app: it approves the newest push of this number. It returns false if none
// waits.
func (b *Bank) Approve(number string) bool { return b.react(number, StatusAuthenticated) }

// Reject declines the newest push of this number. It returns false if none waits.
func (b *Bank) Reject(number string) bool { return b.react(number, StatusRejected) }

func (b *Bank) react(number, status string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	var newest *challenge
	now := b.opts.Env.Now()
	for _, s := range b.memory.Sessions {
		ch := s.Challenge
		waits := s.Login == number && !s.over(now) && ch != nil && ch.Push == StatusPending &&
			now.Sub(ch.IssuedAt) < b.opts.PushLife
		if waits && (newest == nil || newest.IssuedAt.Before(ch.IssuedAt)) {
			newest = ch
		}
	}
	if newest == nil {
		return false
	}
	newest.Push = status
	b.save()
	return true
}

// ChangePIN makes another PIN the right one for this number, as if the investor had changed it on the bank's page.
func (b *Bank) ChangePIN(number, pin string) {
	b.change(number, func(p *person) { p.PINMark = b.mac("pin", number, pin) })
}

// AcceptTerms does what the login with conditions wants done first.
func (b *Bank) AcceptTerms(number string) { b.change(number, func(p *person) { p.Accepted = true }) }

// Unlock unlocks an access and forgets its refused logins, wrong TANs and open challenges.
func (b *Bank) Unlock(number string) {
	b.change(number, func(p *person) { p.InRow, p.Open, p.Wrong, p.Locked = 0, 0, 0, false })
}

// Reset makes a number as new: the table's PIN, no counters, no sessions.
func (b *Bank) Reset(number string) {
	b.change(number, func(p *person) {
		*p = person{}
		b.endSessions(number)
	})
}

// EndSessions ends all sessions of a number at the bank's side: their tokens are worth nothing from now on.
func (b *Bank) EndSessions(number string) { b.change(number, func(*person) { b.endSessions(number) }) }

func (b *Bank) change(number string, how func(*person)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	how(b.person(number))
	b.save()
}

// Standing is what the bank knows of a number, for GET /sandbox/logins/{number}.
type Standing struct {
	Attempts     int  `json:"attempts"`
	Refused      int  `json:"refused"`
	Visits       int  `json:"visits"`
	Challenges   int  `json:"challenges"`
	Locked       bool `json:"locked"`
	OpenSessions int  `json:"open_sessions"`
}

// control lets another process steer the bank: GET /sandbox/logins/{number} tells its Standing, and POST
// /sandbox/logins/{number}/{act} does one act of approve, reject, accept-terms, unlock, reset, end-sessions, and
// change-pin with the form field pin. It is for loopback only, as the whole bank is.
func (b *Bank) control() {
	b.mux.HandleFunc("GET /sandbox/logins/{number}", func(w http.ResponseWriter, r *http.Request) {
		number := r.PathValue("number")
		if find(number) == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		answer(w, http.StatusOK, Standing{Attempts: b.Attempts(number), Refused: b.Refused(number), Visits: b.Visits(number),
			Challenges: b.Challenges(number), Locked: b.Locked(number), OpenSessions: b.OpenSessions(number)})
	})
	b.mux.HandleFunc("POST /sandbox/logins/{number}/{act}", func(w http.ResponseWriter, r *http.Request) {
		number := r.PathValue("number")
		if find(number) == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(b.act(number, r.PathValue("act"), r.PostFormValue("pin")))
	})
}

// act does a control act and returns the HTTP status.
func (b *Bank) act(number, act, pin string) int {
	acts := map[string]func(string){"accept-terms": b.AcceptTerms, "unlock": b.Unlock, "reset": b.Reset,
		"end-sessions": b.EndSessions}
	reactions := map[string]func(string) bool{"approve": b.Approve, "reject": b.Reject}
	if react := reactions[act]; react != nil {
		if !react(number) {
			return http.StatusConflict
		}
		return http.StatusNoContent
	}
	switch do := acts[act]; {
	case do != nil:
		do(number)
	case act == "change-pin" && len(pin) >= 4 && len(pin) <= 40:
		b.ChangePIN(number, pin)
	default:
		return http.StatusUnprocessableEntity
	}
	return http.StatusNoContent
}
