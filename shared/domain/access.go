package domain

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BankAccess is one login at one bank, as the bank itself counts it. A bank locks an investor's access after so many
// refused passwords, wrong codes or unanswered challenges, and it counts them whoever caused them: over all sessions,
// connections and clients. This document mirrors those counters, so that nothing that we, a client or a visitor do uses
// up the investor's last try. The bank's rules are data: [BankRules].
//
// What may count is booked before the bank hears of it, as counted until known otherwise, so that a process that dies
// never counts too little. The bank's last try is never used: where one more could lock the access, it rests on our side.
// It wakes by what resets the bank's own counter, with the time where that heals by itself, or by an operator who was
// told that the investor mended it at the bank.
//
// The law counts, too: without the investor, an account may be read no more than four times in 24 hours, unless the bank
// agreed to more (Commission Delegated Regulation (EU) 2018/389, Article 36(5)(b)). Several clients of one investor share
// these readings: whoever has had one leaves one to each who has not.
//
// Its key is a keyed digest of custodian and login name; the login name itself stands nowhere.
type BankAccess struct {
	ID        AccessKey         `json:"id"`
	Custodian CustodianID       `json:"custodian"`
	Rules     BankRules         `json:"rules"`              // as custodians.json last said, for those who begin sessions
	Tries     []BankTry         `json:"tries,omitempty"`    // that nothing has reset
	Number    int64             `json:"number"`             // of the last that was booked
	Readings  []BankReading     `json:"readings,omitempty"` // without the investor, of the rules' hours
	Logins    []Time            `json:"logins,omitempty"`   // with the investor at the page, likewise
	Sharers   map[ClientID]Time `json:"sharers,omitempty"`  // clients that read here, and when they last did
	Person    Reason            `json:"person,omitempty"`   // what the investor must mend before anybody reads without them
	Failures  int               `json:"failures,omitzero"`  // visits in a row that came to nothing
	NextAt    Time              `json:"next_at,omitzero"`   // nobody logs in before
	CreatedAt Time              `json:"created_at"`
	UpdatedAt Time              `json:"updated_at"`
	ExpiresAt Time              `json:"expires_at"`
}

func (*BankAccess) Kind() DocumentKind { return "bank_access" }
func (a *BankAccess) Key() string      { return string(a.ID) }

// AccessKey names a BankAccess: acs_ and 26 characters of a keyed digest.
type AccessKey string

// BankCount names a counter of the bank's that can lock an access.
type BankCount string

const (
	CountLogin     BankCount = "login"     // passwords refused
	CountCode      BankCount = "code"      // codes refused
	CountChallenge BankCount = "challenge" // challenges asked for without a right code
)

// BankCounts lists every counter.
var BankCounts = []BankCount{CountLogin, CountCode, CountChallenge}

// BankTry is one request that the bank may have counted.
type BankTry struct {
	Count  BankCount `json:"count"`
	Number int64     `json:"number"`
	At     Time      `json:"at"`
	Known  int64     `json:"known,omitzero"` // the number last booked when its end was known; 0 while it is not
}

// BankReading is one reading without the investor.
type BankReading struct {
	At       Time      `json:"at"`
	Number   int64     `json:"number"` // of the login
	Client   ClientID  `json:"client"`
	Consent  ConsentID `json:"consent"`
	Products []Product `json:"products,omitempty"` // where the custodian counts by endpoint
}

// Verdict is what a try came to at the bank.
type Verdict int

const (
	VerdictCounted Verdict = iota // refused, or nobody knows
	VerdictFree                   // the bank certainly did not count it
	VerdictRight                  // it was right: what that resets is reset
)

const (
	// tryLasts is how long a request may be under way whose end nobody has told.
	tryLasts = 10 * time.Minute
	// sharerLife is how long a client that does not come keeps its share of the readings.
	sharerLife = 72 * time.Hour
	// BankAccessLife is how long a BankAccess is kept in silence while something stands that the bank has not forgotten.
	// It outlives the consents under which that arose: MaxConsent, renewed once.
	BankAccessLife = 400 * 24 * time.Hour
	// quietAccessLife is how long one is kept in which nothing stands but readings.
	quietAccessLife = 7 * 24 * time.Hour
)

