package domain

// Product is one kind of data that a consent may cover.
type Product string

const (
	ProductAccounts     Product = "accounts"
	ProductCash         Product = "cash"
	ProductPositions    Product = "positions"
	ProductTransactions Product = "transactions"
	ProductOrders       Product = "orders"
	ProductLiabilities  Product = "liabilities"
)

// Products lists every product in the order in which they are read.
var Products = []Product{ProductAccounts, ProductCash, ProductPositions, ProductTransactions, ProductOrders, ProductLiabilities}

// ProductStatus says whether a reading has all of one product. An empty list never hides a failure.
type ProductStatus struct {
	State  ProductState `json:"state"`
	Reason Reason       `json:"reason,omitempty"` // with ProductFailed
	Count  int          `json:"count"`
	Saved  bool         `json:"saved"` // false where the saving scope is none
	Parts  []string     `json:"parts,omitempty"`
}

// ProductState is complete, empty, failed or not_consented.
type ProductState string

const (
	ProductComplete     ProductState = "complete"
	ProductEmpty        ProductState = "empty"
	ProductFailed       ProductState = "failed"
	ProductNotConsented ProductState = "not_consented"
)

// Portfolio is one version of what was read in one session. Its records lie in encrypted Parts, which versions share
// where nothing changed.
type Portfolio struct {
	ID           PortfolioID               `json:"id"`
	ClientID     ClientID                  `json:"client_id"`
	ConsentID    ConsentID                 `json:"consent_id"`
	ConnectionID ConnectionID              `json:"connection_id"`
	SessionID    SessionID                 `json:"session_id"`
	Custodian    CustodianID               `json:"custodian"`
	Number       int64                     `json:"number"` // 1, 2, 3 … of the connection
	Products     map[Product]ProductStatus `json:"products"`
	Summary      []byte                    `json:"summary,omitempty"`      // []Reconciliation as JSON, sealed under the connection's keyset
	SummaryMark  string                    `json:"summary_mark,omitempty"` // keyed digest of the summary, so that an unchanged one is kept
	RetrievedAt  Time                      `json:"retrieved_at"`
	ExpiresAt    Time                      `json:"expires_at,omitzero"` // where the saving scope ends its life
	LetGo        []string                  `json:"let_go,omitempty"`    // parts that the saving scope took from it: deleted, unless a living version names them
	SweepAt      Time                      `json:"sweep_at,omitzero"`   // when sweep looks at it: at once where it let parts go, or else when it ends
}

func (*Portfolio) Kind() DocumentKind { return "portfolio" }
func (p *Portfolio) Key() string      { return string(p.ID) }

// Part is up to MaxPartRecords records of one product, as gzipped JSON lines sealed under the connection's keyset.
// Its key is a keyed digest of its content, so that an unchanged part is never written twice.
type Part struct {
	ID           string       `json:"id"`
	ClientID     ClientID     `json:"client_id"`
	ConsentID    ConsentID    `json:"consent_id"`
	ConnectionID ConnectionID `json:"connection_id"`
	Product      Product      `json:"product"`
	Count        int          `json:"count"`
	Sealed       []byte       `json:"sealed"`
	CreatedAt    Time         `json:"created_at"`
}

func (*Part) Kind() DocumentKind { return "part" }
func (p *Part) Key() string      { return p.ID }

// Limits of a Part: Firestore takes documents of up to 1 MiB.
const (
	MaxPartRecords = 1000
	MaxPartBytes   = 512 << 10 // of JSON lines, before compression
)

// Decimal is an exact number in plain notation, for example "-12.50". It is never a float.
type Decimal string

var decimalShape = NewShape(`^-?(0|[1-9][0-9]{0,29})(\.[0-9]{1,18})?$`)

// Valid says whether d is plain decimal notation with at most 30 digits before and 18 after the point.
func (d Decimal) Valid() bool { return decimalShape.MatchString(string(d)) }

// Currency is an ISO 4217 code.
type Currency string

// Date is a calendar day, YYYY-MM-DD.
type Date string

// Amount is money.
type Amount struct {
	Value    Decimal  `json:"value"`
	Currency Currency `json:"currency"`
}

// Provenance stands in every record: where a figure came from and as of when.
type Provenance struct {
	Source      CustodianID `json:"source"`
	SourceID    string      `json:"source_id"`       // the custodian's own identifier
	AsOf        string      `json:"as_of,omitempty"` // RFC 3339 time or date, as the custodian states it
	RetrievedAt Time        `json:"retrieved_at"`    // set when read back: the version's
	ConsentID   ConsentID   `json:"consent_id"`      // set when read back: the version's
}

