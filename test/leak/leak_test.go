package leak

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe/observetest"
	"sluis.internal/test/house"
)

// scene is a house with everything around it that a search needs.
type scene struct {
	*house.House
	search  *Searcher
	nest    *Nest
	witness *Witness
	traffic *Traffic
	tmp     string // the process's directory for temporary files
	place   journey.Place
	marks   string        // within passwords
	shifted time.Duration // of the house's clock
}

// openScene starts a house that logs everything, with a witness before its bank and a listener before itself.
func openScene(t *testing.T, webhooks *Buffer, env ...string) *scene {
	t.Helper()
	t.Logf("seed %d", *house.Seed)
	s := &scene{search: NewSearcher(), tmp: t.TempDir(), marks: Marks}
	s.nest = NewNest(*house.Seed, s.search)
	s.witness = NewWitness(s.nest)
	s.traffic = NewTraffic(t, s.nest)
	o := house.Options{LogLevel: slog.LevelDebug - 4, Env: append(env, "TMPDIR="+s.tmp),
		BankOptions: bank.Options{Front: s.witness.Front, Slow: 200 * time.Millisecond, RetryAfter: time.Second}}
	if webhooks != nil {
		o.Record = journey.NewRecorder(webhooks)
	}
	s.House = house.Open(t, o)
	s.nest.Learn(SecretOf("the client's key", s.Token))
	if err := s.nest.LearnKeys(home.KeysIn(s.Data)); err != nil {
		t.Fatal(err)
	}
	s.place = s.House.Place
	s.place.API, s.place.Pages = s.traffic.Before(t, "api", s.API), s.traffic.Before(t, "pages", s.Pages)
	return s
}

// kept are the files of the house: its keys, of which some were made since it began, and all others.
func (s *scene) kept(t *testing.T, name string) []Place {
	t.Helper()
	keys := home.KeysIn(s.Data)
	if err := s.nest.LearnKeys(keys); err != nil {
		t.Fatal(err)
	}
	return []Place{{name, stored, Without(filepath.Base(keys), Files(s.Data))}, {"keys", []Class{Key}, Files(keys)}}
}

// stories are all journeys but the one that is only long.
func stories(t *testing.T) []journey.Journey {
	t.Helper()
	all, err := journey.All()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(j journey.Journey) bool { return j.Name == "login-20000042" })
}

// stepTime bounds one step of a journey.
const stepTime = 2 * time.Minute

// play plays journeys, several at once, and calls after every step of each.
func (s *scene) play(t *testing.T, all []journey.Journey, after func(step string, p *journey.Player)) {
	t.Helper()
	var group sync.WaitGroup
	turns := make(chan struct{}, 8)
	for _, j := range all {
		disguised := s.witness.Disguise(j, s.marks)
		group.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			p := s.place.Player(disguised.Name)
			for i, step := range disguised.Steps {
				ctx, done := context.WithTimeout(t.Context(), stepTime)
				err := p.Play(ctx, step)
				done()
				if err != nil {
					t.Errorf("%s: %s: %v", j.Name, j.Steps[i], err)
					return
				}
				after(strings.Fields(step)[0], p)
			}
		})
	}
	group.Wait()
}

