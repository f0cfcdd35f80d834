package sandbox

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
)

// positionJSON is a position; value and cost may be empty.
func positionJSON(name, kind, isin, quantity, unit, side, price, value, cost string) string {
	money := func(member, text string) string {
		if text == "" {
			return ""
		}
		v, c, _ := strings.Cut(text, " ")
		return fmt.Sprintf(`,"%s":{"value":"%s","currency":"%s"}`, member, v, c)
	}
	if price != "" {
		v, c, _ := strings.Cut(price, " ")
		percent := c == "%"
		if percent {
			c = ""
		} else {
			c = `"currency":"` + c + `",`
		}
		price = fmt.Sprintf(`,"price":{"value":"%s",%s"percent":%v,"as_of":"2026-11-20"}`, v, c, percent)
	}
	return fmt.Sprintf(`{%s,"account_id":"%s","security":{"identifiers":[{"scheme":"WKN","value":"W1"},{"scheme":"ISIN","value":"%s"}],
		"name":"%s","kind":"%s"},"quantity":"%s","unit":"%s","side":"%s"%s%s%s}`,
		origins, depot, isin, name, kind, quantity, unit, side, price, money("value", value), money("cost_basis", cost))
}

func cashJSON(value, currency string, inside bool) string {
	return fmt.Sprintf(`{%s,"account_id":"%s","booked":{"value":"%s","currency":"%s"},"cash_in_positions":%v}`, origins, cashAcc, value, currency, inside)
}

func transactionJSON(text, more string) string {
	return fmt.Sprintf(`{%s,"account_id":"%s","type":"transfer_out","pending":false,"text":"%s","net":{"value":"-20.5","currency":"EUR"}%s}`, origins, cashAcc, text, more)
}

// rich is a fake with a portfolio that has a bit of everything.
func rich(t *testing.T) *fakeAPI {
	f := newFake(t)
	path := "GET /v1/connections/" + connID + "/portfolio"
	f.on(path+"/accounts", 200, recordsJSON("complete", "",
		`{`+origins+`,"id":"`+depot+`","type":"securities","number":"0000430","currency":"EUR","value":{"value":"13000","currency":"EUR"},"owners":[{"name":"Ada"}]}`,
		`{`+origins+`,"id":"`+cashAcc+`","type":"cash","name":"Giro","iban":"DE06200411772000004300","currency":"EUR"}`))
	f.on(path+"/cash", 200, recordsJSON("complete", "", cashJSON("1000.1", "EUR", false), cashJSON("-50", "USD", false), cashJSON("7", "CHF", true)))
	f.on(path+"/positions", 200,
		recordsJSON("complete", "page2",
			positionJSON("Alpha AG", "equity", "DE000SBX0018", "10", "units", "long", "100.5 EUR", "1005 EUR", "900 EUR"),
			positionJSON("Küstenland 2031", "bond", "DE000SBX0125", "12000", "face", "long", "98.735 %", "11848.20 EUR", "12000 EUR")))
	f.on(path+"/positions?cursor=page2&limit=1000", 200,
		recordsJSON("complete", "",
			positionJSON("Short Co", "equity", "US0378331005", "-5", "units", "short", "20 USD", "-100 USD", "-120 EUR"),
			positionJSON("Nobody Knows", "other", "DE000SBX0091", "1234567.125", "units", "long", "", "", "")))
	f.on(path+"/transactions", 200, recordsJSON("complete", "tx2",
		transactionJSON("Rent", `,"trade_date":"2026-11-19","settle_date":"2026-11-20","subtype":"STANDING_ORDER"`),
		transactionJSON("Oops", `,"cancels":"T-9","fees":{"value":"1.234","currency":"EUR"}`)))
	f.on(path+"/orders", 200, recordsJSON("complete", "",
		`{`+origins+`,"account_id":"`+depot+`","side":"buy","type":"limit","state":"open","quantity":"22","filled":"0","limit":{"value":"40.337","currency":"EUR","percent":false},"placed":"2026-11-15T09:15:00+01:00","good_till":"2026-12-22"}`))
	f.on(path, 200, versionJSON(newest, 2, usual, `[{"account_id":"`+depot+`","currency":"EUR","stated":"13000","computed":"12853.20","difference":"146.80","unvalued":2},
		{"account_id":"`+cashAcc+`","currency":"EUR","computed":"1000.1","unvalued":0}]`))
	return f
}

