package bench

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/consent"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// bankVariable in the environment makes of the test's binary the bank.
const bankVariable = "SLUIS_BENCH_BANK"

// beBank is the bank's process: it says where it listens and whom to trust, and ends with its standard input. A line that
// it reads there is how far away it is to be.
func beBank() error {
	var distance atomic.Int64
	server, err := bank.ServeTLS(bank.New(bank.Options{OnRequest: func(string, string, string) { <-time.After(time.Duration(distance.Load())) }}), "127.0.0.1:0")
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(address{At: server.Address(), CA: server.CertPEM()}); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		d, err := time.ParseDuration(lines.Text())
		if err != nil {
			return err
		}
		distance.Store(int64(d))
		if err := out.Encode(d.String()); err != nil {
			return err
		}
	}
	return nil
}

// address is where a bank listens.
type address struct {
	At string
	CA []byte // PEM
}

func (a address) trusted() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.CA)
	return pool
}

// outpost is a bank in a process of its own, so that what it spends is not ours.
type outpost struct {
	address
	in  io.WriteCloser
	out *json.Decoder
}

func startBank(tb testing.TB) *outpost {
	tb.Helper()
	p := exec.Command(os.Args[0])
	p.Env = append(os.Environ(), bankVariable+"=1")
	p.Stderr = os.Stderr
	in, err := p.StdinPipe()
	must(tb, err)
	out, err := p.StdoutPipe()
	must(tb, err)
	must(tb, p.Start())
	o := &outpost{in: in, out: json.NewDecoder(out)}
	tb.Cleanup(func() {
		must(tb, in.Close())
		must(tb, p.Wait())
	})
	must(tb, o.out.Decode(&o.address))
	return o
}

// away has every answer of the bank take so much longer.
func (o *outpost) away(tb testing.TB, d time.Duration) {
	tb.Helper()
	_, err := fmt.Fprintln(o.in, d)
	must(tb, err)
	var done string
	must(tb, o.out.Decode(&done))
}

// faraway is a bank in another process, as a player steers it.
type faraway struct{}

func (faraway) Approve(string) bool { return false }
func (faraway) Refused(string) int  { return 0 }
func (faraway) Locked(string) bool  { return false }

// house is a home in this process with a client and an inbox. Its handlers run one at a time, and each says what it
// took.
type house struct {
	journey.Place
	home     *home.Home
	bank     address
	endpoint string // the client's, and what it verifies with
	secret   string
	commits  atomic.Int64
	spent    map[domain.Topic]chan cost // of the events of a topic, in their order
	alone    sync.Mutex
}

// openHouse opens a home with the bank at a.
func openHouse(tb testing.TB, a address) *house {
	tb.Helper()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	h := &house{bank: a, spent: map[domain.Topic]chan cost{}}
	h.Inbox, h.Bank = journey.NewInbox(l, nil), faraway{}
	go func() { _ = h.Inbox.Serve() }() // ends with its listener
	set := home.Settings{Data: filepath.Join(tb.TempDir(), "data"), API: "127.0.0.1:0", Pages: "127.0.0.1:0", PerMinute: 10_000_000, Rules: &domain.BankRules{},
		BankAt: &home.BankAddress{Address: a.At, CA: a.trusted()}, Interval: time.Nanosecond, Sweep: time.Hour,
		Webhooks: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())},
		Fault: func(point string) error {
			if point == "before-commit" {
				h.commits.Add(1)
			}
			return nil
		}}
	h.home, err = home.Open(context.Background(), set)
	must(tb, err)
	h.observe()
	h.home.Begin(context.Background())
	h.API, h.Pages = h.home.APIURL(), h.home.PagesURL()
	tb.Cleanup(func() { must(tb, errors.Join(h.home.Stop(), l.Close())) })
	h.join(tb)
	return h
}

// join adds a client with a key and an endpoint.
func (h *house) join(tb testing.TB) {
	tb.Helper()
	ctx := context.Background()
	c, err := consent.AddClient(ctx, h.home, h.home.Env, "Bench Wealth", consent.Terms{})
	must(tb, err)
	_, token, err := consent.IssueKey(ctx, h.home, h.home.Env, c.ID, consent.KeyTerms{Role: domain.RoleClient, Label: "bench"})
	must(tb, err)
	h.Token = string(token.Reveal())
	var made struct{ ID, Secret string }
	must(tb, h.Call(ctx, http.MethodPost, "/v1/endpoints", map[string]string{"url": h.Inbox.URL()}, &made))
	must(tb, h.Inbox.Trust(made.Secret))
	h.endpoint, h.secret = made.ID, made.Secret
}

// observe has every handler measured, with the others waiting meanwhile.
func (h *house) observe() {
	for topic, handle := range h.home.Handlers {
		spent := make(chan cost, 1000)
		h.spent[topic] = spent
		h.home.Handlers[topic] = func(ctx context.Context, e domain.Event) error {
			h.alone.Lock()
			defer h.alone.Unlock()
			before := h.commits.Load()
			c, err := spend(func() error { return handle(ctx, e) })
			c.commits = h.commits.Load() - before
			if err == nil {
				select {
				case spent <- c:
				default: // nobody waits for these
				}
			}
			return err
		}
	}
}

// await takes the next event's cost.
func (h *house) await(topic domain.Topic) (cost, error) {
	select {
	case c := <-h.spent[topic]:
		return c, nil
	case <-time.After(2 * time.Minute):
		return cost{}, fmt.Errorf("waited too long for %s", topic)
	}
}

// drain forgets what was measured before.
func (h *house) drain() {
	for _, c := range h.spent {
		for len(c) > 0 {
			<-c
		}
	}
}

// connect plays a first reading with a login of the bank, and returns the connection.
func (h *house) connect(tb testing.TB, login string) domain.ConnectionID {
	tb.Helper()
	p := h.Player("bench-" + login)
	for _, words := range []string{"ask", "open", "grant", "login " + login, "done", "webhooks consent.granted connection.active portfolio.updated"} {
		if err := p.Play(context.Background(), words); err != nil {
			tb.Fatalf("%s: %v", words, err)
		}
	}
	var all struct {
		Data []struct {
			ID  domain.ConnectionID `json:"id"`
			Ref string              `json:"investor_ref"`
		} `json:"data"`
	}
	must(tb, h.Call(context.Background(), http.MethodGet, "/v1/connections", nil, &all))
	for _, c := range all.Data {
		if c.Ref == "bench-"+login {
			h.settle(tb)
			return c.ID
		}
	}
	tb.Fatal("there is no such connection")
	return ""
}

// settle waits until nothing is due any more.
func (h *house) settle(tb testing.TB) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		pending, err := h.home.Pending(context.Background())
		must(tb, err)
		if len(pending) == 0 {
			break
		}
		if time.Now().After(deadline) {
			tb.Fatalf("events are left: %v", pending)
		}
	}
	h.drain()
}
