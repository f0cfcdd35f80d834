package bench

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/shared/domain"
)

// Logins of the bank that read without the investor.
const (
	sameData    = "20000044" // what stays as it was
	changedData = "20000043" // other positions and prices at every session
	largeData   = "20000042" // 20,000 positions, 200,000 transactions
)

// refreshing compares a reading without the investor.
func refreshing(login string) func(*house, *testing.B) (ours, bare act) {
	return func(h *house, b *testing.B) (ours, bare act) {
		conn := h.connect(b, login)
		visit, open := newVisitor(h.bank, login), bareOpening(b)
		return func() (cost, error) { return h.refresh(conn) }, spent(func() error {
			if err := open(); err != nil {
				return err
			}
			return visit.read(context.Background())
		})
	}
}

// refresh has the connection read anew, and says what the reading took once the client has heard of it.
func (h *house) refresh(conn domain.ConnectionID) (cost, error) {
	ctx := context.Background()
	if err := h.Call(ctx, http.MethodPost, "/v1/connections/"+string(conn)+"/refresh", map[string]string{}, nil); err != nil {
		return cost{}, err
	}
	c, err := h.await(domain.TopicSession)
	if err != nil {
		return c, err
	}
	if _, err := h.await(domain.TopicDelivery); err != nil {
		return c, err
	}
	var after struct {
		State    domain.ConnectionState                                 `json:"state"`
		Reason   domain.Reason                                          `json:"reason"`
		Products map[domain.Product]struct{ State domain.ProductState } `json:"products"`
	}
	if err := h.Call(ctx, http.MethodGet, "/v1/connections/"+string(conn), nil, &after); err != nil {
		return c, err
	}
	if after.State != domain.ConnectionActive || after.Reason != "" || after.Products[domain.ProductPositions].State != domain.ProductComplete {
		return c, fmt.Errorf("the reading left the connection %s %s %v", after.State, after.Reason, after.Products)
	}
	return c, nil
}

// visitor is the yardstick of a reading: a client that makes the calls to the bank that a reading cannot do without, over
// a connection that stays open, and decodes each answer once.
type visitor struct {
	login string
	http  *http.Client
	base  string

	bearer  string
	primary string // the token before it
	calls   int
	records int // of the last reading
}

func newVisitor(a address, login string) *visitor {
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, a.At)
	}
	return &visitor{login: login, base: "https://" + bank.HostName, http: &http.Client{Transport: &http.Transport{DialContext: dial,
		TLSClientConfig: &tls.Config{RootCAs: a.trusted(), MinVersion: tls.VersionTLS12}}}}
}

// What the bank answers, as far as a portfolio needs it.
type (
	money struct{ Value, Unit string }

	instrument struct {
		InstrumentID, WKN, ISIN, Name, ShortName string
		StaticData                               struct{ Notation, InstrumentType string }
		DerivativeData                           struct{ NominalRate, MaturityDate string }
	}
	balance struct {
		AccountID string
		Account   struct {
			AccountID, AccountDisplayID, Currency, IBAN string
			AccountType                                 struct{ Key, Text string }
		}
		Balance, AvailableCashAmount *money
	}
	depot    struct{ DepotID, DepotDisplayID string }
	position struct {
		PositionID, WKN string
		Quantity        *money
		CurrentPrice    struct {
			Price         *money
			PriceDateTime string
		}
		PurchasePrice, CurrentValue, PurchaseValue *money
		Instrument                                 *instrument
	}
	movement struct {
		Reference, BookingStatus, BookingDate, ValutaDate, RemittanceInfo string
		Amount                                                            *money
		Remitter, Deptor, Creditor                                        struct{ HolderName string }
		TransactionType                                                   struct{ Key string }
	}
	trade struct {
		TransactionID, BookingStatus, BookingDate, BusinessDate, SettlementDate, InstrumentID string
		TransactionDirection, TransactionType                                                 string
		Quantity, ExecutionPrice, TransactionValue                                            *money
		Instrument                                                                            *instrument
	}
	order struct {
		OrderID, CreationTimestamp, OrderType, OrderStatus, Side, InstrumentID, Validity string
		Quantity, ExecutedQuantity, Limit, TriggerLimit                                  *money
		Instrument                                                                       *instrument
	}
	depotSum struct {
		Aggregated struct {
			CurrentValue   *money
			DateLastUpdate string
		}
	}
)

