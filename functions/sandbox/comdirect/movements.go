package comdirect

import (
	"fmt"
	"strings"
	"time"
)

// Movements have absolute numbers that grow by a fixed pace a day, so that a day later there are a few new ones, a few
// old ones have left the span, and all others are as they were.

// newest is the number of the newest of n movements spread over days.
func newest(today time.Time, n, days int) int64 {
	return ((dayNumber(today)+1)*int64(n) - 1) / int64(days)
}

// dated is the day of movement seq; a weekend's is booked the Friday before.
func dated(seq int64, n, days int) time.Time {
	day := time.Unix(seq*int64(days)/int64(n)*86_400, 0).UTC()
	switch day.Weekday() {
	case time.Saturday:
		return day.AddDate(0, 0, -1)
	case time.Sunday:
		return day.AddDate(0, 0, -2)
	}
	return day
}

func dayNumber(t time.Time) int64 { return t.Unix() / 86_400 }

// cause is why money moves: a kind of transaction (chapter 4.2.3).
type cause struct {
	key, text   string
	least, most int64 // cents; negative for money that leaves
	party       string
	lines       []string
	debit       bool // a direct debit, with mandate and creditor
}

var current = []cause{
	{key: "TRANSFER", text: "Überweisung", least: 285_000, most: 285_000,
		party: "Küstenwerk GmbH", lines: []string{"Lohn/Gehalt"}},
	{key: "STANDING_ORDER", text: "Dauerauftrag", least: -98_000, most: -98_000,
		party: "Wohnbau Altona eG", lines: []string{"Miete"}},
	{key: "DIRECT_DEBIT", text: "Lastschrift", least: -12_900, most: -2_900,
		party: "Stadtwerke Elbmarsch", lines: []string{"Strom Abschlag"}, debit: true},
	{key: "CARD_TRANSACTION", text: "Kartenverfügung", least: -8_900, most: -450,
		party: "Markthalle Nord", lines: []string{"Karte Nr. 4871 78XX XXXX 0001", "Kartenzahlung"}},
	{key: "CARD_TRANSACTION", text: "Kartenverfügung", least: -6_400, most: -1_200,
		party: "Buchhandlung Lindenau", lines: []string{"Karte Nr. 4871 78XX XXXX 0001", "Kartenzahlung"}},
	{key: "TRANSFER", text: "Überweisung", least: -45_000, most: -5_000,
		party: "Tischlerei Brandt", lines: []string{"Rechnung 2471"}},
	{key: "ATM_WITHDRAWAL", text: "Geldautomat", least: -20_000, most: -5_000,
		party: "Geldautomat Hafenstr.", lines: []string{"Auszahlung"}},
}

var settling = []cause{
	{key: "SECURITIES", text: "Wertpapier", least: -180_000, most: -20_000,
		lines: []string{"Wertpapierkauf", "Meridian Europa Dividende A"}},
	{key: "SECURITIES", text: "Wertpapier", least: 25_000, most: 220_000,
		lines: []string{"Wertpapierverkauf", "Nordhafen Reederei AG"}},
	{key: "INTEREST_DIVIDENDS", text: "Zinsen / Dividenden", least: 800, most: 21_000,
		lines: []string{"Dividende", "Deichgraf Versicherung AG"}},
	{key: "SAVINGS_PLAN", text: "Sparplan", least: -15_000, most: -15_000,
		lines: []string{"Sparplan", "Kompass World All Cap UCITS ETF"}},
}

var savings = []cause{
	{key: "INTEREST_DIVIDENDS", text: "Zinsen / Dividenden", least: 210, most: 1_940,
		lines: []string{"Abschlusszinsen"}},
	{key: "TRANSFER", text: "Überweisung", least: 10_000, most: 50_000, lines: []string{"Sparen"}},
}

var borrowing = []cause{
	{key: "INTEREST_DIVIDENDS", text: "Zinsen / Dividenden", least: -6_900, most: -4_100,
		lines: []string{"Sollzinsen Wertpapierkredit"}},
	{key: "BANK_FEES", text: "Bankgebühren", least: -990, most: -490, lines: []string{"Entgelt"}},
}

