package size

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/consent"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

// A soak goes in rounds. In each, the same journeys are played, a few at once, succeeding and failing, under consents that
// end by themselves some rounds later, if not before; then everything comes to rest, and the clock jumps. What is due then is
// refreshed, retried, expired and deleted, until everything rests again; then the house is looked at.
const (
	jump     = 16 * 24 * time.Hour
	steady   = 4 // rounds until what lives longest, thirty days, ends as fast as it comes
	lasts    = 2 // rounds that a consent lasts
	players  = 4 // at once
	faithful = 8 // investors who stay for as long as a consent can last
	short    = 8 // rounds, of which the first are for warming up
	soaking  = 15 * time.Minute
)

// changing is the story of an investor whose portfolio is another one at each reading.
var changing = []string{"ask", "open", "grant", "login 20000043", "done", "read positions complete"}

// TestSoak plays rounds and compares the last of them with the first after warming up: nothing has grown but what
// retention.json says is kept, and that by as much in each round.
func TestSoak(t *testing.T) {
	t.Logf("seed %d", *house.Seed)
	s := begin(t)
	began := time.Now()
	for r := 0; r < short || *house.Long && time.Since(began) < soaking; r++ {
		s.round(t, r)
		s.samples = append(s.samples, s.look(t))
	}
	t.Logf("%d rounds in %v, %d journeys", len(s.samples), time.Since(began), s.asked)
	s.compare(t)
	s.idle(t)
	var endpoints struct {
		Data []struct {
			State string `json:"state"`
		} `json:"data"`
	}
	get(t, s.House, "/v1/endpoints", &endpoints)
	if fmt.Sprint(endpoints.Data) != "[{enabled} {enabled}]" || s.taken.Load() == 0 || s.refused.Load() == 0 {
		t.Errorf("the endpoints are %v; the failing one took %d and refused %d", endpoints.Data, s.taken.Load(), s.refused.Load())
	}
}

// idle leaves the house alone for a few sweeps in which nothing falls due: it writes nothing.
func (s *soak) idle(t *testing.T) {
	t.Helper()
	before := s.stocks(t)
	for range 30 {
		time.Sleep(time.Second) // a real process is waited for, and nothing is to happen
		after := s.stocks(t)
		if slices.Equal(before, after) {
			return
		}
		before = after
	}
	t.Errorf("with nothing to do the house goes on writing: %v", before)
}

// soak is a house under steady use.
type soak struct {
	*house.House
	stories []journey.Journey
	refused atomic.Int64 // webhooks that the second endpoint did not take
	taken   atomic.Int64
	mended  atomic.Bool
	ahead   time.Duration
	asked   int                         // consents
	seen    map[domain.DocumentKind]int // the most documents before the clock jumped
	samples []sample
}

// allowVariable names a further address that webhooks may go to, in the house's environment.
const allowVariable = "SLUIS_TEST_SIZE_WEBHOOKS"

// allow is [house.Setup].
func allow(s *home.Settings) {
	if at, err := netip.ParseAddrPort(os.Getenv(allowVariable)); err == nil {
		s.Webhooks = append(s.Webhooks, at)
	}
}

func begin(t *testing.T) *soak {
	t.Helper()
	s := &soak{seen: map[domain.DocumentKind]int{}}
	flaky := httptest.NewServer(http.HandlerFunc(s.flaky))
	t.Cleanup(flaky.Close)
	history := domain.Saving{Scope: domain.SaveHistory, Days: 20}
	s.House = open(t, house.Options{Sweep: 300 * time.Millisecond, Pace: 5 * time.Millisecond,
		Env:         []string{allowVariable + "=" + flaky.Listener.(*net.TCPListener).Addr().String()},
		BankOptions: bank.Options{Slow: 50 * time.Millisecond},
		Terms:       consent.Terms{Saving: map[domain.Product]domain.Saving{domain.ProductPositions: history}}})
	s.Inbox.AnyTime()
	must(t, s.Call(t.Context(), http.MethodPost, "/v1/endpoints", map[string]string{"url": flaky.URL}, nil))
	must(t, s.Call(t.Context(), http.MethodPost, "/v1/advisors", map[string]string{"name": "Ada Soak"}, nil))
	all, err := journey.All()
	must(t, err)
	for _, j := range all {
		if j.Name != "login-"+hugeLogin && (*house.Long || brief(j.Name)) {
			s.stories = append(s.stories, j)
		}
	}
	return s
}

