// Package house starts whole instances for tests under fire: in a process of its own, which can be killed at any
// instruction and started again on the same data, while bank and webhook inbox live on in the test, as the real world
// does. A test package that uses it hands its TestMain to [Main], as the process is the test's own binary once more.
//
// An instance in the test's own process is a [journey.Stage].
package house

import (
	"bufio"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluis.internal/functions/consent"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// order is what a process is told to be, in its environment.
type order struct {
	Data, Backend   string
	API, Pages      string
	Bank            string
	CA              []byte // PEM
	Webhooks        []netip.AddrPort
	Interval, Sweep time.Duration
	Pace            time.Duration
	Ahead           time.Duration // of the machine's clock
	LogLevel        slog.Level
}

const variable = "SLUIS_TEST_HOUSE"

// Flags of every package that uses a house. A test says in its first line which seed it plays, so that a failure can be
// played again.
var (
	Long = flag.Bool("long", false, "run at full length, instead of the shortened form for every change")
	Seed = flag.Uint64("seed", 1, "seed of what is random")
)

// Setup, if a test package sets it before [Main], changes what a process is about to open its home with.
var Setup = func(*home.Settings) {}

// Commands are what a running process can be told with [House.Tell], beside "clock": a test package adds its own
// before [Main].
var Commands = map[string]func(arg string) error{}

// Main runs the tests, or, in a process that [House.Start] started, the instance.
func Main(m *testing.M) {
	raw, ok := os.LookupEnv(variable)
	if !ok {
		os.Exit(m.Run())
	}
	if err := live([]byte(raw)); err != nil {
		fmt.Fprintln(os.Stderr, "house:", err)
		os.Exit(1)
	}
}

// live is the process of an instance, until its standard input ends.
func live(raw []byte) error {
	var o order
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: o.LogLevel})))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(o.CA)
	var shift atomic.Int64
	shift.Store(int64(o.Ahead))
	Commands["clock"] = func(arg string) error {
		d, err := time.ParseDuration(arg)
		shift.Store(int64(d))
		return err
	}
	set := home.Settings{Data: o.Data, Backend: o.Backend, API: o.API, Pages: o.Pages,
		Env:    domain.Env{Clock: func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }},
		BankAt: &home.BankAddress{Address: o.Bank, CA: pool}, Webhooks: o.Webhooks, PerMinute: 1_000_000,
		Interval: o.Interval, Sweep: o.Sweep, Pace: o.Pace,
		Rules: &domain.BankRules{}} // its many investors share the few logins of the sandbox: what one access bears is tested elsewhere
	Setup(&set)
	h, err := home.Open(context.Background(), set)
	if err != nil {
		return err
	}
	h.Begin(context.Background())
	fmt.Println("ready", h.APIURL(), h.PagesURL())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		name, arg, _ := strings.Cut(lines.Text(), " ")
		do := Commands[name]
		if do == nil {
			do = func(string) error { return errors.New("no such command") }
		}
		if err := do(arg); err != nil {
			fmt.Println("failed", err)
			continue
		}
		fmt.Println("done", name)
	}
	return h.Stop()
}

// Options say what is special about a house. The zero value is a good choice.
type Options struct {
	Backend     string // a DSN, where it is not the database in the data directory
	Sweep       time.Duration
	Pace        time.Duration // between the beginnings of two scheduled refreshes
	Interval    time.Duration // between readings that a client asks for; 0 means 1 ms
	BankOptions bank.Options
	Terms       consent.Terms
	Webhooks    []netip.AddrPort // private addresses that webhooks may go to, beside the inbox
	LogLevel    slog.Level
	Env         []string          // added to the process's environment
	Program     string            // the test's own binary, built in another way; empty means as it runs
	Record      *journey.Recorder // writes down answers and webhooks
	Keys        string            // directory of local keys to begin with; empty has new ones made
}

// House is an instance in a process of its own, with its bank and its client's inbox in the test. Its addresses stay
// the same over restarts.
type House struct {
	journey.Place
	Data string
	Bank *bank.Bank
	Log  string // file that the process's standard error goes to, over all restarts

	options Options
	order   order
	mu      sync.Mutex
	process *exec.Cmd
	ended   chan struct{} // closed once the process is over
	result  error         // of the process, then
	in      io.WriteCloser
	out     *bufio.Scanner
}

// Open makes a house with a fresh data directory, a bank and a client, and starts it. It ends with the test.
func Open(t testing.TB, o Options) *House {
	t.Helper()
	dir := t.TempDir()
	h := &House{Data: filepath.Join(dir, "data"), Log: filepath.Join(dir, "stderr"), options: o}
	CopyKeys(t, o.Keys, home.KeysIn(h.Data))
	h.Bank = bank.New(o.BankOptions)
	server, err := bank.ServeTLS(h.Bank, "127.0.0.1:0")
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h.Inbox, h.Place.Bank = journey.NewInbox(l, o.Record), h.Bank
	h.Place.Record = o.Record
	go func() { _ = h.Inbox.Serve() }() // ends with its listener
	interval := o.Interval
	if interval == 0 {
		interval = time.Millisecond
	}
	h.order = order{Data: h.Data, Backend: o.Backend, API: Reserve(t), Pages: Reserve(t), Bank: server.Address(), CA: server.CertPEM(),
		Webhooks: append([]netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}, o.Webhooks...), Interval: interval, Sweep: o.Sweep, Pace: o.Pace, LogLevel: o.LogLevel}
	t.Cleanup(func() {
		h.Kill()
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		must(t, errors.Join(l.Close(), server.Close(ctx)))
	})
	// The client is added before the first start, by hand of an operator, and its endpoint after.
	must(t, h.Start())
	h.WithStore(t, func(b *home.Backend) { must(t, h.Join(t.Context(), b, b.Env, o.Terms)) })
	return h
}

