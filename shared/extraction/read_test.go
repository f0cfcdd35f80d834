package extraction_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// refresh has the client ask for another reading, and goes to its end.
func (w *world) refresh() {
	w.t.Helper()
	w.advance(time.Hour)
	w.begin(domain.CauseRequested)
	w.rest()
}

func TestBrokenReadingIsResumed(t *testing.T) {
	for failures := 1; failures <= 3; failures++ {
		t.Run(fmt.Sprint(failures, " failures"), func(t *testing.T) {
			w := build(t).settle(t)
			left := failures
			w.bank.hook = func(_ context.Context, _ extraction.Session, at string) error {
				if at == "read positions 1" && left > 0 {
					left--
					return &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true, RetryAfter: time.Minute}
				}
				return nil
			}
			start := w.clock()
			first(w, "")
			w.rest()
			w.expect("logins", w.bank.logins[password], 1)
			w.expect("stands", w.stands(), "complete active accepted")
			w.expect("notices", w.notices(), "connection.active portfolio.updated")
			w.expect("waited", w.clock().Sub(start), time.Duration(min(failures, 2))*time.Minute)
			positions := w.version(1).Products[domain.ProductPositions]
			if failures <= 2 {
				w.expect("steps", w.bank.steps(), "login"+strings.Repeat(" resume", failures)+" end")
				w.expect("positions", say(positions.State, positions.Count), "complete 2")
			} else { // at the last try the product has failed, and the others are kept
				w.expect("steps", w.bank.steps(), "login resume resume end")
				w.expect("positions", say(positions.State, positions.Reason, positions.Count, len(positions.Parts)), "failed bank_unavailable 0 0")
				w.expect("cash", w.version(1).Products[domain.ProductCash].State, domain.ProductComplete)
			}
			w.sound()
		})
	}
}

// TestPauseIsKept: the event that looks after the challenge does not cut a pause short that the bank asked for.
func TestPauseIsKept(t *testing.T) {
	w := first(build(t).settle(t), "code")
	w.must(w.answer(domain.AnswerCode, code))
	w.bank.breaks("read cash 0", &extraction.Failure{Reason: domain.ReasonRateLimited, Retry: true, RetryAfter: 20 * time.Minute})
	start := w.clock()
	w.rest()
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("waited", w.connection().LastRefreshedAt.Time.Sub(start), 20*time.Minute)
	w.sound()
}

// text is n bytes that do not compress.
func text(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	return base64.RawURLEncoding.EncodeToString(raw)[:n]
}

func TestFailedProduct(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason domain.Reason
		spoil  func(w *world)
	}{
		{"malformed", domain.ReasonBankAnswer, func(w *world) {
			w.bank.breaks("read transactions 1", &extraction.Failure{Reason: domain.ReasonBankAnswer})
		}},
		{"not a failure", domain.ReasonInternal, func(w *world) { w.bank.breaks("read transactions 1", errors.New("something")) }},
		{"at its end", domain.ReasonBankAnswer, func(w *world) {
			w.bank.breaks("read transactions end", &extraction.Failure{Reason: domain.ReasonBankAnswer})
		}},
		{"panic", domain.ReasonInternal, func(w *world) {
			w.bank.hook = func(_ context.Context, _ extraction.Session, at string) error {
				if at == "read transactions 1" {
					panic("a secret " + password)
				}
				return nil
			}
		}},
		{"oversize record", domain.ReasonBankAnswer, func(w *world) { w.transaction().Text = text(domain.MaxPartBytes) }},
		{"foreign record", domain.ReasonInternal, func(w *world) {
			w.bank.holdings[domain.ProductTransactions][1] = &domain.Order{AccountID: "depot"}
		}},
		{"no record", domain.ReasonInternal, func(w *world) {
			w.bank.records = map[domain.Product]func(context.Context) extraction.Records{domain.ProductTransactions: func(context.Context) extraction.Records {
				return func(yield func(domain.Record, error) bool) { yield(nil, nil) }
			}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := build(t).settle(t)
			c.spoil(w)
			first(w, "")
			w.rest()
			w.expect("stands", w.stands(), "complete active accepted")
			v := w.version(1)
			status := v.Products[domain.ProductTransactions]
			w.expect("transactions", say(status.State, status.Reason, len(status.Parts)), say(domain.ProductFailed, c.reason, 0))
			for _, p := range []domain.Product{domain.ProductAccounts, domain.ProductCash, domain.ProductPositions} {
				w.expect(string(p), v.Products[p].State, domain.ProductComplete)
			}
			w.expect("orders", v.Products[domain.ProductOrders].State, domain.ProductEmpty)
			w.expect("told to the client", w.connection().Products[domain.ProductTransactions].State, domain.ProductFailed)
			w.expect("parts", len(listOf[domain.Part](w, "parts_by_connection")), 3)
			w.sound()
		})
	}
}