// brief says whether a story is told in a moment, and unlike the others.
func brief(name string) bool {
	login, ok := strings.CutPrefix(name, "login-")
	return !ok && name != "choice" || slices.Contains([]string{"20000002", "20000011", "20000033", "20000037", "20000043"}, login)
}

// flaky is an endpoint that fails two times out of three, until the clock has jumped: one that fails for days is disabled.
func (s *soak) flaky(w http.ResponseWriter, _ *http.Request) {
	if !s.mended.Load() && s.taken.Load()*2 >= s.refused.Load() {
		s.refused.Add(1)
		http.Error(w, "not now", http.StatusInternalServerError)
		return
	}
	s.taken.Add(1)
	w.WriteHeader(http.StatusNoContent)
}

// round plays every story once, in an order of its own, and lets time pass.
func (s *soak) round(t *testing.T, r int) {
	t.Helper()
	stories := slices.Clone(s.stories)
	rand.New(rand.NewPCG(*house.Seed, uint64(r))).Shuffle(len(stories), func(i, j int) { stories[i], stories[j] = stories[j], stories[i] })
	for i := range faithful {
		if r == 0 {
			stories = append(stories, journey.Journey{Name: fmt.Sprint("faithful-", i), Steps: changing})
		}
	}
	next := make(chan journey.Journey, len(stories))
	for _, j := range stories {
		next <- j
	}
	close(next)
	var wg sync.WaitGroup
	for range players {
		wg.Go(func() {
			for j := range next {
				s.play(t, j, r)
			}
		})
	}
	wg.Wait()
	s.asked += len(stories)
	s.rest(t)
	for _, stock := range s.stocks(t) {
		s.seen[stock.Of] = max(s.seen[stock.Of], stock.Count)
	}
	s.mended.Store(true)
	s.ahead += jump
	must(t, s.Later(jump))
	s.rest(t)
	s.mended.Store(false)
	for _, l := range bank.Logins() {
		s.Bank.Unlock(l.Number) // its clock does not run so fast
	}
}

func (s *soak) play(t *testing.T, j journey.Journey, r int) {
	p := s.Player(fmt.Sprintf("%s-%d", j.Name, r))
	life := lasts*jump - time.Hour
	if strings.HasPrefix(j.Name, "faithful") {
		life = domain.MaxConsent - time.Hour
	}
	ends := " expires_at=" + s.env().Now().Add(life).String()
	for _, words := range j.Steps {
		if strings.HasPrefix(words, "ask") {
			words += ends
		}
		ctx, done := context.WithTimeout(t.Context(), 2*time.Minute)
		err := p.Play(ctx, words)
		done()
		if err != nil {
			t.Errorf("round %d, %s: %s: %v", r, j.Name, words, err)
			return
		}
	}
}

// env has the house's clock.
func (s *soak) env() domain.Env {
	return domain.Env{Clock: func() time.Time { return time.Now().Add(s.ahead) }}
}

// rest waits until nothing is due, being done or over.
func (s *soak) rest(t *testing.T) {
	t.Helper()
	s.withStore(t, func(b *home.Backend) {
		deadline := time.Now().Add(3 * time.Minute)
		for quiet := 0; quiet < 2; time.Sleep(100 * time.Millisecond) {
			busy := s.busy(t, b)
			if quiet++; busy != "" {
				quiet = 0
			}
			if time.Now().After(deadline) {
				t.Fatalf("the house does not come to rest: %s", busy)
			}
		}
	})
}

