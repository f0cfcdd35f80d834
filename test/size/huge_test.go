package size

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

const (
	hugeLogin = "20000042"
	mostKiB   = 512 << 10 // of memory, for the largest portfolio
	kept      = 16 << 20  // bytes that may stay live: buffers and caches, none of which grows with a portfolio
)

// TestHugePortfolio has 20,000 positions and 200,000 transactions read from the bank, delivered, and read back page by
// page; then the same again, unchanged. Every record is there once and says what the bank says.
func TestHugePortfolio(t *testing.T) {
	at := time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC) // the bank's data follow its day: midnight must not fall into the test
	h := open(t, house.Options{BankOptions: bank.Options{Env: domain.Env{Clock: func() time.Time { return at }}}})
	before := ask(t, h)
	begun := time.Now()
	play(t, h, "huge", "ask", "open", "grant", "login "+hugeLogin, "done", "webhooks consent.granted connection.active portfolio.updated")
	read := time.Since(begun)

	want := bankHolds(t, h.Bank)
	if n, m := len(want[domain.ProductPositions]), len(want[domain.ProductTransactions]); n != bank.HugePositions || m != bank.HugeTransactions {
		t.Fatalf("the bank shows %d positions and %d transactions", n, m)
	}
	id := connectionOf(t, h, "huge")
	begun = time.Now()
	for product, records := range want {
		compare(t, product, records, apiHolds(t, h, id, product))
	}
	back := time.Since(begun)
	must(t, h.Call(t.Context(), http.MethodPost, "/v1/connections/"+id+"/refresh", map[string]string{}, nil))
	begun = time.Now()
	awaitVersion(t, h, id, 2)
	t.Logf("read in %v, read back in %v, refreshed in %v; at most %d MiB", read, back, time.Since(begun), status(t, h, "VmHWM")>>10)
	for product, records := range want {
		if *house.Long || product != domain.ProductTransactions { // which take most of the time, and nothing of them changed
			compare(t, product, records, apiHolds(t, h, id, product))
		}
	}
	if most := status(t, h, "VmHWM"); most > mostKiB {
		t.Errorf("the house needed %d MiB, more than %d", most>>10, mostKiB>>10)
	}
	after := ask(t, h)
	t.Logf("afterwards %d KiB are live, %d goroutines, %d files; before %d KiB, %d", after.Heap>>10, after.Goroutines, files(t, h), before.Heap>>10, before.Goroutines)
	if after.Heap > before.Heap+kept {
		t.Errorf("%d KiB stayed live", (after.Heap-before.Heap)>>10)
	}
}

// connectionOf finds an investor's connection.
func connectionOf(t *testing.T, h *house.House, investor string) string {
	t.Helper()
	var page struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	get(t, h, "/v1/connections?investor_ref="+investor, &page)
	if len(page.Data) != 1 {
		t.Fatalf("%s has %d connections", investor, len(page.Data))
	}
	return page.Data[0].ID
}

func awaitVersion(t *testing.T, h *house.House, id string, number int64) {
	t.Helper()
	var p struct {
		Number int64 `json:"number"`
	}
	for deadline := time.Now().Add(10 * time.Minute); p.Number < number; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("version %d did not come", number)
		}
		get(t, h, "/v1/connections/"+id+"/portfolio", &p)
	}
}

// holding is what is said of each record of a product, by the bank's own identifier.
type holding map[string]string

// add notes a record; one that was there already is a record too many.
func (of holding) add(t *testing.T, id string, said ...any) {
	t.Helper()
	if _, twice := of[id]; twice || id == "" {
		t.Fatalf("record %q comes twice", id)
	}
	of[id] = fmt.Sprint(said...)
}

func compare(t *testing.T, product domain.Product, want, got holding) {
	t.Helper()
	if maps.Equal(want, got) {
		return
	}
	var wrong []string
	for id, said := range want {
		if got[id] != said {
			wrong = append(wrong, fmt.Sprintf("%s is %q, at the bank %q", id, got[id], said))
		}
	}
	slices.Sort(wrong)
	t.Errorf("%s: %d records, the bank has %d; %d are wrong or missing:\n%s", product, len(got), len(want), len(wrong),
		strings.Join(wrong[:min(len(wrong), 10)], "\n"))
}