// Beside starts a second process on the same data, with the same bank, client and inbox, at addresses of its own. It ends
// with the test.
func (h *House) Beside(t testing.TB) *House {
	t.Helper()
	second := &House{Data: h.Data, Bank: h.Bank, Log: h.Log + "-2", options: h.options, order: h.order}
	second.Place = journey.Place{Token: h.Token, Inbox: h.Inbox, Bank: h.Place.Bank, Record: h.Record}
	second.order.API, second.order.Pages = Reserve(t), Reserve(t)
	t.Cleanup(second.Kill)
	must(t, second.Start())
	return second
}

// WithStore opens the data beside the running process, as an operator's command does.
func (h *House) WithStore(t testing.TB, fn func(*home.Backend)) {
	t.Helper()
	b, err := home.OpenBackend(context.Background(), home.Settings{Data: h.Data, Backend: h.order.Backend})
	must(t, err)
	fn(b)
	must(t, b.Close())
}

// CopyKeys gives a house the keys of another one, if there are any.
func CopyKeys(t testing.TB, from, to string) {
	t.Helper()
	if from == "" {
		return
	}
	files, err := os.ReadDir(from)
	must(t, err)
	must(t, os.MkdirAll(to, 0o700))
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(from, f.Name()))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(to, f.Name()), content, 0o600))
	}
}

// Reserve finds a free address. It lies below those that systems give out by themselves, so that nobody has it while the
// process is away.
func Reserve(t testing.TB) string {
	t.Helper()
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15_000+rand.N(17_000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Start starts the process on the data as it lies, and returns once it serves. more is added to its environment.
func (h *House) Start(more ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	raw, err := json.Marshal(h.order)
	if err != nil {
		return err
	}
	complaints, err := os.OpenFile(h.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer complaints.Close()
	p := exec.Command(cmp.Or(h.options.Program, os.Args[0]))
	p.Env = append(append(append(os.Environ(), h.options.Env...), more...), variable+"="+string(raw))
	p.Stderr = complaints
	if h.in, err = p.StdinPipe(); err != nil {
		return err
	}
	out, err := p.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	h.process, h.out, h.ended = p, bufio.NewScanner(out), make(chan struct{})
	ready := h.out.Scan()
	go func(ended chan struct{}) {
		h.result = p.Wait()
		close(ended)
	}(h.ended)
	if !ready {
		<-h.ended
		h.process = nil
		return fmt.Errorf("the house did not start: %w", errors.Join(h.result, errors.New(h.tail())))
	}
	return h.ready(h.out.Text())
}

// ready reads the addresses, which those who use them may be reading at the same time: after a restart they are the same.
func (h *House) ready(line string) error {
	var word, api, pages string
	if _, err := fmt.Sscan(line, &word, &api, &pages); err != nil {
		return err
	}
	if h.API == "" {
		h.API, h.Pages = api, pages
	}
	if h.API != api || h.Pages != pages {
		return errors.New("the house came back elsewhere")
	}
	return nil
}

// Later has the process's clock be so much further ahead of the machine's, at once and from the next start on.
func (h *House) Later(d time.Duration) error {
	h.mu.Lock()
	h.order.Ahead += d
	ahead, running := h.order.Ahead, h.process != nil
	h.mu.Unlock()
	if !running {
		return nil
	}
	return h.Tell("clock " + ahead.String())
}

// Ended is closed once the process that was started last is over, by itself or not.
func (h *House) Ended() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// tail is the end of the log.
func (h *House) tail() string {
	raw, _ := os.ReadFile(h.Log) // no log says as much
	return string(raw[max(0, len(raw)-2000):])
}

// Kill ends the process with SIGKILL, as if the power of this one program failed. It may be dead already.
func (h *House) Kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return
	}
	_ = h.process.Process.Kill() // gone already is as good
	<-h.ended
	h.process = nil
}

// Stop lets the process end gracefully, and says what it said.
func (h *House) Stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return errors.New("the house does not run")
	}
	h.process = nil
	err := h.in.Close()
	<-h.ended
	return errors.Join(err, h.result)
}

// Signal sends the process a signal, for example to see what it holds.
func (h *House) Signal(s syscall.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.process.Process.Signal(s)
}

// PID is the process's number, 0 while it does not run.
func (h *House) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return 0
	}
	return h.process.Process.Pid
}

// Tell has the running process do one of its [Commands]: "clock 1h" sets its clock an hour ahead.
func (h *House) Tell(words string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := fmt.Fprintln(h.in, words); err != nil {
		return err
	}
	if !h.out.Scan() {
		return fmt.Errorf("telling %q: %w", words, io.ErrUnexpectedEOF)
	}
	if answer := h.out.Text(); !strings.HasPrefix(answer, "done") {
		return fmt.Errorf("telling %q: %s", words, answer)
	}
	return nil
}