func TestPortfolio(t *testing.T) {
	f := rich(t)
	page := f.app(t).get("/connections/"+connID+"/portfolio", 200)
	has(t, page,
		// One total for each currency, and nothing counted twice.
		"There are several currencies", "Total value, EUR", "13 853.30 EUR", "12 853.20 EUR", "1 000.10 EUR",
		"Total value, USD", "−150.00 USD", "Total value, CHF", "0.00 CHF", "Cash within investments", "7.00 CHF",
		"Without a value from the bank: 1 position.",
		// The ring and the bars, with words and a table.
		`role="img" aria-labelledby="ring-EUR-t ring-EUR-d"`, "<desc id=\"ring-EUR-d\">Bonds 85.5 %. Shares 7.3 %. Cash 7.2 %. </desc>",
		`class="arc c1"`, "Value by account, EUR", "Value by position, EUR", "The same as a table",
		// Positions: per cent of face as such, gains only within one currency.
		"98.735 %", "of face", "12 000<small>face value", "100.50 EUR", "1 234 567.125", "+105.00 EUR", "+11.7 %", "−151.80 EUR", "−1.3 %",
		"Short", "DE000SBX0018", "11 848.20 EUR", "1 005 EUR",
		// Where figures come from.
		"as of 20 Nov 2026, 15:35 UTC", "Source’s own id</dt><dd><code>S-1</code>", "Retrieved</dt><dd>21 Nov 2026, 12:00 UTC", consID,
		// The rest.
		"Securities account …0430", "Giro …4300", "Ada", "not stated", "146.80 EUR", "2 positions left out", "also counted in the positions",
		"−20.50 EUR", "Cancels another", "1.234 EUR", "STANDING_ORDER", "settled 20 Nov 2026", "All 1 transaction", "40.337 EUR", "good till 22 Dec 2026")
	hasNot(t, page, "NaN", "Inf", "%!", "earlier version", "13 703.30", "13 860.30")
	for _, c := range f.called("GET /v1/connections/" + connID + "/portfolio/positions") {
		if versioned, paged := strings.Contains(c.what, "version="+newest), strings.Contains(c.what, "cursor="); versioned == paged {
			t.Errorf("the first page names the version, the next its cursor: %s", c.what)
		}
	}
}

// TestPortfolioUnread: no sum hides what could not be read.
func TestPortfolioUnread(t *testing.T) {
	tests := []struct{ name, status, says, sum string }{
		{"failed", `{"state":"failed","reason":"bank_unavailable","count":0,"saved":false}`, "Positions could not be read", "Known value"},
		{"not consented", `{"state":"not_consented","count":0,"saved":false}`, "Positions are not consented to", "Known value"},
		{"not kept", `{"state":"complete","count":9,"saved":false}`, "9 records read and counted, but not kept", "Known value"},
		{"empty", `{"state":"empty","count":0,"saved":true}`, "The bank has none", "Total value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := rich(t)
			f.on("GET /v1/connections/"+connID+"/portfolio", 200, versionJSON(newest, 2,
				strings.Replace(usual, `"positions":{"state":"complete","count":2,"saved":true}`, `"positions":`+tt.status, 1), ""))
			page := f.app(t).get("/connections/"+connID+"/portfolio", 200)
			has(t, page, tt.says, tt.sum, "1 000.10 EUR")
			if known := strings.Contains(page, "Known value"); known != strings.Contains(page, "<dd>unknown</dd>") {
				t.Error("a sum that is not known is shown as a number")
			}
			if n := len(f.called("GET /v1/connections/" + connID + "/portfolio/positions")); n != 0 {
				t.Errorf("positions were asked for %d times", n)
			}
		})
	}
}

func TestPortfolioNothing(t *testing.T) {
	f := newFake(t)
	a := f.app(t)
	has(t, a.get("/connections/"+connID+"/portfolio", 200), "There is nothing to add up")
	f.on("GET /v1/connections/"+connID+"/portfolio", 404, problemJSON(404, "portfolio_none", "nothing was read yet, or it was erased"))
	has(t, a.get("/connections/"+connID+"/portfolio", 404), "nothing was read yet, or it was erased", "Back to the connection")
	f.on("GET /v1/connections/"+connID+"/portfolio", 403, problemJSON(403, "consent_revoked", "the consent is revoked"))
	has(t, a.get("/connections/"+connID+"/portfolio", 403), "the consent is revoked")
}

// TestPortfolioVersionGone: a refresh may end the version in the middle of the reading. It is then read anew, once.
func TestPortfolioVersionGone(t *testing.T) {
	f := rich(t)
	path := "GET /v1/connections/" + connID + "/portfolio"
	gone := problemJSON(410, "version_gone", "this version is no longer kept")
	f.on(path+"/cash", 200)
	f.then(path+"/cash", 410, gone, nil)
	f.then(path+"/cash", 200, recordsJSON("complete", "", cashJSON("1", "EUR", false)), nil)
	has(t, f.app(t).get("/connections/"+connID+"/portfolio", 200), "Total value")
	f.on(path+"/cash", 410, gone)
	has(t, f.app(t).get("/connections/"+connID+"/portfolio", 410), "this version is no longer kept")
}