// busy says what is still to be done, or "".
func (s *soak) busy(t *testing.T, b *home.Backend) string {
	t.Helper()
	waiting, err := b.Pending(t.Context())
	must(t, err)
	for _, w := range waiting {
		if w.State != "delayed" {
			return fmt.Sprintf("%d events of %s are %s", w.Count, w.Topic, w.State)
		}
	}
	clients, _, err := domain.List[domain.Client](t.Context(), b, domain.Query{Index: "clients"})
	must(t, err)
	over := map[string][]string{"connections_due": {string(clients[0].ID), string(domain.ConnectionActive)}, "consents_by_state": {string(domain.ConsentValid)}}
	for _, ix := range contract[domain.Index](t, "indexes.json") {
		if ix.Range == "expires_at" && len(ix.Equal) == 0 {
			over[ix.Name] = nil
		}
	}
	for index, match := range over {
		page, err := b.List(t.Context(), domain.Query{Index: index, Match: match, To: b.Env.Now().String(), Limit: 1})
		must(t, err)
		if len(page.Documents) > 0 {
			return "something of " + index + " is over"
		}
	}
	return ""
}

// contract reads one of the lists in schemas.
func contract[T any](t *testing.T, name string) (all []T) {
	t.Helper()
	raw, err := schemas.FS.ReadFile(name)
	must(t, err)
	must(t, json.Unmarshal(raw, &all))
	return all
}

// sample is the house at rest.
type sample struct {
	figures
	rss   uint64 // KiB
	files int
	disk  int64 // bytes of all files in the data directory
	log   int64 // of them, of the write-ahead log
	held  map[domain.DocumentKind]backend.Stock
	waits map[domain.Topic]int // events that are not due yet
}

func (s *soak) look(t *testing.T) sample {
	t.Helper()
	now := sample{figures: ask(t, s.House), held: map[domain.DocumentKind]backend.Stock{}, waits: map[domain.Topic]int{}}
	now.rss, now.files = status(t, s.House, "VmRSS"), files(t, s.House)
	for _, stock := range s.stocks(t) {
		now.held[stock.Of] = stock
	}
	s.withStore(t, func(b *home.Backend) {
		waiting, err := b.Pending(t.Context())
		must(t, err)
		for _, w := range waiting {
			now.waits[w.Topic] += w.Count
		}
	})
	must(t, filepath.WalkDir(s.Data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		now.disk += info.Size()
		if strings.HasSuffix(path, "-wal") {
			now.log = info.Size()
		}
		return nil
	}))
	return now
}

func (s *soak) stocks(t *testing.T) (all []backend.Stock) {
	t.Helper()
	s.withStore(t, func(b *home.Backend) {
		var err error
		all, err = b.Stocks(t.Context())
		must(t, err)
	})
	return all
}

// withStore opens the data by the house's clock.
func (s *soak) withStore(t *testing.T, fn func(*home.Backend)) {
	t.Helper()
	b, err := home.OpenBackend(t.Context(), home.Settings{Data: s.Data, Env: s.env()})
	must(t, err)
	defer func() { must(t, b.Close()) }()
	fn(b)
}

// retention is a row of retention.json.
type retention struct {
	Of   domain.DocumentKind `json:"kind"`
	Ends string              `json:"ends"`
}

