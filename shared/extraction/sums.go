package extraction

import (
	"errors"
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

// maxAccounts bounds what is kept in memory, and the summary, which lies in the version's manifest of at most 1 MiB.
const maxAccounts = 5000

func newSums() *sums { return &sums{accounts: map[string]*sum{}} }

func (s *sums) of(account string) (*sum, error) {
	if s.accounts[account] == nil {
		if len(s.accounts) >= maxAccounts {
			return nil, &Failure{Reason: domain.ReasonBankAnswer, Err: errors.New("more accounts than a version holds")}
		}
		s.accounts[account] = &sum{values: map[domain.Currency]decimal.Decimal{}, cash: map[domain.Currency]decimal.Decimal{},
			counted: map[domain.Currency]int{}}
	}
	return s.accounts[account], nil
}

func (s *sums) add(record domain.Record) error {
	s.records++
	var t *sum
	var err error
	switch v := record.(type) {
	case *domain.Account:
		if t, err = s.of(v.ID); err == nil {
			t.account = v
			err = isAmount(v.Value)
		}
	case *domain.CashBalance:
		if t, err = s.of(v.AccountID); err == nil {
			t.inside = t.inside || v.CashInPositions
			err = sumUp(t.cash, &v.Booked)
		}
	case *domain.Position:
		if t, err = s.of(v.AccountID); err != nil {
			break
		}
		if v.Value == nil {
			t.counted[""]++
			break
		}
		t.counted[v.Value.Currency]++
		err = sumUp(t.values, v.Value)
	}
	return err
}

var currencyShape = domain.NewShape(`^[A-Z]{3}$`)

// isAmount refuses what is no amount: a sum that left it out would be wrong, and a number such as 1e999999999 would
// fill the memory.
func isAmount(a *domain.Amount) error {
	if a != nil && (!a.Value.Valid() || !currencyShape.MatchString(string(a.Currency))) {
		return &Failure{Reason: domain.ReasonBankAnswer, Err: errors.New("a record's amount is none")}
	}
	return nil
}

func sumUp(to map[domain.Currency]decimal.Decimal, a *domain.Amount) error {
	if err := isAmount(a); err != nil {
		return err
	}
	to[a.Currency] = to[a.Currency].Add(number(a.Value))
	return nil
}

// number is a decimal that isAmount let pass.
func number(d domain.Decimal) decimal.Decimal {
	n, _ := decimal.NewFromString(string(d))
	return n
}

// reconcile compares each account whose parts were all read. Where positions or cash failed or were not consented to,
// there is nothing honest to compare; where the saving scope keeps one of them out of the store, its sum stays out too.
func (s *sums) reconcile(status map[domain.Product]domain.ProductStatus) []domain.Reconciliation {
	out := []domain.Reconciliation{}
	if !known(status[domain.ProductAccounts]) || !known(status[domain.ProductPositions]) || !known(status[domain.ProductCash]) {
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
	return p.Saved && (p.State == domain.ProductComplete || p.State == domain.ProductEmpty)
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