var accessDigits = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// AccessKey digests a login name under key. Groups, spaces and case make no other access.
func (c *Custodian) AccessKey(key Secret, login []byte) AccessKey {
	mac := hmac.New(sha256.New, key.Reveal())
	mac.Write(Name("bank_access", string(c.ID), normalLogin(string(login))))
	return AccessKey("acs_" + accessDigits.EncodeToString(mac.Sum(nil)[:16]))
}

// normalLogin is a login name as a bank compares it, or coarser: two that fall together share one mirror, which is safe.
func normalLogin(login string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n\u00a0\u2009\u202f-./", r) {
			return -1
		}
		return r
	}, strings.ToLower(login))
}

// NewBankAccess is an access of which nothing is known.
func NewBankAccess(id AccessKey, c CustodianID, now Time) *BankAccess {
	return &BankAccess{ID: id, Custodian: c, CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(quietAccessLife)}
}

// BankVisit is who would log in: what an access needs to know of a session.
type BankVisit struct {
	Attended  bool // the investor is at the page
	Recurring bool // the consent is for more than one reading
	Client    ClientID
	Consent   ConsentID
	Products  []Product
}

// Admit says whether a login may be tried now, without booking it.
func (a *BankAccess) Admit(r *BankRules, v BankVisit, now Time) error {
	a.age(r, now)
	if wait := a.NextAt.Sub(now); wait > 0 {
		return &Error{Kind: RateLimited, Code: string(ReasonAccessWaits), RetryAfter: wait, Message: "nothing was tried: " +
			"the bank refused the last login; the next may be tried when Retry-After says"}
	}
	if v.Attended {
		return a.admitPerson(r, now)
	}
	switch {
	case a.full(r, CountLogin):
		return errResting
	case a.Person != "":
		return &Error{Kind: Conflict, Code: string(a.Person), Message: "nothing was tried: the bank wants something of the " +
			"investor first; create a reconnect link and give it to the investor"}
	}
	if b := a.Budget(r, v, now); b.Left <= 0 {
		return &Error{Kind: RateLimited, Code: string(ReasonReadingsSpent), RetryAfter: b.NextAt.Sub(now), Message: "nothing was tried: " +
			"without the investor this access may be read no more often within a day; the next reading is possible when Retry-After says"}
	}
	return nil
}

// admitPerson is Admit with the investor at the page: they will be asked for a code, too.
func (a *BankAccess) admitPerson(r *BankRules, now Time) error {
	if slices.ContainsFunc(BankCounts, func(c BankCount) bool { return a.full(r, c) }) {
		return errResting
	}
	if most := r.Logins.Most; most > 0 && len(a.Logins) >= most {
		return &Error{Kind: RateLimited, Code: string(ReasonAccessWaits), RetryAfter: max(time.Second, a.Logins[0].Add(r.Logins.window()).Sub(now)),
			Message: "nothing was tried: this access was logged in to very often within a day; try again when Retry-After says"}
	}
	return nil
}

var errResting = &Error{Kind: Conflict, Code: string(ReasonAccessResting), Message: "nothing was tried: one more try could lock " +
	"this access at the bank; the investor logs in on the bank's own page first, then support releases the access here"}

// BookLogin books one login, which is refused for all we know until Settle says otherwise, and without the investor a
// reading. It returns the number to settle it by.
func (a *BankAccess) BookLogin(r *BankRules, v BankVisit, now Time) (int64, error) {
	if err := a.Admit(r, v, now); err != nil {
		return 0, err
	}
	number := a.add(r, CountLogin, now)
	if v.Attended {
		a.Logins = append(a.Logins, now)
	} else {
		reading := BankReading{At: now, Number: number, Client: v.Client, Consent: v.Consent}
		if r.Readings.Per == PerEndpoint {
			reading.Products = v.Products
		}
		a.Readings = append(a.Readings, reading)
	}
	if v.Recurring {
		if a.Sharers == nil {
			a.Sharers = map[ClientID]Time{}
		}
		a.Sharers[v.Client] = now
	}
	return number, nil
}

