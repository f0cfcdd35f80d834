package comdirect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image/png"
	"math/big"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listing is a list answer.
type listing[T any] struct {
	Paging     paging          `json:"paging"`
	Aggregated json.RawMessage `json:"aggregated"`
	Values     []T             `json:"values"`
}

// fetch reads a list; it repeats while the bank says 429 or 500, three times at most.
func fetch[T any](v *visit, path string) listing[T] {
	v.t.Helper()
	r := v.get(v.t, v.tk.Access, path)
	for tries := 0; tries < 2 && (r.status == 429 || r.status == 500); tries++ {
		r = v.get(v.t, v.tk.Access, path)
	}
	want(v.t, r, http.StatusOK, "")
	var l listing[T]
	r.decode(v.t, &l)
	return l
}

func (v *visit) depots() []wireDepot {
	v.t.Helper()
	return fetch[wireDepot](v, "/api/brokerage/clients/user/v3/depots").Values
}

func (v *visit) accounts() []wireBalance {
	v.t.Helper()
	return fetch[wireBalance](v, "/api/banking/clients/user/v2/accounts/balances").Values
}

// checkProducts reads everything a login has, and finds it complete and consistent, or unreadable where the table says so.
func checkProducts(t *testing.T, v *visit) {
	t.Helper()
	totals := TotalsOf(v.login.Number, v.Visits(v.login.Number), domain.At(v.clock.Now()))
	accounts, depots := v.accounts(), v.depots()
	got := Totals{Accounts: len(accounts), Depots: len(depots)}
	for _, a := range accounts {
		got.Transactions += v.checkTransactions(a)
	}
	value := new(big.Rat)
	for _, d := range depots {
		base := "/api/brokerage/v3/depots/" + d.DepotID
		got.DepotTransactions += fetch[wireTrade](v, base+"/transactions?paging-count=2").Paging.Matches
		got.Orders += len(fetch[wireOrder](v, "/api/brokerage/depots/"+d.DepotID+"/v3/orders").Values)
		if why := v.login.Products[domain.ProductPositions]; why != "" {
			checkUnreadable(t, v, base+"/positions")
			return
		}
		n, sum := v.checkPositions(base)
		got.Positions += n
		value.Add(value, sum)
	}
	got.DepotValue = domain.Decimal(value.FloatString(2))
	if got != totals {
		t.Errorf("read %+v, want %+v", got, totals)
	}
}

func checkUnreadable(t *testing.T, v *visit, path string) {
	t.Helper()
	for range 3 {
		r := v.get(t, v.tk.Access, path)
		if r.status == http.StatusOK && r.broken == nil && json.Valid(r.body) {
			t.Fatalf("%s could be read", path)
		}
	}
}

// checkTransactions pages through the booked ones of a small account, or looks at the ends of a big one.
func (v *visit) checkTransactions(a wireBalance) int {
	v.t.Helper()
	path := "/api/banking/v1/accounts/" + a.AccountID + "/transactions"
	if r := v.get(v.t, v.tk.Access, path); r.status == http.StatusNotFound {
		return 0
	}
	both := fetch[wireTransaction](v, path).Paging.Matches
	pending := fetch[wireTransaction](v, path+"?transactionState=NOTBOOKED&paging-count=500")
	booked := fetch[wireTransaction](v, path+"?transactionState=BOOKED")
	if both != pending.Paging.Matches+booked.Paging.Matches || pending.Paging.Matches != len(pending.Values) {
		v.t.Errorf("%d transactions, but %d pending and %d booked", both, pending.Paging.Matches, booked.Paging.Matches)
	}
	for _, x := range append(pending.Values, booked.Values...) {
		if (x.BookingStatus == "BOOKED") != (x.BookingDate != nil) || x.Amount == nil || x.Amount.Unit != a.Balance.Unit {
			v.t.Errorf("transaction %+v", x)
		}
	}
	return both
}

