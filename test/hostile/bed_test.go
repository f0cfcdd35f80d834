package hostile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/consent"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/test/contract"
)

// world is what a tester finds: a client with keys, and an investor with three consents, of which one waits for a
// decision, one for an answer to the bank, and one is read.
type world struct {
	keys    map[domain.Role]string
	cookies map[string]string // of the investor's visits: pending, asked, read
	ids     map[string]string // by the prefix of their kind: con, conn, chal, ...
	token   string            // of a link that nobody has used
	cursor  string            // of the read portfolio's second page of transactions
	sealed  string            // a credential for the connection that the visit asked is about
}

// bed is a home that stands still: its clock does, and nothing works in the background. So whatever changes in its
// data changed by a request. Its data is that of the world, and can be had back at any time.
type bed struct {
	world
	home     *home.Home
	check    *contract.Checker
	routes   []route
	dir      string
	now      time.Time
	pristine [2][]byte    // the database and the bank's memory as the world left them
	beside   *sql.Backend // a second look at the database
	kinds    []domain.DocumentKind
	opened   int
	texts    int // times made for samples
}

var theBed struct {
	sync.Mutex
	bed *bed
	err error
}

// rest gives the bed that all tests of this process share, as it was in the beginning. The caller has it to itself
// until the test ends.
func rest(t testing.TB) *bed {
	t.Helper()
	theBed.Lock()
	t.Cleanup(theBed.Unlock)
	if theBed.bed == nil && theBed.err == nil {
		theBed.bed, theBed.err = makeBed()
	}
	if theBed.err != nil {
		t.Fatal(theBed.err)
	}
	if err := theBed.bed.anew(); err != nil {
		t.Fatal(err)
	}
	return theBed.bed
}

