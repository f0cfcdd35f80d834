package comdirect

import (
	"slices"

	"sluis.internal/shared/domain"
)

// The TAN methods of the bank (chapter 2.3), and the answer where none is needed (3.2).
const (
	PhotoTAN = "P_TAN"
	SMSTAN   = "M_TAN"
	PushTAN  = "P_TAN_PUSH"
	FreeTAN  = "TAN_FREI"
)

// PIN opens every login of the table, unless it was changed.
const PIN = "123456"

// Codes are the right answers by TAN method. The photoTAN image shows its code.
var Codes = map[string]string{PhotoTAN: "222222", SMSTAN: "111111"}

// WrongCode is never right.
const WrongCode = "999999"

// Canary is the account holder's name of the login that tests use to find personal data where it must not be.
const Canary = "Zitronella Kanarius-Quettelbach"

// Login is one story of the sandbox.
type Login struct {
	Number string // access number, 8 digits
	PIN    string // the right one
	Name   string // a few words, for a list
	Note   string // what happens, for the person who tries it

	Methods []string // TAN methods offered, the bank's favourite first; empty where no TAN is asked
	Answers []string // codes to enter, one after the other; empty for push and where no TAN is asked
	Renew   bool     // a new challenge must be asked for before the last of Answers

	Reason   domain.Reason                    // why it fails; empty where a portfolio can be read
	Products map[domain.Product]domain.Reason // products that cannot be read, and why

	play
}

// play is what the bank does about a login.
type play struct {
	push       pushPlay
	exempt     bool // a session TAN is active from the start
	free       bool // the challenge is TAN_FREI
	refuse     bool // whatever the PIN
	locked     bool
	holder     string // the account holder's name, where a story needs one
	terms      bool   // conditions are to be accepted on the bank's own page first
	stale      bool   // the first challenge of a session is too old when it is answered
	faults     map[kind]fault
	changing   bool // other data at every session
	depots     int  // 0 means 1
	assortment assortment
}

// pushPlay is what the investor does about a push.
type pushPlay int

const (
	pushApproved pushPlay = iota // after Options.PushPolls questions
	pushRejected
	pushIgnored
	pushManual // only Approve and Reject move it
)

// assortment names what lies in the depots.
type assortment int

const (
	assortmentUsual assortment = iota
	assortmentEmpty
	assortmentHuge
	assortmentCurrencies
	assortmentBonds
	assortmentOdd
)

// Sizes of the login with a great deal of data.
const (
	HugePositions         = 20_000
	HugeTransactions      = 200_000 // HugeDepotTransactions of them on the depot
	HugeDepotTransactions = 20_000
)

// Logins returns the table, in the order in which it is best shown.
func Logins() []Login { return slices.Clone(logins) }

// Unattended says whether a refresh passes without the investor: no TAN is asked at all.
func (l Login) Unattended() bool { return l.exempt }

// Manual says whether the push waits for Bank.Approve or Bank.Reject.
func (l Login) Manual() bool { return l.push == pushManual }

// Find returns the login with that number.
func Find(number string) (Login, bool) {
	l := find(number)
	if l == nil {
		return Login{}, false
	}
	return *l, true
}

func find(number string) *Login {
	i := slices.IndexFunc(logins, func(l Login) bool { return l.Number == number })
	if i < 0 {
		return nil
	}
	return &logins[i]
}

var sms = []string{SMSTAN}

var logins = slices.Concat(methodLogins, refusedLogins, scaLogins, troubledLogins, dataLogins)

