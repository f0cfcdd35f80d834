package sandbox

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"github.com/shopspring/decimal"
)

// Bounds of what one page reads and shows.
const (
	maxRecords   = 50_000 // of one product
	rowsShown    = 100    // positions on one page
	someMoves    = 10     // transactions on the portfolio page
	movesShown   = 50     // transactions on a page of their own
	maxVersions  = 12     // in the history
	recordsAsked = 1000   // in one call, the most that the API gives
)

// holdings are one version of a portfolio. Products that the version has not are empty; Version.Products says why.
type holdings struct {
	Version      version
	Accounts     []account
	Cash         []cashBalance
	Positions    []position
	Orders       []order
	Liabilities  []liability
	Transactions []transaction
	More         string // cursor of the transactions after
	Cut          bool   // there are more records than this app reads
}

// readable says whether there are records to read: an empty list never hides a failure, so look at the status first.
func (h *holdings) readable(product string) bool {
	s := h.Version.Products[product]
	return s.State == "complete" && s.Saved
}

// recordPage is a page of one product's records.
type recordPage[T any] struct {
	Status status `json:"status"`
	Data   []T    `json:"data"`
	Next   string `json:"next"`
}

// records reads one product of one version to its last page. The first call names the version; from then on the cursor
// does, so that a newer version that arrives meanwhile does not mix in.
func records[T any](ctx context.Context, a *api, connection, product string, h *holdings, into *[]T) error {
	q := url.Values{"limit": {strconv.Itoa(recordsAsked)}, "version": {h.Version.ID}}
	for h.readable(product) {
		var page recordPage[T]
		if err := a.get(ctx, "/v1/connections/"+connection+"/portfolio/"+product+"?"+q.Encode(), &page); err != nil {
			return err
		}
		*into = append(*into, page.Data...)
		if page.Next == "" {
			return nil
		}
		if len(*into) >= maxRecords {
			h.Cut = true
			return nil
		}
		q = url.Values{"limit": {strconv.Itoa(recordsAsked)}, "cursor": {page.Next}}
	}
	return nil
}

// read reads a version: the newest where wanted is empty. Where only the newest is kept, a refresh may end the version
// in the middle of the reading; then the reading begins again, once.
func (a *api) read(ctx context.Context, connection, wanted string) (*holdings, error) {
	h, err := a.readOnce(ctx, connection, wanted)
	if codeOf(err) == "version_gone" && wanted == "" {
		h, err = a.readOnce(ctx, connection, wanted)
	}
	return h, err
}

