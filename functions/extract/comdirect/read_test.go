package comdirect

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// TestRecords compares every record of the canned bank with testdata/records.jsonl.
func TestRecords(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	p := a.portfolio()
	var got strings.Builder
	for _, product := range domain.Products {
		if p.Read[product] == nil {
			continue
		}
		for record, err := range p.Read[product] {
			if err != nil {
				t.Fatalf("%s: %v", product, err)
			}
			line, err := json.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&got, "%s %s\n", product, line)
		}
	}
	const file = "testdata/records.jsonl"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		if i >= len(gotLines) || i >= len(wantLines) || gotLines[i] != wantLines[i] {
			t.Fatalf("record %d differs; all that was read:\n%s", i+1, got.String())
		}
	}
	if n := a.bank.seen("GET " + pathBalances); n != 1 {
		t.Errorf("balances were asked for %d times; want once", n)
	}
	if n := a.bank.seen("GET " + pathDepots); n != 1 {
		t.Errorf("depots were asked for %d times; want once", n)
	}
}

// read pulls one product and returns the identifiers, with the error that ended it.
func read(p *extraction.Portfolio, product domain.Product) (ids []string, err error) {
	for record, e := range p.Read[product] {
		if e != nil {
			return ids, e
		}
		ids = append(ids, record.Origin().SourceID)
	}
	return ids, nil
}

func holding(i int) string {
	return fmt.Sprintf(`{"positionId":"P%d","quantity":{"value":"1","unit":"XXX"}}`, i)
}

const pathHoldings = "GET " + pathDepot + "DEP1/positions"

func TestPaging(t *testing.T) {
	page := func(index, matches int, items ...string) http.HandlerFunc {
		return status(200, fmt.Sprintf(`{"paging":{"index":%d,"matches":%d},"values":[%s]}`, index, matches, strings.Join(items, ",")))
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   int
		asked  int
		reason domain.Reason
		retry  bool
	}{
		{"none", page(0, 0), 0, 1, "", false},
		{"null", status(200, `{"paging":{"index":0,"matches":0},"values":null}`), 0, 1, "", false},
		{"one page", page(0, 2, holding(1), holding(2)), 2, 1, "", false},
		{"no paging at all", status(200, `{"values":[`+holding(1)+`]}`), 1, 1, "", false},
		{"paging is null", status(200, `{"paging":null,"values":[`+holding(1)+`]}`), 1, 1, "", false},
		{"many pages", pagesOf(1234, 500, holding), 1234, 5, "", false},
		{"all at once", pagesOf(5000, 5000, func(i int) string { return holding(i) }), 5000, 0, "", false},
		{"the last is short", answers(page(0, 3, holding(1), holding(2)), page(2, 3, holding(3))), 3, 2, "", false},
		{"more follows the list", status(200, `{"values":[]}{"values":[]}`), 0, 1, domain.ReasonBankAnswer, false},
		{"no list", status(200, `{"paging":{"index":0,"matches":0}}`), 0, 1, domain.ReasonBankAnswer, false},
		{"a list is an object", status(200, `{"values":{}}`), 0, 1, domain.ReasonBankAnswer, false},
		{"the answer is a list", status(200, `[]`), 0, 1, domain.ReasonBankAnswer, false},
		{"it ends early", answers(page(0, 9, holding(1)), page(1, 9)), 1, 2, domain.ReasonBankAnswer, false},
		{"it is empty and should not be", page(0, 9), 0, 1, domain.ReasonBankAnswer, false},
		{"always the first page", page(0, 9, holding(1)), 1, 2, domain.ReasonBankAnswer, false},
		{"the same page under another number", answers(page(0, 9, holding(1)), page(1, 9, holding(1))), 2, 2, domain.ReasonBankAnswer, false},
		{"it grows", answers(page(0, 9, holding(1)), page(1, 10, holding(2))), 2, 2, domain.ReasonBankAnswer, true},
		{"too many", page(0, maxRecords+1, holding(1)), 1, 1, domain.ReasonBankAnswer, false},
		{"a number that is none", status(200, `{"values":[{"positionId":"P","quantity":{"value":"1,5","unit":"XXX"}}]}`), 0, 1, domain.ReasonBankAnswer, false},
		{"a record without identifier", status(200, `{"values":[{"quantity":{"value":"1","unit":"XXX"}}]}`), 0, 1, domain.ReasonBankAnswer, false},
		{"a record of the wrong kind", status(200, `{"values":[7]}`), 0, 1, domain.ReasonBankAnswer, false},
		{"an amount without currency", status(200, `{"values":[{"positionId":"P","quantity":{"value":"1","unit":"XXX"},"currentValue":{"value":"1"}}]}`), 0, 1, domain.ReasonBankAnswer, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &access{t: t, bank: newBank(t)}
			p := a.portfolio()
			a.bank.answers[pathHoldings] = c.answer
			ids, err := read(p, domain.ProductPositions)
			var f *extraction.Failure
			if c.reason != "" && (!errors.As(err, &f) || f.Reason != c.reason || f.Retry != c.retry) || c.reason == "" && err != nil {
				t.Fatalf("reading ended with %+v, %v; want %q, retry %v", f, err, c.reason, c.retry)
			}
			if len(ids) != c.want && !(c.reason != "" && len(ids) <= c.want) {
				t.Errorf("%d records; want %d", len(ids), c.want)
			}
			seen := map[string]bool{}
			for _, id := range ids {
				seen[id] = true
			}
			if c.reason == "" && len(seen) != c.want {
				t.Errorf("%d different records; want %d", len(seen), c.want)
			}
			if n := a.bank.seen(pathHoldings); c.asked > 0 && n > c.asked {
				t.Errorf("asked %d times; want at most %d", n, c.asked)
			}
		})
	}
}

