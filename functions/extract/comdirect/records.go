package comdirect

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// balance is an AccountBalance (clause 4.2.2).
type balance struct {
	AccountID string `json:"accountId"`
	Account   struct {
		ID       string `json:"accountId"`
		Number   string `json:"accountDisplayId"`
		Currency text   `json:"currency"`
		Type     struct {
			Key  string `json:"key"`
			Text string `json:"text"`
		} `json:"accountType"`
		IBAN string `json:"iban"`
	} `json:"account"`
	Balance   *amountValue `json:"balance"`
	Available *amountValue `json:"availableCashAmount"`
}

func (b *balance) id() string {
	if b.AccountID != "" {
		return b.AccountID
	}
	return b.Account.ID
}

// accountTypes are the bank's kinds of account (clause 4.2.1); CA, SA and FX are plain cash, DAS is savings, LLA a
// credit secured by the depot.
var accountTypes = map[string]domain.AccountType{"CA": domain.AccountCash, "SA": domain.AccountCash,
	"FX": domain.AccountCash, "DAS": domain.AccountSavings, "LLA": domain.AccountLoan}

// depot is clause 5.2.1.
type depot struct {
	ID     string `json:"depotId"`
	Number string `json:"depotDisplayId"`
}

func (r *reader) readAccounts(give give) error {
	balances, err := r.allBalances()
	if err != nil {
		return err
	}
	for i := range balances {
		a, err := balances[i].record()
		if err == nil {
			err = give(a)
		}
		if err != nil {
			return err
		}
	}
	depots, err := r.allDepots()
	if err != nil {
		return err
	}
	for _, d := range depots {
		a, err := r.depotAccount(d)
		if err == nil {
			err = give(a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *balance) record() (*domain.Account, error) {
	value, err := b.Balance.money()
	if err != nil {
		return nil, misunderstood(err)
	}
	a := &domain.Account{Provenance: domain.Provenance{SourceID: b.id()}, ID: b.id(), Type: accountTypes[b.Account.Type.Key],
		Name: b.Account.Type.Text, Number: b.Account.Number, IBAN: strings.ReplaceAll(b.Account.IBAN, " ", ""),
		Currency: domain.Currency(b.Account.Currency), Value: value}
	if a.Type == "" {
		a.Type = domain.AccountOther
	}
	if a.Currency == "" && value != nil {
		a.Currency = value.Currency
	}
	if !isCurrency(string(a.Currency)) {
		return nil, misunderstood(errors.New("an account has no currency"))
	}
	return a, nil
}

// depotSum is a DepotAggregation, as far as it is needed.
type depotSum struct {
	Value   *amountValue `json:"currentValue"`
	Updated text         `json:"dateLastUpdate"`
}

// depotAccount is a depot with its value, which the bank states beside the positions (clause 5.1.2).
func (r *reader) depotAccount(d depot) (*domain.Account, error) {
	sum, err := r.depotSum(d)
	if err != nil {
		return nil, err
	}
	value, err := sum.Value.money()
	if err != nil {
		return nil, misunderstood(err)
	}
	a := &domain.Account{Provenance: domain.Provenance{SourceID: d.ID, AsOf: moment(sum.Updated)}, ID: d.ID,
		Type: domain.AccountSecurities, Number: d.Number, Currency: "EUR", Value: value} // the bank keeps depots in euro
	if value != nil {
		a.Currency = value.Currency
	}
	return a, nil
}

// depotSum asks for the sum without the positions. A bank that can list its depots but not this has stated no value:
// the depot is not lost for that, and reading the positions will tell of the failure.
func (r *reader) depotSum(d depot) (depotSum, error) {
	var sum depotSum
	l := list{path: pathDepot + d.ID + "/positions", query: url.Values{"without-attr": {"positions"}}, aggregated: &sum}
	_, err := r.page(&l, 0)
	var refused *refusal
	var f *extraction.Failure
	switch {
	case r.ctx.Err() != nil:
		return sum, err
	case errors.As(err, &refused) && refused.status != http.StatusUnauthorized && refused.status != http.StatusTooManyRequests,
		errors.As(err, &f) && (f.Reason == domain.ReasonBankAnswer || f.Reason == domain.ReasonBankUnavailable):
		return depotSum{}, nil
	}
	return sum, err
}

func (r *reader) readCash(give give) error {
	balances, err := r.allBalances()
	if err != nil {
		return err
	}
	for i := range balances {
		b := &balances[i]
		booked, err := b.Balance.money()
		if err != nil || booked == nil {
			return misunderstood(errors.New("an account has no balance"))
		}
		available, err := b.Available.money()
		if err != nil {
			return misunderstood(err)
		}
		if err := give(&domain.CashBalance{Provenance: domain.Provenance{SourceID: b.id()}, AccountID: b.id(),
			Booked: *booked, Available: available}); err != nil {
			return err
		}
	}
	return nil
}

// eachDepot reads one list of every depot.
func (r *reader) eachDepot(of func(depot) list) error {
	depots, err := r.allDepots()
	if err != nil {
		return err
	}
	for _, d := range depots {
		l := of(d)
		l.more = url.Values{"paging-count": {strconv.Itoa(pageSize)}}
		if err := r.each(l); err != nil {
			return err
		}
	}
	return nil
}

// gives makes of a list's item the record that convert finds in it, and gives that on.
func gives[T any](give give, convert func(*T) (domain.Record, error)) func(jsontext.Value) error {
	return func(raw jsontext.Value) error {
		t, err := record[T](raw)
		if err != nil {
			return err
		}
		rec, err := convert(&t)
		if err != nil {
			return misunderstood(err)
		}
		return give(rec)
	}
}

// instrument is clause 6.2.1, as far as a portfolio shows it.
type instrument struct {
	ID     string `json:"instrumentId"`
	WKN    string `json:"wkn"`
	ISIN   string `json:"isin"`
	Name   string `json:"name"`
	Short  string `json:"shortName"`
	Static struct {
		Notation string `json:"notation"`
		Kind     string `json:"instrumentType"`
	} `json:"staticData"`
	Derivative struct {
		Rate     number       `json:"nominalRate"`
		Maturity text         `json:"maturityDate"`
		Strike   *amountValue `json:"strikePrice"`
		Expiry   text         `json:"expiryDate"`
		Warrant  string       `json:"warrantType"`
		Ratio    number       `json:"multiplier"`
	} `json:"derivativeData"`
}

// securityKinds are those of clause 6.2.2. A PROFIT_PART_CERTIFICATE lies between share and bond, so it is other.
var securityKinds = map[string]domain.SecurityKind{"SHARE": domain.SecurityEquity, "BONDS": domain.SecurityBond,
	"SUBSCRIPTION_RIGHT": domain.SecurityRight, "ETF": domain.SecurityETF, "FUND": domain.SecurityFund,
	"WARRANT": domain.SecurityWarrant, "CERTIFICATE": domain.SecurityCertificate}

// security describes an instrument; wkn and id stand in where the instrument itself is missing.
func (i *instrument) security(wkn, id string) (domain.Security, error) {
	s := domain.Security{Identifiers: []domain.Identifier{}, Kind: domain.SecurityOther}
	if i == nil {
		i = &instrument{}
	}
	isin, wkn := i.ISIN, or(i.WKN, wkn)
	switch { // an order names its instrument as it was entered: by ISIN, by WKN or by the bank's own identifier
	case isinShape.MatchString(id):
		isin, id = or(isin, id), ""
	case len(id) == 6:
		wkn, id = or(wkn, id), ""
	}
	for _, known := range []domain.Identifier{{Scheme: "ISIN", Value: isin}, {Scheme: "WKN", Value: wkn},
		{Scheme: "local", Value: or(i.ID, id)}} {
		if known.Value != "" {
			s.Identifiers = append(s.Identifiers, known)
		}
	}
	s.Name = or(i.Name, i.Short)
	if kind := securityKinds[i.Static.Kind]; kind != "" {
		s.Kind = kind
	}
	var err error
	switch s.Kind {
	case domain.SecurityBond:
		s.Bond, err = i.bond()
	case domain.SecurityWarrant:
		s.Option, err = i.option()
	}
	return s, err
}

var isinShape = domain.NewShape(`^[A-Z]{2}[A-Z0-9]{9}[0-9]$`)

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (i *instrument) bond() (*domain.BondTerms, error) {
	if i.Derivative.Rate == "" && i.Derivative.Maturity == "" {
		return nil, nil
	}
	maturity, err := day(i.Derivative.Maturity)
	if err != nil || i.Derivative.Rate == "" {
		return &domain.BondTerms{Maturity: maturity}, err
	}
	coupon, err := decimalOf(i.Derivative.Rate)
	return &domain.BondTerms{Coupon: coupon, Maturity: maturity}, err
}

// option is a warrant's terms, where the bank gives all of them.
func (i *instrument) option() (*domain.OptionTerms, error) {
	strike, err := i.Derivative.Strike.money()
	if err != nil || strike == nil || i.Derivative.Warrant == "" {
		return nil, nil // a strike in points is no money
	}
	expiry, err := day(i.Derivative.Expiry)
	if err != nil || expiry == "" {
		return nil, err
	}
	terms := &domain.OptionTerms{Type: strings.ToLower(i.Derivative.Warrant), Strike: *strike, Expiry: expiry}
	if i.Derivative.Ratio != "" {
		terms.Multiplier, err = decimalOf(i.Derivative.Ratio)
	}
	return terms, err
}

// percent says whether a price of the instrument is one in per cent of face, where the price's unit does not say:
// its notation does, if the quantity is face value.
func (i *instrument) percent(quantity *amountValue) bool {
	return i != nil && i.Static.Notation == unitPercent && unit(quantity) == domain.UnitFace
}

// unit is what a quantity counts: pieces, or else face value, given in a currency or as a nominal in per cent
// quotation (clause 5.2.2).
func unit(q *amountValue) domain.Unit {
	if q != nil && (isCurrency(q.Unit) || q.Unit == unitPercent || q.Unit == unitPermille) {
		return domain.UnitFace
	}
	return domain.UnitUnits
}

// position is a DepotPosition (clause 5.2.2).
type position struct {
	ID       string       `json:"positionId"`
	WKN      string       `json:"wkn"`
	Quantity *amountValue `json:"quantity"`
	Current  struct {
		Price *amountValue `json:"price"`
		At    text         `json:"priceDateTime"`
	} `json:"currentPrice"`
	PurchasePrice *amountValue `json:"purchasePrice"`
	Value         *amountValue `json:"currentValue"`
	PurchaseValue *amountValue `json:"purchaseValue"`
	Instrument    *instrument  `json:"instrument"`
}

func (r *reader) readPositions(give give) error {
	return r.eachDepot(func(d depot) list {
		known := identifiers{}
		return list{path: pathDepot + d.ID + "/positions", query: url.Values{"with-attr": {"instrument"}},
			item: gives(give, func(p *position) (domain.Record, error) {
				if !known.once(p.ID) {
					return nil, errTwice
				}
				return p.record(d.ID)
			})}
	})
}

func (p *position) record(account string) (domain.Record, error) {
	at := moment(p.Current.At)
	out := &domain.Position{Provenance: domain.Provenance{SourceID: p.ID, AsOf: at}, AccountID: account,
		Unit: unit(p.Quantity), Side: "long"}
	var err error
	if out.Quantity, err = p.Quantity.quantity(); err != nil || out.Quantity == "" || p.ID == "" {
		return nil, errors.New("a position has no identifier or quantity")
	}
	if strings.HasPrefix(string(out.Quantity), "-") {
		out.Side = "short"
	}
	percent := p.Instrument.percent(p.Quantity)
	var errs [5]error
	out.Security, errs[0] = p.Instrument.security(p.WKN, "")
	out.Price, errs[1] = p.Current.Price.price(percent, at)
	out.CostPrice, errs[2] = p.PurchasePrice.price(percent, "")
	out.Value, errs[3] = p.Value.money()
	out.Cost, errs[4] = p.PurchaseValue.money()
	return out, errors.Join(errs[:]...)
}

func (r *reader) readTransactions(give give) error {
	balances, err := r.allBalances()
	if err != nil {
		return err
	}
	for i := range balances {
		if err := r.accountTransactions(balances[i].id(), give); err != nil {
			return err
		}
	}
	return r.eachDepot(func(d depot) list {
		same := repeats{}
		return list{path: pathDepot + d.ID + "/transactions", query: url.Values{"min-bookingDate": {allHistory}},
			item: gives(give, func(t *depotTransaction) (domain.Record, error) { return t.record(d.ID, same) })}
	})
}

// accountTransactions reads what is pending, then what is booked: the bank pages only through the latter. Where an
// account has none it may say so with 404.
func (r *reader) accountTransactions(account string, give give) error {
	for _, state := range []string{"NOTBOOKED", "BOOKED"} {
		same := repeats{}
		extra := url.Values{"paging-count": {strconv.Itoa(pageSize)}}
		if state == "BOOKED" {
			extra.Set("min-bookingDate", allHistory)
		}
		n := 0
		err := r.each(list{path: pathAccounts + account + "/transactions", query: url.Values{"transactionState": {state}},
			extra: extra, item: gives(give, func(t *accountTransaction) (domain.Record, error) {
				n++
				return t.record(account, same)
			})})
		var none *refusal
		if errors.As(err, &none) && none.status == http.StatusNotFound && n == 0 {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// repeats counts records that have no identifier and look the same, so that each gets its own.
type repeats map[string]int

// name makes an identifier of a record's content, the same at every reading.
func (s repeats) name(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(domain.Name(p))
	}
	digest := "sha256-" + hex.EncodeToString(h.Sum(nil)[:16])
	s[digest]++
	if n := s[digest]; n > 1 {
		return digest + "-" + strconv.Itoa(n)
	}
	return digest
}

// holder is an AccountInformation.
type holder struct {
	Name string `json:"holderName"`
}

// accountTransaction is clause 4.2.3.
type accountTransaction struct {
	Reference string       `json:"reference"`
	Status    string       `json:"bookingStatus"`
	Booked    text         `json:"bookingDate"`
	Amount    *amountValue `json:"amount"`
	Remitter  holder       `json:"remitter"`
	Debtor    holder       `json:"debtor"`
	Deptor    holder       `json:"deptor"` // as the machine-readable description has it
	Creditor  holder       `json:"creditor"`
	Valuta    text         `json:"valutaDate"`
	Type      text         `json:"transactionType"`
	Text      string       `json:"remittanceInfo"`
}

func (t *accountTransaction) record(account string, same repeats) (domain.Record, error) {
	net, err := t.Amount.money()
	if err != nil {
		return nil, err
	}
	booked, err := day(t.Booked)
	if err != nil {
		return nil, err
	}
	// A value date that is no date at all is not worth losing the movement for: the specification warns of it.
	settled, _ := day(t.Valuta)
	id := strings.TrimSpace(t.Reference)
	if id == "" {
		amount := amountValue{}
		if t.Amount != nil {
			amount = *t.Amount
		}
		id = same.name(account, string(t.Booked), string(t.Valuta), string(amount.Value), amount.Unit, string(t.Type), t.Text)
	}
	lines := remittance(t.Text)
	// Of the names only the other side's is kept: that of the investor says nothing.
	other := or(t.Remitter.Name, or(t.Debtor.Name, t.Deptor.Name))
	if net != nil && strings.HasPrefix(string(net.Value), "-") {
		other = t.Creditor.Name
	}
	if other != "" {
		lines = append([]string{other}, lines...)
	}
	out := &domain.Transaction{Provenance: domain.Provenance{SourceID: id, AsOf: string(booked)}, AccountID: account,
		Subtype: string(t.Type), TradeDate: booked, SettleDate: settled, Pending: t.Status == "NOTBOOKED", Net: net,
		Text: strings.Join(lines, "\n")}
	out.Type = cashType(string(t.Type), out.Text, net)
	return out, nil
}

// cashType sorts the bank's kinds of movement on an account. Interest and dividends share one kind, which the text
// tells apart if anything does. The cash side of a trade is other: the trade itself stands among the depot's.
func cashType(kind, text string, net *domain.Amount) domain.TransactionType {
	out := net != nil && strings.HasPrefix(string(net.Value), "-")
	kind, text = strings.ToUpper(kind), strings.ToUpper(text)
	pick := func(in, away domain.TransactionType) domain.TransactionType {
		if out {
			return away
		}
		return in
	}
	switch {
	case net == nil:
		return domain.TransactionOther
	case containsAny(kind, "FEE", "GEBÜHR"):
		return domain.TransactionFee
	case containsAny(kind, "TAX", "STEUER"):
		return domain.TransactionTax
	case containsAny(kind, "DIVIDEND", "INTEREST", "ZINSEN"):
		onlyInterest := !strings.Contains(kind, "DIVIDEND")
		switch {
		case !onlyInterest && containsAny(text, "DIVIDEND", "AUSSCHÜTTUNG", "ERTRÄGNIS"):
			return domain.TransactionDividend
		case onlyInterest || containsAny(text, "ZINS", "INTEREST"):
			return domain.TransactionInterest
		}
		return domain.TransactionOther
	case containsAny(kind, "TRANSFER", "STANDING", "ÜBERWEISUNG", "DAUERAUFTRAG"):
		return pick(domain.TransactionTransferIn, domain.TransactionTransferOut)
	case containsAny(kind, "CASH", "ATM", "CARD", "DEBIT", "CHEQUE", "BAR", "KARTE", "LASTSCHRIFT", "SCHECK", "GELDAUTOMAT"):
		return pick(domain.TransactionDeposit, domain.TransactionWithdrawal)
	}
	return domain.TransactionOther
}

const (
	lineRunes   = 35
	maxTextRune = 4000
)

// remittance splits a booking text into its lines of 35 characters. In booked movements each begins with its number
// in two digits (clause 4.2.3); the bank sends them without line breaks.
func remittance(s string) []string {
	s, _ = cutRunes(s, maxTextRune)
	var lines []string
	for part := range strings.SplitSeq(s, "\n") {
		lines = numbered(lines, part)
	}
	kept := lines[:0]
	for _, line := range lines {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			kept = append(kept, line)
		}
	}
	return kept
}

// numbered appends the lines of a part that is numbered throughout, counting on from those before it; another part is
// one line.
func numbered(lines []string, part string) []string {
	all := lines
	for rest := part; rest != ""; {
		line, ok := strings.CutPrefix(rest, twoDigits(len(all)+1))
		if !ok {
			return append(lines, part)
		}
		line, rest = cutRunes(line, lineRunes)
		all = append(all, line)
	}
	return all
}

// cutRunes splits s after its first n characters.
func cutRunes(s string, n int) (head, rest string) {
	for i := range s {
		if n == 0 {
			return s[:i], s[i:]
		}
		n--
	}
	return s, ""
}

func twoDigits(n int) string {
	if n < 10 {
		return "0" + strconv.Itoa(n)
	}
	return strconv.Itoa(n)
}

// depotTransaction is clause 5.2.3.
type depotTransaction struct {
	ID           string       `json:"transactionId"`
	Status       string       `json:"bookingStatus"`
	Booked       text         `json:"bookingDate"`
	Business     text         `json:"businessDate"`
	Settled      text         `json:"settlementDate"`
	Quantity     *amountValue `json:"quantity"`
	InstrumentID string       `json:"instrumentId"`
	Instrument   *instrument  `json:"instrument"`
	Price        *amountValue `json:"executionPrice"`
	Value        *amountValue `json:"transactionValue"`
	Direction    string       `json:"transactionDirection"`
	Type         text         `json:"transactionType"`
}

var depotTypes = map[string]domain.TransactionType{"BUY": domain.TransactionBuy, "SELL": domain.TransactionSell,
	"TRANSFER_IN": domain.TransactionTransferIn, "TRANSFER_OUT": domain.TransactionTransferOut}

func (t *depotTransaction) record(account string, same repeats) (domain.Record, error) {
	out := &domain.Transaction{AccountID: account, Type: depotTypes[string(t.Type)], Subtype: string(t.Type),
		Pending: t.Status == "NOTBOOKED"}
	if out.Type == "" {
		out.Type = domain.TransactionOther
		out.Subtype = strings.Trim(out.Subtype+" "+t.Direction, " ")
	}
	var errs [7]error
	var booked, business domain.Date
	booked, errs[0] = day(t.Booked)
	business, errs[1] = day(t.Business)
	out.SettleDate, errs[2] = day(t.Settled)
	out.Quantity, errs[3] = t.Quantity.quantity()
	out.Price, errs[4] = t.Price.price(t.Instrument.percent(t.Quantity), "")
	out.Gross, errs[5] = t.Value.money()
	var security domain.Security
	security, errs[6] = t.Instrument.security("", t.InstrumentID)
	if len(security.Identifiers) > 0 {
		out.Security = &security
	}
	out.TradeDate = domain.Date(or(string(business), string(booked)))
	id := strings.TrimSpace(t.ID)
	if id == "" {
		value := amountValue{}
		if t.Value != nil {
			value = *t.Value
		}
		id = same.name(account, string(t.Booked), string(t.Business), string(out.Quantity), string(value.Value), value.Unit,
			string(t.Type), t.InstrumentID)
	}
	out.Provenance = domain.Provenance{SourceID: id, AsOf: or(string(booked), string(business))}
	return out, errors.Join(errs[:]...)
}

// order is clause 7.2.3. One Cancels Other and Next Order are made of sub-orders, each an order of its own.
type order struct {
	ID           string       `json:"orderId"`
	Created      text         `json:"creationTimestamp"`
	Leg          int          `json:"legNumber"`
	Type         string       `json:"orderType"`
	Status       string       `json:"orderStatus"`
	Side         string       `json:"side"`
	InstrumentID string       `json:"instrumentId"`
	Instrument   *instrument  `json:"instrument"`
	Quantity     *amountValue `json:"quantity"`
	Executed     *amountValue `json:"executedQuantity"`
	Limit        *amountValue `json:"limit"`
	Trigger      *amountValue `json:"triggerLimit"`
	Validity     text         `json:"validity"`
	Parts        []order      `json:"subOrders"`
}

func (r *reader) readOrders(give give) error {
	return r.eachDepot(func(d depot) list {
		known := identifiers{}
		return list{path: pathOrders + d.ID + "/v3/orders", query: url.Values{"with-attr": {"instrument"}},
			item: func(raw jsontext.Value) error {
				o, err := record[order](raw)
				if err != nil {
					return err
				}
				if !known.once(o.ID) {
					return misunderstood(errTwice)
				}
				for _, single := range o.singles() {
					rec, err := single.record(d.ID)
					if err != nil {
						return misunderstood(err)
					}
					if err := give(rec); err != nil {
						return err
					}
				}
				return nil
			}}
	})
}

// singles are the orders that o is made of. What a part leaves out it has from the whole.
func (o *order) singles() []order {
	if len(o.Parts) == 0 {
		return []order{*o}
	}
	var all []order
	for i, part := range o.Parts {
		if part.ID == "" || part.ID == o.ID {
			part.ID = o.ID + "/" + strconv.Itoa(i+1)
		}
		part.Created, part.Status = text(or(string(part.Created), string(o.Created))), or(part.Status, o.Status)
		part.Side, part.InstrumentID = or(part.Side, o.Side), or(part.InstrumentID, o.InstrumentID)
		if part.Instrument == nil {
			part.Instrument = o.Instrument
		}
		if part.Quantity == nil {
			part.Quantity = o.Quantity
		}
		part.Parts = nil // the specification nests no deeper
		all = append(all, part)
	}
	return all
}

func (o *order) record(account string) (domain.Record, error) {
	out := &domain.Order{Provenance: domain.Provenance{SourceID: o.ID}, AccountID: account, Side: strings.ToLower(o.Side),
		Type: strings.ToLower(o.Type), State: strings.ToLower(o.Status), Placed: moment(o.Created)}
	limit := o.Limit
	if !limit.given() {
		limit = o.Trigger // a stop order has no other
	}
	var errs [5]error
	var security domain.Security
	security, errs[0] = o.Instrument.security("", o.InstrumentID)
	out.Quantity, errs[1] = o.Quantity.quantity()
	out.Filled, errs[2] = o.Executed.quantity()
	out.Limit, errs[3] = limit.price(o.Instrument.percent(o.Quantity), "")
	var till domain.Date
	till, errs[4] = day(o.Validity)
	out.GoodTill = string(till)
	if len(security.Identifiers) > 0 {
		out.Security = &security
	}
	if o.ID == "" || out.Quantity == "" {
		errs[0] = errors.New("an order has no identifier or quantity")
	}
	return out, errors.Join(errs[:]...)
}
