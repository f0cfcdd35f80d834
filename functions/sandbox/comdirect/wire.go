package comdirect

import "strconv"

// The shapes of chapters 3.4, 4.2, 5.2, 6.2 and 7.2 that a reader meets. A pointer is null where the bank has nothing.

type amountValue struct {
	Value string `json:"value"`
	Unit  string `json:"unit"`
}

type enumText struct {
	Key  string `json:"key"`
	Text string `json:"text"`
}

type paging struct {
	Index   int `json:"index"`
	Matches int `json:"matches"`
}

type wireAccount struct {
	AccountID   string       `json:"accountId"`
	DisplayID   string       `json:"accountDisplayId"`
	Currency    string       `json:"currency"`
	ClientID    string       `json:"clientId"`
	AccountType enumText     `json:"accountType"`
	IBAN        *string      `json:"iban"`
	CreditLimit *amountValue `json:"creditLimit"`
}

type wireBalance struct {
	Account      *wireAccount `json:"account,omitempty"`
	AccountID    string       `json:"accountId"`
	Balance      amountValue  `json:"balance"`
	BalanceEUR   amountValue  `json:"balanceEUR"`
	Available    amountValue  `json:"availableCashAmount"`
	AvailableEUR amountValue  `json:"availableCashAmountEUR"`
}

type wireParty struct {
	HolderName string  `json:"holderName"`
	IBAN       *string `json:"iban"`
	BIC        *string `json:"bic"`
}

type wireTransaction struct {
	Reference     string       `json:"reference"`
	BookingStatus string       `json:"bookingStatus"`
	BookingDate   *string      `json:"bookingDate"`
	Amount        *amountValue `json:"amount"`
	Remitter      *wireParty   `json:"remitter"`
	Debtor        *wireParty   `json:"deptor"` // as swagger.json spells it
	Creditor      *wireParty   `json:"creditor"`
	ValutaDate    string       `json:"valutaDate"`
	CreditorID    *string      `json:"directDebitCreditorId"`
	MandateID     *string      `json:"directDebitMandateId"`
	EndToEnd      *string      `json:"endToEndReference"`
	New           bool         `json:"newTransaction"`
	Remittance    string       `json:"remittanceInfo"`
	Type          *enumText    `json:"transactionType"`
}

type wireTransactionAggregate struct {
	Account           *wireAccount `json:"account"`
	AccountID         string       `json:"accountId"`
	LatestBookingDate *string      `json:"bookingDateLatestTransaction"`
	LatestReference   *string      `json:"referenceLatestTransaction"`
}

type wireDepot struct {
	DepotID     string   `json:"depotId"`
	DisplayID   string   `json:"depotDisplayId"`
	ClientID    string   `json:"clientId"`
	Settlement  string   `json:"defaultSettlementAccountId"`
	Settlements []string `json:"settlementAccountIds"`
}

type wirePrice struct {
	Price amountValue  `json:"price"`
	Type  string       `json:"type"`
	Of    *amountValue `json:"quantity"`
	At    string       `json:"priceDateTime"`
}

type wirePosition struct {
	DepotID     string          `json:"depotId"`
	PositionID  string          `json:"positionId"`
	WKN         string          `json:"wkn"`
	Custody     string          `json:"custodyType"`
	Quantity    amountValue     `json:"quantity"`
	Available   amountValue     `json:"availableQuantity"`
	Price       *wirePrice      `json:"currentPrice"`
	Bought      *amountValue    `json:"purchasePrice"`
	PrevPrice   *wirePrice      `json:"prevDayPrice"`
	Value       *amountValue    `json:"currentValue"`
	Cost        *amountValue    `json:"purchaseValue"`
	PrevValue   *amountValue    `json:"prevDayValue"`
	GainAbs     *amountValue    `json:"profitLossPurchaseAbs"`
	GainRel     *string         `json:"profitLossPurchaseRel"`
	PrevGainAbs *amountValue    `json:"profitLossPrevDayAbs"`
	PrevGainRel *string         `json:"profitLossPrevDayRel"`
	Instrument  *wireInstrument `json:"instrument,omitempty"`
	Version     *string         `json:"version"`
}

type wireDepotAggregate struct {
	Depot       *wireDepot   `json:"depot,omitempty"`
	DepotID     string       `json:"depotId"`
	UpdatedOn   string       `json:"dateLastUpdate"`
	Value       amountValue  `json:"currentValue"`
	Cost        amountValue  `json:"purchaseValue"`
	PrevValue   amountValue  `json:"prevDayValue"`
	Lending     *amountValue `json:"lendingValue"`
	GainAbs     amountValue  `json:"profitLossPurchaseAbs"`
	GainRel     string       `json:"profitLossPurchaseRel"`
	PrevGainAbs amountValue  `json:"profitLossPrevDayAbs"`
	PrevGainRel string       `json:"profitLossPrevDayRel"`
}

