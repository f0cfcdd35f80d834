package cloud

import (
	"context"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/test/crash"
	"sluis.internal/test/house"
	"sluis.internal/test/leak"
)

// may says which classes may be where, beside what answers may hold (test/leak). Codes are not in it: they may be nowhere.
// Nor is Cloud KMS: it is asked for the keys of what is sealed, and never for what is in there.
var may = map[string][]leak.Class{
	wireStore:               {leak.Reference},
	written:                 {leak.Reference},
	calling:                 {leak.Answer},    // challenge passes a code on as the browser has sealed it
	"Secret Manager":        {leak.Key},       // what it keeps
	"at rest in Firestore":  {leak.Reference}, // the client's own name for the investor
	"webhooks":              {leak.Reference}, // likewise
	"addresses of the bank": {leak.Personal},  // as the bank has made them
}

// scene is a region in which everything is overheard.
type scene struct {
	*region
	search   *leak.Searcher
	nest     *leak.Nest
	witness  *leak.Witness
	traffic  *leak.Traffic
	tap      *tap
	place    journey.Place // behind the traffic
	webhooks leak.Buffer
	archive  *leak.Archive
}

func openScene(t *testing.T, env ...string) *scene {
	t.Helper()
	t.Logf("seed %d", *house.Seed)
	s := &scene{search: leak.NewSearcher(), tap: newTap()}
	s.nest = leak.NewNest(*house.Seed, s.search)
	s.witness, s.traffic = leak.NewWitness(s.nest), leak.NewTraffic(t, s.nest)
	s.region = open(t, options{bank: bank.Options{Front: s.witness.Front}, record: journey.NewRecorder(&s.webhooks), tap: s.tap, env: env})
	s.nest.Learn(leak.SecretOf("the client's key", s.Token))
	for name, value := range s.secrets {
		s.nest.Learn(leak.Canary{Class: leak.Key, Name: name, Text: string(value)})
	}
	s.nest.Learn(leak.Canary{Class: leak.Key, Name: "the bank's client secret", Text: bank.DefaultClientSecret})
	s.place = s.Place
	s.place.API, s.place.Pages = s.traffic.Before(t, "api", s.API), s.traffic.Before(t, "pages", s.Pages)
	for name := range s.pipeline.Keys {
		for _, role := range []gcptest.Role{gcptest.Encrypter, gcptest.Decrypter, gcptest.Opener} {
			s.vault.Grant(auditor, role, resource(name))
		}
	}
	mine := domain.Env{Region: "europe-west4"}
	k, err := gcp.OpenKMS(t.Context(), mine, resource, s.vault.As(auditor)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	keys := gcp.Keys{KMS: k}
	shards, err := gcp.OpenShards(t.Context(), s.project, gcp.ShardsDatabase)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shards.Close() })
	if s.archive, err = leak.NewArchive(s.store, mine, keys, shards, envelope.ByKid(keys.Decrypters("inner")), s.search); err != nil {
		t.Fatal(err)
	}
	return s
}

// stories are what is played: the stories, journeys that break off, and those of logins that want a code; at full length
// those of all logins.
func stories(t *testing.T) (all []journey.Journey) {
	t.Helper()
	told, err := journey.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range told {
		asked := slices.ContainsFunc(j.Steps, func(step string) bool { return strings.HasPrefix(step, "code ") })
		if *house.Long && j.Name != crash.Huge || asked || !strings.HasPrefix(j.Name, "login-") {
			all = append(all, j)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(leak.Unfinished)) {
		all = append(all, leak.BreakingOff(name))
	}
	return all
}

// play plays journeys in disguise, some at once.
func (s *scene) play(t *testing.T, all []journey.Journey) {
	t.Helper()
	var group sync.WaitGroup
	turns := make(chan struct{}, 6)
	for _, j := range all {
		disguised := s.witness.Disguise(j, leak.Marks)
		group.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			p := s.place.Player(disguised.Name)
			for i, step := range disguised.Steps {
				ctx, done := context.WithTimeout(t.Context(), 2*time.Minute)
				err := p.Play(ctx, step)
				done()
				if err != nil {
					t.Errorf("%s: %s: %v", j.Name, j.Steps[i], err)
					return
				}
			}
		})
	}
	group.Wait()
}

// TestNothingLeaks plays journeys and looks everywhere: at what lies in Firestore and everything that was written there
// meanwhile, as it lies and opened; at all that passed between the functions and Google's services; at the functions'
// logs, settings and memory; at what clients and investors were answered.
func TestNothingLeaks(t *testing.T) {
	s := openScene(t, "GODEBUG=clobberfree=1", "GOGC=10") // what is freed is overwritten, and soon
	s.tick()
	examined := make(chan error, 1)
	go func() { examined <- s.tap.examine(context.WithoutCancel(t.Context()), s.archive, s.archive.Kinds()) }()
	leak.Rotate(t, &s.place)
	s.play(t, stories(t))
	leak.Stumble(t, &s.place, s.nest)
	s.remember(t)
	s.tap.shut()
	if err := <-examined; err != nil {
		t.Error(err)
	}
	if err := s.archive.Look(t.Context()); err != nil {
		t.Error(err)
	}
	tour, err := s.search.Visit(s.places(t)...)
	leak.Report(t, tour, err)
	leak.Report(t, &s.archive.Tour, s.archive.Close())
	s.sawEnough(t, tour)
	t.Logf("%d bytes searched, %d in documents", tour.Bytes, s.archive.Tour.Bytes)
}

