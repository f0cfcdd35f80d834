package comdirect

import (
	"errors"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/shopspring/decimal"

	"sluis.internal/shared/domain"
)

// number is a JSON number or a string, kept as it is written: it never becomes a float. null is the empty number.
type number string

func (n *number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*n = ""
		return nil
	}
	if b[0] == '"' {
		return jsonv2.Unmarshal(b, (*string)(n), lenient)
	}
	if b[0] != '-' && (b[0] < '0' || b[0] > '9') {
		return errors.New("want a number")
	}
	*n = number(b)
	return nil
}

// text is a string, or an object of which one member is the string: enumerations are {"key", "text"}, dates {"date"}
// in the machine-readable description and strings in the specification.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	if b[0] != '{' {
		return jsonv2.Unmarshal(b, (*string)(t), lenient) // null leaves it empty
	}
	var o struct {
		Key, Text, Date, DateTime string
	}
	if err := jsonv2.Unmarshal(b, &o, lenient); err != nil {
		return err
	}
	for _, s := range []string{o.Key, o.Date, o.DateTime, o.Text} {
		if s != "" {
			*t = text(s)
			return nil
		}
	}
	return nil
}

// amountValue is clause 3.4.1: a value in a currency, or in one of the units XXX (pieces), XXC (per cent), XXM (per
// mille), XXP (points), XXU (unknown).
type amountValue struct {
	Value number `json:"value"`
	Unit  string `json:"unit"`
}

const (
	unitPercent  = "XXC"
	unitPermille = "XXM"
)

var (
	currencyShape = domain.NewShape(`^[A-Z]{3}$`)
	otherUnits    = domain.NewShape(`^XX[XCMPU]$`)
	numberShape   = domain.NewShape(`^[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$`)
)

func isCurrency(unit string) bool {
	return currencyShape.MatchString(unit) && !otherUnits.MatchString(unit)
}

// given says whether the bank stated a value at all.
func (a *amountValue) given() bool { return a != nil && a.Value != "" }

// decimalOf makes n an exact decimal in plain notation.
func decimalOf(n number) (domain.Decimal, error) {
	if d := domain.Decimal(n); d.Valid() && d != "-0" {
		return d, nil
	}
	if len(n) > 80 || !numberShape.MatchString(string(n)) {
		return "", errors.New("a number is malformed")
	}
	parsed, err := decimal.NewFromString(string(n))
	if err != nil {
		return "", errors.New("a number is malformed")
	}
	return plainDecimal(parsed)
}

func plainDecimal(d decimal.Decimal) (domain.Decimal, error) {
	plain := domain.Decimal(d.String())
	if !plain.Valid() {
		return "", errors.New("a number has too many digits")
	}
	return plain, nil
}

// quantity is the plain number of a, and empty where the bank states none.
func (a *amountValue) quantity() (domain.Decimal, error) {
	if !a.given() {
		return "", nil
	}
	return decimalOf(a.Value)
}

// money is a as money, and nil where the bank states none.
func (a *amountValue) money() (*domain.Amount, error) {
	if !a.given() {
		return nil, nil
	}
	if !isCurrency(a.Unit) {
		return nil, errors.New("an amount has no currency")
	}
	value, err := decimalOf(a.Value)
	if err != nil {
		return nil, err
	}
	return &domain.Amount{Value: value, Currency: domain.Currency(a.Unit)}, nil
}

// price is a as a price, and nil where the bank states none or one in points, which is no money. Bonds are quoted in
// per cent of face: the unit says so, or else the security's notation where the quantity is face value.
func (a *amountValue) price(percent bool, asOf string) (*domain.Price, error) {
	if !a.given() {
		return nil, nil
	}
	value, err := decimalOf(a.Value)
	if err != nil {
		return nil, err
	}
	switch {
	case a.Unit == unitPermille:
		if value, err = plainDecimal(decimal.RequireFromString(string(value)).Shift(-1)); err != nil {
			return nil, err
		}
		percent = true
	case a.Unit == unitPercent:
		percent = true
	case !isCurrency(a.Unit):
		return nil, nil
	}
	p := &domain.Price{Value: value, Percent: percent, AsOf: asOf}
	if !percent {
		p.Currency = domain.Currency(a.Unit)
	}
	return p, nil
}

// day is the calendar day that t begins with, and empty where the bank states none. A value date can be the 30th of
// February (clause 3.4.6), for interest counts months of 30 days; it becomes the last day of its month.
func day(t text) (domain.Date, error) {
	if t == "" {
		return "", nil
	}
	s := string(t[:min(len(t), 10)])
	if _, err := time.Parse(time.DateOnly, s); err == nil {
		return domain.Date(s), nil
	}
	parts := strings.Split(s, "-")
	if len(s) != 10 || len(parts) != 3 || len(parts[0]) != 4 || len(parts[1]) != 2 {
		return "", errors.New("a date is malformed")
	}
	first, err := time.Parse("2006-01", s[:7])
	n, bad := strconv.Atoi(parts[2])
	if err != nil || bad != nil || n < 1 || n > 32 {
		return "", errors.New("a date is malformed")
	}
	last := first.AddDate(0, 1, -1).Day()
	return domain.Date(first.AddDate(0, 0, min(n, last)-1).Format(time.DateOnly)), nil
}

var shortZone = domain.NewShape(`[+-][0-9]{2}$`)

// moment is the time that t states as RFC 3339: the bank writes zones as +01 and fractions after a comma. Where only
// the day can be read it is that, and empty where nothing can: a time stamp is no reason to lose a record.
func moment(t text) string {
	s := strings.Replace(string(t), ",", ".", 1)
	if len(s) > 10 && shortZone.MatchString(s[10:]) {
		s += ":00"
	}
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return at.Format(time.RFC3339Nano)
	}
	d, _ := day(t)
	return string(d)
}