// Book books one request of a session that is logged in: a code, or a challenge asked for. Earlier are the numbers of
// the same step, whose requests have ended.
func (a *BankAccess) Book(r *BankRules, c BankCount, earlier []int64, now Time) (int64, error) {
	a.age(r, now)
	if a.full(r, c) {
		return 0, errResting
	}
	for i := range a.Tries {
		if t := &a.Tries[i]; t.Known == 0 && slices.Contains(earlier, t.Number) {
			t.Known = a.Number
		}
	}
	return a.add(r, c, now), nil
}

func (a *BankAccess) add(r *BankRules, c BankCount, now Time) int64 {
	a.Number++
	if r.Locks[c].At > 0 {
		a.Tries = append(a.Tries, BankTry{Count: c, Number: a.Number, At: now})
	}
	a.touch(now)
	return a.Number
}

// Settle notes what a booked request came to. One that was right resets what the rules say, as far as that was known
// before it was booked: of what was under way at the same time nobody knows what the bank saw first.
func (a *BankAccess) Settle(r *BankRules, c BankCount, number int64, v Verdict, now Time) {
	a.age(r, now)
	switch v {
	case VerdictFree:
		a.drop(func(t BankTry) bool { return t.Number == number })
		a.Readings = slices.DeleteFunc(a.Readings, func(x BankReading) bool { return x.Number == number })
	case VerdictRight:
		a.drop(func(t BankTry) bool {
			return t.Number == number || r.Locks[t.Count].ResetBy == c && t.Known > 0 && t.Known < number
		})
	default:
		for i := range a.Tries {
			if t := &a.Tries[i]; t.Number == number && t.Known == 0 {
				t.Known = a.Number
			}
		}
	}
	a.touch(now)
}

func (a *BankAccess) drop(which func(BankTry) bool) { a.Tries = slices.DeleteFunc(a.Tries, which) }

// Succeeded notes that the bank took a login: what a person had to mend is mended.
func (a *BankAccess) Succeeded(now Time) {
	a.Person, a.Failures, a.NextAt = "", 0, Time{}
	a.touch(now)
}

// Failed notes what a visit came to: how long nobody comes again, and whether only the investor may. The bank's own word,
// after, prolongs it.
func (a *BankAccess) Failed(r *BankRules, why Reason, after time.Duration, now Time) {
	steps := r.BackOff[why]
	if len(steps) == 0 {
		return
	}
	wait := time.Duration(steps[min(a.Failures, len(steps)-1)]) * time.Minute
	a.Failures++
	a.NextAt = now.Add(min(max(wait, after), longestRest))
	if needsPerson[why] {
		a.Person = why
	}
	a.touch(now)
}

// longestRest bounds what a bank's hint, or a clock that was ahead, may delay.
const longestRest = 24 * time.Hour

// needsPerson are the reasons that only the investor can mend, at the bank. A refused password is one of the credential's:
// another that the bank took before is still good.
var needsPerson = map[Reason]bool{ReasonAccountLocked: true, ReasonActionRequired: true}

// NotTried are the reasons for which we did not ask the bank.
var NotTried = []Reason{ReasonAccessResting, ReasonAccessWaits, ReasonReadingsSpent, ReasonMisshapen, ReasonAccountLocked, ReasonActionRequired}

// Release is an operator's word that the investor mended the access at the bank: nothing stands any more but the readings,
// which the law counts.
func (a *BankAccess) Release(now Time) {
	a.Tries, a.Logins = nil, nil
	a.Succeeded(now)
}

// Left is how many more of c we may use before the access rests; false where the bank has no such limit.
func (a *BankAccess) Left(r *BankRules, c BankCount, now Time) (int, bool) {
	a.age(r, now)
	if r.Locks[c].At == 0 {
		return 0, false
	}
	return max(0, r.Locks[c].At-1-a.Count(c)), true
}

// Resting says whether the access is closed on our side until something resets it.
func (a *BankAccess) Resting(r *BankRules, now Time) bool {
	a.age(r, now)
	return slices.ContainsFunc(BankCounts, func(c BankCount) bool { return a.full(r, c) })
}

// Standing says for the log how many of c stand at the bank, of those that lock.
func (a *BankAccess) Standing(c BankCount) string { return strconv.Itoa(a.Count(c)) }