// Record is one line of a portfolio: *Account, *CashBalance, *Position, *Transaction, *Order or *Liability.
type Record interface {
	Product() Product
	// Origin gives the record's provenance to be read or filled in.
	Origin() *Provenance
}

// Account is a cash account, a depot (securities account) or the like. Names follow FDX and OFX.
type Account struct {
	Provenance
	ID       string      `json:"id"` // acc_…, the same after every reconnect
	Type     AccountType `json:"type"`
	Name     string      `json:"name,omitempty"`
	Number   string      `json:"number,omitempty"`
	IBAN     string      `json:"iban,omitempty"`
	Currency Currency    `json:"currency"`
	Value    *Amount     `json:"value,omitempty"` // as the custodian states it
	Managed  *bool       `json:"managed,omitempty"`
	Owners   []Party     `json:"owners,omitempty"`
}

// AccountType is the kind of an account.
type AccountType string

const (
	AccountCash       AccountType = "cash"
	AccountSavings    AccountType = "savings"
	AccountSecurities AccountType = "securities"
	AccountCard       AccountType = "card"
	AccountLoan       AccountType = "loan"
	AccountOther      AccountType = "other"
)

// Party is a person or company that owns an account.
type Party struct {
	Name string `json:"name"`
	Role string `json:"role,omitempty"`
}

// CashBalance is the money on an account.
type CashBalance struct {
	Provenance
	AccountID       string  `json:"account_id"`
	Booked          Amount  `json:"booked"`
	Available       *Amount `json:"available,omitempty"`
	Margin          *Amount `json:"margin,omitempty"`
	CashInPositions bool    `json:"cash_in_positions"` // true where positions contain this money too: do not add both
}

// Security is what a position or transaction is in.
type Security struct {
	Identifiers []Identifier `json:"identifiers"`
	Name        string       `json:"name,omitempty"`
	MIC         string       `json:"mic,omitempty"` // ISO 10383
	CFI         string       `json:"cfi,omitempty"` // ISO 10962
	Kind        SecurityKind `json:"kind"`
	Option      *OptionTerms `json:"option,omitempty"`
	Bond        *BondTerms   `json:"bond,omitempty"`
}

// Identifier names a security in a scheme: ISIN, WKN, VALOR, SEDOL, CUSIP, FIGI or local.
type Identifier struct {
	Scheme string `json:"scheme"`
	Value  string `json:"value"`
}

// SecurityKind is a coarse asset class.
type SecurityKind string

const (
	SecurityEquity      SecurityKind = "equity"
	SecurityFund        SecurityKind = "fund"
	SecurityETF         SecurityKind = "etf"
	SecurityBond        SecurityKind = "bond"
	SecurityOption      SecurityKind = "option"
	SecurityFuture      SecurityKind = "future"
	SecurityCertificate SecurityKind = "certificate"
	SecurityWarrant     SecurityKind = "warrant"
	SecurityRight       SecurityKind = "right"
	SecurityCommodity   SecurityKind = "commodity"
	SecurityCrypto      SecurityKind = "crypto"
	SecurityOther       SecurityKind = "other"
)

// OptionTerms are an option's.
type OptionTerms struct {
	Underlying string  `json:"underlying,omitempty"`
	Type       string  `json:"type"` // call or put
	Strike     Amount  `json:"strike"`
	Expiry     Date    `json:"expiry"`
	Multiplier Decimal `json:"multiplier,omitempty"`
}

// BondTerms are a bond's.
type BondTerms struct {
	Coupon   Decimal `json:"coupon,omitempty"` // per cent a year
	Maturity Date    `json:"maturity,omitempty"`
}

// Position is a holding. One ISIN in two currencies is two positions.
type Position struct {
	Provenance
	AccountID string   `json:"account_id"`
	Security  Security `json:"security"`
	Quantity  Decimal  `json:"quantity"`
	Unit      Unit     `json:"unit"`
	Side      string   `json:"side"` // long or short
	Price     *Price   `json:"price,omitempty"`
	Value     *Amount  `json:"value,omitempty"`
	Accrued   *Amount  `json:"accrued_interest,omitempty"`
	Cost      *Amount  `json:"cost_basis,omitempty"` // what the whole position cost
	CostPrice *Price   `json:"cost_price,omitempty"` // what one unit cost; never mistake it for Price
	FX        *FX      `json:"fx,omitempty"`
	Lots      []TaxLot `json:"lots,omitempty"`
}

