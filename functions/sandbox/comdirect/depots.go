package comdirect

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// depots lists the securities accounts (chapter 5.1.1).
func (b *Bank) depots(w http.ResponseWriter, r *http.Request, c caller) {
	bk := b.book(c)
	p, ok := paged(w, r.URL.Query(), maxPage, maxPage)
	if !ok {
		return
	}
	matches, rows := pick(choice{to: len(bk.depots)}, p)
	list(w, paging{p.first, matches}, nil, rows, func(i int) any { return bk.wireDepot(&bk.depots[i]) })
}

func (bk *book) wireDepot(d *depot) *wireDepot {
	return &wireDepot{DepotID: d.id, DisplayID: d.display, ClientID: clientID(bk.login.Number), Settlement: d.settlement,
		Settlements: []string{d.settlement}}
}

func (bk *book) depot(id string) *depot {
	i := slices.IndexFunc(bk.depots, func(d depot) bool { return d.id == id })
	if i < 0 {
		return nil
	}
	return &bk.depots[i]
}

// positions lists what lies in a depot, with the depot's own sums (chapter 5.1.2).
func (b *Bank) positions(w http.ResponseWriter, r *http.Request, c caller) {
	bk, q := b.book(c), r.URL.Query()
	d := bk.depot(r.PathValue("depotId"))
	if d == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	p, ok := paged(w, q, maxPage, maxPage)
	if !ok {
		return
	}
	wanted := choice{to: d.size()}
	if name := q.Get("instrumentId"); name != "" {
		wanted.keep = func(i int) bool { return d.holding(i).of.called(name) }
	}
	matches, rows := pick(wanted, p)
	if attributes(q, "without-attr", "positions") {
		rows = nil
	}
	instrument := attributes(q, "with-attr", "instrument")
	list(w, paging{p.first, matches}, bk.aggregate(d, q), rows, func(i int) any {
		return bk.position(d, i, instrument)
	})
}

// called says whether an identifier names the security: WKN, ISIN or the bank's own.
func (s security) called(name string) bool { return name == s.wkn || name == s.isin || name == s.id() }

