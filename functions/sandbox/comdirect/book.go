package comdirect

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"sluis.internal/shared/domain"
)

// The bank's data is not kept: it is made anew for every answer, from the login's number, the number of the session
// and the day, so that 200,000 transactions cost no memory and two answers never disagree. Amounts are integers:
// money in cents, quantities in thousandths, prices in ten-thousandths.

// book is all that one login has, as one session sees it.
type book struct {
	login    *Login
	day      time.Time // today, at midnight UTC
	accounts []account
	depots   []depot
}

// account is one account for money.
type account struct {
	id, display, iban  string
	key, text          string // its type (chapter 4.2.1)
	currency           string
	balance, limit     int64
	pending            int // of its transactions, the newest that are not booked
	transactions, span int // how many, over how many days
	silent             bool
	seed               uint64
}

// depot is one securities account.
type depot struct {
	id, display, settlement string
	holdings                []holding
	bulk                    int // positions beyond the holdings, made by number
	trades                  int
	orders                  int
	seed                    uint64
}

// holding is one position: what, how much, and at which price it was bought.
type holding struct {
	of       security
	quantity int64
	bought   int64
	custody  string
	unpriced bool
}

// span is how far back transactions reach: all lie within the 180 days that the depot's transactions default to.
const span = 170

// bookOf makes the book of a login for the nth session.
func bookOf(l *Login, nth int, now domain.Time) *book {
	day := now.UTC().Truncate(24 * time.Hour)
	bk := &book{login: l, day: day}
	bk.accounts = accountsOf(l)
	for i := range max(l.depots, 1) {
		bk.depots = append(bk.depots, depotOf(l, i, nth, bk.accounts[1].id))
	}
	return bk
}

func accountsOf(l *Login) []account {
	accounts := []account{
		{key: "CA", text: "Girokonto", currency: "EUR", balance: 482_317, limit: 250_000, pending: 2, transactions: 48},
		{key: "SA", text: "Verrechnungskonto", currency: "EUR", balance: 1_264_050, transactions: 24},
		{key: "DAS", text: "Tagesgeld PLUS-Konto", currency: "EUR", balance: 2_500_000, transactions: 6},
	}
	switch l.assortment {
	case assortmentHuge:
		accounts[0].transactions = HugeTransactions - HugeDepotTransactions - 30
	case assortmentOdd:
		accounts[2].silent = true
		accounts[2].transactions = 0
	case assortmentCurrencies:
		accounts = append(accounts,
			account{key: "FX", text: "Währungsanlagekonto", currency: "USD", balance: 1_854_275, transactions: 5},
			account{key: "FX", text: "Währungsanlagekonto", currency: "CHF", balance: 640_010, transactions: 4},
			account{key: "FX", text: "Währungsanlagekonto", currency: "GBP", balance: -12_390, limit: 50_000, transactions: 3})
	}
	if l.depots > 1 {
		accounts = append(accounts,
			account{key: "CA", text: "Girokonto", currency: "EUR", balance: 88_801, transactions: 12},
			account{key: "SA", text: "Verrechnungskonto", currency: "EUR", balance: 5_512, transactions: 9},
			account{key: "LLA", text: "Wertpapierkredit", currency: "EUR", balance: -1_500_000, limit: 4_000_000, transactions: 7})
	}
	for i := range accounts {
		a := &accounts[i]
		a.id = identifier("account", l.Number, fmt.Sprint(i))
		a.display = fmt.Sprintf("%s%02d", l.Number, i)
		a.iban = iban("20041177", l.Number+fmt.Sprintf("%02d", i))
		a.span, a.seed = span, seedOf("account", l.Number, fmt.Sprint(i))
	}
	return accounts
}

func depotOf(l *Login, i, nth int, settlement string) depot {
	d := depot{id: identifier("depot", l.Number, fmt.Sprint(i)), display: fmt.Sprintf("%s%d", l.Number[2:], i),
		settlement: settlement, seed: seedOf("depot", l.Number, fmt.Sprint(i)), trades: 16, orders: 3}
	switch l.assortment {
	case assortmentEmpty:
		d.trades, d.orders = 0, 0
		return d
	case assortmentHuge:
		d.bulk, d.trades = HugePositions-len(usual), HugeDepotTransactions
	}
	securities := assortments[l.assortment]
	if i > 0 { // further depots hold a part each
		securities = securities[i*3 : i*3+4]
	}
	for n, s := range securities {
		d.holdings = append(d.holdings, d.holdingOf(s, n, l))
	}
	if l.changing {
		d.vary(nth)
	}
	return d
}

// holdingOf says how much of a security the depot has, and what it cost.
func (d *depot) holdingOf(s security, n int, l *Login) holding {
	r := mix(d.seed + uint64(n))
	h := holding{of: s, custody: "360", quantity: int64(5+r%120) * 1000, bought: s.price * int64(700+r>>8%450) / 1000}
	switch {
	case s.percent: // face value, in round thousands
		h.quantity = int64(2+r%18) * 1_000_000
		h.bought = s.price * int64(960+r>>8%60) / 1000
	case s.kind == "FUND", s.kind == "ETF" && n%2 == 0: // savings plans buy fractions
		h.quantity += int64(r >> 16 % 1000)
	}
	if l.assortment == assortmentOdd {
		h.unpriced = n == 1
	}
	return h
}