// TestNothingLeaks plays every journey and looks everywhere.
func TestNothingLeaks(t *testing.T) {
	var webhooks Buffer
	told := observetest.NewReceiver(t)
	s := openScene(t, &webhooks, "OTEL_EXPORTER_OTLP_ENDPOINT="+told.URL)
	archive, err := OpenArchive(s.Data, s.search)
	if err != nil {
		t.Fatal(err)
	}
	var looking sync.Mutex
	seen, during := map[uint64]bool{}, &Tour{}
	Rotate(t, &s.place)
	all := stories(t)
	if *house.Long {
		all = slices.Repeat(all, 4)
	}
	s.play(t, all, func(step string, p *journey.Player) {
		looking.Lock()
		defer looking.Unlock()
		switch step {
		case "login", "challenge", "code", "done", "paused", "refresh":
			if err := archive.LookAt(t.Context(), domain.ConnectionID(p.Connection())); err != nil {
				t.Error(err)
			}
		}
		tour, err := s.search.Visit(Place{"data directory while journeys go on", stored, Without(filepath.Base(home.KeysIn(s.Data)), Pages(s.Data, seen))})
		if err != nil {
			t.Error(err)
		}
		during.Leaks = append(during.Leaks, tour.Leaks...)
	})
	Stumble(t, &s.place, s.nest)
	if err := archive.Look(t.Context()); err != nil {
		t.Error(err)
	}
	places := append(slices.Concat(s.traffic.Answers(), s.traffic.Addresses(), s.kept(t, "data directory after the journeys")), Place{"log", nil, File(s.Log)}, Place{"command", nil, Command(s.PID())}, Place{"temporary files", nil, Files(s.tmp)},
		Place{"telemetry", nil, s.everythingTold(t, told)},
		Place{"webhooks", []Class{Reference}, Text("all", OnlyWebhooks(webhooks.Bytes()))},
		Place{"addresses asked of the bank", []Class{Personal}, Text("all", []byte(strings.Join(s.witness.Asked(), "\n")))})
	tour, err := s.search.Visit(places...)
	Report(t, tour, err)
	Report(t, during, nil)
	Report(t, &archive.Tour, archive.Close())
	s.sawEnough(t, tour, archive)
	for _, wrong := range s.traffic.Uncached() {
		t.Error(wrong)
	}
	for _, route := range s.traffic.Unrouted() {
		t.Errorf("entitled has a row for %s, and pipeline.json has not", route)
	}
	for _, field := range s.witness.Unknown() {
		t.Errorf("the bank hands out a field %s: bankFields does not say what it is", field)
	}
	t.Logf("%d bytes searched, %d in documents", tour.Bytes, archive.Tour.Bytes)
}

// everythingTold is what the house exports of itself, once a last request has come there.
func (s *scene) everythingTold(t *testing.T, told *observetest.Receiver) Pieces {
	t.Helper()
	send(t, s.place.API, "HEAD", "/last", "")
	last := func() bool {
		return slices.ContainsFunc(told.Spans(), func(span observetest.Span) bool { return span.Name == "HEAD" })
	}
	for end := time.Now().Add(time.Minute); !last(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the last request was never told of")
		}
	}
	if n, points := len(told.Spans()), len(told.Points()); n < 2000 || points < 20 {
		t.Errorf("only %d spans and %d points were told", n, points)
	}
	return func(each func(string, []byte)) error {
		for i, raw := range told.Raw() {
			each(fmt.Sprint("export ", i), raw)
		}
		return nil
	}
}

// sawEnough makes sure that the search was not blind: in every place where a class may be, it is.
func (s *scene) sawEnough(t *testing.T, tour *Tour, archive *Archive) {
	t.Helper()
	for class, least := range map[Class]int{Code: 12, Password: 40, Username: 40, Token: 100, Shown: 3, Personal: 2000, Link: 40, Cookie: 40,
		Reference: 40, APIKey: 2, Signing: 1, Answer: 20, Inner: 80, Key: 9} {
		if n := s.nest.Count(class); n < least {
			t.Errorf("only %d canaries of class %s", n, class)
		}
	}
	for place, classes := range map[string][]Class{"opened credential": {Password, Username}, "opened session": {Token, Shown},
		"opened display": {Shown}, "opened part": {Personal}, "opened summary": {Personal}, "opened endpoint": {Signing}, "document consent": {Reference}} {
		for _, c := range classes {
			if archive.Tour.Met[place][c] == 0 {
				t.Errorf("%s never held a %s: the search looks at the wrong thing", place, c)
			}
		}
	}
	if tour.Met["keys"][Key] < 9 {
		t.Errorf("only %d keys were found where they are kept", tour.Met["keys"][Key])
	}
	for route, classes := range entitled {
		if route == "GET /challenge/state" || route == "POST /challenge/answer" {
			continue // players do not ask, or the answer comes before the bank's next question
		}
		for _, c := range classes {
			if tour.Met["answers of api: "+route][c]+tour.Met["answers of pages: "+route][c] == 0 {
				t.Errorf("%s never answered a %s: the search looks at the wrong thing", route, c)
			}
		}
	}
	for _, kind := range archive.kinds {
		if archive.Rows[kind] == 0 {
			t.Errorf("no document of kind %s was looked at", kind)
		}
	}
	for field := range archive.Unopened {
		t.Errorf("%s looks sealed, and nobody opens it here", field)
	}
	if s.witness.Heard() < 60 {
		t.Errorf("the bank heard only %d of what was typed", s.witness.Heard())
	}
}