// checkPositions reads a depot page by page and compares its sums with its positions.
func (v *visit) checkPositions(base string) (n int, sum *big.Rat) {
	v.t.Helper()
	sum = new(big.Rat)
	count := min(5000, 7)
	if v.login.assortment == assortmentHuge {
		count = 5000
	}
	var aggregate wireDepotAggregate
	ids := map[string]bool{}
	for first := 0; ; first += count {
		l := fetch[wirePosition](v, fmt.Sprintf("%s/positions?with-attr=instrument&paging-first=%d&paging-count=%d", base, first, count))
		if err := json.Unmarshal(l.Aggregated, &aggregate); err != nil || l.Paging.Index != first {
			v.t.Fatal(err, l.Paging)
		}
		for _, p := range l.Values {
			ids[p.PositionID] = true
			checkInstrument(v.t, p)
			if p.Value != nil {
				sum.Add(sum, rat(v.t, p.Value.Value))
			}
		}
		n += len(l.Values)
		if n >= l.Paging.Matches {
			break
		}
	}
	if len(ids) != n {
		v.t.Errorf("%d positions with %d identifiers", n, len(ids))
	}
	if rat(v.t, aggregate.Value.Value).Cmp(sum) != 0 {
		v.t.Errorf("depot says %s, positions make %s", aggregate.Value.Value, sum.FloatString(2))
	}
	return n, sum
}

func rat(t *testing.T, s string) *big.Rat {
	t.Helper()
	if !domain.Decimal(s).Valid() {
		t.Fatalf("%q is no AmountString", s)
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is no number", s)
	}
	return r
}

// checkInstrument checks identifiers, units, and that value is quantity times price.
func checkInstrument(t *testing.T, p wirePosition) {
	t.Helper()
	i := p.Instrument
	if i == nil || !validISIN(i.ISIN) || len(i.WKN) != 6 || i.WKN != p.WKN || len(i.InstrumentID) != 32 {
		t.Fatalf("instrument %+v of %s", i, p.WKN)
	}
	percent := i.Static.Notation == "XXC"
	if percent != (i.Static.Type == "BONDS") || percent != (i.Derivative != nil) || percent == (p.Quantity.Unit == "XXX") {
		t.Errorf("%s: notation %s, type %s, quantity in %s", i.ISIN, i.Static.Notation, i.Static.Type, p.Quantity.Unit)
	}
	if p.Price == nil {
		return
	}
	if percent != (p.Price.Price.Unit == "XXC") || p.Value.Unit != "EUR" {
		t.Errorf("%s: price %+v, value %+v", i.ISIN, p.Price.Price, p.Value)
	}
	value := new(big.Rat).Mul(rat(t, p.Quantity.Value), rat(t, p.Price.Price.Value))
	if percent {
		value.Quo(value, big.NewRat(100, 1))
	}
	value.Quo(value, big.NewRat(rates[i.Static.Currency], 10_000))
	if off := value.Sub(value, rat(t, p.Value.Value)); off.Abs(off).Cmp(big.NewRat(6, 1000)) > 0 {
		t.Errorf("%s: %s at %s is not %s", i.ISIN, p.Quantity.Value, p.Price.Price.Value, p.Value.Value)
	}
}

// validISIN checks shape and check digit (ISO 6166), written unlike checked: letters first become decimal digits.
func validISIN(isin string) bool {
	if len(isin) != 12 {
		return false
	}
	var digits strings.Builder
	for _, c := range isin {
		fmt.Fprint(&digits, strings.IndexRune("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", c))
	}
	sum, s := 0, digits.String()
	for i := range len(s) {
		d := int(s[len(s)-1-i]-'0') << (i % 2)
		sum += d%10 + d/10
	}
	return sum%10 == 0
}

