package sandbox

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/shopspring/decimal"
)

// panel is all that is drawn of one currency.
type panel struct {
	Currency                    string
	Total, Invested, Cash, Owed string
	Within                      string // cash inside positions, where there is some
	Mixed                       bool   // one of several currencies
	Ring                        ring
	Accounts, Positions         *chart
	Line                        *curve
}

// ring is a donut: what the total is made of.
type ring struct {
	ID, Title, Desc string
	Arcs            []arc
	Below           bool // some parts are below zero, and not in the ring
}

// arc is one part of the ring, in hundredths of it.
type arc struct {
	Label, Amount, Share string
	Class                string // of its colour; empty where it is not drawn
	Length, Offset       string
}

// colours is how many classes of colour the style sheet has.
const colours = 8

// draw makes the panels, one for each currency.
func (p *portfolioPage) draw(values map[string]map[string]decimal.Decimal) []panel {
	sums := tallies(p.holdings)
	var out []panel
	for i, t := range sums {
		one := panel{Currency: t.currency, Total: sum(t.total(), t.currency), Invested: sum(t.invested, t.currency),
			Cash: sum(t.cash, t.currency), Mixed: len(sums) > 1}
		if !counted(p.Status("positions")) {
			one.Invested = "unknown"
		}
		if !counted(p.Status("cash")) {
			one.Cash = "unknown"
		}
		if i == 0 || len(t.kinds)+len(t.accounts) > 2 { // a single figure needs no chart
			one.Ring = newRing(t)
			one.Accounts = newChart("accounts-"+t.currency, "Value by account", t.currency, descending(t.accounts, p.Account), t.total())
		}
		if !t.owed.IsZero() {
			one.Owed = sum(t.owed, t.currency)
		}
		if !t.within.IsZero() {
			one.Within = sum(t.within, t.currency)
		}
		if len(t.positions) > 1 {
			slices.SortStableFunc(t.positions, func(a, b part) int { return b.Value.Cmp(a.Value) })
			top := t.positions[:min(len(t.positions), 10)]
			title := "Value by position"
			if len(top) < len(t.positions) {
				title = "The ten greatest positions"
			}
			one.Positions = newChart("positions-"+t.currency, title, t.currency, top, t.invested)
		}
		one.Line = newCurve(t.currency, p.Versions, values)
		out = append(out, one)
	}
	return out
}

// ratio is part of whole for drawing: the one place where a sum becomes a float.
func ratio(part, whole decimal.Decimal) float64 {
	if whole.IsZero() {
		return 0
	}
	return part.Div(whole).InexactFloat64()
}

// percent is a share as it is shown.
func percent(part, whole decimal.Decimal) string {
	if whole.IsZero() {
		return none
	}
	return part.Shift(2).Div(whole).StringFixed(1) + bound + "%"
}

// newRing draws the kinds that make up a total. What is below zero (an overdraft, a short position) has no place in a
// ring: it stands in the list beside it.
func newRing(t *tally) ring {
	r := ring{ID: "ring-" + t.currency, Title: "Allocation by kind, " + t.currency}
	parts := descending(t.kinds, kindLabel)
	above := decimal.Zero
	for _, p := range parts {
		if p.Value.Sign() > 0 {
			above = above.Add(p.Value)
		}
	}
	at, class := 0.0, 0
	for _, p := range parts {
		one := arc{Label: p.Label, Amount: sum(p.Value, t.currency), Share: none}
		if p.Value.Sign() > 0 {
			length := 100 * ratio(p.Value, above)
			one.Share, one.Class = percent(p.Value, above), "c"+strconv.Itoa(class%colours+1)
			drawn := length
			switch {
			case length >= 100:
				drawn = 200 // closes without a seam
			case length > 1:
				drawn -= 0.6 // leaves a gap
			}
			one.Length, one.Offset = coordinate(drawn), coordinate(-at)
			at, class = at+length, class+1
			r.Desc += fmt.Sprintf("%s %s. ", p.Label, one.Share)
		} else if p.Value.Sign() < 0 {
			r.Below = true
		}
		r.Arcs = append(r.Arcs, one)
	}
	if class == 0 {
		r.Arcs = nil // nothing to draw
	}
	return r
}