// compare holds the last third of the rounds against the first, after warming up.
func (s *soak) compare(t *testing.T) {
	t.Helper()
	warm := s.samples[steady:]
	third := max(len(warm)/3, 2)
	first, last := warm[:third], warm[len(warm)-third:]
	for _, at := range []int{0, steady, len(s.samples) - 1} {
		x := s.samples[at]
		t.Logf("round %d: %d KiB live, %d KiB resident, %d goroutines, %d files, %d KiB on disk, %d KiB of them the log", at, x.Heap>>10, x.rss,
			x.Goroutines, x.files, x.disk>>10, x.log>>10)
	}
	flat := func(what string, of func(sample) float64, share, spare float64) {
		if before, now := most(first, of), most(last, of); now > before*(1+share)+spare {
			t.Errorf("%s grew from %.0f to %.0f", what, before, now)
		}
	}
	flat("live memory in KiB", func(x sample) float64 { return float64(x.Heap >> 10) }, 0.1, 512)
	flat("resident memory in KiB", func(x sample) float64 { return float64(x.rss) }, 0.1, 4<<10)
	flat("goroutines", func(x sample) float64 { return float64(x.Goroutines) }, 0, 5)
	flat("open files", func(x sample) float64 { return float64(x.files) }, 0, 5)
	flat("the write-ahead log in KiB", func(x sample) float64 { return float64(x.log >> 10) }, 0, 4<<10)
	for _, topic := range []domain.Topic{domain.TopicSession, domain.TopicNotice, domain.TopicDelivery, domain.TopicErasure} {
		share, spare := 0.0, 3.0
		if topic == domain.TopicDelivery {
			share, spare = 0.3, 10 // which of them failed last is a matter of luck
		}
		flat("what waits of "+string(topic), func(x sample) float64 { return float64(x.waits[topic]) }, share, spare)
	}
	rows := contract[retention](t, "retention.json")
	for _, row := range rows {
		s.compareKind(t, row, first, last)
	}
	s.compareDisk(t, rows)
}

func most(of []sample, value func(sample) float64) (top float64) {
	for _, x := range of {
		top = max(top, value(x))
	}
	return top
}

// compareKind judges one kind of document by how its life ends. What ends by itself, or is erased, is as much as it was.
// What is kept grows by as much in each round; of what an operator ends, there is one for each that was asked for.
func (s *soak) compareKind(t *testing.T, row retention, first, last []sample) {
	t.Helper()
	count := func(x sample) float64 { return float64(x.held[row.Of].Count) }
	size := func(x sample) float64 { return float64(x.held[row.Of].Bytes) }
	if s.seen[row.Of] == 0 {
		t.Errorf("%s: none was there in any round, so nothing is shown of it", row.Of)
	}
	end := s.samples[len(s.samples)-1]
	t.Logf("%-12s ends by %-8s %6.0f documents, %8.0f bytes; at the end %d, %d", row.Of, row.Ends, most(first, count), most(first, size), end.held[row.Of].Count, end.held[row.Of].Bytes)
	switch row.Ends {
	case "ttl", "erase":
		for what, of := range map[string]func(sample) float64{"documents": count, "bytes": size} {
			if before, now := most(first, of), most(last, of); now > before*1.15+2 {
				t.Errorf("%s: %.0f %s became %.0f", row.Of, before, what, now)
			}
		}
	case "operator":
		if kept := end.held[row.Of].Count; kept > max(s.asked, 2) {
			t.Errorf("%s: %d, though %d consents were asked for", row.Of, kept, s.asked)
		}
		if before, now := size(first[0])/max(count(first[0]), 1), size(end)/max(count(end), 1); now > before*1.02 {
			t.Errorf("%s: one had %.0f bytes and has %.0f", row.Of, before, now)
		}
	case "never":
		grew := func(of []sample) float64 { return (size(of[len(of)-1]) - size(of[0])) / float64(len(of)-1) }
		if before, now := grew(first), grew(last); now > before*1.25 {
			t.Errorf("%s: it grew by %.0f bytes a round, and then by %.0f", row.Of, before, now)
		}
	default:
		t.Errorf("%s: how is it to end, by %q?", row.Of, row.Ends)
	}
}

// compareDisk lets the files grow by what is kept for good, with its indexes, and not by what was deleted.
func (s *soak) compareDisk(t *testing.T, rows []retention) {
	t.Helper()
	from, to := s.samples[steady], s.samples[len(s.samples)-1]
	var kept int64
	for _, row := range rows {
		if row.Ends == "operator" || row.Ends == "never" {
			kept += to.held[row.Of].Bytes - from.held[row.Of].Bytes
		}
	}
	grew := to.disk - from.disk
	t.Logf("the files grew by %d KiB, of which %d KiB are kept documents", grew>>10, kept>>10)
	if grew > kept*2+1<<20 {
		t.Errorf("the files grew by %d KiB, though only %d KiB of documents are kept", grew>>10, kept>>10)
	}
}