func (w *world) transaction() *domain.Transaction {
	return w.bank.holdings[domain.ProductTransactions][1].(*domain.Transaction)
}

// many fills a product with n records of size bytes that do not compress.
func (b *bank) many(p domain.Product, n, size int) {
	b.holdings[p] = nil
	for i := range n {
		from := domain.Provenance{SourceID: fmt.Sprint(p, i)}
		if p == domain.ProductOrders {
			b.holdings[p] = append(b.holdings[p], &domain.Order{Provenance: from, AccountID: "depot", State: text(size)})
		} else {
			b.holdings[p] = append(b.holdings[p], &domain.Transaction{Provenance: from, AccountID: "depot", Text: text(size)})
		}
	}
}

// TestFailedProductLeavesNothing: a product that fails after some of its parts were stored takes these back.
func TestFailedProductLeavesNothing(t *testing.T) {
	t.Parallel()
	w := build(t).settle(t)
	w.bank.many(domain.ProductTransactions, 25, 300<<10)
	w.bank.many(domain.ProductOrders, 5, 300<<10)
	w.bank.breaks("read transactions 24", &extraction.Failure{Reason: domain.ReasonBankAnswer})
	first(w, "")
	w.rest()
	w.expect("stored meanwhile", len(w.entries("portfolio.parts_stored")) > 0, true)
	w.expect("dropped", len(w.entries("portfolio.parts_dropped")), 1)
	w.expect("sweep looks for parts", w.connection().Staged, false)
	v := w.version(1)
	w.expect("states", say(v.Products[domain.ProductTransactions].State, v.Products[domain.ProductOrders].State), "failed complete")
	named := 0
	for _, status := range v.Products {
		named += len(status.Parts)
	}
	w.expect("parts", len(listOf[domain.Part](w, "parts_by_connection")), named)
	w.sound()
}

// TestDroppedPartsOfOlderVersions: content that comes back is named by an older version already, so a reading that
// fails must not take it away.
func TestDroppedPartsOfOlderVersions(t *testing.T) {
	extraction.StageEach(t)
	w := build(t).settle(t, func(c *domain.Consent) {
		c.Saving = map[domain.Product]domain.Saving{domain.ProductTransactions: {Scope: domain.SaveHistory, Days: 90}}
	})
	w.bank.many(domain.ProductTransactions, 3, 300<<10)
	then := w.bank.holdings[domain.ProductTransactions]
	first(w, "")
	w.bank.many(domain.ProductTransactions, 1, 10)
	w.refresh()
	w.bank.holdings[domain.ProductTransactions] = then
	w.bank.breaks("read transactions 2", &extraction.Failure{Reason: domain.ReasonBankAnswer})
	w.refresh()
	w.expect("transactions of version 3", w.version(3).Products[domain.ProductTransactions].State, domain.ProductFailed)
	w.expect("transactions of version 1", len(w.records(w.version(1), domain.ProductTransactions)), 3)
	w.sound()
}

