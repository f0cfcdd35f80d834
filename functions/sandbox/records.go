package sandbox

import (
	"time"

	"github.com/shopspring/decimal"
)

// What the API answers, as far as this app reads it. Numbers are decimal strings there and decimals here.

// products in the order in which they are shown, and what they are called.
var products = []struct{ Name, Label string }{
	{"accounts", "Accounts"}, {"cash", "Cash"}, {"positions", "Positions"},
	{"transactions", "Transactions"}, {"orders", "Orders"}, {"liabilities", "Liabilities"},
}

// status says whether a reading has all of one product.
type status struct {
	State  string `json:"state"` // complete, empty, failed or not_consented
	Reason string `json:"reason"`
	Count  int    `json:"count"`
	Saved  bool   `json:"saved"`
}

type connection struct {
	ID              string            `json:"id"`
	ConsentID       string            `json:"consent_id"`
	InvestorRef     string            `json:"investor_ref"`
	Custodian       string            `json:"custodian"`
	State           string            `json:"state"`
	Reason          string            `json:"reason"`
	Products        map[string]status `json:"products"`
	PortfolioID     string            `json:"portfolio_id"`
	Sequence        int64             `json:"sequence"`
	Session         *session          `json:"session"`
	NextRefreshAt   time.Time         `json:"next_refresh_at"`
	LastRefreshedAt time.Time         `json:"last_refreshed_at"`
	CreatedAt       time.Time         `json:"created_at"`
	UpdatedAt       time.Time         `json:"updated_at"`
}

// Failed counts the products that the last reading could not get.
func (c *connection) Failed() (n int) {
	for _, s := range c.Products {
		if s.State == "failed" {
			n++
		}
	}
	return n
}

// session is the newest visit to the bank.
type session struct {
	ID        string    `json:"id"`
	Cause     string    `json:"cause"`
	State     string    `json:"state"`
	Reason    string    `json:"reason"`
	Records   int       `json:"records"`
	CreatedAt time.Time `json:"created_at"`
	EndedAt   time.Time `json:"ended_at"`
}

// underWay says whether the session has not ended.
func (s *session) underWay() bool {
	return s != nil && (s.State == "queued" || s.State == "running" || s.State == "suspended")
}

type consent struct {
	ID           string    `json:"id"`
	ConnectionID string    `json:"connection_id"`
	InvestorRef  string    `json:"investor_ref"`
	Purpose      purpose   `json:"purpose"`
	Products     []string  `json:"products"`
	Access       string    `json:"access"`
	ExpiresAt    time.Time `json:"expires_at"`
	Language     string    `json:"language"`
	State        string    `json:"state"`
	DecidedAt    time.Time `json:"decided_at"`
	EndedAt      time.Time `json:"ended_at"`
	Link         link      `json:"link"`
}

type purpose struct {
	Code string `json:"code"`
	Text string `json:"text,omitempty"`
}

// link is the investor's way in. Whoever has it can use it once, so it is a secret.
type link struct {
	URL       string    `json:"url"`
	Purpose   string    `json:"purpose"`
	ExpiresAt time.Time `json:"expires_at"`
}

// version is one reading's manifest.
type version struct {
	ID             string            `json:"id"`
	Number         int64             `json:"number"`
	RetrievedAt    time.Time         `json:"retrieved_at"`
	ExpiresAt      time.Time         `json:"expires_at"`
	Custodian      string            `json:"custodian"`
	ConsentID      string            `json:"consent_id"`
	Products       map[string]status `json:"products"`
	Reconciliation []reconciliation  `json:"reconciliation"`
}

// reconciliation compares what an account holds with what its bank says it is worth.
type reconciliation struct {
	AccountID  string           `json:"account_id"`
	Currency   string           `json:"currency"`
	Stated     *decimal.Decimal `json:"stated"` // absent where the bank states no value
	Computed   decimal.Decimal  `json:"computed"`
	Difference *decimal.Decimal `json:"difference"`
	Unvalued   int              `json:"unvalued"`
}

type amount struct {
	Value    decimal.Decimal `json:"value"`
	Currency string          `json:"currency"`
}

// origin stands in every record: where its figures came from, and as of when.
type origin struct {
	Source      string    `json:"source"`
	SourceID    string    `json:"source_id"`
	AsOf        string    `json:"as_of"`
	RetrievedAt time.Time `json:"retrieved_at"`
	ConsentID   string    `json:"consent_id"`
}