// TestTransactionPages: the bank pages through what is booked only, 500 at most, and shows all history if asked for it.
func TestTransactionPages(t *testing.T) {
	path := "GET " + pathAccounts + "ACC1/transactions"
	booked := pagesOf(1201, 500, func(i int) string {
		return fmt.Sprintf(`{"reference":"R%d","bookingStatus":"BOOKED","bookingDate":"2026-01-02","amount":{"value":"1","unit":"EUR"}}`, i)
	})
	a := &access{t: t, bank: newBank(t)}
	p := a.portfolio()
	a.bank.answers[path] = func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case q.Get("transactionState") == "NOTBOOKED" && !q.Has("paging-first"):
			a.bank.canned(w, r)
		case q.Get("transactionState") == "BOOKED" && q.Get("paging-count") == "500" && q.Get("min-bookingDate") == allHistory:
			booked(w, r)
		default:
			say(w, 422, `{"code":"request.query.invalid"}`)
		}
	}
	ids, err := read(p, domain.ProductTransactions)
	if err != nil {
		t.Fatal(err)
	}
	if want := 1 + 1201 + 2; len(ids) != want {
		t.Errorf("%d transactions; want %d", len(ids), want)
	}
}

// TestUndocumentedParametersAreGivenUp: the bank takes them today, and may not tomorrow.
func TestUndocumentedParametersAreGivenUp(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	p := a.portfolio()
	a.bank.answers["GET "+pathAccounts+"ACC1/transactions"] = func(w http.ResponseWriter, r *http.Request) {
		for key := range r.URL.Query() {
			if key != "transactionState" && key != "paging-first" {
				say(w, 422, `{"code":"request.query.invalid"}`)
				return
			}
		}
		pagesOf(45, 20, func(i int) string { return fmt.Sprintf(`{"reference":"R%d"}`, i) })(w, r)
	}
	ids, err := read(p, domain.ProductTransactions)
	if want := 2*45 + 2; err != nil || len(ids) != want {
		t.Errorf("%d transactions, %v; want %d", len(ids), err, want)
	}
}

func TestReadingStumbles(t *testing.T) {
	cut := func(w http.ResponseWriter, _ *http.Request) { panic(io.ErrUnexpectedEOF) }
	fine := pagesOf(3, 500, holding)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   int
		asked  int
		waited time.Duration
		reason domain.Reason
		retry  bool
		after  time.Duration
	}{
		{"500 twice", answers(status(500, ""), status(502, ""), fine), 3, 3, 3 * time.Second, "", false, 0},
		{"a broken line, then 503", answers(cut, status(503, ""), fine), 3, 3, 3 * time.Second, "", false, 0},
		{"500 for ever", status(500, ""), 0, 3, 3 * time.Second, domain.ReasonBankUnavailable, true, 0},
		{"a broken line for ever", cut, 0, 3, 3 * time.Second, domain.ReasonBankUnavailable, true, 0},
		{"a short pause", answers(status(429, "", "Retry-After", "7"), fine), 3, 2, 7 * time.Second, "", false, 0},
		{"a 503 with a pause", answers(status(503, "", "Retry-After", "9"), fine), 3, 2, 9 * time.Second, "", false, 0},
		{"a long pause", status(429, "", "Retry-After", "60"), 0, 1, 0, domain.ReasonRateLimited, true, time.Minute},
		{"the token ended", status(401, ""), 0, 1, 0, domain.ReasonBankUnavailable, true, 0},
		{"not allowed", status(403, ""), 0, 1, 0, domain.ReasonActionRequired, false, 0},
		{"not found", status(404, ""), 0, 1, 0, domain.ReasonBankAnswer, false, 0},
		{"a redirect", status(302, "", "Location", "https://evil.example/"), 0, 1, 0, domain.ReasonBankAnswer, false, 0},
		{"no JSON", status(200, `<html>`), 0, 1, 0, domain.ReasonBankAnswer, false, 0},
		{"another page than asked for", status(200, `{"paging":{"index":7,"matches":10},"values":[`+holding(1)+`]}`), 0, 1, 0, domain.ReasonBankAnswer, false, 0},
		{"another page, said afterwards", status(200, `{"values":[`+holding(1)+`],"paging":{"index":7,"matches":1}}`), 1, 1, 0, domain.ReasonBankAnswer, false, 0},
		{"the same thing twice", pagesOf(3, 500, func(i int) string { return holding(i / 2) }), 1, 1, 0, domain.ReasonBankAnswer, false, 0},
		{"an end in the middle", status(200, `{"values":[`+holding(1)+`,{"posi`), 1, 1, 0, domain.ReasonBankAnswer, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &access{t: t, bank: newBank(t)}
				p := a.portfolio()
				a.bank.answers[pathHoldings] = c.answer
				start := time.Now()
				ids, err := read(p, domain.ProductPositions)
				if len(ids) != c.want || time.Since(start) != c.waited || a.bank.seen(pathHoldings) != c.asked {
					t.Errorf("%d records after %s and %d requests; want %d, %s, %d", len(ids), time.Since(start),
						a.bank.seen(pathHoldings), c.want, c.waited, c.asked)
				}
				var f *extraction.Failure
				if c.reason == "" && err == nil {
					return
				}
				if !errors.As(err, &f) || f.Reason != c.reason || f.Retry != c.retry || f.RetryAfter != c.after {
					t.Errorf("failure %+v, %v; want %s", f, err, c.reason)
				}
			})
		})
	}
}