// TestISINs checks the checker on real ISINs, and every ISIN of the tables.
func TestISINs(t *testing.T) {
	for isin, good := range map[string]bool{"US0378331005": true, "DE0007164600": true, "GB0002634946": true,
		"US0378331006": false, "DE0007164601": false, "US037833100": false} {
		if validISIN(isin) != good {
			t.Errorf("%s: want %t", isin, good)
		}
		if good && checked(isin[:11]) != isin {
			t.Errorf("%s: made %s", isin, checked(isin[:11]))
		}
	}
	for _, securities := range assortments {
		for _, s := range securities {
			if !validISIN(s.isin) {
				t.Errorf("%s of %s", s.isin, s.name)
			}
		}
	}
	for _, i := range []int{12, 999, 19_999} {
		if s := bulkSecurity(i); !validISIN(s.isin) {
			t.Errorf("%s of %s", s.isin, s.name)
		}
	}
}

// TestIBANs checks check digits by ISO 13616's rule: the rearranged number is 1 modulo 97.
func TestIBANs(t *testing.T) {
	s := openBank(t, nil)
	for _, a := range s.enter(t, "20000047").accounts() {
		n, ok := new(big.Int).SetString((*a.Account.IBAN)[4:]+"1314"+(*a.Account.IBAN)[2:4], 10)
		if !ok || len(*a.Account.IBAN) != 22 || n.Mod(n, big.NewInt(97)).Int64() != 1 {
			t.Errorf("IBAN %s", *a.Account.IBAN)
		}
	}
}

// TestPaging checks the rules for lists of transactions.
func TestPaging(t *testing.T) {
	s := openBank(t, nil)
	v := s.enter(t, "20000044")
	path := "/api/banking/v1/accounts/" + v.accounts()[0].AccountID + "/transactions?"
	var whole []string
	for first := 0; ; first += 20 {
		l := fetch[wireTransaction](v, fmt.Sprintf("%stransactionState=BOOKED&paging-first=%d", path, first))
		for _, x := range l.Values {
			whole = append(whole, x.Reference)
		}
		if len(whole) >= l.Paging.Matches {
			break
		}
	}
	atOnce := fetch[wireTransaction](v, path+"transactionState=BOOKED&paging-count=500").Values
	if !slices.EqualFunc(whole, atOnce, func(r string, x wireTransaction) bool { return r == x.Reference }) {
		t.Error("pages and whole differ")
	}
	if unique := slices.Compact(slices.Sorted(slices.Values(whole))); len(unique) != 46 || len(whole) != 46 {
		t.Errorf("%d references, %d of them different, want 46", len(whole), len(unique))
	}
	credit := fetch[wireTransaction](v, path+"transactionDirection=CREDIT").Paging.Matches
	debit := fetch[wireTransaction](v, path+"transactionDirection=DEBIT").Paging.Matches
	if credit == 0 || debit == 0 || credit+debit != 48 {
		t.Errorf("%d credits, %d debits", credit, debit)
	}
	day := *atOnce[20].BookingDate
	early := fetch[wireTransaction](v, path+"max-bookingDate="+day).Paging.Matches
	late := fetch[wireTransaction](v, path+"min-bookingDate="+day).Paging.Matches
	both := fetch[wireTransaction](v, path+"min-bookingDate="+day+"&max-bookingDate="+day).Paging.Matches
	if both < 1 || early+late != 48+both {
		t.Errorf("%d until %s, %d since, %d on it", early, day, late, both)
	}
	for query, origin := range map[string]string{"paging-first=20": "transactionState", "paging-count=501": "paging-count",
		"transactionState=BOOKED&paging-first=-1": "paging-first", "paging-count=x": "paging-count", "transactionState=x": "transactionState",
		"min-bookingDate=18.03.2026": "min-bookingDate", "transactionDirection=x": "transactionDirection"} {
		r := s.get(t, v.tk.Access, path+query)
		want(t, r, http.StatusUnprocessableEntity, CodeQuery)
		if h := r.header.Get("x-http-response-info"); !strings.Contains(h, `"origin":["`+origin+`"]`) ||
			strings.ContainsFunc(h, func(r rune) bool { return r > 126 }) {
			t.Errorf("%s: header %s", query, h)
		}
	}
}

