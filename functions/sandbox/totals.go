package sandbox

import (
	"cmp"
	"maps"
	"slices"

	"github.com/shopspring/decimal"
)

// tally adds up what is held in one currency. Sums of several currencies are never mixed: there is no rate here that
// the bank and the investor agreed on.
type tally struct {
	currency       string
	invested, cash decimal.Decimal
	owed           decimal.Decimal
	within         decimal.Decimal // cash that positions contain too, and that is not added
	kinds          map[string]decimal.Decimal
	accounts       map[string]decimal.Decimal
	positions      []part
	entries        int
}

// part is one figure of a sum, with what it is called.
type part struct {
	Label string
	Value decimal.Decimal
}

func (t *tally) total() decimal.Decimal { return t.invested.Add(t.cash) }

// tallies adds up positions and cash by currency: the one with the most entries first.
func tallies(h *holdings) []*tally {
	found := map[string]*tally{}
	in := func(currency string) *tally {
		if found[currency] == nil {
			found[currency] = &tally{currency: currency, kinds: map[string]decimal.Decimal{}, accounts: map[string]decimal.Decimal{}}
		}
		found[currency].entries++
		return found[currency]
	}
	for i := range h.Positions {
		if p := &h.Positions[i]; p.Value != nil {
			in(p.Value.Currency).position(p)
		}
	}
	for i := range h.Cash {
		in(h.Cash[i].Booked.Currency).balance(&h.Cash[i])
	}
	for _, l := range h.Liabilities {
		t := in(l.Outstanding.Currency)
		t.owed = t.owed.Add(l.Outstanding.Value)
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *tally) int {
		return cmp.Or(cmp.Compare(b.entries, a.entries), cmp.Compare(a.currency, b.currency))
	})
}

func (t *tally) position(p *position) {
	v := p.Value.Value
	t.invested = t.invested.Add(v)
	t.kinds[p.Security.Kind] = t.kinds[p.Security.Kind].Add(v)
	t.accounts[p.AccountID] = t.accounts[p.AccountID].Add(v)
	t.positions = append(t.positions, part{p.Security.Label(), v})
}

// balance adds cash, unless positions contain the same money already.
func (t *tally) balance(c *cashBalance) {
	if c.CashInPositions {
		t.within = t.within.Add(c.Booked.Value)
		return
	}
	t.cash = t.cash.Add(c.Booked.Value)
	t.kinds["cash"] = t.kinds["cash"].Add(c.Booked.Value)
	t.accounts[c.AccountID] = t.accounts[c.AccountID].Add(c.Booked.Value)
}

// unvalued counts positions that have no value: they are in no sum, and the page says so.
func unvalued(positions []position) (n int) {
	for i := range positions {
		if positions[i].Value == nil {
			n++
		}
	}
	return n
}

// descending lists a sum's parts, greatest first.
func descending(parts map[string]decimal.Decimal, label func(string) string) []part {
	var out []part
	for name, v := range parts {
		out = append(out, part{label(name), v})
	}
	slices.SortFunc(out, func(a, b part) int { return cmp.Or(b.Value.Cmp(a.Value), cmp.Compare(a.Label, b.Label)) })
	return out
}

// kindLabels say what kinds of securities are called.
var kindLabels = map[string]string{
	"cash": "Cash", "equity": "Shares", "fund": "Funds", "etf": "ETFs", "bond": "Bonds", "option": "Options",
	"future": "Futures", "certificate": "Certificates", "warrant": "Warrants", "right": "Rights",
	"commodity": "Commodities", "crypto": "Crypto", "other": "Other",
}

func kindLabel(kind string) string {
	if label := kindLabels[kind]; label != "" {
		return label
	}
	return capital(plain(kind))
}