// read makes one whole visit: in, everything, out.
func (v *visitor) read(ctx context.Context) error {
	v.records = 0
	if err := v.signIn(ctx); err != nil {
		return err
	}
	balances, err := all[balance](ctx, v, "/api/banking/clients/user/v2/accounts/balances", "", "")
	if err != nil {
		return err
	}
	depots, err := all[depot](ctx, v, "/api/brokerage/clients/user/v3/depots", "", "")
	if err != nil {
		return err
	}
	v.records += len(balances) // each is an account and a balance
	errs := make([]error, 0, 8)
	for _, b := range balances {
		path := "/api/banking/v1/accounts/" + b.AccountID + "/transactions"
		_, pending := all[movement](ctx, v, path, "paging-count=500&transactionState=NOTBOOKED", "")
		_, booked := all[movement](ctx, v, path, "min-bookingDate=2000-01-01&paging-count=500&transactionState=BOOKED", "")
		errs = append(errs, pending, booked)
	}
	for _, d := range depots {
		path := "/api/brokerage/v3/depots/" + d.DepotID
		var sum depotSum
		errs = append(errs, v.ask(ctx, http.MethodGet, path+"/positions?without-attr=positions", nil, &sum))
		_, positions := all[position](ctx, v, path+"/positions", "with-attr=instrument", "paging-count=500")
		_, trades := all[trade](ctx, v, path+"/transactions", "min-bookingDate=2000-01-01", "paging-count=500")
		_, orders := all[order](ctx, v, "/api/brokerage/depots/"+d.DepotID+"/v3/orders", "with-attr=instrument", "paging-count=500")
		errs = append(errs, positions, trades, orders)
	}
	return errors.Join(errors.Join(errs...), v.signOut(ctx))
}

// tokens are the two of a visit.
type tokens struct {
	Access string `json:"access_token"`
}

func (v *visitor) signIn(ctx context.Context) error {
	own := url.Values{"client_id": {bank.DefaultClientID}, "client_secret": {bank.DefaultClientSecret}}
	form := func(more ...string) url.Values {
		f := url.Values{}
		for k, of := range own {
			f[k] = of
		}
		for i := 0; i < len(more); i += 2 {
			f.Set(more[i], more[i+1])
		}
		return f
	}
	var first, second tokens
	v.bearer = ""
	if err := v.ask(ctx, http.MethodPost, "/oauth/token", form("grant_type", "password", "username", v.login, "password", bank.PIN), &first); err != nil {
		return err
	}
	v.bearer = first.Access
	var sessions []struct{ Identifier string }
	if err := v.ask(ctx, http.MethodGet, "/api/session/clients/user/v1/sessions", nil, &sessions); err != nil {
		return err
	}
	v.bearer = ""
	if err := v.ask(ctx, http.MethodPost, "/oauth/token", form("grant_type", "cd_secondary", "token", first.Access), &second); err != nil {
		return err
	}
	v.bearer, v.primary = second.Access, first.Access
	return nil
}

// signOut revokes both tokens; the bank may say that the first ended with the second.
func (v *visitor) signOut(ctx context.Context) error {
	if err := v.ask(ctx, http.MethodDelete, "/oauth/revoke", url.Values{}, nil); err != nil {
		return err
	}
	v.bearer = v.primary
	var ended *refusal
	if err := v.ask(ctx, http.MethodDelete, "/oauth/revoke", url.Values{}, nil); !errors.As(err, &ended) {
		return err
	}
	return nil
}

// refusal is an answer that is no success.
type refusal struct {
	what   string
	status int
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: status %d", r.what, r.status) }

// all reads a list, page by page.
func all[T any](ctx context.Context, v *visitor, path, query, more string) ([]T, error) {
	var got []T
	for {
		var page struct {
			Paging struct{ Matches int }
			Values []T
		}
		err := v.ask(ctx, http.MethodGet, strings.TrimSuffix(path+"?"+query, "?"), nil, &page)
		if err != nil {
			return nil, err
		}
		got = append(got, page.Values...)
		if len(got) >= page.Paging.Matches {
			v.records += len(got)
			return got, nil
		}
		if more != "" && !strings.Contains(query, more) {
			query += "&" + more
		}
		query, _, _ = strings.Cut(query, "&paging-first")
		query += "&paging-first=" + strconv.Itoa(len(got))
	}
}

// ask makes one call and decodes its answer once.
func (v *visitor) ask(ctx context.Context, method, path string, form url.Values, out any) error {
	var body io.Reader
	media := "application/json"
	if form != nil {
		body, media = strings.NewReader(form.Encode()), "application/x-www-form-urlencoded"
	}
	r, err := http.NewRequestWithContext(ctx, method, v.base+path, body)
	if err != nil {
		return err
	}
	v.calls++
	r.Header.Set("Content-Type", media)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("x-http-request-info", fmt.Sprintf(`{"clientRequestId":{"sessionId":"bench","requestId":"%09d"}}`, v.calls))
	if v.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+v.bearer)
	}
	resp, err := v.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode > 299 {
		return &refusal{method + " " + path, resp.StatusCode}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(raw, out)
}