// TestFilters checks the brokerage module's filters and attributes, and the single resources.
func TestFilters(t *testing.T) {
	s := openBank(t, nil)
	v := s.enter(t, "20000045")
	d := v.depots()[0].DepotID
	base := "/api/brokerage/v3/depots/" + d
	all := fetch[wirePosition](v, base+"/positions").Values
	if all[0].Instrument != nil {
		t.Error("an instrument that was not asked for")
	}
	etf := checked("IE00SBX0093")
	twice := fetch[wirePosition](v, base+"/positions?with-attr=instrument&instrumentId="+etf).Values
	if len(twice) != 2 || twice[0].PositionID == twice[1].PositionID || twice[0].Price.Price.Unit == twice[1].Price.Price.Unit {
		t.Errorf("one ISIN in two currencies: %+v", twice)
	}
	if l := fetch[wirePosition](v, base+"/positions?without-attr=depot,positions"); len(l.Values) != 0 ||
		bytes.Contains(l.Aggregated, []byte(`"depot":`)) || l.Paging.Matches != len(all) {
		t.Errorf("list %+v", l)
	}
	var one wirePosition
	s.get(t, v.tk.Access, base+"/positions/"+all[2].PositionID).decode(t, &one)
	if !reflect.DeepEqual(one, all[2]) {
		t.Errorf("one %+v, in the list %+v", one, all[2])
	}
	orders := "/api/brokerage/depots/" + d + "/v3/orders"
	open := fetch[wireOrder](v, orders+"?orderStatus=EXECUTED&with-attr=instrument").Values
	if len(open) != 1 || open[0].Instrument == nil || len(open[0].Executions) != 1 {
		t.Errorf("orders %+v", open)
	}
	var order wireOrder
	s.get(t, v.tk.Access, "/api/brokerage/v3/orders/"+open[0].OrderID).decode(t, &order)
	if order.OrderID != open[0].OrderID {
		t.Errorf("order %+v", order)
	}
	in := fetch[wireTrade](v, base+"/transactions?transactionDirection=IN").Paging.Matches
	out := fetch[wireTrade](v, base+"/transactions?transactionDirection=OUT&min-bookingDate=-179d").Paging.Matches
	none := fetch[wireTrade](v, base+"/transactions?max-bookingDate=2025-01-01&min-bookingDate=2024-01-01").Paging.Matches
	if in == 0 || out == 0 || in+out != 16 || none != 0 {
		t.Errorf("%d in, %d out, %d long ago", in, out, none)
	}
	want(t, s.get(t, v.tk.Access, base+"/transactions?min-bookingDate=soon"), http.StatusUnprocessableEntity, CodeQuery)
	if i := fetch[wireInstrument](v, "/api/brokerage/v1/instruments/SBX023").Values; len(i) != 1 || i[0].Static.Currency != "CHF" {
		t.Errorf("instrument %+v", i)
	}
	a := v.accounts()[3]
	var balance wireBalance
	s.get(t, v.tk.Access, "/api/banking/v2/accounts/"+a.AccountID+"/balances").decode(t, &balance)
	if !reflect.DeepEqual(balance, a) || a.Balance.Unit != "USD" || a.BalanceEUR.Unit != "EUR" {
		t.Errorf("balance %+v, in the list %+v", balance, a)
	}
}