var methodLogins = []Login{
	{Number: "20000001", PIN: PIN, Name: "photoTAN", Methods: []string{PhotoTAN}, Answers: []string{Codes[PhotoTAN]},
		Note: "Shows a photoTAN image; the code 222222 stands below it."},
	{Number: "20000002", PIN: PIN, Name: "SMS", Methods: sms, Answers: []string{Codes[SMSTAN]},
		Note: "Pretends to send an SMS; its code is 111111."},
	{Number: "20000003", PIN: PIN, Name: "push", Methods: []string{PushTAN},
		Note: "Waits for an approval in the app, which comes by itself after a moment."},
	{Number: "20000004", PIN: PIN, Name: "choice of three methods", Methods: []string{SMSTAN, PhotoTAN, PushTAN},
		Answers: []string{Codes[SMSTAN]},
		Note:    "Begins with SMS (code 111111); photoTAN (222222) and push can be chosen instead."},
	{Number: "20000005", PIN: PIN, Name: "no TAN: session TAN active", play: play{exempt: true},
		Note: "The bank reports an active session TAN, so nothing is asked. A refresh passes without the investor."},
	{Number: "20000006", PIN: PIN, Name: "no TAN: TAN_FREI", Methods: []string{PhotoTAN, SMSTAN}, play: play{free: true},
		Note: "The challenge that comes needs no TAN."},
}

var refusedLogins = []Login{
	{Number: "20000011", PIN: PIN, Name: "always refused", Reason: domain.ReasonCredentialsRefused,
		play: play{refuse: true}, Note: "No PIN is right. (At every other login any PIN but 123456 is wrong.)"},
	{Number: "20000012", PIN: PIN, Name: "locked access", Reason: domain.ReasonAccountLocked, play: play{locked: true},
		Note: "The bank has locked this access."},
	{Number: "20000013", PIN: PIN, Name: "conditions to accept first", Methods: sms, Reason: domain.ReasonActionRequired,
		play: play{terms: true}, Note: "The bank wants new conditions accepted on its own page before it goes on."},
	{Number: "20000014", PIN: PIN, Name: "PIN changed later", play: play{exempt: true},
		Note: "Works without a TAN, until the PIN is changed by a control call; then the next refresh is refused."},
}

var scaLogins = []Login{
	{Number: "20000021", PIN: PIN, Name: "expired TAN", Methods: sms, Renew: true,
		Answers: []string{Codes[SMSTAN], Codes[SMSTAN]}, play: play{stale: true},
		Note: "The first SMS code (111111) is too old when it is entered; that of a new SMS is taken."},
	{Number: "20000022", PIN: PIN, Name: "wrong TAN, then right", Methods: sms, Answers: []string{WrongCode, Codes[SMSTAN]},
		Note: "Enter 999999 first, then 111111. Three wrong ones lock the access."},
	{Number: "20000023", PIN: PIN, Name: "push rejected", Methods: []string{PushTAN}, Reason: domain.ReasonSCARejected,
		play: play{push: pushRejected}, Note: "The approval is declined in the app."},
	{Number: "20000024", PIN: PIN, Name: "push never approved", Methods: []string{PushTAN}, Reason: domain.ReasonSCAExpired,
		play: play{push: pushIgnored}, Note: "Nobody reacts in the app, until the challenge expires."},
	{Number: "20000025", PIN: PIN, Name: "push approved by a control call", Methods: []string{PushTAN},
		play: play{push: pushManual}, Note: "Waits until the push is approved or rejected by a control call."},
	{Number: "20000026", PIN: PIN, Name: "two wrong TANs", Methods: sms, Answers: []string{WrongCode, WrongCode},
		Reason: domain.ReasonSCARejected, Note: "Enter 999999 twice: the third would lock the access, so it is not asked for."},
	{Number: Spent, PIN: PIN, Name: "read four times", play: play{exempt: true, changing: true},
		Note: "As any login without a TAN. The demonstration uses up its readings of a day."},
	{Number: Counted, PIN: PIN, Name: "counted over all visits", Methods: sms, Answers: []string{Codes[SMSTAN]},
		Note: "As any login with SMS. The demonstration uses it up, to show that the bank never locks it."},
}

// Counted is the login whose bank counters a story of its own plays: it is left locked to us, so that no other may use it.
const Counted = "20000027"

// Spent is the login of which a story uses up a day's readings.
const Spent = "20000028"