// vary makes the depot differ from session to session: a price step, one more unit, and a position that comes and goes.
func (d *depot) vary(nth int) {
	for i := range d.holdings {
		h := &d.holdings[i]
		h.of.previous = h.of.price
		h.of.price += h.of.price * int64(nth%9-3) / 100
	}
	d.holdings[0].quantity += int64(nth) * 1000
	if nth%2 == 0 {
		d.holdings = d.holdings[:len(d.holdings)-1]
	}
}

// size is the number of positions.
func (d *depot) size() int { return len(d.holdings) + d.bulk }

// holding returns the ith position's, made by number beyond the listed ones.
func (d *depot) holding(i int) holding {
	if i < len(d.holdings) {
		return d.holdings[i]
	}
	return d.holdingOf(bulkSecurity(i), i, &Login{})
}

// priced is holding without names, for sums over a great many.
func (d *depot) priced(i int) holding {
	if i < len(d.holdings) {
		return d.holdings[i]
	}
	return d.holdingOf(bulkPriced(i), i, &Login{})
}

// Totals says how much a login has, so that a reader can be checked for having read it all.
type Totals struct {
	Accounts, Depots, Positions, Transactions, DepotTransactions, Orders int
	DepotValue                                                           domain.Decimal // of all depots, in EUR
}

// TotalsOf counts what the nth session of a login sees. Numbers that are not in the table have nothing.
func TotalsOf(number string, nth int, now domain.Time) Totals {
	l := find(number)
	if l == nil {
		return Totals{DepotValue: "0"}
	}
	bk := bookOf(l, nth, now)
	t := Totals{Accounts: len(bk.accounts), Depots: len(bk.depots)}
	var value int64
	for i := range bk.accounts {
		t.Transactions += bk.accounts[i].transactions
	}
	for i := range bk.depots {
		d := &bk.depots[i]
		t.Positions += d.size()
		t.DepotTransactions += d.trades
		t.Orders += d.orders
		value += d.sums().value
	}
	t.DepotValue = domain.Decimal(cents(value))
	return t
}

// sums adds up the positions of a depot, in EUR cents.
func (d *depot) sums() (s sums) {
	for i := range d.size() {
		h := d.priced(i)
		if h.unpriced {
			continue
		}
		s.value += h.value(h.of.price)
		s.previous += h.value(h.of.previous)
		s.cost += h.value(h.bought)
	}
	return s
}

type sums struct{ value, previous, cost int64 }

// value is what the holding is worth at a price, in EUR cents, half a cent rounded up.
func (h holding) value(price int64) int64 {
	scale := int64(100_000) // thousandths times ten-thousandths, in cents
	if h.of.percent {
		scale *= 100
	}
	rate := rates[h.of.currency]
	return (h.quantity*price*10_000/rate + scale/2) / scale
}

// rates are units of a currency per EUR, in ten-thousandths.
var rates = map[string]int64{"EUR": 10_000, "USD": 10_850, "CHF": 9_480, "GBP": 8_610}

// toEUR converts cents of a currency, half a cent rounded away from zero.
func toEUR(amount int64, currency string) int64 {
	rate := rates[currency]
	if amount < 0 {
		return -toEUR(-amount, currency)
	}
	return (amount*10_000 + rate/2) / rate
}

// identifier makes the same 32 hexadecimal digits for the same parts, as the bank's UUIDs look.
func identifier(parts ...string) string {
	sum := sha256.Sum256(domain.Name(parts...))
	return strings.ToUpper(hex.EncodeToString(sum[:16]))
}

func seedOf(parts ...string) uint64 {
	h := fnv.New64a()
	h.Write(domain.Name(parts...))
	return h.Sum64()
}

// mix turns a number into one that looks random (the finaliser of splitmix64).
func mix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// splitmix returns a stream of such numbers.
func splitmix(seed []byte) func() uint64 {
	state := binary.BigEndian.Uint64(seed)
	return func() uint64 {
		state++
		return mix(state)
	}
}

// cents writes an amount of money as an AmountString (chapter 3.4.3).
func cents(v int64) string { return fixed(v, 2, 2) }

// fixed writes v, which counts units of 10^-places, with at least least decimals.
func fixed(v int64, places, least int) string {
	sign := ""
	if v < 0 {
		sign, v = "-", -v
	}
	s := fmt.Sprintf("%0*d", places+1, v)
	whole, part := s[:len(s)-places], s[len(s)-places:]
	for len(part) > least && part[len(part)-1] == '0' {
		part = part[:len(part)-1]
	}
	if part == "" {
		return sign + whole
	}
	return sign + whole + "." + part
}

// iban makes a German IBAN with right check digits (ISO 13616).
func iban(bank, number string) string {
	bban := bank + number
	rest := 0
	for _, c := range bban + "131400" { // DE00
		rest = (rest*10 + int(c-'0')) % 97
	}
	return fmt.Sprintf("DE%02d%s", 98-rest, bban)
}
