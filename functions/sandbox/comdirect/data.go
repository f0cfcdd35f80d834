package comdirect

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// page is the part of a list that a request asks for.
type page struct {
	first, count int
}

// Limits of paging. The banking module answers 20 at a time, or up to 500 where that is asked for. Of the brokerage
// module no limit is known: it answers all, unless asked for less.
const (
	bankingPage    = 20
	maxBankingPage = 500
	maxPage        = 1_000_000
)

// paged reads paging-first and paging-count; it refuses what the bank refuses.
func paged(w http.ResponseWriter, q url.Values, usual, most int) (page, bool) {
	p := page{count: usual}
	for name, field := range map[string]*int{"paging-first": &p.first, "paging-count": &p.count} {
		text := q.Get(name)
		if text == "" {
			continue
		}
		v, err := strconv.Atoi(text)
		if err != nil || v < 0 || v > maxPage || name == "paging-count" && (v == 0 || v > most) {
			refuse(w, http.StatusUnprocessableEntity, CodeQuery, "paging.invalid", "Der Paging-Parameter ist ungültig.", name)
			return page{}, false
		}
		*field = v
	}
	return p, true
}

// choice is which rows of a list a request wants: those from one number to before another, and of these the ones that
// keep lets pass; nil lets all.
type choice struct {
	from, to int
	keep     func(i int) bool
}

// pick chooses the rows of a page. With keep nil, none is looked at that is not on the page.
func pick(c choice, p page) (matches int, rows []int) {
	if c.to <= c.from {
		return 0, nil
	}
	if c.keep == nil {
		for i := c.from + p.first; i < min(c.to, c.from+p.first+p.count); i++ {
			rows = append(rows, i)
		}
		return c.to - c.from, rows
	}
	for i := c.from; i < c.to; i++ {
		if !c.keep(i) {
			continue
		}
		if matches >= p.first && len(rows) < p.count {
			rows = append(rows, i)
		}
		matches++
	}
	return matches, rows
}

// list writes a list answer row by row, so that its length costs no memory.
func list(w http.ResponseWriter, p paging, aggregated any, rows []int, row func(i int) any) {
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.Header().Set("Cache-Control", "no-store")
	out := bufio.NewWriterSize(w, 32<<10)
	head, err := json.Marshal(aggregated)
	if err != nil {
		panic("writing list: " + err.Error())
	}
	fmt.Fprintf(out, `{"paging":{"index":%d,"matches":%d},"aggregated":%s,"values":[`, p.Index, p.Matches, head)
	for n, i := range rows {
		if n > 0 {
			out.WriteByte(',')
		}
		line, err := json.Marshal(row(i))
		if err != nil {
			panic("writing list: " + err.Error())
		}
		if _, err := out.Write(line); err != nil {
			return // the reader has gone
		}
	}
	out.WriteString("]}")
	_ = out.Flush()
}

// attributes says whether with-attr or without-attr names an attribute (chapter 1.3).
func attributes(q url.Values, name, attribute string) bool {
	return slices.ContainsFunc(q[name], func(v string) bool { return slices.Contains(strings.Split(v, ","), attribute) })
}

func (b *Bank) book(c caller) *book { return bookOf(c.login, c.visit, b.opts.Env.Now()) }

// balances lists all accounts (chapter 4.1.1).
func (b *Bank) balances(w http.ResponseWriter, r *http.Request, c caller) {
	bk, q := b.book(c), r.URL.Query()
	p, ok := paged(w, q, maxPage, maxPage)
	if !ok {
		return
	}
	matches, rows := pick(choice{to: len(bk.accounts)}, p)
	list(w, paging{p.first, matches}, nil, rows, func(i int) any { return bk.balance(&bk.accounts[i], q) })
}