var causes = map[string][]cause{"CA": current, "SA": settling, "DAS": savings, "FX": settling, "LLA": borrowing}

// movement is one transaction of an account.
type movement struct {
	seq    int64
	cause  cause
	amount int64
	day    time.Time
	booked bool
}

// movement returns the ith transaction, the newest first.
func (a *account) movement(today time.Time, i int) movement {
	seq := newest(today, a.transactions, a.span) - int64(i)
	r := mix(a.seed + uint64(seq))
	of := causes[a.key]
	c := of[r%uint64(len(of))]
	m := movement{seq: seq, cause: c, day: dated(seq, a.transactions, a.span), booked: i >= a.pending}
	m.amount = c.least + int64((r>>8)%uint64(c.most-c.least+1))
	return m
}

// reserved is the sum of what is planned but not booked.
func (a *account) reserved(today time.Time) (sum int64) {
	for i := range min(a.pending, a.transactions) {
		sum += min(a.movement(today, i).amount, 0)
	}
	return sum
}

// reference names a movement for good.
func (a *account) reference(seq int64) string { return fmt.Sprintf("%s%011d", a.display[6:], seq) }

// remittance lays lines out as the bank does: 35 characters each, those of a booked transaction numbered.
func remittance(booked bool, lines ...string) string {
	var out strings.Builder
	for i, line := range lines {
		if booked {
			fmt.Fprintf(&out, "%02d", i+1)
		}
		fmt.Fprintf(&out, "%-35.35s", line)
	}
	return out.String()
}

// trade is one transaction of a depot.
type trade struct {
	seq       int64
	of        security
	kind      string // BUY, SELL, TRANSFER_IN
	direction string
	quantity  int64
	price     int64
	day       time.Time
	booked    bool
}

// trade returns the ith transaction of the depot, the newest first.
func (d *depot) trade(today time.Time, i int) trade {
	seq := newest(today, d.trades, span) - int64(i)
	r := mix(d.seed + uint64(seq))
	h := d.holding(int(r % uint64(d.size())))
	t := trade{seq: seq, of: h.of, kind: "BUY", direction: "IN", day: dated(seq, d.trades, span), booked: i > 0}
	switch r >> 32 % 8 {
	case 0, 1:
		t.kind, t.direction = "SELL", "OUT"
	case 2:
		t.kind = "TRANSFER_IN"
	}
	t.quantity = int64(1+r>>16%20) * 1000
	if h.of.percent {
		t.quantity *= 1000
	}
	t.price = h.of.price * int64(920+r>>40%120) / 1000
	return t
}

func (d *depot) tradeID(seq int64) string { return identifier("trade", d.id, fmt.Sprint(seq)) }

// berlin writes a moment in German time as a DateTimeString (chapter 3.4.6): summer time lasts from the last Sunday of
// March to the last Sunday of October, each at 01:00 UTC. It needs no time zone database.
func berlin(t time.Time, layout string) string {
	t = t.UTC()
	lastSunday := func(m time.Month) time.Time {
		end := time.Date(t.Year(), m, 31, 1, 0, 0, 0, time.UTC)
		return end.AddDate(0, 0, -int(end.Weekday()))
	}
	if !t.Before(lastSunday(time.March)) && t.Before(lastSunday(time.October)) {
		return t.Add(2*time.Hour).Format(layout) + "+02"
	}
	return t.Add(time.Hour).Format(layout) + "+01"
}

const (
	dateLayout     = "2006-01-02"
	dateTimeLayout = "2006-01-02T15:04:05"
)

// closing is the end of trading, 17:35 in Germany, on the last working day before today, or further back.
func closing(today time.Time, back int) string {
	day := today
	for range back {
		day = day.AddDate(0, 0, -1)
		for day.Weekday() == time.Saturday || day.Weekday() == time.Sunday {
			day = day.AddDate(0, 0, -1)
		}
	}
	noon := berlin(day.Add(12*time.Hour), dateTimeLayout)
	return noon[:len("2006-01-02T")] + "17:35:00" + noon[len(dateTimeLayout):]
}