// apiRecord is a record as the client API gives it, as far as it is compared.
type apiRecord struct {
	SourceID string        `json:"source_id"`
	Number   string        `json:"number"`
	Value    domain.Amount `json:"value"`
	Booked   domain.Amount `json:"booked"`
	Quantity string        `json:"quantity"`
	Price    struct {
		Value string `json:"value"`
	} `json:"price"`
	Security struct {
		Name        string              `json:"name"`
		Identifiers []domain.Identifier `json:"identifiers"`
	} `json:"security"`
	Trade   string        `json:"trade_date"`
	Settle  string        `json:"settle_date"`
	Pending bool          `json:"pending"`
	Net     domain.Amount `json:"net"`
	Gross   domain.Amount `json:"gross"`
	Side    string        `json:"side"`
	State   string        `json:"state"`
}

// apiHolds reads a product to its last page.
func apiHolds(t *testing.T, h *house.House, id string, product domain.Product) holding {
	t.Helper()
	all := holding{}
	for cursor := ""; ; {
		var page struct {
			Data []apiRecord `json:"data"`
			Next string      `json:"next"`
		}
		get(t, h, "/v1/connections/"+id+"/portfolio/"+string(product)+"?limit=1000&cursor="+cursor, &page)
		for i := range page.Data {
			page.Data[i].into(t, all, product)
		}
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

func (r *apiRecord) into(t *testing.T, all holding, product domain.Product) {
	t.Helper()
	switch {
	case product == domain.ProductAccounts:
		all.add(t, r.SourceID, r.Number, r.Value)
	case product == domain.ProductCash:
		all.add(t, r.SourceID, r.Booked)
	case product == domain.ProductPositions:
		all.add(t, r.SourceID, r.Quantity, " ", r.Price.Value, " ", r.Value, " ", r.Security.Name, r.Security.Identifiers[0])
	case product == domain.ProductOrders:
		all.add(t, r.SourceID, r.Side, " ", r.State, " ", r.Quantity)
	case r.Security.Name != "":
		all.add(t, r.SourceID, r.Trade, " ", r.Pending, " ", r.Quantity, " ", r.Gross, " ", r.Security.Name)
	default:
		all.add(t, r.SourceID, r.Trade, " ", r.Settle, " ", r.Pending, " ", r.Net)
	}
}

// wallet is somebody at the bank's own counter: it knows nothing of how the house reads.
type wallet struct {
	t     *testing.T
	bank  *bank.Bank
	token string
}

func (w *wallet) do(method, path, body string, out any) {
	w.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "Bearer "+w.token)
	r.Header.Set("x-http-request-info", `{"clientRequestId":{"sessionId":"wallet","requestId":"123456789"}}`)
	answer := httptest.NewRecorder()
	w.bank.ServeHTTP(answer, r)
	if answer.Code >= 300 {
		w.t.Fatalf("the bank answers %d to %s %s: %s", answer.Code, method, path, answer.Body)
	}
	if out != nil {
		must(w.t, json.NewDecoder(bytes.NewReader(answer.Body.Bytes())).Decode(out))
	}
}

// enter logs in at a login that is exempt from SCA.
func (w *wallet) enter(number string) {
	w.t.Helper()
	for _, form := range []url.Values{{"grant_type": {"password"}, "username": {number}, "password": {bank.PIN}}, {"grant_type": {"cd_secondary"}}} {
		form.Set("client_id", bank.DefaultClientID)
		form.Set("client_secret", bank.DefaultClientSecret)
		form.Set("token", w.token)
		var granted struct {
			Token string `json:"access_token"`
		}
		w.do(http.MethodPost, "/oauth/token", form.Encode(), &granted)
		w.token = granted.Token
	}
}

// counted is an amount or number at the bank.
type counted struct {
	Value string `json:"value"`
	Unit  string `json:"unit"`
}

func (c counted) amount() domain.Amount {
	return domain.Amount{Value: domain.Decimal(c.Value), Currency: domain.Currency(c.Unit)}
}

// bankRecord is a line of any of the bank's lists, as far as it is compared.
type bankRecord struct {
	AccountID string  `json:"accountId"`
	Balance   counted `json:"balance"`
	Account   struct {
		Number string `json:"accountDisplayId"`
	} `json:"account"`
	DepotID  string `json:"depotId"`
	DepotNo  string `json:"depotDisplayId"`
	Position string `json:"positionId"`
	Order    string `json:"orderId"`
	Trade    string `json:"transactionId"`
	Movement string `json:"reference"`

	Quantity counted `json:"quantity"`
	Price    struct {
		Price counted `json:"price"`
	} `json:"currentPrice"`
	Value      counted `json:"currentValue"`
	Instrument struct {
		ISIN string `json:"isin"`
		Name string `json:"name"`
	} `json:"instrument"`
	Status   string  `json:"bookingStatus"`
	Booked   string  `json:"bookingDate"`
	Valuta   string  `json:"valutaDate"`
	Amount   counted `json:"amount"`
	Business string  `json:"businessDate"`
	Traded   counted `json:"transactionValue"`
	Side     string  `json:"side"`
	State    string  `json:"orderStatus"`
}

// list is one answer of the bank.
type list struct {
	Aggregated struct {
		Value counted `json:"currentValue"`
	} `json:"aggregated"`
	Values []bankRecord `json:"values"`
}

// bankHolds asks the bank itself for everything that the large login has.
func bankHolds(t *testing.T, b *bank.Bank) map[domain.Product]holding {
	t.Helper()
	all := map[domain.Product]holding{}
	for _, p := range domain.Products[:5] { // this bank has no liabilities
		all[p] = holding{}
	}
	w := &wallet{t: t, bank: b}
	w.enter(hugeLogin)
	var accounts, depots list
	w.do(http.MethodGet, "/api/banking/clients/user/v2/accounts/balances", "", &accounts)
	for _, a := range accounts.Values {
		all[domain.ProductAccounts].add(t, a.AccountID, a.Account.Number, a.Balance.amount())
		all[domain.ProductCash].add(t, a.AccountID, a.Balance.amount())
		w.movements(a.AccountID, all[domain.ProductTransactions])
	}
	w.do(http.MethodGet, "/api/brokerage/clients/user/v3/depots", "", &depots)
	for _, d := range depots.Values {
		w.depot(d, all)
	}
	return all
}

// movements are an account's: those that are booked come in pages, the others at once.
func (w *wallet) movements(account string, into holding) {
	w.t.Helper()
	for _, state := range []string{"NOTBOOKED", "BOOKED"} {
		for first := 0; ; {
			var page list
			w.do(http.MethodGet, fmt.Sprintf("/api/banking/v1/accounts/%s/transactions?transactionState=%s&paging-count=500&paging-first=%d",
				account, state, first), "", &page)
			for _, m := range page.Values {
				into.add(w.t, m.Movement, m.Booked, " ", m.Valuta, " ", m.Status == "NOTBOOKED", " ", m.Amount.amount())
			}
			if first += len(page.Values); len(page.Values) == 0 || state == "NOTBOOKED" {
				break
			}
		}
	}
}

func (w *wallet) depot(d bankRecord, all map[domain.Product]holding) {
	w.t.Helper()
	var positions, trades, orders list
	w.do(http.MethodGet, "/api/brokerage/v3/depots/"+d.DepotID+"/positions?with-attr=instrument", "", &positions)
	all[domain.ProductAccounts].add(w.t, d.DepotID, d.DepotNo, positions.Aggregated.Value.amount())
	for _, p := range positions.Values {
		all[domain.ProductPositions].add(w.t, p.Position, p.Quantity.Value, " ", p.Price.Price.Value, " ", p.Value.amount(), " ",
			p.Instrument.Name, domain.Identifier{Scheme: "ISIN", Value: p.Instrument.ISIN})
	}
	w.do(http.MethodGet, "/api/brokerage/v3/depots/"+d.DepotID+"/transactions?min-bookingDate=2000-01-01", "", &trades)
	for _, m := range trades.Values {
		all[domain.ProductTransactions].add(w.t, m.Trade, m.Business, " ", m.Status == "NOTBOOKED", " ", m.Quantity.Value, " ", m.Traded.amount(), " ",
			m.Instrument.Name)
	}
	w.do(http.MethodGet, "/api/brokerage/depots/"+d.DepotID+"/v3/orders", "", &orders)
	for _, o := range orders.Values {
		all[domain.ProductOrders].add(w.t, o.Order, strings.ToLower(o.Side), " ", strings.ToLower(o.State), " ", o.Quantity.Value)
	}
}