// broken is a body that ends with a broken line.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
func (broken) Close() error { return nil }

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestBrokenLine: what was given on is not given again, and what was not is asked for again.
func TestBrokenLine(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       int
		asked      int
	}{
		{"before the first record", `{"paging":{"index":0,"matches":2},"values":[{"po`, 0, tries},
		{"after it", `{"paging":{"index":0,"matches":2},"values":[` + holding(1) + `,{"po`, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				v := &visit{s: extraction.Session{Custodian: catalogue(t), HTTP: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
					asked++
					return &http.Response{StatusCode: 200, Header: http.Header{}, Body: broken{strings.NewReader(c.body)}}, nil
				})}}}
				r := &reader{visit: v, ctx: t.Context()}
				n := 0
				err := r.each(list{path: "/x", query: url.Values{}, item: func(jsontext.Value) error { n++; return nil }})
				var f *extraction.Failure
				if !errors.As(err, &f) || f.Reason != domain.ReasonBankUnavailable || !f.Retry || n != c.want || asked != c.asked {
					t.Errorf("%d records, %d requests, failure %+v; want %d, %d", n, asked, f, c.want, c.asked)
				}
			})
		})
	}
}

// TestDepotWithoutSum: a depot is an account even where the bank cannot say what it is worth.
func TestDepotWithoutSum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, answer := range []http.HandlerFunc{status(500, ""), status(200, "<html>"), status(404, "")} {
			a := &access{t: t, bank: newBank(t)}
			p := a.portfolio()
			a.bank.answers[pathHoldings] = answer
			if ids, err := read(p, domain.ProductAccounts); err != nil || len(ids) != 3 {
				t.Errorf("accounts %v, %v; want three", ids, err)
			}
			if _, err := read(p, domain.ProductPositions); err == nil {
				t.Error("the positions hide the failure")
			}
		}
		a := &access{t: t, bank: newBank(t)}
		p := a.portfolio()
		a.bank.answers[pathHoldings] = status(401, "")
		if _, err := read(p, domain.ProductAccounts); err == nil {
			t.Error("the end of the session was hidden")
		}
	})
}

func TestHostileIdentifiers(t *testing.T) {
	for _, id := range []string{"", "../orders", "A/B", "A%2FB", "A?x=1", "Ä", strings.Repeat("A", 65)} {
		a := &access{t: t, bank: newBank(t)}
		p := a.portfolio()
		a.bank.answers["GET "+pathDepots] = status(200, fmt.Sprintf(`{"values":[{"depotId":%q}]}`, id))
		a.bank.answers["GET "+pathBalances] = status(200, fmt.Sprintf(`{"values":[{"accountId":%q}]}`, id))
		for _, product := range []domain.Product{domain.ProductAccounts, domain.ProductPositions, domain.ProductTransactions} {
			_, err := read(p, product)
			var f *extraction.Failure
			if !errors.As(err, &f) || f.Reason != domain.ReasonBankAnswer {
				t.Errorf("%s of %q: %v; want bank_answer", product, id, err)
			}
		}
	}
}

// TestCanariesStayInside looks for tokens in every error that the bank can provoke while reading.
func TestCanariesStayInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, answer := range []http.HandlerFunc{status(401, `{"error":"access-canary-1"}`), status(422, `{"code":"access-canary-2"}`),
			status(200, `{"values":[{"positionId":7}]}`), status(200, `{"values":["Erika Beispiel"]}`), status(500, "access-canary-1"),
			breaks(&url.Error{Op: "Get", URL: "https://api.comdirect.de/DEP1", Err: io.EOF})} {
			a := &access{t: t, bank: newBank(t)}
			p := a.portfolio()
			a.bank.answers[pathHoldings] = answer
			_, err := read(p, domain.ProductPositions)
			for _, canary := range []string{"canary", "Erika", "DEP1", password, username, clientKey} {
				if err == nil || strings.Contains(err.Error(), canary) {
					t.Errorf("error %v holds %q", err, canary)
				}
			}
		}
	})
}