// balance answers for one account (chapter 4.1.2).
func (b *Bank) balance(w http.ResponseWriter, r *http.Request, c caller) {
	bk := b.book(c)
	if a := bk.account(r.PathValue("accountId")); a != nil {
		answer(w, http.StatusOK, bk.balance(a, r.URL.Query()))
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

func (bk *book) account(id string) *account {
	i := slices.IndexFunc(bk.accounts, func(a account) bool { return a.id == id })
	if i < 0 {
		return nil
	}
	return &bk.accounts[i]
}

func (bk *book) balance(a *account, q url.Values) wireBalance {
	available := a.balance + a.limit + a.reserved(bk.day)
	wb := wireBalance{AccountID: a.id, Balance: money(a.balance, a.currency), BalanceEUR: euro(toEUR(a.balance, a.currency)),
		Available: money(available, a.currency), AvailableEUR: euro(toEUR(available, a.currency))}
	if !attributes(q, "without-attr", "account") {
		wb.Account = bk.wireAccount(a)
	}
	return wb
}

func (bk *book) wireAccount(a *account) *wireAccount {
	wa := &wireAccount{AccountID: a.id, DisplayID: a.display, Currency: a.currency, ClientID: clientID(bk.login.Number),
		AccountType: enumText{a.key, a.text}, IBAN: &a.iban, CreditLimit: some(money(a.limit, a.currency))}
	if bk.login.assortment == assortmentOdd && a.key == "SA" {
		wa.IBAN, wa.CreditLimit = nil, nil
	}
	return wa
}

// transactions lists the movements of an account (chapter 4.1.3).
func (b *Bank) transactions(w http.ResponseWriter, r *http.Request, c caller) {
	bk, q := b.book(c), r.URL.Query()
	a := bk.account(r.PathValue("accountId"))
	if a == nil || a.silent { // "404: No transactions found" (swagger.json)
		w.WriteHeader(http.StatusNotFound)
		return
	}
	p, ok := paged(w, q, bankingPage, maxBankingPage)
	if !ok {
		return
	}
	wanted, ok := bk.filter(w, a, q, p)
	if !ok {
		return
	}
	matches, rows := pick(wanted, p)
	latest := bk.wireTransaction(a, min(a.pending, a.transactions-1))
	aggregate := wireTransactionAggregate{AccountID: a.id, LatestBookingDate: latest.BookingDate,
		LatestReference: &latest.Reference}
	if attributes(q, "with-attr", "account") {
		aggregate.Account = bk.wireAccount(a)
	}
	list(w, paging{p.first, matches}, aggregate, rows, func(i int) any { return bk.wireTransaction(a, i) })
}

// filter reads the filters of a list of transactions.
func (bk *book) filter(w http.ResponseWriter, a *account, q url.Values, p page) (choice, bool) {
	state, direction := q.Get("transactionState"), q.Get("transactionDirection")
	low, high := q.Get("min-bookingDate"), q.Get("max-bookingDate")
	refused := ""
	switch {
	case !slices.Contains([]string{"", "BOTH", "BOOKED", "NOTBOOKED"}, state):
		refused = "transactionState"
	case p.first > 0 && state != "BOOKED": // only booked transactions can be paged
		refused = "transactionState"
	case !slices.Contains([]string{"", "CREDIT_AND_DEBIT", "CREDIT", "DEBIT"}, direction):
		refused = "transactionDirection"
	case !dateOrNothing(low):
		refused = "min-bookingDate"
	case !dateOrNothing(high):
		refused = "max-bookingDate"
	}
	if refused != "" {
		refuse(w, http.StatusUnprocessableEntity, CodeQuery, "requestparameter.invalid",
			"Ein Parameter ist ungültig.", refused)
		return choice{}, false
	}
	wanted := between(a.transactions, low, high, func(i int) string { return a.movement(bk.day, i).day.Format(dateLayout) })
	switch state {
	case "BOOKED":
		wanted.from = max(wanted.from, a.pending)
	case "NOTBOOKED":
		wanted.to = min(wanted.to, a.pending)
	}
	switch direction {
	case "CREDIT":
		wanted.keep = func(i int) bool { return a.movement(bk.day, i).amount > 0 }
	case "DEBIT":
		wanted.keep = func(i int) bool { return a.movement(bk.day, i).amount < 0 }
	}
	return wanted, true
}

// between finds the rows of a list, newest first, whose day lies between two days, each of which may be empty.
func between(n int, low, high string, day func(i int) string) choice {
	c := choice{to: n}
	if high != "" {
		c.from = sort.Search(n, func(i int) bool { return day(i) <= high })
	}
	if low != "" {
		c.to = sort.Search(n, func(i int) bool { return day(i) < low })
	}
	return c
}

func dateOrNothing(s string) bool {
	_, err := time.Parse(dateLayout, s)
	return s == "" || err == nil
}

// holder is the name of the login's person.
func (l *Login) holder() string {
	if l.play.holder != "" {
		return l.play.holder
	}
	return "Erika Beispiel " + l.Number[6:]
}

func (bk *book) wireTransaction(a *account, i int) wireTransaction {
	m := a.movement(bk.day, i)
	day := m.day.Format(dateLayout)
	wt := wireTransaction{Reference: a.reference(m.seq), BookingStatus: "NOTBOOKED", ValutaDate: day,
		Amount: some(money(m.amount, a.currency)), Type: &enumText{m.cause.key, m.cause.text}, New: i < 3}
	lines := append([]string{}, m.cause.lines...)
	if m.booked {
		wt.BookingStatus, wt.BookingDate = "BOOKED", &day
		lines = append(lines, "End-to-End-Ref.:", "nicht angegeben")
	}
	wt.Remittance = remittance(m.booked, lines...)
	self := &wireParty{HolderName: bk.login.holder(), IBAN: &a.iban}
	other := &wireParty{HolderName: m.cause.party}
	if m.cause.party == "" {
		other = self
	}
	wt.Remitter, wt.Creditor = self, other
	if m.amount > 0 {
		wt.Remitter, wt.Creditor = other, self
	}
	if m.cause.debit {
		wt.Debtor, wt.CreditorID, wt.MandateID = self, some("DE98ZZZ09999999999"), some("MANDAT-"+a.display)
		wt.EndToEnd = some(fmt.Sprintf("E2E-%d", m.seq))
	}
	if bk.login.assortment == assortmentOdd {
		oddities(&wt, i)
	}
	return wt
}

// oddities are answers that the documentation allows and few readers expect.
func oddities(wt *wireTransaction, i int) {
	switch i {
	case 3:
		wt.ValutaDate = wt.ValutaDate[:4] + "-02-30"
	case 4:
		wt.Type, wt.Remitter, wt.Creditor = nil, nil, nil
	case 5:
		wt.Remittance = ""
	}
}