func (a *api) readOnce(ctx context.Context, connection, wanted string) (*holdings, error) {
	h := &holdings{}
	path := "/v1/connections/" + connection + "/portfolio"
	if wanted != "" {
		path += "?version=" + url.QueryEscape(wanted)
	}
	if err := a.get(ctx, path, &h.Version); err != nil {
		return nil, err
	}
	steps := []func() error{
		func() error { return records(ctx, a, connection, "accounts", h, &h.Accounts) },
		func() error { return records(ctx, a, connection, "cash", h, &h.Cash) },
		func() error { return records(ctx, a, connection, "positions", h, &h.Positions) },
		func() error { return records(ctx, a, connection, "orders", h, &h.Orders) },
		func() error { return records(ctx, a, connection, "liabilities", h, &h.Liabilities) },
		func() error {
			return a.moves(ctx, connection, url.Values{"limit": {strconv.Itoa(someMoves)}, "version": {h.Version.ID}}, h)
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// moves reads one page of transactions: there may be hundreds of thousands.
func (a *api) moves(ctx context.Context, connection string, q url.Values, h *holdings) error {
	if !h.readable("transactions") {
		return nil
	}
	var page recordPage[transaction]
	err := a.get(ctx, "/v1/connections/"+connection+"/portfolio/transactions?"+q.Encode(), &page)
	h.Transactions, h.More = page.Data, page.Next
	return err
}

// portfolioPage is a version, summed up and drawn.
type portfolioPage struct {
	Connection *connection
	*holdings
	Old      bool // not the newest version
	Panels   []panel
	Unvalued int // positions without a value: in no sum
	Unknown  []productLine
	Rows     []*position
	From     int // of Rows within all positions, counted from 1
	Before   string
	After    string
	Versions []version
	names    map[string]string // of accounts
}

// Account is what an account is called.
func (p portfolioPage) Account(id string) string {
	if name := p.names[id]; name != "" {
		return name
	}
	return id
}

// Status is one product's completeness.
func (p portfolioPage) Status(product string) status { return p.Version.Products[product] }

// Through is the number of the last row shown.
func (p portfolioPage) Through() int { return p.From + len(p.Rows) - 1 }

var versionShape = regexp.MustCompile(`^([0-9]{1,12}|pf_[0-9a-z]{26})$`)

// portfolio shows a version of a connection's portfolio.
func (a *app) portfolio(w http.ResponseWriter, r *http.Request) error {
	c, err := a.find(r)
	if err != nil {
		return err
	}
	wanted := r.URL.Query().Get("version")
	if wanted != "" && !versionShape.MatchString(wanted) {
		return a.nowhere(w, r)
	}
	h, err := a.api.read(r.Context(), c.ID, wanted)
	if err != nil {
		return err
	}
	versions, values, err := a.history(r.Context(), c.ID)
	if err != nil {
		return err
	}
	page := portfolioPage{Connection: c, holdings: h, Old: h.Version.ID != c.PortfolioID, Versions: versions,
		names: accountNames(h.Accounts), Unvalued: unvalued(h.Positions)}
	for _, p := range products {
		if s := h.Version.Products[p.Name]; (p.Name == "cash" || p.Name == "positions") && !counted(s) {
			page.Unknown = append(page.Unknown, productLine{Name: p.Name, Label: p.Label, status: s})
		}
	}
	page.Panels = page.draw(values)
	page.window(r.URL.Query().Get("from"), wanted)
	return a.show(w, r, http.StatusOK, view{Name: "portfolio", Title: "Portfolio of " + c.InvestorRef, Body: page})
}

// counted says whether the sums hold all of a product.
func counted(s status) bool { return s.State == "empty" || s.State == "complete" && s.Saved }

// window picks the rows to show: the greatest values first, each currency for itself.
func (p *portfolioPage) window(from, wanted string) {
	all := make([]*position, len(p.Positions))
	for i := range p.Positions {
		all[i] = &p.Positions[i]
	}
	slices.SortStableFunc(all, byValue)
	begin, err := strconv.Atoi(from)
	if err != nil || begin < 1 || begin > len(all) {
		begin = 1
	}
	end := min(begin-1+rowsShown, len(all))
	if len(all) > 0 {
		p.Rows, p.From = all[begin-1:end], begin
	}
	at := func(n int) string {
		q := url.Values{"from": {strconv.Itoa(n)}}
		if wanted != "" {
			q.Set("version", wanted)
		}
		return "?" + q.Encode() + "#positions"
	}
	if begin > 1 {
		p.Before = at(max(1, begin-rowsShown))
	}
	if end < len(all) {
		p.After = at(end + 1)
	}
}

// byValue orders positions by currency, then by value, greatest first; those without a value come last.
func byValue(a, b *position) int {
	switch {
	case a.Value == nil && b.Value == nil:
		return 0
	case a.Value == nil:
		return 1
	case b.Value == nil:
		return -1
	case a.Value.Currency != b.Value.Currency:
		if a.Value.Currency < b.Value.Currency {
			return -1
		}
		return 1
	}
	return b.Value.Value.Cmp(a.Value.Value)
}

// accountNames says what each account is called: its name or kind, and the end of its number.
func accountNames(accounts []account) map[string]string {
	names := map[string]string{}
	for i := range accounts {
		acc := &accounts[i]
		name, number := acc.Name, acc.Number
		if name == "" {
			name = capital(plain(acc.Type)) + " account"
		}
		if number == "" {
			number = acc.IBAN
		}
		if len(number) > 4 {
			number = "…" + number[len(number)-4:]
		}
		if number != "" {
			name += bound + number
		}
		names[acc.ID] = name
	}
	return names
}

// history lists the versions that are kept, newest first, and what each was worth: the sums that Sluis reconciles, by
// version and currency. They are asked for each time and kept nowhere, so that what is erased at Sluis is gone here.
func (a *app) history(ctx context.Context, connection string) ([]version, map[string]map[string]decimal.Decimal, error) {
	path := "/v1/connections/" + connection + "/portfolio"
	versions, err := readList[version](ctx, a.api, path+"s", maxVersions)
	if err != nil || len(versions) < 2 {
		return versions, nil, err
	}
	values := map[string]map[string]decimal.Decimal{}
	for _, v := range versions {
		var full version
		err := a.api.get(ctx, path+"?version="+url.QueryEscape(v.ID), &full)
		var p *problem
		if errors.As(err, &p) && (p.Status == http.StatusGone || p.Status == http.StatusNotFound) {
			continue // its time was over between the two calls
		}
		if err != nil {
			return nil, nil, err
		}
		values[v.ID] = map[string]decimal.Decimal{}
		for _, line := range full.Reconciliation {
			values[v.ID][line.Currency] = values[v.ID][line.Currency].Add(line.Computed)
		}
	}
	return versions, values, nil
}

// transactionsPage is one page of transactions.
type transactionsPage struct {
	Connection *connection
	Status     status
	Rows       []transaction
	Paged      bool
	After      string
	names      map[string]string
}

// Account is what an account is called.
func (p transactionsPage) Account(id string) string {
	if name := p.names[id]; name != "" {
		return name
	}
	return id
}

// transactions shows the transactions of a version page by page: the cursor names the version.
func (a *app) transactions(w http.ResponseWriter, r *http.Request) error {
	c, err := a.find(r)
	if err != nil {
		return err
	}
	q := url.Values{"limit": {strconv.Itoa(movesShown)}}
	cursor := r.URL.Query().Get("cursor")
	switch {
	case len(cursor) > 512:
		return a.nowhere(w, r)
	case cursor != "":
		q.Set("cursor", cursor)
	case c.PortfolioID != "":
		q.Set("version", c.PortfolioID)
	}
	var page recordPage[transaction]
	if err := a.api.get(r.Context(), "/v1/connections/"+c.ID+"/portfolio/transactions?"+q.Encode(), &page); err != nil {
		return err
	}
	h := &holdings{Version: version{ID: c.PortfolioID, Products: c.Products}}
	if err := records(r.Context(), a.api, c.ID, "accounts", h, &h.Accounts); err != nil {
		return err
	}
	out := transactionsPage{Connection: c, Status: page.Status, Rows: page.Data, Paged: cursor != "", names: accountNames(h.Accounts)}
	if page.Next != "" {
		out.After = "?" + url.Values{"cursor": {page.Next}}.Encode() + "#more"
	}
	return a.show(w, r, http.StatusOK, view{Name: "transactions", Title: "Transactions of " + c.InvestorRef, Body: out})
}