// position answers for one position (chapter 5.1.3).
func (b *Bank) position(w http.ResponseWriter, r *http.Request, c caller) {
	bk := b.book(c)
	d := bk.depot(r.PathValue("depotId"))
	if d == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	for i := range d.size() {
		if d.positionID(d.holding(i)) == r.PathValue("positionId") {
			answer(w, http.StatusOK, bk.position(d, i, attributes(r.URL.Query(), "with-attr", "instrument")))
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
}

// positionID stays the same as long as the security is held.
func (d *depot) positionID(h holding) string {
	return identifier("position", d.id, h.of.isin, h.of.currency)
}

func (bk *book) position(d *depot, i int, instrument bool) wirePosition {
	h := d.holding(i)
	wp := wirePosition{DepotID: d.id, PositionID: d.positionID(h), WKN: h.of.wkn, Custody: h.custody,
		Quantity: h.of.amount(h.quantity), Available: h.of.amount(h.quantity), Version: version(h)}
	if instrument {
		wp.Instrument = h.of.wire()
	}
	if h.unpriced {
		return wp
	}
	value, previous, cost := h.value(h.of.price), h.value(h.of.previous), h.value(h.bought)
	wp.Price = &wirePrice{Price: h.of.quote(h.of.price), Type: "LST", At: closing(bk.day, 1)}
	wp.PrevPrice = &wirePrice{Price: h.of.quote(h.of.previous), Type: "LST", At: closing(bk.day, 2)}
	wp.Bought = some(h.of.quote(h.bought))
	wp.Value, wp.PrevValue, wp.Cost = some(euro(value)), some(euro(previous)), some(euro(cost))
	wp.GainAbs, wp.GainRel = some(euro(value-cost)), some(ratio(value-cost, cost))
	wp.PrevGainAbs, wp.PrevGainRel = some(euro(value-previous)), some(ratio(value-previous, previous))
	return wp
}

func (bk *book) aggregate(d *depot, q url.Values) wireDepotAggregate {
	s := d.sums()
	wa := wireDepotAggregate{DepotID: d.id, UpdatedOn: closing(bk.day, 1)[:10], Value: euro(s.value), Cost: euro(s.cost),
		PrevValue: euro(s.previous), GainAbs: euro(s.value - s.cost), GainRel: ratio(s.value-s.cost, s.cost),
		PrevGainAbs: euro(s.value - s.previous), PrevGainRel: ratio(s.value-s.previous, s.previous)}
	if !attributes(q, "without-attr", "depot") {
		wa.Depot = bk.wireDepot(d)
	}
	return wa
}

// depotTransactions lists what was bought, sold and moved (chapter 5.1.4), of the last 180 days unless asked otherwise.
func (b *Bank) depotTransactions(w http.ResponseWriter, r *http.Request, c caller) {
	bk, q := b.book(c), r.URL.Query()
	d := bk.depot(r.PathValue("depotId"))
	if d == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	p, ok := paged(w, q, maxPage, maxPage)
	if !ok {
		return
	}
	wanted, ok := bk.tradeFilter(w, d, q)
	if !ok {
		return
	}
	matches, rows := pick(wanted, p)
	instrument := !attributes(q, "without-attr", "instrument")
	list(w, paging{p.first, matches}, nil, rows, func(i int) any { return bk.wireTrade(d, i, instrument) })
}

// tradeFilter reads the filters of a list of depot transactions.
func (bk *book) tradeFilter(w http.ResponseWriter, d *depot, q url.Values) (choice, bool) {
	low, lowOK := bk.since(q.Get("min-bookingDate"), "-180d")
	high, highOK := bk.since(q.Get("max-bookingDate"), "-0d")
	if !lowOK || !highOK {
		refuse(w, http.StatusUnprocessableEntity, CodeQuery, "requestparameter.invalid",
			"Ein Datum ist ungültig.", "min-bookingDate")
		return choice{}, false
	}
	wanted := between(d.trades, low.Format(dateLayout), high.Format(dateLayout), func(i int) string {
		return dated(newest(bk.day, d.trades, span)-int64(i), d.trades, span).Format(dateLayout)
	})
	names := []string{q.Get("isin"), q.Get("wkn"), q.Get("instrumentId")}
	status, direction, kind := q.Get("bookingStatus"), q.Get("transactionDirection"), q.Get("transactionType")
	if strings.Join(names, "")+status+direction+kind == "" {
		return wanted, true
	}
	wanted.keep = func(i int) bool {
		t := d.trade(bk.day, i)
		named := !slices.ContainsFunc(names, func(n string) bool { return n != "" && !t.of.called(n) })
		return named && (direction == "" || direction == t.direction) && (kind == "" || kind == t.kind) &&
			(status == "" || status == "BOTH" || (status == "BOOKED") == t.booked)
	}
	return wanted, true
}

// since reads a date, or an offset in days from today such as -10d.
func (bk *book) since(text, usual string) (time.Time, bool) {
	if text == "" {
		text = usual
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(days)
		return bk.day.AddDate(0, 0, n), err == nil && n <= 0 && n > -100_000
	}
	day, err := time.Parse(dateLayout, text)
	return day, err == nil
}

func (bk *book) wireTrade(d *depot, i int, instrument bool) wireTrade {
	t := d.trade(bk.day, i)
	day := t.day.Format(dateLayout)
	h := holding{of: t.of, quantity: t.quantity}
	wt := wireTrade{TransactionID: d.tradeID(t.seq), BookingStatus: "NOTBOOKED", BusinessDate: day,
		Quantity: t.of.amount(t.quantity), InstrumentID: t.of.id(), Value: euro(h.value(t.price)), Direction: t.direction, Type: t.kind}
	if t.booked {
		settled := berlin(t.day.AddDate(0, 0, 2), dateTimeLayout)
		wt.BookingStatus, wt.BookingDate, wt.Settlement = "BOOKED", &day, &settled
	}
	if t.kind != "TRANSFER_IN" {
		wt.Price = some(t.of.quote(t.price))
	}
	if t.of.currency != "EUR" {
		rate := amountValue{fixed(rates[t.of.currency], 4, 2), t.of.currency}
		wt.FX = &wireFX{Bid: rate, Ask: rate}
	}
	if instrument {
		wt.Instrument = t.of.wire()
	}
	return wt
}

// orders lists the order book of a depot (chapter 7.1.2).
func (b *Bank) orders(w http.ResponseWriter, r *http.Request, c caller) {
	bk, q := b.book(c), r.URL.Query()
	d := bk.depot(r.PathValue("depotId"))
	if d == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	p, ok := paged(w, q, maxPage, maxPage)
	if !ok {
		return
	}
	matches, rows := pick(choice{to: d.orders, keep: func(i int) bool {
		o := bk.order(d, i)
		return (q.Get("orderStatus") == "" || q.Get("orderStatus") == o.OrderStatus) &&
			(q.Get("side") == "" || q.Get("side") == o.Side) && (q.Get("orderType") == "" || q.Get("orderType") == o.OrderType)
	}}, p)
	list(w, paging{p.first, matches}, nil, rows, func(i int) any {
		o := bk.order(d, i)
		if attributes(q, "without-attr", "executions") {
			o.Executions = nil
		}
		if !attributes(q, "with-attr", "instrument") {
			o.Instrument = nil
		}
		return o
	})
}

// order answers for one order (chapter 7.1.3).
func (b *Bank) order(w http.ResponseWriter, r *http.Request, c caller) {
	bk := b.book(c)
	for n := range bk.depots {
		for i := range bk.depots[n].orders {
			o := bk.order(&bk.depots[n], i)
			if o.OrderID != r.PathValue("orderId") {
				continue
			}
			o.Instrument = nil
			answer(w, http.StatusOK, o)
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
}

// order makes the ith order: one open, one executed, one cancelled.
func (bk *book) order(d *depot, i int) wireOrder {
	h := d.holding(i)
	quantity, none := h.of.amount(h.quantity), h.of.amount(0)
	created := bk.day.AddDate(0, 0, -7*(i+1)).Add(8*time.Hour + 15*time.Minute)
	stamp := func(t time.Time) string { return berlin(t, "2006-01-02T15:04:05,000000") }
	o := wireOrder{DepotID: d.id, OrderID: identifier("order", d.id, strconv.Itoa(i)), CreatedAt: stamp(created),
		OrderType: "LIMIT", OrderStatus: "OPEN", Side: "BUY", InstrumentID: h.of.id(), Instrument: h.of.wire(),
		VenueID: identifier("venue", "Hamburg"), Quantity: quantity, Open: quantity, Cancelled: none, Executed: none}
	switch i {
	case 0:
		o.Limit, o.Expected = some(h.of.quote(h.of.price*95/100)), some(euro(h.value(h.of.price*95/100)))
		o.ValidityType, o.Validity = some("GTD"), some(bk.day.AddDate(0, 1, 0).Format(dateLayout))
	case 1:
		o.OrderType, o.OrderStatus, o.Side, o.Open, o.Executed = "MARKET", "EXECUTED", "SELL", none, quantity
		o.Executions = []wireExecution{{ExecutionID: identifier("execution", o.OrderID), Number: 1, Quantity: quantity,
			Price: h.of.quote(h.of.price), At: stamp(created.Add(2 * time.Minute))}}
	default:
		o.OrderType, o.OrderStatus, o.Side, o.Open, o.Cancelled = "STOP_MARKET", "CANCELLED_USER", "SELL", none, quantity
		o.TriggerLimit = some(h.of.quote(h.of.price * 80 / 100))
	}
	return o
}

// instrument answers for a security that one of the login's depots holds (chapter 6.1.1).
func (b *Bank) instrument(w http.ResponseWriter, r *http.Request, c caller) {
	bk := b.book(c)
	for n := range bk.depots {
		d := &bk.depots[n]
		for i := range d.size() {
			if s := d.holding(i).of; s.called(r.PathValue("instrumentId")) {
				list(w, paging{0, 1}, nil, []int{0}, func(int) any { return s.wire() })
				return
			}
		}
	}
	w.WriteHeader(http.StatusNotFound)
}