// TestLargeRecords: two records that fit a part each do not together, and would not fit a document.
func TestLargeRecords(t *testing.T) {
	t.Parallel()
	w := build(t).settle(t)
	w.bank.many(domain.ProductTransactions, 4, domain.MaxPartBytes-1000)
	first(w, "")
	w.rest()
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("parts", len(w.version(1).Products[domain.ProductTransactions].Parts), 4)
	w.sound()
}

func TestRefusedRequest(t *testing.T) {
	for _, c := range []struct{ name, at, method, url string }{
		{"at login", "before login", "POST", "https://api.bank.example/transfers/" + code},
		{"elsewhere", "before login", "GET", "https://evil.example/login"},
		{"while reading", "read cash 0", "POST", "https://api.bank.example/login"},
		{"at the end", "before end", "POST", "https://api.bank.example/login"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := build(t).settle(t)
			w.bank.hook = func(ctx context.Context, s extraction.Session, at string) error {
				if at != c.at {
					return nil
				}
				req, err := http.NewRequestWithContext(ctx, c.method, c.url, nil)
				if err != nil {
					return err
				}
				_, err = s.HTTP.Do(req)
				return err
			}
			first(w, "")
			w.rest()
			entries := w.entries("egress.refused")
			if len(entries) == 0 {
				t.Fatal("the refused request is not in the audit log")
			}
			e := entries[0]
			w.expect("entry", say(e.Data.Outcome, e.Data.Reason, e.Data.Custodian, e.Data.ConsentID, e.Data.ConnectionID, e.Subject),
				say("denied egress_refused bank", w.consent, w.conn, w.session))
			if raw, _ := json.Marshal(e); strings.Contains(string(raw), code) || strings.Contains(string(raw), "evil") {
				t.Errorf("the entry tells what was in the request: %s", raw)
			}
			if c.at == "before end" {
				w.bank.visits[0].stage = "closed" // by itself, after half an hour
				w.expect("stands", w.stands(), "complete active accepted")
			} else {
				w.expect("reason", say(w.theSession().Reason, w.connection().State), "egress_refused paused")
			}
			w.expect("versions", len(w.versions()), len(w.entries("portfolio.stored")))
			w.sound()
		})
	}
}

// TestRefusedRequestMidway: a connector that strays has its whole reading dropped.
func TestRefusedRequestMidway(t *testing.T) {
	t.Parallel()
	w := build(t).settle(t)
	w.bank.many(domain.ProductTransactions, 25, 300<<10)
	w.bank.breaks("read orders end", &extraction.Failure{Reason: domain.ReasonEgressRefused})
	first(w, "")
	w.rest()
	w.expect("stands", w.stands(), "failed(egress_refused) paused(egress_refused) accepted")
	w.expect("stored meanwhile", len(w.entries("portfolio.parts_stored")) > 0, true)
	w.expect("parts", len(listOf[domain.Part](w, "parts_by_connection")), 0)
	w.sound()
}

func TestUnchangedRefresh(t *testing.T) {
	w := first(build(t).settle(t), "")
	calls, parts := w.kek.calls.Load(), len(listOf[domain.Part](w, "parts_by_connection"))
	w.restart() // so that no keyset is in memory
	puts := len(w.puts)
	w.refresh()
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("calls of the portfolio key", w.kek.calls.Load()-calls, 0)
	w.expect("parts", len(listOf[domain.Part](w, "parts_by_connection")), parts)
	for _, d := range w.puts[puts:] {
		if d.Kind() == "part" || d.Kind() == "data_key" {
			t.Errorf("a %s was written", d.Kind())
		}
	}
	one, two := w.version(1), w.version(2)
	for p := range two.Products {
		w.expect(string(p)+" are whole", len(w.records(two, p)), two.Products[p].Count)
	}
	w.expect("summary", one.SummaryMark == two.SummaryMark && string(one.Summary) == string(two.Summary), true)
	w.sound()
}