type wireInstrument struct {
	InstrumentID string          `json:"instrumentId"`
	WKN          string          `json:"wkn"`
	ISIN         string          `json:"isin"`
	Mnemonic     *string         `json:"mnemonic"`
	Name         string          `json:"name"`
	ShortName    string          `json:"shortName"`
	Static       *wireStatic     `json:"staticData,omitempty"`
	Derivative   *wireDerivative `json:"derivativeData,omitempty"`
}

type wireStatic struct {
	Notation string `json:"notation"`
	Currency string `json:"currency"`
	Type     string `json:"instrumentType"`
	PRIIPs   bool   `json:"priipsRelevant"`
	KID      bool   `json:"kidAvailable"`
	Waiver   bool   `json:"shippingWaiverRequired"`
	Limited  bool   `json:"fundRedemptionLimited"`
}

type wireDerivative struct {
	NominalRate  string `json:"nominalRate"`
	MaturityDate string `json:"maturityDate"`
	Interval     string `json:"interestPaymentInterval"`
}

type wireTrade struct {
	TransactionID string          `json:"transactionId"`
	BookingStatus string          `json:"bookingStatus"`
	BookingDate   *string         `json:"bookingDate"`
	Settlement    *string         `json:"settlementDate"`
	BusinessDate  string          `json:"businessDate"`
	Quantity      amountValue     `json:"quantity"`
	InstrumentID  string          `json:"instrumentId"`
	Instrument    *wireInstrument `json:"instrument,omitempty"`
	Price         *amountValue    `json:"executionPrice"`
	Value         amountValue     `json:"transactionValue"`
	Direction     string          `json:"transactionDirection"`
	Type          string          `json:"transactionType"`
	FX            *wireFX         `json:"fxRate"`
}

type wireFX struct {
	Bid amountValue `json:"bid"`
	Ask amountValue `json:"ask"`
}

type wireOrder struct {
	DepotID      string          `json:"depotId"`
	SettlementID *string         `json:"settlementAccountId"`
	OrderID      string          `json:"orderId"`
	CreatedAt    string          `json:"creationTimestamp"`
	LegNumber    *int            `json:"legNumber"`
	BestEx       bool            `json:"bestEx"`
	OrderType    string          `json:"orderType"`
	OrderStatus  string          `json:"orderStatus"`
	SubOrders    []wireOrder     `json:"subOrders"`
	Side         string          `json:"side"`
	InstrumentID string          `json:"instrumentId"`
	Instrument   *wireInstrument `json:"instrument,omitempty"`
	VenueID      string          `json:"venueId"`
	Quantity     amountValue     `json:"quantity"`
	Open         amountValue     `json:"openQuantity"`
	Cancelled    amountValue     `json:"cancelledQuantity"`
	Executed     amountValue     `json:"executedQuantity"`
	Limit        *amountValue    `json:"limit"`
	TriggerLimit *amountValue    `json:"triggerLimit"`
	ValidityType *string         `json:"validityType"`
	Validity     *string         `json:"validity"`
	Expected     *amountValue    `json:"expectedValue"`
	Executions   []wireExecution `json:"executions,omitempty"`
}

type wireExecution struct {
	ExecutionID string      `json:"executionId"`
	Number      int         `json:"executionNumber"`
	Quantity    amountValue `json:"executedQuantity"`
	Price       amountValue `json:"executionPrice"`
	At          string      `json:"executionTimestamp"`
}

func money(v int64, currency string) amountValue { return amountValue{cents(v), currency} }

func euro(v int64) amountValue { return money(v, "EUR") }

// quantity is units (XXX) or, for what is priced in per cent, face value in its currency (chapter 5.2.2).
func (s security) amount(v int64) amountValue {
	if s.percent {
		return amountValue{fixed(v, 3, 2), s.currency}
	}
	return amountValue{fixed(v, 3, 0), "XXX"}
}

func (s security) quote(price int64) amountValue { return amountValue{fixed(price, 4, 2), s.unit()} }

// ratio is part as per cent of whole, with two decimals.
func ratio(part, whole int64) string {
	if whole == 0 {
		return "0.0"
	}
	return fixed(part*10_000/whole, 2, 1)
}

func some[T any](v T) *T { return &v }

func (s security) wire() *wireInstrument {
	packaged := s.kind != "SHARE" && s.kind != "BONDS"
	w := &wireInstrument{InstrumentID: s.id(), WKN: s.wkn, ISIN: s.isin, Name: s.name, ShortName: s.short,
		Static: &wireStatic{Notation: "XXX", Currency: s.currency, Type: s.kind, PRIIPs: packaged, KID: packaged}}
	if s.symbol != "" {
		w.Mnemonic = &s.symbol
	}
	if s.percent {
		w.Static.Notation = s.unit()
		w.Derivative = &wireDerivative{NominalRate: s.coupon, MaturityDate: s.maturity, Interval: "ANNUALLY"}
	}
	return w
}

func version(h holding) *string { return some(strconv.FormatInt(h.quantity, 36)) }