// places are all but memory.
func (s *scene) places(t *testing.T) []leak.Place {
	t.Helper()
	rest := newTap()
	gcptest.Stored(t.Context(), t, s.project, func(d gcptest.Document) { rest.paper("at rest in Firestore", d) })
	all := slices.Concat(s.tap.places(may), rest.places(may), s.traffic.Answers(), s.traffic.Addresses())
	for name, d := range s.functions {
		all = append(all, leak.Place{Name: "log of " + name, Pieces: leak.File(d.log.Name())},
			leak.Place{Name: "command and settings of " + name, Pieces: leak.Command(d.process.Process.Pid)})
	}
	return append(all, leak.Place{Name: "webhooks", May: may["webhooks"], Pieces: leak.Text("all", leak.OnlyWebhooks(s.webhooks.Bytes()))},
		leak.Place{Name: "addresses of the bank", May: may["addresses of the bank"], Pieces: leak.Text("all", []byte(strings.Join(s.witness.Asked(), "\n")))})
}

// toBank is how many tokens may stand in the buffers of the connections to a bank that a process keeps open until they are
// used again (extraction.Transport): two, one buffer each way. Of a token its signature counts too.
const toBank = 2 * 2 * 2

// remember looks at the memory of every function, once it has had to throw away what it does not need. Who talks with
// the bank may hold the tokens that stand in the buffers of its connections, and nobody else one; codes, passwords and
// user names nobody.
func (s *scene) remember(t *testing.T) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.functions)) {
		d := s.functions[name]
		s.busy(t, d)
		left := s.remembers(t, d)
		allowed := map[leak.Class]int{}
		if d.Per == "custodian" {
			allowed[leak.Token] = toBank
		}
		for _, class := range []leak.Class{leak.Code, leak.Password, leak.Username, leak.Token} {
			if left[class] > allowed[class] {
				t.Errorf("the memory of %s holds %d canaries of class %s, want at most %d", name, left[class], class, allowed[class])
			}
		}
		t.Logf("memory of %s: %v", name, left)
	}
}

// busy has a function throw away what it no longer needs: it makes rubbish, and sync.Pool lets go at the second collection.
func (s *scene) busy(t *testing.T, d *function) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	for range 600 {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.at+"/no/such/address", nil)
		if err != nil {
			t.Fatal(err)
		}
		a, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close() // it does not matter
	}
}

// remembers counts the canaries in a process's memory, by class. Its own name is there, or else the search is blind.
func (s *scene) remembers(t *testing.T, d *function) map[leak.Class]int {
	t.Helper()
	if err := d.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.process.Process.Signal(syscall.SIGCONT) }()
	seen, own := map[string]leak.Canary{}, false
	err := leak.Memory(d.process.Process.Pid)(func(_ string, data []byte) {
		own = own || strings.Contains(string(data), d.identity())
		for _, f := range s.search.Plain(data) {
			seen[f.Canary.Text] = f.Canary
		}
	})
	switch {
	case err != nil && os.Getenv("SLUIS_FULL") == "1":
		t.Fatal(err)
	case err != nil:
		t.Logf("the memory of %s cannot be read here: %v", d.Name, err)
	case !own:
		t.Errorf("%s does not know its own name: the search looks at the wrong memory", d.Name)
	}
	left := map[leak.Class]int{}
	for _, c := range seen {
		left[c.Class]++
	}
	return left
}

// sawEnough makes sure that the search was not blind: in every place where a class may be, it is.
func (s *scene) sawEnough(t *testing.T, tour *leak.Tour) {
	t.Helper()
	for class, least := range map[leak.Class]int{leak.Code: 8, leak.Password: 20, leak.Username: 20, leak.Token: 40, leak.Shown: 3, leak.Personal: 500,
		leak.Link: 20, leak.Cookie: 20, leak.Reference: 20, leak.APIKey: 2, leak.Signing: 1, leak.Answer: 8, leak.Inner: 20, leak.Key: 3} {
		if n := s.nest.Count(class); n < least {
			t.Errorf("only %d canaries of class %s", n, class)
		}
	}
	for place, classes := range may {
		for _, c := range classes {
			if tour.Met[place][c] == 0 {
				t.Errorf("%s never held a %s: the search looks at the wrong thing", place, c)
			}
		}
	}
	for place, classes := range map[string][]leak.Class{"opened credential": {leak.Password, leak.Username}, "opened session": {leak.Token, leak.Shown},
		"opened display": {leak.Shown}, "opened part": {leak.Personal}, "opened summary": {leak.Personal}, "opened endpoint": {leak.Signing}} {
		for _, c := range classes {
			if s.archive.Tour.Met[place][c] == 0 {
				t.Errorf("%s never held a %s: the search looks at the wrong thing", place, c)
			}
		}
	}
	for _, kind := range s.archive.Kinds() {
		if s.archive.Rows[kind] == 0 {
			t.Errorf("no document of kind %s was looked at", kind)
		}
	}
	logged := int64(0) // most functions have nothing to say
	for _, d := range s.functions {
		if info, err := os.Stat(d.log.Name()); err == nil {
			logged += info.Size()
		}
	}
	if logged == 0 {
		t.Error("nobody has logged anything: the search looks at the wrong thing")
	}
	if s.witness.Heard() < 30 {
		t.Errorf("the bank heard only %d of what was typed", s.witness.Heard())
	}
	for _, wrong := range s.traffic.Uncached() {
		t.Error(wrong)
	}
	for field := range s.archive.Unopened {
		t.Errorf("%s looks sealed, and nobody opens it here", field)
	}
}