// TestSteadyAndChanging checks that readings are equal where they should be, and differ where they should.
func TestSteadyAndChanging(t *testing.T) {
	s := openBank(t, nil)
	read := func(number string) (positions, transactions string) {
		v := s.enter(t, number)
		p := s.get(t, v.tk.Access, "/api/brokerage/v3/depots/"+v.depots()[0].DepotID+"/positions?with-attr=instrument")
		x := s.get(t, v.tk.Access, "/api/banking/v1/accounts/"+v.accounts()[0].AccountID+"/transactions?transactionState=BOOKED")
		return string(p.body), string(x.body)
	}
	p1, x1 := read("20000044")
	s.clock.move(time.Hour)
	p2, x2 := read("20000044")
	if p1 != p2 || x1 != x2 {
		t.Error("steady data changed")
	}
	seen := map[string]bool{}
	for range 4 {
		p, x := read("20000043")
		seen[p] = true
		seen[x] = true
	}
	if len(seen) != 5 { // four times other positions, once the transactions
		t.Errorf("%d different answers, want 5", len(seen))
	}
	s.clock.move(24 * time.Hour)
	var before, after listing[wireTransaction]
	_, x3 := read("20000044")
	if json.Unmarshal([]byte(x2), &before) != nil || json.Unmarshal([]byte(x3), &after) != nil {
		t.Fatal("not JSON")
	}
	if !slices.ContainsFunc(after.Values, func(x wireTransaction) bool {
		return x.Reference == before.Values[0].Reference && *x.BookingDate == *before.Values[0].BookingDate
	}) {
		t.Error("a day later, yesterday's newest transaction is another one")
	}
}

// TestOddButLegal checks that the odd login is odd.
func TestOddButLegal(t *testing.T) {
	s := openBank(t, nil)
	v := s.enter(t, "20000049")
	accounts := v.accounts()
	want(t, s.get(t, v.tk.Access, "/api/banking/v1/accounts/"+accounts[2].AccountID+"/transactions"), http.StatusNotFound, "")
	l := fetch[wireTransaction](v, "/api/banking/v1/accounts/"+accounts[0].AccountID+"/transactions").Values
	if !strings.HasSuffix(l[3].ValutaDate, "-02-30") || l[4].Type != nil || l[5].Remittance != "" || l[0].BookingDate != nil {
		t.Errorf("transactions %+v", l[:6])
	}
	if accounts[1].Account.IBAN != nil || accounts[1].Account.CreditLimit != nil {
		t.Errorf("account %+v", accounts[1].Account)
	}
	p := fetch[wirePosition](v, "/api/brokerage/v3/depots/"+v.depots()[0].DepotID+"/positions").Values
	if p[1].Price != nil || p[1].Value != nil || p[0].Price == nil {
		t.Errorf("positions %+v", p[:2])
	}
}

// TestCanary checks that the canary's name is in its data, and in nobody else's.
func TestCanary(t *testing.T) {
	s := openBank(t, nil)
	for number, want := range map[string]bool{"20000048": true, "20000002": false} {
		v := s.enter(t, number)
		r := s.get(t, v.tk.Access, "/api/banking/v1/accounts/"+v.accounts()[0].AccountID+"/transactions")
		if bytes.Contains(r.body, []byte(Canary)) != want {
			t.Errorf("%s: want canary %t", number, want)
		}
	}
}

// TestHugeIsSmall pages through 200,000 transactions and checks that the heap does not grow with them.
func TestHugeIsSmall(t *testing.T) {
	s := openBank(t, nil)
	v := s.enter(t, "20000042")
	a, d := v.accounts()[0].AccountID, v.depots()[0].DepotID
	path := "/api/banking/v1/accounts/" + a + "/transactions?transactionState=BOOKED&paging-count=500"
	seen, last := 0, ""
	var peak uint64
	for first := 0; ; first += 500 {
		r := s.get(t, v.tk.Access, fmt.Sprintf("%s&paging-first=%d", path, first))
		want(t, r, http.StatusOK, "")
		references := bytes.Split(r.body, []byte(`"reference":"`))[1:] // decoding would take longer than all else
		if len(references) == 0 {
			break
		}
		if string(references[0][:15]) == last {
			t.Fatal("a page came twice")
		}
		last = string(references[0][:15])
		seen += len(references)
		if first%20_000 == 0 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
	}
	if seen != HugeTransactions-HugeDepotTransactions-30-2 {
		t.Errorf("%d booked transactions", seen)
	}
	if peak > 32<<20 {
		t.Errorf("the heap grew to %d MiB", peak>>20)
	}
	all := s.get(t, v.tk.Access, "/api/brokerage/v3/depots/"+d+"/positions")
	trades := s.get(t, v.tk.Access, "/api/brokerage/v3/depots/"+d+"/transactions?without-attr=instrument&min-bookingDate=-180d")
	positions, moved := bytes.Count(all.body, []byte(`"positionId"`)), bytes.Count(trades.body, []byte(`"transactionId"`))
	if positions != HugePositions || moved != HugeDepotTransactions {
		t.Errorf("%d positions, %d trades", positions, moved)
	}
}