// Unit is what a quantity counts.
type Unit string

const (
	UnitUnits Unit = "units"
	UnitFace  Unit = "face" // face value in the price's currency: bonds, whose price is in per cent
)

// Price is what one unit costs, or per cent of face.
type Price struct {
	Value    Decimal  `json:"value"`
	Currency Currency `json:"currency,omitempty"` // empty with Percent
	Percent  bool     `json:"percent"`            // per cent of face
	AsOf     string   `json:"as_of,omitempty"`
}

// FX says in which currency the original value was, and at which rate it was converted.
type FX struct {
	Original Amount  `json:"original"`
	Rate     Decimal `json:"rate,omitempty"` // account currency per unit of the original currency
}

// TaxLot is one purchase within a position.
type TaxLot struct {
	Acquired Date    `json:"acquired"`
	Quantity Decimal `json:"quantity"`
	Cost     *Amount `json:"cost,omitempty"`
}

// Transaction is a movement on an account.
type Transaction struct {
	Provenance
	AccountID  string          `json:"account_id"`
	Type       TransactionType `json:"type"`
	Subtype    string          `json:"subtype,omitempty"` // the custodian's own word
	TradeDate  Date            `json:"trade_date,omitempty"`
	SettleDate Date            `json:"settle_date,omitempty"`
	Pending    bool            `json:"pending"`
	Security   *Security       `json:"security,omitempty"`
	Quantity   Decimal         `json:"quantity,omitempty"`
	Price      *Price          `json:"price,omitempty"`
	Gross      *Amount         `json:"gross,omitempty"`
	Fees       *Amount         `json:"fees,omitempty"`
	Tax        *Amount         `json:"tax,omitempty"`
	Net        *Amount         `json:"net,omitempty"`
	Text       string          `json:"text,omitempty"`
	Cancels    string          `json:"cancels,omitempty"` // source_id of the transaction that this one undoes
}

// TransactionType is a coarse kind of movement.
type TransactionType string

const (
	TransactionBuy         TransactionType = "buy"
	TransactionSell        TransactionType = "sell"
	TransactionDividend    TransactionType = "dividend"
	TransactionInterest    TransactionType = "interest"
	TransactionFee         TransactionType = "fee"
	TransactionTax         TransactionType = "tax"
	TransactionTransferIn  TransactionType = "transfer_in"
	TransactionTransferOut TransactionType = "transfer_out"
	TransactionDeposit     TransactionType = "deposit"
	TransactionWithdrawal  TransactionType = "withdrawal"
	TransactionOther       TransactionType = "other"
)

// Order is an instruction to trade that the investor gave the custodian. We only read it.
type Order struct {
	Provenance
	AccountID string    `json:"account_id"`
	Security  *Security `json:"security,omitempty"`
	Side      string    `json:"side"` // buy or sell
	Type      string    `json:"type"` // market, limit, stop, …
	State     string    `json:"state"`
	Quantity  Decimal   `json:"quantity"`
	Filled    Decimal   `json:"filled,omitempty"`
	Limit     *Price    `json:"limit,omitempty"`
	Placed    string    `json:"placed,omitempty"`
	GoodTill  string    `json:"good_till,omitempty"`
}

// Liability is money owed: a loan, a mortgage, a Lombard credit.
type Liability struct {
	Provenance
	AccountID   string  `json:"account_id"`
	Type        string  `json:"type"`
	Outstanding Amount  `json:"outstanding"`
	Limit       *Amount `json:"limit,omitempty"`
	Rate        Decimal `json:"rate,omitempty"` // per cent a year
	Maturity    Date    `json:"maturity,omitempty"`
}

func (p *Provenance) Origin() *Provenance { return p }
func (*Account) Product() Product         { return ProductAccounts }
func (*CashBalance) Product() Product     { return ProductCash }
func (*Position) Product() Product        { return ProductPositions }
func (*Transaction) Product() Product     { return ProductTransactions }
func (*Order) Product() Product           { return ProductOrders }
func (*Liability) Product() Product       { return ProductLiabilities }

// Reconciliation compares what an account holds with what its custodian says it is worth. The difference is
// reported, never hidden.
type Reconciliation struct {
	AccountID  string   `json:"account_id"`
	Currency   Currency `json:"currency"`
	Stated     *Decimal `json:"stated,omitempty"` // absent where the custodian states no value
	Computed   Decimal  `json:"computed"`         // positions and cash
	Difference *Decimal `json:"difference,omitempty"`
	Unvalued   int      `json:"unvalued"` // positions left out, for they have no value or another currency
}