var troubledLogins = []Login{
	{Number: "20000031", PIN: PIN, Name: "slow bank", Methods: sms, Answers: []string{Codes[SMSTAN]},
		play: play{faults: map[kind]fault{kindToken: faultSlow, kindBalances: faultSlow, kindPositions: faultSlow}},
		Note: "Login, balances and positions take several seconds each."},
	{Number: "20000032", PIN: PIN, Name: "500 twice, then fine", play: play{exempt: true, faults: all(faultFlaky)},
		Note: "The first two requests of each kind in a session fail with 500; the third succeeds. The login itself works."},
	{Number: "20000033", PIN: PIN, Name: "500 always", Reason: domain.ReasonBankUnavailable,
		play: play{faults: map[kind]fault{kindToken: faultDown}}, Note: "The bank is out of order, from the login on."},
	{Number: "20000034", PIN: PIN, Name: "500 for positions only", Products: unreadable(domain.ReasonBankUnavailable),
		play: play{exempt: true, faults: map[kind]fault{kindPositions: faultDown}},
		Note: "Everything can be read but the positions."},
	{Number: "20000035", PIN: PIN, Name: "429, then fine", play: play{exempt: true, faults: all(faultBusy)},
		Note: "The first request of each kind in a session is answered with 429 and Retry-After."},
	{Number: "20000036", PIN: PIN, Name: "429 at the login, then fine",
		play: play{exempt: true, faults: map[kind]fault{kindToken: faultBusy}},
		Note: "Every other login is answered with 429 and Retry-After, without a look at the PIN."},
	{Number: "20000037", PIN: PIN, Name: "malformed JSON", Products: unreadable(domain.ReasonBankAnswer),
		play: play{exempt: true, faults: map[kind]fault{kindPositions: faultGarbled}},
		Note: "The positions come as something that is not JSON; the rest is fine."},
	{Number: "20000038", PIN: PIN, Name: "truncated body", Products: unreadable(domain.ReasonBankUnavailable),
		play: play{exempt: true, faults: map[kind]fault{kindPositions: faultCut}},
		Note: "The connection breaks in the middle of the positions, every time; the rest is fine."},
}

var dataLogins = []Login{
	{Number: "20000041", PIN: PIN, Name: "empty depot", Methods: sms, Answers: []string{Codes[SMSTAN]},
		play: play{assortment: assortmentEmpty}, Note: "A depot without positions, transactions or orders."},
	{Number: "20000042", PIN: PIN, Name: "20,000 positions, 200,000 transactions",
		play: play{exempt: true, assortment: assortmentHuge}, Note: "A great deal of data, made page by page."},
	{Number: "20000043", PIN: PIN, Name: "data that changes", play: play{exempt: true, changing: true},
		Note: "Prices, quantities and the number of positions differ at every session."},
	{Number: "20000044", PIN: PIN, Name: "data that stays", play: play{exempt: true},
		Note: "The same data at every session of a day."},
	{Number: "20000045", PIN: PIN, Name: "several currencies", Methods: []string{PhotoTAN},
		Answers: []string{Codes[PhotoTAN]}, play: play{assortment: assortmentCurrencies},
		Note: "Dollar, franc and sterling accounts and securities; one ISIN is held in two currencies."},
	{Number: "20000046", PIN: PIN, Name: "bonds", Methods: []string{PushTAN}, play: play{assortment: assortmentBonds},
		Note: "Bonds whose prices are in per cent of face."},
	{Number: "20000047", PIN: PIN, Name: "several depots and accounts", Methods: sms, Answers: []string{Codes[SMSTAN]},
		play: play{depots: 3}, Note: "Three depots, six accounts, one of them a securities-backed loan."},
	{Number: "20000048", PIN: PIN, Name: "canary", Methods: sms, Answers: []string{Codes[SMSTAN]},
		play: play{holder: Canary},
		Note: "The account holder has a name that tests search for where it must not be."},
	{Number: "20000049", PIN: PIN, Name: "odd but legal answers", play: play{exempt: true, assortment: assortmentOdd},
		Note: "Missing prices, null fields, a value date of 30 February, and 404 where an account has no transactions."},
}

// all puts a fault on every kind of reading request.
func all(f fault) map[kind]fault {
	faults := map[kind]fault{}
	for _, k := range dataKinds {
		faults[k] = f
	}
	return faults
}

func unreadable(why domain.Reason) map[domain.Product]domain.Reason {
	return map[domain.Product]domain.Reason{domain.ProductPositions: why}
}