func TestPortfolioHistory(t *testing.T) {
	f := rich(t)
	path := "GET /v1/connections/" + connID + "/portfolio"
	f.on(path+"s", 200, `{"data":[`+versionJSON(newest, 2, usual, "")+`,`+versionJSON(older, 1, usual, "")+`]}`)
	f.on(path+"?version="+newest, 200, versionJSON(newest, 2, usual, `[{"account_id":"`+depot+`","currency":"EUR","computed":"200","unvalued":0},{"account_id":"`+cashAcc+`","currency":"EUR","computed":"0.5","unvalued":0}]`))
	f.on(path+"?version="+older, 200, versionJSON(older, 1, usual, `[{"account_id":"`+depot+`","currency":"EUR","computed":"100","unvalued":0}]`))
	f.on(path+"?version=1", 200, versionJSON(older, 1, usual, ""))
	a := f.app(t)
	page := a.get("/connections/"+connID+"/portfolio", 200)
	has(t, page, "Value over time, EUR", `points="2.000,92.000 98.000,8.000 "`, "Lowest 100.00 EUR, highest 200.50 EUR", "does not begin at zero", `href="?version=1"`)
	hasNot(t, page, "Value over time, USD")
	has(t, a.get("/connections/"+connID+"/portfolio?version=1", 200), "This is an earlier version", "version 1")
	f.on(path+"?version="+older, 410, problemJSON(410, "version_gone", "this version is no longer kept"))
	hasNot(t, a.get("/connections/"+connID+"/portfolio", 200), "Value over time")
}

// TestManyPositions: the sums are of all, the table is of a page, the greatest values first.
func TestManyPositions(t *testing.T) {
	f := rich(t)
	var first, second []string
	for n := range 120 {
		first = append(first, positionJSON(fmt.Sprintf("P%03d", n), "etf", "DE000SBX0018", "1", "units", "long", "", fmt.Sprint(n)+" EUR", ""))
		second = append(second, positionJSON(fmt.Sprintf("Q%03d", n), "etf", "DE000SBX0018", "1", "units", "long", "", "1 EUR", ""))
	}
	path := "/connections/" + connID + "/portfolio"
	f.on("GET /v1"+path+"/positions", 200, recordsJSON("complete", "c2", first...))
	f.on("GET /v1"+path+"/positions?cursor=c2&limit=1000", 200, recordsJSON("complete", "", second...))
	a := f.app(t)
	page := a.get(path, 200)
	has(t, page, "1 to 100 of 240", "The ten greatest positions, EUR", "7 260.00 EUR", `href="?from=101#positions"`, "P119")
	hasNot(t, page, "P010")
	page = a.get(path+"?from=201", 200)
	has(t, page, "201 to 240 of 240", `href="?from=101#positions"`, "Q119", "P000")
	if strings.Count(page, "<tr class=\"detail\"") > 60 {
		t.Error("the table has more than its page")
	}
}

func TestTransactions(t *testing.T) {
	f := rich(t)
	path := "/connections/" + connID + "/transactions"
	f.on("GET /v1/connections/"+connID+"/portfolio/transactions", 200, recordsJSON("complete", "tx2", transactionJSON("First", "")))
	f.on("GET /v1/connections/"+connID+"/portfolio/transactions?cursor=tx2&limit=50", 200, recordsJSON("complete", "", transactionJSON("Last", `,"pending":true`)))
	a := f.app(t)
	page := a.get(path, 200)
	has(t, page, "First", "Giro …4300", `id="more-link" data-more="moves" href="?cursor=tx2#more"`)
	page = a.get(path+"?cursor=tx2", 200)
	has(t, page, "Last", "from the first")
	hasNot(t, page, "more-link")
	a.get(path+"?cursor="+strings.Repeat("x", 513), 404)
}

