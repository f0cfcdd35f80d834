package extraction_test

import (
	"fmt"
	"testing"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

func amount(value string, currency domain.Currency) *domain.Amount {
	return &domain.Amount{Value: domain.Decimal(value), Currency: currency}
}

func depot(value *domain.Amount) *domain.Account {
	return &domain.Account{ID: "depot", Type: domain.AccountSecurities, Currency: "EUR", Value: value}
}

func position(value *domain.Amount) *domain.Position {
	return &domain.Position{AccountID: "depot", Quantity: "1", Unit: domain.UnitUnits, Side: "long", Value: value}
}

func cash(value string, currency domain.Currency, inside bool) *domain.CashBalance {
	return &domain.CashBalance{AccountID: "depot", Booked: *amount(value, currency), CashInPositions: inside}
}

func TestReconciliation(t *testing.T) {
	t.Parallel()
	bond := position(amount("9876.54", "EUR")) // its value is not quantity times price: that one is per cent
	bond.Quantity, bond.Unit, bond.Price, bond.Accrued = "10000", domain.UnitFace, &domain.Price{Value: "98.7654", Percent: true}, amount("12.34", "EUR")
	for _, c := range []struct {
		name    string
		records []domain.Record
		want    string // currency stated computed difference unvalued, of each account
	}{
		{"adds up", []domain.Record{depot(amount("30.03", "EUR")), position(amount("10.01", "EUR")), position(amount("20.02", "EUR"))}, "EUR 30.03 30.03 0 0"},
		{"differs", []domain.Record{depot(amount("30", "EUR")), position(amount("10.01", "EUR"))}, "EUR 30 10.01 19.99 0"},
		{"bond", []domain.Record{depot(amount("9876.54", "EUR")), bond}, "EUR 9876.54 9876.54 0 0"},
		{"with cash", []domain.Record{depot(amount("15", "EUR")), position(amount("10", "EUR")), cash("5", "EUR", false)}, "EUR 15 15 0 0"},
		{"cash among the positions", []domain.Record{depot(amount("15", "EUR")), position(amount("10", "EUR")), position(amount("5", "EUR")), cash("5", "EUR", true)}, "EUR 15 15 0 0"},
		{"another currency", []domain.Record{depot(amount("10", "EUR")), position(amount("10", "EUR")), position(amount("99", "USD")), cash("7", "CHF", false)}, "EUR 10 10 0 1"},
		{"stated in another", []domain.Record{depot(amount("99", "USD")), position(amount("10", "EUR")), position(amount("99", "USD"))}, "USD 99 99 0 1"},
		{"without a value", []domain.Record{depot(amount("10", "EUR")), position(nil), position(amount("10", "EUR"))}, "EUR 10 10 0 1"},
		{"nothing stated", []domain.Record{depot(nil), position(amount("10", "EUR")), position(amount("1", "USD"))}, "EUR - 10 - 1"},
		{"short", []domain.Record{depot(amount("-5", "EUR")), position(amount("10", "EUR")), position(amount("-15", "EUR"))}, "EUR -5 -5 0 0"},
		{"no float", []domain.Record{depot(amount("0.3", "EUR")), position(amount("0.1", "EUR")), position(amount("0.2", "EUR"))}, "EUR 0.3 0.3 0 0"},
		{"large and fine", []domain.Record{depot(amount("123456789012345678901234567890.000000000000000001", "EUR")),
			position(amount("123456789012345678901234567890", "EUR")), position(amount("0.000000000000000001", "EUR"))},
			"EUR 123456789012345678901234567890.000000000000000001 123456789012345678901234567890.000000000000000001 0 0"},
		{"no account", []domain.Record{position(amount("10", "EUR"))}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := build(t).settle(t)
			w.bank.holdings = map[domain.Product][]domain.Record{}
			for _, r := range c.records {
				w.bank.holdings[r.Product()] = append(w.bank.holdings[r.Product()], r)
			}
			first(w, "")
			got := ""
			for _, r := range w.summary(w.version(1)) {
				stated, difference := "-", "-"
				if r.Stated != nil {
					stated, difference = string(*r.Stated), string(*r.Difference)
				}
				got += fmt.Sprint(r.Currency, " ", stated, " ", r.Computed, " ", difference, " ", r.Unvalued)
			}
			w.expect("sums", got, c.want)
			w.sound()
		})
	}
}

func TestNoSumOfWhatIsNotThere(t *testing.T) {
	for _, p := range []domain.Product{domain.ProductAccounts, domain.ProductCash, domain.ProductPositions} {
		t.Run(string(p), func(t *testing.T) {
			w := build(t).settle(t)
			w.bank.breaks(fmt.Sprintf("read %s 0", p), &extraction.Failure{Reason: domain.ReasonBankAnswer})
			first(w, "")
			w.expect("stands", w.stands(), "complete active accepted")
			w.expect("sums", len(w.summary(w.version(1))), 0)
			w.sound()
		})
	}
}

// TestAmountsThatAreNone: a number that would fill the memory, or spoil a sum, spoils its product and nothing else.
func TestAmountsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, bad := range []*domain.Amount{amount("1e999999999", "EUR"), amount("", "EUR"), amount("NaN", "EUR"), amount("1,5", "EUR"), amount("1", "Euro"), amount("1", "")} {
		t.Run(string(bad.Value)+string(bad.Currency), func(t *testing.T) {
			for p, record := range map[domain.Product]domain.Record{domain.ProductAccounts: depot(bad), domain.ProductPositions: position(bad),
				domain.ProductCash: &domain.CashBalance{AccountID: "depot", Booked: *bad}} {
				w := build(t).settle(t)
				w.bank.holdings[p] = append(w.bank.holdings[p], record)
				first(w, "")
				status := w.version(1).Products[p]
				w.expect(string(p), say(status.State, status.Reason), "failed bank_answer")
				w.sound()
			}
		})
	}
}