func makeBed() (*bed, error) {
	b := &bed{world: world{keys: map[domain.Role]string{}, cookies: map[string]string{}, ids: map[string]string{}}}
	var err error
	if b.dir, err = tempDir(); err != nil {
		return nil, err
	}
	if b.check, err = contract.New(); err != nil {
		return nil, err
	}
	if b.routes, err = allRoutes(b.check); err != nil {
		return nil, err
	}
	ctx, done := context.WithTimeout(context.Background(), 2*time.Minute)
	defer done()
	data := filepath.Join(b.dir, "data")
	stage, err := journey.OpenStage(ctx, home.Settings{Data: data, Sweep: 24 * time.Hour}, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(b.settle(ctx, stage), stage.Close()); err != nil {
		return nil, err
	}
	b.now = time.Now().Add(2 * time.Minute) // a refresh is allowed again, and the bank's question is still open
	for i, name := range []string{"sluis.db", "sandbox/bank.json"} {
		if b.pristine[i], err = os.ReadFile(filepath.Join(data, name)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// settle makes the world by playing journeys.
func (w *world) settle(ctx context.Context, s *journey.Stage) error {
	terms := consent.Terms{ReturnOrigins: []string{"https://app.example.com"},
		Saving: map[domain.Product]domain.Saving{domain.ProductTransactions: {Scope: domain.SaveHistory, Days: 365}}}
	if err := s.Join(ctx, s.Home, s.Home.Env, terms); err != nil {
		return err
	}
	w.keys[domain.RoleClient] = s.Token
	play := func(visit string, steps ...string) (*journey.Player, error) {
		p := s.Player("inv-1")
		for _, words := range steps {
			if err := p.Play(ctx, words); err != nil {
				return nil, fmt.Errorf("%s: %w", words, err)
			}
		}
		if c := p.Cookie(); c != nil {
			w.cookies[visit] = c.Value
		}
		return p, nil
	}
	read, err := play("read", "ask", "open", "grant", "login 20000005", "done", "webhooks consent.granted connection.active portfolio.updated")
	if err != nil {
		return err
	}
	asked, err := play("asked", "ask", "open", "grant", "login 20000004", "challenge code",
		"method P_TAN", "challenge code")
	if err != nil {
		return err
	}
	if _, err := play("pending", "ask", "open"); err != nil {
		return err
	}
	unused, err := play("", "ask")
	if err != nil {
		return err
	}
	w.token = unused.Link()[strings.LastIndex(unused.Link(), "/")+1:]
	w.ids["con"], w.ids["conn"], w.ids["chal"] = read.Consent(), read.Connection(), string(asked.Asked())
	w.ids["asked"] = asked.Connection()
	return w.meet(ctx, s)
}

// meet learns by the API what else there is, and makes what is not there.
func (w *world) meet(ctx context.Context, s *journey.Stage) error {
	var made struct{ ID, Token string }
	make := func(prefix, path string, body any) error {
		if err := s.Call(ctx, http.MethodPost, path, body, &made); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		w.ids[prefix] = made.ID
		return nil
	}
	if err := make("adv", "/v1/advisors", map[string]string{"name": "Jane Doe"}); err != nil {
		return err
	}
	if err := make("key", "/v1/keys", map[string]string{"role": "advisor", "advisor_id": w.ids["adv"]}); err != nil {
		return err
	}
	w.keys[domain.RoleAdvisor] = made.Token
	if err := make("key", "/v1/keys", map[string]string{"role": "reviewer"}); err != nil {
		return err
	}
	w.keys[domain.RoleReviewer] = made.Token
	var list struct {
		Data []struct {
			ID       string `json:"id"`
			Notice   string `json:"notice_id"`
			Endpoint string `json:"endpoint_id"`
		}
		Next string
	}
	if err := s.Call(ctx, http.MethodGet, "/v1/deliveries", nil, &list); err != nil {
		return err
	}
	w.ids["dlv"], w.ids["evt"], w.ids["ep"] = list.Data[0].ID, list.Data[0].Notice, list.Data[0].Endpoint
	err := s.Call(ctx, http.MethodGet, "/v1/connections/"+w.ids["conn"]+"/portfolio/transactions?limit=1", nil, &list)
	w.cursor = list.Next
	return err
}

// anew puts the world back as it was.
func (b *bed) anew() error {
	if err := b.leave(); err != nil {
		return err
	}
	b.opened++
	file := filepath.Join(b.dir, fmt.Sprintf("bed%d.db", b.opened))
	err := errors.Join(os.WriteFile(file, b.pristine[0], 0o600),
		os.WriteFile(filepath.Join(b.dir, "data", "sandbox", "bank.json"), b.pristine[1], 0o600))
	if err != nil {
		return err
	}
	const free = "127.0.0.1:0"
	b.home, err = home.Open(context.Background(), home.Settings{Data: filepath.Join(b.dir, "data"), Backend: "sqlite:" + file,
		Env: domain.Env{Clock: func() time.Time { return b.now }}, API: free, Pages: free, Bank: free, PerMinute: 1 << 30})
	if err != nil {
		return err
	}
	if err := b.look(file); err != nil || b.sealed != "" {
		return err
	}
	return b.seal()
}

// seal makes a good credential, as the page would.
func (b *bed) seal() error {
	jwk, err := b.home.Keys.Inner.Public()
	if err != nil {
		return err
	}
	b.sealed, err = jwk.SealCredential(domain.Sealing{Subject: b.ids["asked"], Credential: domain.NewID[domain.CredentialID](domain.Env{}), Generation: 1, Nonce: "n"}, map[string]string{"username": "20000005", "password": "123456"}, domain.At(b.now))
	return err
}

func (b *bed) leave() error {
	if b.home == nil {
		return nil
	}
	err := errors.Join(b.beside.Close(), b.home.Close())
	for _, end := range []string{"", "-wal", "-shm"} {
		if e := os.Remove(filepath.Join(b.dir, fmt.Sprintf("bed%d.db%s", b.opened, end))); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	b.home = nil
	return err
}

// look opens the database a second time, with an index more for each kind: that of all its
// documents, for which the database needs none.
func (b *bed) look(file string) error {
	var lives []struct{ Kind domain.DocumentKind }
	options := sql.Options{}
	for name, into := range map[string]any{"retention.json": &lives, "indexes.json": &options.Indexes} {
		raw, err := schemas.FS.ReadFile(name)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return err
		}
	}
	b.kinds = b.kinds[:0]
	for _, l := range lives {
		options.Kinds = append(options.Kinds, l.Kind)
		options.Indexes = append(options.Indexes, domain.Index{Name: "all_" + string(l.Kind), Of: l.Kind, Order: "asc"})
		b.kinds = append(b.kinds, l.Kind)
	}
	var err error
	b.beside, err = sql.Open(context.Background(), "sqlite:"+file, options)
	return err
}

// held is a digest of every document there is, apart from the audit log, of which it is how many entries there are.
func (b *bed) held(t testing.TB) (digest [sha256.Size]byte, entries int) {
	t.Helper()
	sum := sha256.New()
	for _, kind := range b.kinds {
		for q := (domain.Query{Index: "all_" + string(kind), Limit: 1000}); ; {
			page, err := b.beside.List(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			if kind == (*domain.Entry)(nil).Kind() {
				entries += len(page.Documents)
			} else {
				for _, doc := range page.Documents {
					sum.Write(doc)
				}
			}
			if q.Cursor = page.Next; page.Next == "" {
				break
			}
		}
	}
	return [sha256.Size]byte(sum.Sum(nil)), entries
}

// request is one for the route, as a good client or our own page makes it, with the body and what else is changed.
func (b *bed) request(r route, body []byte) *http.Request {
	req := httptest.NewRequest(r.Method, b.path(r), bytes.NewReader(body))
	for name, value := range b.headers(r, len(body) > 0) {
		req.Header.Set(name, value)
	}
	return req
}

// headers are those of a good request for the route.
func (b *bed) headers(r route, body bool) map[string]string {
	h := map[string]string{}
	switch {
	case body && r.page:
		h["Content-Type"] = "application/x-www-form-urlencoded"
	case body:
		h["Content-Type"] = "application/json"
	}
	if !r.Investor {
		h["Authorization"] = "Bearer " + b.keys[domain.RoleClient]
		return h
	}
	h["Sec-Fetch-Site"], h["Cookie"] = "same-origin", "__Host-sluis="+b.cookies[r.visit()]
	return h
}

// ask hands the request to the handlers.
func (b *bed) ask(r route, req *http.Request) answer {
	w := httptest.NewRecorder()
	b.home.Handler(r.host()).ServeHTTP(w, req)
	return answer{w.Code, w.Header(), w.Body.Bytes()}
}

// path is the route's, with identifiers of the world for its parameters.
func (b *bed) path(r route) string {
	out := strings.NewReplacer("{$}", "", "{token}", b.token, "{file}", "page.js", "{product}", "transactions",
		"{consent}", b.ids["con"], "{connection}", b.ids["conn"], "{challenge}", b.ids["chal"], "{advisor}", b.ids["adv"],
		"{key}", b.ids["key"], "{endpoint}", b.ids["ep"], "{delivery}", b.ids["dlv"]).Replace(r.Template)
	if strings.Contains(out, "{") {
		panic("the world has nothing for " + out + ": add it")
	}
	return out
}

// members reads a JSON object.
func members(body []byte) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	_ = json.Unmarshal(body, &m) // none if it is no object
	return m
}