// TestPhoto checks that the image is a PNG, differs by challenge, and shows its code where a person looks for it.
func TestPhoto(t *testing.T) {
	s := openBank(t, nil)
	v := s.arrive(t, "20000001")
	want(t, v.validate(""), http.StatusCreated, "")
	raw, err := base64.StdEncoding.DecodeString(v.once.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil || img.Bounds().Dx() != photoWidth || img.Bounds().Dy() != photoHeight {
		t.Fatal(err, img.Bounds())
	}
	if got := readDigits(raw, t); got != Codes[PhotoTAN] {
		t.Errorf("the image shows %q", got)
	}
	if got := readDigits(photo("other", "0123456789"[4:]), t); got != "456789" {
		t.Errorf("the image shows %q", got)
	}
	if bytes.Equal(photo("1", "222222"), photo("2", "222222")) || !bytes.Equal(photo("1", "222222"), photo("1", "222222")) {
		t.Error("the image must depend on the challenge, and on nothing else")
	}
}

// readDigits reads the six digits below the mosaic by comparing dots with the font.
func readDigits(raw []byte, t *testing.T) string {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	left := (photoWidth - (6*6-1)*photoDot) / 2
	var out strings.Builder
	for i := range 6 {
		var dots [7]byte
		for row := range 7 {
			for column := range 5 {
				r, _, _, _ := img.At(left+(i*6+column)*photoDot+1, photoWidth+row*photoDot+1).RGBA()
				if r == 0 {
					dots[row] |= 0x10 >> column
				}
			}
		}
		fmt.Fprint(&out, slices.Index(digits[:], dots))
	}
	return out.String()
}

// TestTimes checks the German time of the bank's stamps on both sides of the changes of 2026.
func TestTimes(t *testing.T) {
	for utc, want := range map[string]string{
		"2026-03-29T00:59:59Z": "2026-03-29T01:59:59+01", "2026-03-29T01:00:00Z": "2026-03-29T03:00:00+02",
		"2026-10-25T00:59:59Z": "2026-10-25T02:59:59+02", "2026-10-25T01:00:00Z": "2026-10-25T02:00:00+01",
	} {
		at, err := time.Parse(time.RFC3339, utc)
		if got := berlin(at, dateTimeLayout); err != nil || got != want {
			t.Errorf("%s: got %s, want %s", utc, got, want)
		}
	}
}

// TestClosing checks that prices are of the last working days, at the same hour all year.
func TestClosing(t *testing.T) {
	for today, want := range map[string]string{"2026-03-18": "2026-03-17T17:35:00+01", "2026-03-30": "2026-03-27T17:35:00+01",
		"2026-07-05": "2026-07-03T17:35:00+02"} {
		day, err := time.Parse(dateLayout, today)
		if got := closing(day, 1); err != nil || got != want {
			t.Errorf("%s: got %s, want %s", today, got, want)
		}
	}
}

// TestMovementsAge walks a year: no movement lies outside its span or in the future, none is on a weekend.
func TestMovementsAge(t *testing.T) {
	for n := range 366 {
		today := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n)
		for _, size := range []int{3, 48, 20_000} {
			first := dated(newest(today, size, span), size, span)
			last := dated(newest(today, size, span)-int64(size)+1, size, span)
			if first.After(today) || last.Before(today.AddDate(0, 0, -175)) || first.Weekday()%6 == 0 {
				t.Fatalf("%s, %d movements: from %s to %s", today, size, last, first)
			}
		}
	}
}