func TestChangedRefresh(t *testing.T) {
	w := build(t).settle(t)
	for i := range 2500 {
		w.bank.holdings[domain.ProductTransactions] = append(w.bank.holdings[domain.ProductTransactions],
			&domain.Transaction{Provenance: domain.Provenance{SourceID: fmt.Sprint("t", i)}, AccountID: "giro"})
	}
	first(w, "")
	before := w.version(1).Products[domain.ProductTransactions].Parts
	w.expect("parts of the first", len(before), 3)
	w.bank.holdings[domain.ProductTransactions][1500].(*domain.Transaction).Text = "changed"
	puts := len(w.puts)
	w.refresh()
	after := w.version(2).Products[domain.ProductTransactions].Parts
	w.expect("the first stays", after[0], before[0])
	w.expect("the second changes", after[1] == before[1], false)
	w.expect("the third stays", after[2], before[2])
	written := 0
	for _, d := range w.puts[puts:] {
		if d.Kind() == "part" {
			written++
		}
	}
	w.expect("parts written", written, 1)
	if !strings.Contains(w.records(w.version(2), domain.ProductTransactions)[1500], "changed") {
		t.Error("the change was not read")
	}
	w.sound()
}

func TestSavingScopes(t *testing.T) {
	w := build(t).settle(t, func(c *domain.Consent) {
		c.Saving = map[domain.Product]domain.Saving{
			domain.ProductCash:         {Scope: domain.SaveNone},
			domain.ProductTransactions: {Scope: domain.SaveHistory, Days: 30},
			domain.ProductAccounts:     {Scope: domain.SaveLatest},
		}
	})
	first(w, "")
	v := w.version(1)
	w.expect("cash", say(v.Products[domain.ProductCash].State, v.Products[domain.ProductCash].Count, v.Products[domain.ProductCash].Saved,
		len(v.Products[domain.ProductCash].Parts)), "complete 1 false 0")
	w.expect("accounts", say(v.Products[domain.ProductAccounts].Saved, len(v.Products[domain.ProductAccounts].Parts)), "true 1")
	accounts := v.Products[domain.ProductAccounts].Parts
	w.expect("sums of what may not be saved", len(w.summary(v)), 0)
	w.expect("the newest ends", v.ExpiresAt.IsZero(), true)
	for _, part := range listOf[domain.Part](w, "parts_by_connection") {
		if part.Product == domain.ProductCash {
			t.Error("cash was stored")
		}
	}
	w.refresh()
	v = w.version(1)
	w.expect("history of transactions", len(w.records(v, domain.ProductTransactions)), 2)
	w.expect("accounts let go", say(v.Products[domain.ProductAccounts].Saved, len(v.Products[domain.ProductAccounts].Parts)), "false 0")
	w.expect("for sweep to delete", slices.Contains(v.LetGo, accounts[0]), true)
	w.expect("at once", v.SweepAt, w.version(2).RetrievedAt)
	w.expect("the older ends", v.ExpiresAt, v.RetrievedAt.Add(30*24*time.Hour))
	w.sound()

	w = first(w.settle(t), "") // everything latest
	w.refresh()
	w.expect("the older ends at once", w.version(1).ExpiresAt, w.version(2).RetrievedAt)
	w.bank.breaks("read positions 0", &extraction.Failure{Reason: domain.ReasonBankAnswer})
	w.refresh()
	w.expect("positions of the third", w.version(3).Products[domain.ProductPositions].State, domain.ProductFailed)
	two := w.version(2)
	w.expect("positions of the second are kept", len(w.records(two, domain.ProductPositions)), 2)
	w.expect("but nothing else", len(two.Products[domain.ProductCash].Parts), 0)
	w.expect("for a month", two.ExpiresAt, w.version(3).RetrievedAt.Add(30*24*time.Hour))
	w.sound()
}