// Count is how many of c stand at the bank, as far as we know.
func (a *BankAccess) Count(c BankCount) (n int) {
	for _, t := range a.Tries {
		if t.Count == c {
			n++
		}
	}
	return n
}

func (a *BankAccess) full(r *BankRules, c BankCount) bool {
	at := r.Locks[c].At
	return at > 0 && a.Count(c) >= at-1
}

// Budget is what may be read without the investor within the rules' hours.
type Budget struct {
	Most   int  `json:"most"`
	Used   int  `json:"used"`
	Left   int  `json:"left"`             // for this client: what others have a right to is not
	NextAt Time `json:"next_at,omitzero"` // when one more is free, where none is left
}

// Budget counts the readings for a visit, as the custodian counts them.
func (a *BankAccess) Budget(r *BankRules, v BankVisit, now Time) Budget {
	a.age(r, now)
	most := r.Readings.Most
	if most == 0 {
		return Budget{Most: -1, Left: 1}
	}
	used := a.counted(r, v)
	b := Budget{Most: most, Used: len(used), Left: max(0, most-len(used))}
	if r.Readings.Per != PerConsent && b.Left <= a.waiting(v.Client) {
		b.Left = 0
	}
	if b.Left == 0 && len(used) > 0 {
		b.NextAt = used[max(0, len(used)-most)].At.Add(r.Readings.window())
	}
	return b
}

// counted are the readings that the custodian counts together with one of v, oldest first. A reading asks for each account
// and each endpoint once: by account is as by access, and by endpoint is by the product that was read most.
func (a *BankAccess) counted(r *BankRules, v BankVisit) []BankReading {
	only := func(which func(BankReading) bool) (out []BankReading) {
		for _, x := range a.Readings {
			if which(x) {
				out = append(out, x)
			}
		}
		return out
	}
	switch r.Readings.Per {
	case PerConsent:
		return only(func(x BankReading) bool { return x.Consent == v.Consent })
	case PerEndpoint:
		var most []BankReading
		for _, p := range v.Products {
			if of := only(func(x BankReading) bool { return slices.Contains(x.Products, p) }); len(of) > len(most) {
				most = of
			}
		}
		return most
	}
	return a.Readings
}

// waiting is how many other clients have had no reading of these hours, where this one has.
func (a *BankAccess) waiting(client ClientID) (n int) {
	had := map[ClientID]bool{}
	for _, x := range a.Readings {
		had[x.Client] = true
	}
	if !had[client] {
		return 0
	}
	for c := range a.Sharers {
		if !had[c] {
			n++
		}
	}
	return n
}

// age lets go of what time has taken away. A clock that was ahead and is corrected delays nothing: what seems to lie in
// the future happened now at the latest.
func (a *BankAccess) age(r *BankRules, now Time) {
	for i := range a.Tries {
		t := &a.Tries[i]
		t.At = earlier(t.At, now)
		if t.Known == 0 && now.Sub(t.At) >= tryLasts {
			t.Known = a.Number
		}
	}
	a.drop(func(t BankTry) bool {
		heals := time.Duration(r.Locks[t.Count].HealsMinutes) * time.Minute
		return heals > 0 && now.Sub(t.At) >= heals
	})
	for i := range a.Readings {
		a.Readings[i].At = earlier(a.Readings[i].At, now)
	}
	a.Readings = slices.DeleteFunc(a.Readings, func(x BankReading) bool { return now.Sub(x.At) >= r.Readings.window() })
	for i := range a.Logins {
		a.Logins[i] = earlier(a.Logins[i], now)
	}
	a.Logins = slices.DeleteFunc(a.Logins, func(t Time) bool { return now.Sub(t) >= r.Logins.window() })
	for c, at := range a.Sharers {
		if now.Sub(at) >= sharerLife {
			delete(a.Sharers, c)
		}
	}
	a.NextAt = earlier(a.NextAt, now.Add(longestRest))
}

func earlier(t, u Time) Time {
	if u.Before(t) {
		return u
	}
	return t
}

func (a *BankAccess) touch(now Time) {
	a.UpdatedAt, a.ExpiresAt = now, now.Add(quietAccessLife)
	if len(a.Tries) > 0 || a.Person != "" || a.Failures > 0 {
		a.ExpiresAt = now.Add(BankAccessLife)
	}
}
