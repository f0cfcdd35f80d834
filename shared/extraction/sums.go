package extraction

import (
	"maps"
	"slices"

	"github.com/shopspring/decimal"

	"sluis.internal/shared/domain"
)

// sums adds up what each account holds, to compare it with what the custodian says the account is worth.
type sums struct {
	records  int
	accounts map[string]*sum
}

type sum struct {
	account *domain.Account
	values  map[domain.Currency]decimal.Decimal
	cash    map[domain.Currency]decimal.Decimal
	inside  bool                    // positions contain the cash
	counted map[domain.Currency]int // positions by the currency of their value; "" where they have none
}

func newSums() *sums { return &sums{accounts: map[string]*sum{}} }

func (s *sums) of(account string) *sum {
	if s.accounts[account] == nil {
		s.accounts[account] = &sum{values: map[domain.Currency]decimal.Decimal{}, cash: map[domain.Currency]decimal.Decimal{},
			counted: map[domain.Currency]int{}}
	}
	return s.accounts[account]
}

func (s *sums) add(record domain.Record) {
	s.records++
	switch v := record.(type) {
	case *domain.Account:
		s.of(v.ID).account = v
	case *domain.CashBalance:
		t := s.of(v.AccountID)
		t.inside = t.inside || v.CashInPositions
		t.cash[v.Booked.Currency] = t.cash[v.Booked.Currency].Add(number(v.Booked.Value))
	case *domain.Position:
		t := s.of(v.AccountID)
		if v.Value == nil {
			t.counted[""]++
			return
		}
		t.values[v.Value.Currency] = t.values[v.Value.Currency].Add(number(v.Value.Value))
		t.counted[v.Value.Currency]++
	}
}

// number reads a decimal; what is not one counts as nothing, for the records were checked before.
func number(d domain.Decimal) decimal.Decimal {
	n, err := decimal.NewFromString(string(d))
	if err != nil {
		return decimal.Zero
	}
	return n
}

// reconcile compares each account whose parts were all read. Where positions or cash failed or were not consented to,
// there is nothing honest to compare.
func (s *sums) reconcile(status map[domain.Product]domain.ProductStatus) []domain.Reconciliation {
	out := []domain.Reconciliation{}
	if !known(status[domain.ProductPositions]) || !known(status[domain.ProductCash]) {
		return out
	}
	for _, id := range slices.Sorted(maps.Keys(s.accounts)) {
		if t := s.accounts[id]; t.account != nil {
			out = append(out, t.reconcile(id))
		}
	}
	return out
}

func known(p domain.ProductStatus) bool {
	return p.State == domain.ProductComplete || p.State == domain.ProductEmpty
}

func (t *sum) reconcile(id string) domain.Reconciliation {
	currency := t.account.Currency
	if t.account.Value != nil {
		currency = t.account.Value.Currency
	}
	total := t.values[currency]
	if !t.inside {
		total = total.Add(t.cash[currency])
	}
	r := domain.Reconciliation{AccountID: id, Currency: currency, Computed: domain.Decimal(total.String())}
	for c, n := range t.counted {
		if c != currency {
			r.Unvalued += n
		}
	}
	if t.account.Value != nil {
		stated := t.account.Value.Value
		difference := domain.Decimal(number(stated).Sub(total).String())
		r.Stated, r.Difference = &stated, &difference
	}
	return r
}