func coordinate(f float64) string { return strconv.FormatFloat(f, 'f', 3, 64) }

// chart is a list of horizontal bars. Widths are per cent, so that it fits a phone and a desktop with letters of the
// same size.
type chart struct {
	ID, Title, Desc string
	Height          int
	Bars            []bar
}

type bar struct {
	Label, Full, Amount, Share string
	Width                      string // per cent
	Text, Top                  int    // where the letters stand, and the bar begins
	Below                      bool   // below zero
}

// rowHeight is that of a bar with its letters, in pixels.
const rowHeight = 44

// newChart draws parts of whole.
func newChart(id, title, currency string, parts []part, whole decimal.Decimal) *chart {
	c := &chart{ID: id, Title: title + ", " + currency, Height: len(parts) * rowHeight}
	most := decimal.Zero
	for _, p := range parts {
		most = decimal.Max(most, p.Value.Abs())
	}
	for i, p := range parts {
		width := max(0.5, 100*ratio(p.Value.Abs(), most))
		c.Bars = append(c.Bars, bar{Label: short(p.Label, 48), Full: p.Label, Amount: sum(p.Value, currency),
			Share: percent(p.Value, whole), Width: coordinate(width) + "%", Text: i*rowHeight + 14, Top: i*rowHeight + 21, Below: p.Value.Sign() < 0})
	}
	if len(parts) > 0 {
		c.Desc = fmt.Sprintf("%d bars. The first is %s with %s.", len(parts), parts[0].Label, c.Bars[0].Amount)
	}
	return c
}

// curve is the value of one currency over the versions that are kept, oldest first.
type curve struct {
	ID, Title, Desc string
	Points          []point
	Path            string // of a polyline in a box of 100 by 100
	Most, Least     string
	First, Last     string
}

type point struct {
	X, Y         string // per cent
	Number       int64
	When, Amount string
	value        decimal.Decimal
}

// newCurve draws the history of one currency; nil where fewer than two versions have a sum.
func newCurve(currency string, versions []version, values map[string]map[string]decimal.Decimal) *curve {
	c := &curve{ID: "history-" + currency, Title: "Value over time, " + currency}
	var times []float64
	for _, v := range slices.Backward(versions) {
		if value, there := values[v.ID][currency]; there {
			c.Points = append(c.Points, point{Number: v.Number, When: moment(v.RetrievedAt), Amount: sum(value, currency), value: value})
			times = append(times, float64(v.RetrievedAt.Unix()))
		}
	}
	if len(c.Points) < 2 {
		return nil
	}
	least, most := c.Points[0].value, c.Points[0].value
	for _, p := range c.Points {
		least, most = decimal.Min(least, p.value), decimal.Max(most, p.value)
	}
	begin, span := times[0], times[len(times)-1]-times[0]
	for i := range c.Points {
		x := float64(i) / float64(len(c.Points)-1)
		if span > 0 {
			x = (times[i] - begin) / span
		}
		y := 0.5
		if !most.Equal(least) {
			y = 1 - ratio(c.Points[i].value.Sub(least), most.Sub(least))
		}
		c.Points[i].X, c.Points[i].Y = coordinate(2+96*x), coordinate(8+84*y)
		c.Path += c.Points[i].X + "," + c.Points[i].Y + " "
	}
	c.Most, c.Least = sum(most, currency), sum(least, currency)
	c.First, c.Last = c.Points[0].When, c.Points[len(c.Points)-1].When
	c.Desc = fmt.Sprintf("%d versions, from %s to %s. Lowest %s, highest %s. The scale does not begin at zero.",
		len(c.Points), c.First, c.Last, c.Least, c.Most)
	return c
}