// accounts are our names of a version's accounts.
func (w *world) accounts(v *domain.Portfolio) (ids []string) {
	w.t.Helper()
	for _, line := range w.records(v, domain.ProductAccounts) {
		var a domain.Account
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, a.ID)
	}
	return ids
}

func TestAccountNames(t *testing.T) {
	h := build(t)
	one := first(h.settle(t), "")
	ids := one.accounts(one.version(1))
	for _, id := range ids {
		if len(id) != len("acc_")+26 || strings.Contains(id, "giro") {
			t.Errorf("an account is named %q", id)
		}
	}
	for _, p := range []domain.Product{domain.ProductCash, domain.ProductPositions, domain.ProductTransactions} {
		for _, line := range one.records(one.version(1), p) {
			if !strings.Contains(line, ids[0]) && !strings.Contains(line, ids[1]) {
				t.Errorf("a record names no account of ours: %s", line)
			}
		}
	}
	client := one.theConsent().ClientID
	for _, c := range []struct {
		name   string
		change func(*domain.Consent)
		same   bool
	}{
		{"the same investor again", func(c *domain.Consent) { c.ClientID = client }, true},
		{"another investor", func(c *domain.Consent) { c.ClientID, c.InvestorRef = client, "inv-2" }, false},
		{"another client", func(*domain.Consent) {}, false},
	} {
		w := first(h.settle(t, c.change), "")
		got := w.accounts(w.version(1))
		w.expect(c.name, slices.Equal(got, ids), c.same)
		if !c.same && (slices.Contains(ids, got[0]) || slices.Contains(ids, got[1])) {
			t.Errorf("%s: one name is the same", c.name)
		}
	}
}

func TestTooManyAccounts(t *testing.T) {
	t.Parallel()
	w := build(t).settle(t)
	w.bank.holdings[domain.ProductAccounts] = nil
	for i := range 5001 {
		w.bank.holdings[domain.ProductAccounts] = append(w.bank.holdings[domain.ProductAccounts],
			&domain.Account{ID: fmt.Sprint("a", i), Currency: "EUR", Value: &domain.Amount{Value: "1", Currency: "EUR"}})
	}
	first(w, "")
	w.expect("accounts", say(w.version(1).Products[domain.ProductAccounts].State, w.version(1).Products[domain.ProductAccounts].Reason), "failed bank_answer")
	w.sound()
	w = w.settle(t)
	w.bank.only(domain.ProductAccounts)
	for i := range 5000 {
		w.bank.holdings[domain.ProductAccounts] = append(w.bank.holdings[domain.ProductAccounts],
			&domain.Account{ID: fmt.Sprint("a", i), Currency: "EUR", Value: &domain.Amount{Value: "1", Currency: "EUR"}})
	}
	w.bank.holdings[domain.ProductAccounts] = w.bank.holdings[domain.ProductAccounts][2:]
	first(w, "")
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("sums", len(w.summary(w.version(1))), 5000)
	w.sound()
}

// TestLeftoversOfAnErasure: parts that an erasure has not come to yet have the names of what is read anew, but were
// closed under the key that it destroyed. They are written again.
func TestLeftoversOfAnErasure(t *testing.T) {
	w := first(build(t).settle(t), "")
	w.rest()
	gone := w.version(1)
	w.advance(time.Minute)
	w.alter(func(tx domain.Tx) error {
		conn := &domain.Connection{ID: w.conn}
		if err := tx.Get(conn); err != nil {
			return err
		}
		conn.PortfolioID, conn.Versions = "", 0
		return errors.Join(tx.Put(conn), tx.Delete(gone), tx.Delete(&domain.DataKey{ConnectionID: w.conn}))
	})
	w.restart()
	w.refresh()
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("positions", len(w.records(w.version(1), domain.ProductPositions)), 2)
	w.sound()
}
