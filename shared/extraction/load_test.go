package extraction_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/extraction"
)

// sieve is a store that keeps everything but the content of parts.
type sieve struct {
	domain.Store
	parts, records int
}

type sieveTx struct {
	domain.Tx
	s *sieve
}

func (x sieveTx) Put(d domain.Document) error {
	if part, ok := d.(*domain.Part); ok {
		x.s.parts++
		x.s.records += part.Count
		return nil
	}
	return x.Tx.Put(d)
}

func (s *sieve) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	return s.Store.Commit(ctx, func(tx domain.Tx) error { return fn(sieveTx{tx, s}) })
}

// stream gives n transactions, each made when it is asked for, and tells of every thousandth.
func stream(n int, tell func(i int)) func(context.Context) extraction.Records {
	return func(context.Context) extraction.Records {
		return func(yield func(domain.Record, error) bool) {
			for i := range n {
				if i%1000 == 0 {
					tell(i)
				}
				if !yield(&domain.Transaction{Provenance: domain.Provenance{SourceID: fmt.Sprint("tx-", i), AsOf: "2026-01-30"}, AccountID: "giro",
					Type: domain.TransactionDeposit, TradeDate: "2026-01-30", SettleDate: "2026-01-31", Net: amount(fmt.Sprint(i, ".50"), "EUR"),
					Text: fmt.Sprintf("standing order %d of a person whose name is long, for a purpose that takes some words to state", i)}, nil) {
					return
				}
			}
		}
	}
}

// TestMemoryIsBounded reads 200,000 records. What is live must not grow with their number.
func TestMemoryIsBounded(t *testing.T) {
	const n, limit = 200_000, 32 << 20
	w := build(t).settle(t)
	var stats runtime.MemStats
	live := func() uint64 {
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	var early, peak uint64
	w.bank.records = map[domain.Product]func(context.Context) extraction.Records{domain.ProductTransactions: stream(n, func(i int) {
		if i%5000 != 0 {
			return
		}
		now := live()
		if peak = max(peak, now); i <= n/5 {
			early = max(early, now)
		}
	})}
	before := live()
	s := &sieve{Store: w.process}
	w.engine.Store = s
	first(w, "")
	w.expect("stands", w.stands(), "complete active accepted")
	status := w.version(1).Products[domain.ProductTransactions]
	w.expect("transactions", say(status.State, status.Count, len(status.Parts), s.records-5), "complete 200000 200 200000")
	t.Logf("live: %d KiB before, at most %d KiB while reading", before>>10, peak>>10)
	if peak > before+limit { // other tests of this process have left something live
		t.Errorf("%d MiB were live for it", (peak-before)>>20)
	}
	if peak > early+8<<20 {
		t.Errorf("what is live grew from %d KiB to %d KiB with the number of records", early>>10, peak>>10)
	}
	w.rest()
	w.expect("stands", w.stands(), "complete active accepted")
}

// BenchmarkUnchangedRefresh is an unattended refresh that finds nothing new, against the bare calls of the connector
// and one bare opening of the credential: ×bare.
func BenchmarkUnchangedRefresh(b *testing.B) {
	w := build(b).settle(b)
	for i := range 2000 {
		p := position(amount(fmt.Sprint(i, ".25"), "EUR"))
		p.SourceID, p.Security.Name = fmt.Sprint("p", i), "a security whose name is as long as names are"
		w.bank.holdings[domain.ProductPositions] = append(w.bank.holdings[domain.ProductPositions], p)
	}
	first(w, "")
	opener := envelope.NewOpener(keys().Decrypter(envelope.KeyOuter), keys().InnerDecrypters)
	var ours, bare time.Duration
	n := 0
	for b.Loop() {
		n++
		w.begin(domain.CauseScheduled)
		event := w.queue[0].event
		w.queue = nil
		start := time.Now()
		if err := w.engine.Run(b.Context(), event); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		start = time.Now()
		visitBare(b, w, opener)
		bare += time.Since(start)
		w.advance(time.Hour)
	}
	w.expect("stands", w.stands(), "complete active accepted")
	b.ReportMetric(float64(ours.Microseconds())/float64(n), "us/refresh")
	b.ReportMetric(float64(bare.Microseconds())/float64(n), "us/bare")
	b.ReportMetric(float64(ours)/float64(bare), "×bare")
}

func visitBare(b *testing.B, w *world, opener *envelope.Opener) {
	cred, conn := w.credential(), w.connection()
	shard, err := w.shards.Get(b.Context(), cred.Shard)
	if err != nil {
		b.Fatal(err)
	}
	fields, err := opener.Under(shard).OpenCredentials(cred.Sealed, cred.InnerKey, conn.Binding())
	if err != nil {
		b.Fatal(err)
	}
	connector := w.engine.Connector
	s := extraction.Session{ID: w.session, Custodian: custodian}
	out, err := connector.Step(b.Context(), s, extraction.Input{Kind: extraction.InputLogin, Credentials: fields})
	if err != nil {
		b.Fatal(err)
	}
	for _, records := range out.Portfolio.Read {
		for _, err := range records {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	s.State = out.Portfolio.State
	if err := connector.End(b.Context(), s); err != nil {
		b.Fatal(err)
	}
}