func TestNumbers(t *testing.T) {
	d := decimal.RequireFromString
	tests := []struct{ name, got, want string }{
		{"small", group("12"), "12"},
		{"three digits", group("123"), "123"},
		{"four digits", group("1234"), "1 234"},
		{"millions", group("1234567.891"), "1 234 567.891"},
		{"below zero", group("-1234.5"), "−1 234.5"},
		{"below zero, three digits", group("-123"), "−123"},
		{"cents", sum(d("1234.5"), "EUR"), "1 234.50 EUR"},
		{"yen", sum(d("1234.5"), "JPY"), "1 235 JPY"},
		{"dinar", sum(d("1.2345"), "KWD"), "1.235 KWD"},
		{"large and exact", exact(&amount{d("123456789012345678901234567890.123456789012345678"), "EUR"}), "123 456 789 012 345 678 901 234 567 890.123456789012345678 EUR"},
		{"exact, noughts kept", exact(&amount{d("30479.90"), "EUR"}), "30 479.90 EUR"},
		{"exact, without cents", exact(&amount{d("12000"), "EUR"}), "12 000 EUR"},
		{"no amount", money(nil), "–"},
		{"price", quoted(&price{Value: d("251.9000"), Currency: "EUR"}), "251.90 EUR"},
		{"price with many digits", quoted(&price{Value: d("1.23456"), Currency: "USD"}), "1.23456 USD"},
		{"per cent of face", quoted(&price{Value: d("98.7"), Percent: true}), "98.70 %"},
		{"one", count(1, "record"), "1 record"},
		{"none", count(0, "record"), "0 records"},
		{"many", count(200000, "record"), "200 000 records"},
		{"day", stated("2026-02-28"), "28 Feb 2026"},
		{"no such day", stated("2026-02-30"), "2026-02-30"},
		{"other kind of date", stated("yesterday"), "yesterday"},
		{"no date", asOf(""), "the bank states no date"},
		{"short", short("Kompass World All Cap", 14), "Kompass World…"},
		{"unknown state", stateOf("new_state").Label, "New state"},
		{"unknown reason", reasonOf("new_reason"), "New reason."},
		{"kind", kindLabel("structured_note"), "Structured note"},
	}
	for _, tt := range tests {
		if got := flat(tt.got); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestGain(t *testing.T) {
	eur := func(v string) *amount { return &amount{decimal.RequireFromString(v), "EUR"} }
	tests := []struct {
		name        string
		value, cost *amount
		want        gain
	}{
		{"won", eur("110"), eur("100"), gain{"+10.00 EUR", "+10.0 %", "gain"}},
		{"lost", eur("90"), eur("100"), gain{"−10.00 EUR", "−10.0 %", "loss"}},
		{"neither", eur("100"), eur("100"), gain{"0.00 EUR", "0.0 %", ""}},
		{"cost nothing", eur("5"), eur("0"), gain{"+5.00 EUR", "", "gain"}},
		{"short position that fell", eur("-90"), eur("-100"), gain{"+10.00 EUR", "+10.0 %", "gain"}},
		{"no cost", eur("5"), nil, gain{Text: "–"}},
		{"no value", nil, eur("5"), gain{Text: "–"}},
		{"two currencies", eur("5"), &amount{decimal.NewFromInt(5), "USD"}, gain{Text: "–"}},
	}
	for _, tt := range tests {
		got := gainOf(tt.value, tt.cost)
		got.Text, got.Share = flat(got.Text), flat(got.Share)
		if got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestRing: the arcs fill the ring, whatever the parts.
func TestRing(t *testing.T) {
	for name, parts := range map[string][]string{"one": {"5"}, "halves": {"5", "5"}, "tiny": {"1000000", "0.01"}, "below zero": {"10", "-5", "-7"},
		"nothing above zero": {"-5"}, "noughts": {"0", "0"}, "many": strings.Split("1,2,3,4,5,6,7,8,9,10,11", ",")} {
		tt := &tally{currency: "EUR", kinds: map[string]decimal.Decimal{}}
		above := 0
		for i, p := range parts {
			v := decimal.RequireFromString(p)
			tt.kinds[fmt.Sprint("k", i)] = v
			if v.Sign() > 0 {
				above++
			}
		}
		drawn := 0
		for _, a := range newRing(tt).Arcs {
			if a.Class == "" {
				continue
			}
			drawn++
			length, offset := decimal.RequireFromString(a.Length), decimal.RequireFromString(a.Offset)
			if !length.IsPositive() && name != "tiny" || offset.IsPositive() || offset.LessThan(decimal.NewFromInt(-100)) {
				t.Errorf("%s: arc of %s at %s", name, a.Length, a.Offset)
			}
		}
		if drawn != above || above == 0 && newRing(tt).Arcs != nil {
			t.Errorf("%s: %d arcs for %d parts above zero", name, drawn, above)
		}
	}
}

// TestEvents: an open page hears of a webhook at once.
func TestEvents(t *testing.T) {
	a := newFake(t).app(t)
	server := httptest.NewServer(a.mux)
	defer server.Close()
	resp, err := server.Client().Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("Content-Type is %q", kind)
	}
	a.send204(webhook(t, "evt_1", notice(connID, 1, "portfolio.updated"), testSecret, time.Now()))
	want := `data: {"connection":"` + connID + `","investor":"inv-1","type":"portfolio.updated"}`
	var got strings.Builder
	for buffer := make([]byte, 256); !strings.Contains(got.String(), want); {
		n, err := resp.Body.Read(buffer)
		got.Write(buffer[:n])
		if err != nil {
			t.Fatalf("the stream ended with %q: %v", got.String(), err)
		}
	}
}
