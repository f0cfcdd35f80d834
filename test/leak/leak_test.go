package leak

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
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
func openScene(t *testing.T, webhooks *lockedBuffer, env ...string) *scene {
	t.Helper()
	t.Logf("seed %d", *house.Seed)
	s := &scene{search: NewSearcher(), tmp: t.TempDir(), marks: marks}
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

// lockedBuffer collects what several write.
type lockedBuffer struct {
	mu  sync.Mutex
	all []byte
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, p...)
	return len(p), nil
}

// marks in passwords are those that every escape writes in another way.
const marks = `ä"<&%+/€`

// disguise tells a journey with canaries for the investor's name, the user name, and every password and code.
func (s *scene) disguise(j journey.Journey) journey.Journey {
	out := journey.Journey{Name: s.nest.Lay(Reference, j.Name, "", 18), Title: j.Name}
	for _, step := range j.Steps {
		words := strings.Fields(step)
		switch words[0] {
		case "login":
			l, _ := bank.Find(words[1])
			pin := l.PIN
			if len(words) > 2 {
				pin = strings.TrimPrefix(words[2], "pin=")
			}
			step = fmt.Sprintf("login %s user=%s pin=%s", l.Number, s.witness.Type(Username, j.Name, "", 16, l.Number),
				s.witness.Type(Password, j.Name, s.marks, 30, pin))
		case "code":
			step = "code " + s.witness.Type(Code, j.Name, "", 20, words[1])
		}
		out.Steps = append(out.Steps, step)
	}
	return out
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
		disguised := s.disguise(j)
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

// report says where which class leaks, with one example of each.
func report(t *testing.T, tour *Tour, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	count, example := map[string]int{}, map[string]Leak{}
	for _, l := range tour.Leaks {
		what := string(l.Canary.Class) + " in " + l.Place
		count[what]++
		example[what] = l
	}
	for _, what := range slices.Sorted(maps.Keys(count)) {
		t.Errorf("%d times %s, for example in %s: %s", count[what], what, example[what].Piece, example[what].Finding)
	}
}

// TestNothingLeaks plays every journey and looks everywhere.
func TestNothingLeaks(t *testing.T) {
	var webhooks lockedBuffer
	told := observetest.NewReceiver(t)
	s := openScene(t, &webhooks, "OTEL_EXPORTER_OTLP_ENDPOINT="+told.URL)
	archive, err := OpenArchive(s.Data, s.search)
	if err != nil {
		t.Fatal(err)
	}
	var looking sync.Mutex
	seen, during := map[uint64]bool{}, &Tour{}
	s.rotate(t)
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
	s.stumble(t)
	if err := archive.Look(t.Context()); err != nil {
		t.Error(err)
	}
	places := append(slices.Concat(s.traffic.Answers(), s.traffic.Addresses(), s.kept(t, "data directory after the journeys")), Place{"log", nil, File(s.Log)}, Place{"command", nil, Command(s.PID())}, Place{"temporary files", nil, Files(s.tmp)},
		Place{"telemetry", nil, s.everythingTold(t, told)},
		Place{"webhooks", []Class{Reference}, Text("all", onlyWebhooks(webhooks.all))},
		Place{"addresses asked of the bank", []Class{Personal}, Text("all", []byte(strings.Join(s.witness.Asked(), "\n")))})
	tour, err := s.search.Visit(places...)
	report(t, tour, err)
	report(t, during, nil)
	report(t, &archive.Tour, archive.Close())
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
	s.send(t, s.place.API, "HEAD", "/last", "")
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

// onlyWebhooks are the lines of a record that are webhooks.
func onlyWebhooks(record []byte) []byte {
	var out []string
	for line := range strings.Lines(string(record)) {
		if strings.Contains(line, `"kind":"webhook"`) {
			out = append(out, line)
		}
	}
	return []byte(strings.Join(out, ""))
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

// rotate has keys and secrets made that journeys make none of.
func (s *scene) rotate(t *testing.T) {
	t.Helper()
	var endpoints struct{ Data []struct{ ID string } }
	var key struct{ ID string }
	for _, c := range []struct {
		method, path string
		body, out    any
	}{
		{"GET", "/v1/endpoints", nil, &endpoints},
		{"POST", "/v1/keys", map[string]string{"role": "reviewer", "label": "second"}, &key},
		{"POST", "/v1/endpoints", map[string]string{"url": s.Inbox.URL() + "/second"}, nil},
		{"POST", "/v1/advisors", map[string]string{"name": "Ada Advisor"}, nil},
	} {
		if err := s.place.Call(t.Context(), c.method, c.path, c.body, c.out); err != nil {
			t.Fatal(c.method, c.path, err)
		}
	}
	for _, path := range []string{"/v1/keys/" + key.ID + "/rotate", "/v1/endpoints/" + endpoints.Data[0].ID + "/rotate"} {
		if err := s.place.Call(t.Context(), "POST", path, map[string]any{}, nil); err != nil {
			t.Fatal(path, err)
		}
	}
}

// stumble does what careless programs and people do: secrets and names in the wrong place, addresses that are not there, broken messages.
func (s *scene) stumble(t *testing.T) {
	t.Helper()
	bearer := "Bearer " + s.Token
	stray := func(what string) string { return s.nest.Lay(Stray, what, "", 24) }
	wanted := `{"investor_ref":"` + s.nest.Lay(Reference, "by hand", "", 18) + `","purpose":{"code":"tax"},"products":["accounts"]}`
	s.send(t, s.place.API, "POST", "/v1/consents", wanted, "Authorization", bearer, "Idempotency-Key", stray("idempotency key"),
		"User-Agent", stray("user agent"), "Accept-Language", stray("language"), "Traceparent", stray("trace"))
	for _, body := range []string{`{"investor_ref":"` + stray("value") + `","nonsense":1}`, `{"` + stray("member") + `":1}`,
		`{"purpose":"` + stray("purpose") + `"}`, stray("no JSON"), `{"a":"` + stray("broken JSON")} {
		s.send(t, s.place.API, "POST", "/v1/consents", body, "Authorization", bearer)
		s.send(t, s.place.Pages, "POST", "/seal", body)
		s.send(t, s.place.Pages, "POST", "/challenge/answer", body)
	}
	s.send(t, s.place.API, "GET", "/v1/consents?api_key="+stray("query"), "")
	s.send(t, s.place.API, "GET", "/v1/consents?cursor="+stray("cursor"), "", "Authorization", bearer)
	s.send(t, s.place.API, "GET", "/v1/consents/con_"+stray("identifier"), "", "Authorization", bearer)
	s.send(t, s.place.API, "GET", "/v1/"+stray("path"), "", "Authorization", "Bearer "+stray("key"), "Referer", "https://x/"+stray("referer"))
	s.send(t, s.place.API, "DELETE", "/v1/consents", "", "Authorization", "Basic "+stray("basic"))
	s.send(t, s.place.Pages, "GET", "/i/"+stray("link"), "", "Cookie", "__Host-sluis="+stray("cookie"))
	s.send(t, s.place.Pages, "GET", "/me", "", "Cookie", "__Host-sluis="+s.nest.Lay(Stray, "cookie", "", 43), "User-Agent", stray("agent"))
	s.send(t, s.place.Pages, "GET", "/"+stray("page"), "", "X-Forwarded-For", stray("address"))
}

// send makes one request; whatever is answered is as it should be.
func (s *scene) send(t *testing.T, at, method, path, body string, header ...string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}