type account struct {
	origin
	ID       string  `json:"id"`
	Type     string  `json:"type"`
	Name     string  `json:"name"`
	Number   string  `json:"number"`
	IBAN     string  `json:"iban"`
	Currency string  `json:"currency"`
	Value    *amount `json:"value"`
	Owners   []struct {
		Name string `json:"name"`
	} `json:"owners"`
}

type cashBalance struct {
	origin
	AccountID       string  `json:"account_id"`
	Booked          amount  `json:"booked"`
	Available       *amount `json:"available"`
	Margin          *amount `json:"margin"`
	CashInPositions bool    `json:"cash_in_positions"`
}

type security struct {
	Identifiers []struct {
		Scheme string `json:"scheme"`
		Value  string `json:"value"`
	} `json:"identifiers"`
	Name string `json:"name"`
	Kind string `json:"kind"`
	MIC  string `json:"mic"`
	Bond *struct {
		Coupon   string `json:"coupon"`
		Maturity string `json:"maturity"`
	} `json:"bond"`
}

// identifier gives the one of that scheme, or nothing.
func (s *security) identifier(scheme string) string {
	for _, id := range s.Identifiers {
		if id.Scheme == scheme {
			return id.Value
		}
	}
	return ""
}

// ISIN is the security's, or the best identifier that there is.
func (s *security) ISIN() string {
	if isin := s.identifier("ISIN"); isin != "" || len(s.Identifiers) == 0 {
		return isin
	}
	return s.Identifiers[0].Scheme + " " + s.Identifiers[0].Value
}

// Label is the name, or else the identifier.
func (s *security) Label() string {
	if s.Name != "" {
		return s.Name
	}
	return s.ISIN()
}

// price is what one unit costs, or with Percent per cent of face.
type price struct {
	Value    decimal.Decimal `json:"value"`
	Currency string          `json:"currency"`
	Percent  bool            `json:"percent"`
	AsOf     string          `json:"as_of"`
}

type position struct {
	origin
	AccountID string          `json:"account_id"`
	Security  security        `json:"security"`
	Quantity  decimal.Decimal `json:"quantity"`
	Unit      string          `json:"unit"` // units, or face: face value in the price's currency
	Side      string          `json:"side"`
	Price     *price          `json:"price"`
	Value     *amount         `json:"value"`
	Accrued   *amount         `json:"accrued_interest"`
	Cost      *amount         `json:"cost_basis"`
	CostPrice *price          `json:"cost_price"`
	FX        *struct {
		Original amount           `json:"original"`
		Rate     *decimal.Decimal `json:"rate"`
	} `json:"fx"`
}

type transaction struct {
	origin
	AccountID  string           `json:"account_id"`
	Type       string           `json:"type"`
	Subtype    string           `json:"subtype"`
	TradeDate  string           `json:"trade_date"`
	SettleDate string           `json:"settle_date"`
	Pending    bool             `json:"pending"`
	Security   *security        `json:"security"`
	Quantity   *decimal.Decimal `json:"quantity"`
	Price      *price           `json:"price"`
	Gross      *amount          `json:"gross"`
	Fees       *amount          `json:"fees"`
	Tax        *amount          `json:"tax"`
	Net        *amount          `json:"net"`
	Text       string           `json:"text"`
	Cancels    string           `json:"cancels"`
}

// Day is the day to show first.
func (t *transaction) Day() string {
	if t.TradeDate != "" {
		return t.TradeDate
	}
	return t.SettleDate
}

// Amount is what moved: the net amount, or the gross where the bank states no net.
func (t *transaction) Amount() *amount {
	if t.Net != nil {
		return t.Net
	}
	return t.Gross
}

type order struct {
	origin
	AccountID string           `json:"account_id"`
	Security  *security        `json:"security"`
	Side      string           `json:"side"`
	Type      string           `json:"type"`
	State     string           `json:"state"`
	Quantity  decimal.Decimal  `json:"quantity"`
	Filled    *decimal.Decimal `json:"filled"`
	Limit     *price           `json:"limit"`
	Placed    string           `json:"placed"`
	GoodTill  string           `json:"good_till"`
}

type liability struct {
	origin
	AccountID   string           `json:"account_id"`
	Type        string           `json:"type"`
	Outstanding amount           `json:"outstanding"`
	Limit       *amount          `json:"limit"`
	Rate        *decimal.Decimal `json:"rate"`
	Maturity    string           `json:"maturity"`
}
