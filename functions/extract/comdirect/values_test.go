package comdirect

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

func TestNumbers(t *testing.T) {
	for in, want := range map[string]domain.Decimal{
		`"123.45"`: "123.45", `"-0.10"`: "-0.10", `"0"`: "0", `7`: "7", `7.50`: "7.50", `"+3"`: "3", `"-0"`: "0", `"007"`: "7",
		`1.5e3`: "1500", `"15E-4"`: "0.0015", `0.1`: "0.1", `"12345678901234567890.123456789012345678"`: "12345678901234567890.123456789012345678",
		`100000000000000000000000000001`: "100000000000000000000000000001",
	} {
		var n number
		if err := json.Unmarshal([]byte(in), &n); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got, err := decimalOf(n); err != nil || got != want || !got.Valid() {
			t.Errorf("%s is %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`"1,5"`, `"1.000,00"`, `"NaN"`, `"Inf"`, `"0x10"`, `"1e99"`, `"1e-99"`, `"1e999999999"`, `" 1"`, `"1 "`, `"."`, `"-"`,
		`"1_000"`, `"` + strings.Repeat("9", 31) + `"`, `"0.` + strings.Repeat("1", 19) + `"`, `"` + strings.Repeat("1", 100) + `"`} {
		var n number
		if err := json.Unmarshal([]byte(in), &n); err != nil {
			t.Fatal(err)
		}
		if got, err := decimalOf(n); err == nil {
			t.Errorf("%s is %q; want an error", in, got)
		}
	}
	for _, in := range []string{`true`, `[]`, `{}`} {
		var n number
		if err := json.Unmarshal([]byte(in), &n); err == nil {
			t.Errorf("%s was read as a number", in)
		}
	}
}

func TestPrices(t *testing.T) {
	for _, c := range []struct {
		name    string
		in      *amountValue
		percent bool
		want    *domain.Price
	}{
		{"none", nil, false, nil},
		{"null", &amountValue{Unit: "EUR"}, false, nil},
		{"money", &amountValue{"12.5", "USD"}, false, &domain.Price{Value: "12.5", Currency: "USD"}},
		{"per cent by unit", &amountValue{"98.7", "XXC"}, false, &domain.Price{Value: "98.7", Percent: true}},
		{"per cent by notation", &amountValue{"98.7", "EUR"}, true, &domain.Price{Value: "98.7", Percent: true}},
		{"per mille", &amountValue{"987", "XXM"}, false, &domain.Price{Value: "98.7", Percent: true}},
		{"points", &amountValue{"4200", "XXP"}, false, nil},
		{"unknown", &amountValue{"1", "XXU"}, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.in.price(c.percent, "")
			if err != nil || (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
				t.Errorf("price %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestDates(t *testing.T) {
	for in, want := range map[text]domain.Date{"": "", "2026-03-31": "2026-03-31", "2026-02-30": "2026-02-28", "2028-02-30": "2028-02-29",
		"2019-12-32": "2019-12-31", "2026-04-31": "2026-04-30", "2026-03-31T17:30:00+02": "2026-03-31"} {
		if got, err := day(in); err != nil || got != want {
			t.Errorf("day %q is %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []text{"31.03.2026", "2026-3-1", "2026-13-01", "2026-00-10", "2026-01-00", "2026-01-33", "2026-01-xx", "tomorrow", "ä026-01-01"} {
		if got, err := day(in); err == nil {
			t.Errorf("day %q is %q; want an error", in, got)
		}
	}
	for in, want := range map[text]string{"": "", "2018-07-03T12:29:30+01": "2018-07-03T12:29:30+01:00",
		"2018-07-03T12:29:30,123456+00": "2018-07-03T12:29:30.123456Z", "2018-07-03T12:29:30Z": "2018-07-03T12:29:30Z",
		"2018-07-03T12:29:30-05:30": "2018-07-03T12:29:30-05:30", "2018-07-03": "2018-07-03", "2018-07-03 12h": "2018-07-03", "soon": ""} {
		if got := moment(in); got != want {
			t.Errorf("moment %q is %q; want %q", in, got, want)
		}
	}
}

func TestTextsOfEveryShape(t *testing.T) {
	for in, want := range map[string]text{`"a"`: "a", `null`: "", `{"key":"K","text":"T"}`: "K", `{"text":"T"}`: "T",
		`{"date":"2026-01-01"}`: "2026-01-01", `{"dateTime":"2026-01-01T00:00:00+01"}`: "2026-01-01T00:00:00+01", `{}`: ""} {
		var got text
		if err := json.Unmarshal([]byte(in), &got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", in, got, err, want)
		}
	}
}

// TestOddJSON: what a bank writes badly but unambiguously is read; what is no JSON is refused without being quoted.
func TestOddJSON(t *testing.T) {
	for _, c := range []struct{ name, in, id, value, fault string }{
		{"other case", `{"POSITIONID":"1","Quantity":{"VALUE":"2"}}`, "1", "2", ""},
		{"a name twice", `{"positionId":"0","positionId":"1","quantity":{"value":2}}`, "1", "2", ""},
		{"no UTF-8", "{\"positionId\":\"1\xff\"}", "1\uFFFD", "", ""},
		{"half a character", `{"positionId":"\ud800"}`, "\uFFFD", "", ""},
		{"no UTF-8 in a number", "{\"quantity\":{\"value\":\"2\xff\"}}", "", "2\uFFFD", ""},
		{"null", `{"positionId":null,"quantity":{"value":null}}`, "", "", ""},
		{"a secret for a number", `{"quantity":{"value":{"pin":"secret"}}}`, "", "", "field /quantity/value is of the wrong kind"},
		{"a secret for an object", `{"quantity":"secret"}`, "", "", "field /quantity is of the wrong kind"},
		{"a secret for JSON", `{"quantity":secret}`, "", "", "no JSON at byte 12"},
		{"an early end", `{"quantity":{"value":"secr`, "", "", "it ends too early"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := record[position]([]byte(c.in))
			if c.fault != "" {
				if err == nil || !strings.HasSuffix(err.Error(), c.fault) || strings.Contains(err.Error(), "secret") {
					t.Errorf("error %v; want %s", err, c.fault)
				}
				return
			}
			if value := p.Quantity; err != nil || p.ID != c.id || value != nil && string(value.Value) != c.value {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}

func TestRemittance(t *testing.T) {
	pad := func(s string) string { return s + strings.Repeat(" ", lineRunes-len([]rune(s))) }
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"empty", "", nil},
		{"plain", "Coffee  to   go", []string{"Coffee to go"}},
		{"numbered, run together", "01" + pad("First ä") + "02second", []string{"First ä", "second"}},
		{"numbered, broken", "01First\n02Second", []string{"First", "Second"}},
		{"more than nine", strings.Join(func() (all []string) {
			for i := range 11 {
				all = append(all, twoDigits(i+1)+pad("x"))
			}
			return
		}(), ""), slices.Repeat([]string{"x"}, 11)},
		{"begins with a number of its own", "2026 dues", []string{"2026 dues"}},
		{"begins with 01 by chance", "01 March" + strings.Repeat(" ", 40) + "rent", []string{"01 March rent"}},
		{"endless", strings.Repeat("x", 10*maxTextRune), []string{strings.Repeat("x", maxTextRune)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := remittance(c.in); !slices.Equal(got, c.want) {
				t.Errorf("lines %q; want %q", got, c.want)
			}
		})
	}
}

func TestCashTypes(t *testing.T) {
	in, out := &domain.Amount{Value: "1", Currency: "EUR"}, &domain.Amount{Value: "-1", Currency: "EUR"}
	for _, c := range []struct {
		kind, text string
		net        *domain.Amount
		want       domain.TransactionType
	}{
		{"TRANSFER", "", in, domain.TransactionTransferIn}, {"TRANSFER", "", out, domain.TransactionTransferOut},
		{"STANDING_ORDER", "", out, domain.TransactionTransferOut}, {"CARD_TRANSACTION", "", out, domain.TransactionWithdrawal},
		{"DIRECT_DEBIT", "", out, domain.TransactionWithdrawal}, {"DIRECT_DEBIT", "", in, domain.TransactionDeposit},
		{"BANK_FEES", "", out, domain.TransactionFee}, {"Bankgebühren", "", out, domain.TransactionFee},
		{"INTEREST_DIVIDENDS", "Dividende AAPL", in, domain.TransactionDividend},
		{"INTEREST_DIVIDENDS", "Zinsen 2026", in, domain.TransactionInterest}, {"INTEREST_DIVIDENDS", "", in, domain.TransactionOther},
		{"SECURITIES", "", out, domain.TransactionOther}, {"MISCELLANEOUS", "", in, domain.TransactionOther},
		{"TRANSFER", "", nil, domain.TransactionOther},
	} {
		if got := cashType(c.kind, c.text, c.net); got != c.want {
			t.Errorf("%s %q %v is %s; want %s", c.kind, c.text, c.net, got, c.want)
		}
	}
}

// TestRepeats: what has no identifier gets one that is the same at every reading, and its own.
func TestRepeats(t *testing.T) {
	first, second := repeats{}, repeats{}
	a, b, c := first.name("x", "y"), first.name("x", "y"), first.name("xy", "")
	if a == b || a == c || b == c {
		t.Errorf("names %q, %q, %q are not different", a, b, c)
	}
	if again := second.name("x", "y"); again != a || second.name("x", "y") != b {
		t.Errorf("a second reading names it %q; want %q", again, a)
	}
}

// FuzzRecords: no answer makes the reader panic, and no record that is given on holds a number that is none.
func FuzzRecords(f *testing.F) {
	for _, seed := range slices.Concat(holdings, depotMovements, orders, movements["BOOKED"], movements["NOTBOOKED"]) {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		check := func(r domain.Record) error {
			if p, ok := r.(*domain.Position); ok && !p.Quantity.Valid() {
				t.Errorf("quantity %q", p.Quantity)
			}
			return nil
		}
		_ = gives(check, func(p *position) (domain.Record, error) { return p.record("D") })(raw)
		_ = gives(check, func(p *depotTransaction) (domain.Record, error) { return p.record("D", repeats{}) })(raw)
		_ = gives(check, func(p *accountTransaction) (domain.Record, error) { return p.record("A", repeats{}) })(raw)
		if o, err := record[order](raw); err == nil {
			for _, single := range o.singles() {
				_, _ = single.record("D")
			}
		}
	})
}
