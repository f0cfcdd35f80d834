// Package home wires every function to one backend in one process, as schemas/pipeline.json says: what the load
// balancer, the subscriptions and the scheduler do in the cloud, happens here by a multiplexer, a queue and a ticker.
// functions/sluis serves it; tests start it with a clock, a bank and faults of their own.
package home

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"sluis.internal/functions/challenge"
	"sluis.internal/functions/consent"
	"sluis.internal/functions/deliver"
	"sluis.internal/functions/erase"
	"sluis.internal/functions/extract/comdirect"
	"sluis.internal/functions/portfolio"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/seal"
	"sluis.internal/functions/sweep"
	"sluis.internal/shared/backend/local"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/extraction"
	"sluis.internal/shared/observe"
	"sluis.internal/shared/serve"
)

// Settings say how a home is set up. The zero value of every field but Data means a good choice.
type Settings struct {
	Data    string       // directory of the database, the local keys and the sandbox bank's memory
	Backend string       // sqlite:PATH or gcp:PROJECT[/DATABASE]; empty means sluis.db in Data
	Shards  string       // directory of the shards; empty means shards in Data
	Copies  erase.Copies // how long the operator keeps copies, as certificates say; zero means none of shards, and not known of the rest
	Env     domain.Env

	API, Pages string           // addresses to listen on
	Bank       string           // where the sandbox bank listens; empty means that none runs here
	BankAt     *BankAddress     // a sandbox bank that runs elsewhere
	Webhooks   []netip.AddrPort // private addresses that webhooks may go to
	PerMinute  int              // requests a minute from each caller; 0 means 600
	Interval   time.Duration    // between a reading and the next that a client may ask for; 0 means one minute
	Sweep      time.Duration    // between two rounds of the clock; 0 means 10 s
	Pace       time.Duration    // between the beginnings of two scheduled refreshes; 0 means 250 ms

	BankOptions bank.Options
	Fault       func(point string) error                        // as in sql.Options, for tests
	Disk        string                                          // likewise
	Connector   func(extraction.Connector) extraction.Connector // likewise: stands before each custodian's
}

// BankAddress is where a sandbox bank listens, and whom to trust there.
type BankAddress struct {
	Address string // host and port
	CA      *x509.CertPool
}

// Home is every function wired to one backend, as pipeline.json says, in one process.
type Home struct {
	*Backend
	Keys     *Keys
	Shards   domain.Shards
	Bank     *bank.Bank // nil where none runs here
	Handlers map[domain.Topic]domain.Handler

	custodians  []domain.Custodian
	engines     map[domain.CustodianID]*extraction.Engine
	bankServer  *bank.Server
	api, pages  net.Listener
	sites       []site
	closeShards func() error
	functions   map[string]func(*http.ServeMux) // by their names in pipeline.json: how each registers its routes
	sweep       *sweep.Service
	telemetry   *observe.Exporter

	ctx    context.Context // of everything that Begin started
	cancel context.CancelCauseFunc
	group  sync.WaitGroup
}

// Open opens data and keys, starts listening, and wires the functions. Nothing is served before Begin.
func Open(ctx context.Context, s Settings) (h *Home, err error) {
	b, err := OpenBackend(ctx, s)
	if err != nil {
		return nil, err
	}
	h = &Home{Backend: b, engines: map[domain.CustodianID]*extraction.Engine{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if h.telemetry, err = observe.Open(ctx, observe.Options{Function: "sluis", Region: h.Env.Region, Custodians: h.contracts.Custodians}); err != nil {
		return h, err
	}
	if h.Keys, err = b.Keys(ctx); err != nil {
		return h, err
	}
	if err = h.openShards(s); err != nil {
		return h, err
	}
	if s.Bank != "" {
		if err := h.openBank(s); err != nil {
			return h, err
		}
		s.BankAt = &BankAddress{h.bankServer.Address(), h.bankServer.CA()}
	}
	if h.api, err = net.Listen("tcp", s.API); err != nil {
		return h, Listening("client API", "--api", err)
	}
	if h.pages, err = net.Listen("tcp", s.Pages); err != nil {
		return h, Listening("investor pages", "--pages", err)
	}
	if err = h.extraction(ctx, bankSecrets{h.Keys.Secrets}, s); err != nil {
		return h, err
	}
	return h, h.wire(ctx, s)
}

// Listening says that an address cannot be listened on, and by which flag to choose another.
func Listening(what, flag string, err error) error {
	return fmt.Errorf("listening for the %s (choose another address with %s): %w", what, flag, err)
}

// openShards opens the shards: in the cloud, or in a directory of their own.
func (h *Home) openShards(s Settings) error {
	if h.cloud != nil {
		h.Shards = h.cloud.Shards // which goes with the cloud
		return nil
	}
	shards, err := local.OpenShards(ShardsIn(s.Data, s.Shards))
	if err == nil {
		h.Shards, h.closeShards = shards, shards.Close
	}
	return err
}

// openBank starts the sandbox bank. What it remembers lies beside the data, so that it survives a restart as a bank
// would.
func (h *Home) openBank(s Settings) error {
	dir := filepath.Join(s.Data, "sandbox")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	options := s.BankOptions
	options.Env, options.StateFile = h.Env, filepath.Join(dir, "bank.json")
	h.Bank = bank.New(options)
	server, err := bank.ServeTLS(h.Bank, s.Bank)
	if err != nil {
		return Listening("sandbox bank", "--bank", err)
	}
	h.bankServer = server
	return nil
}

// bankSecrets are the operator's secrets, and the sandbox bank's own API credentials.
type bankSecrets struct{ domain.Secrets }

func (s bankSecrets) Secret(ctx context.Context, name string) (domain.Secret, error) {
	switch name {
	case "sandbox-comdirect/client_id":
		return domain.NewSecret([]byte(bank.DefaultClientID)), nil
	case "sandbox-comdirect/client_secret":
		return domain.NewSecret([]byte(bank.DefaultClientSecret)), nil
	}
	return s.Secrets.Secret(ctx, name)
}

// extraction makes an engine for each custodian that can be reached from here: those whose secrets are configured,
// and the sandbox bank if it runs.
func (h *Home) extraction(ctx context.Context, secrets domain.Secrets, s Settings) error {
	for _, c := range h.contracts.Custodians {
		if c.Sandbox && s.BankAt == nil || !configured(ctx, secrets, c) {
			continue
		}
		engine, err := extraction.New(h, h.Env, c, h.Keys, h.Shards, secrets, h.Keys.Pseudonym)
		if err != nil {
			return err
		}
		if c.Sandbox {
			engine.Network = extraction.Transport(extraction.TransportOptions{RootCAs: s.BankAt.CA, DialTo: map[string]string{bank.HostName: s.BankAt.Address}})
		}
		engine.Lease = 15 * time.Second
		h.custodians, h.engines[c.ID] = append(h.custodians, c), comdirect.New(engine)
		if s.Connector != nil {
			h.engines[c.ID].Connector = s.Connector(h.engines[c.ID].Connector)
		}
	}
	return nil
}

func configured(ctx context.Context, secrets domain.Secrets, c domain.Custodian) bool {
	for _, name := range c.Secrets {
		secret, err := secrets.Secret(ctx, name)
		if err != nil {
			return false
		}
		secret.Wipe()
	}
	return true
}

// Answer hands an answer to the custodian's engine: in the cloud this is a call from one function to another.
func (h *Home) Answer(ctx context.Context, c domain.CustodianID, r domain.AnswerRequest) error {
	engine := h.engines[c]
	if engine == nil {
		return &domain.Error{Kind: domain.Unavailable, Code: "custodian_unavailable", Message: "this custodian cannot be reached from here"}
	}
	return engine.Answer(ctx, r)
}

// session routes an event to its custodian's engine: in the cloud this is the subscription's filter.
func (h *Home) session(ctx context.Context, e domain.Event) error {
	engine := h.engines[e.Custodian]
	if engine == nil {
		if _, err := domain.ParseID[domain.ConnectionID](e.Subject); err == nil {
			return nil // a keyset is looked after again in a month
		}
		return &domain.Error{Kind: domain.Unavailable, Code: "custodian_unavailable", RetryAfter: time.Minute}
	}
	return engine.Run(ctx, e)
}

// wire gives every function its ports, and serves its routes and topics as pipeline.json says.
func (h *Home) wire(ctx context.Context, s Settings) error {
	p, err := ReadPipeline()
	if err != nil {
		return err
	}
	k, opening := h.Keys, h.Keys.Opening
	door := &serve.Door{Store: h, Env: h.Env, Limits: serve.NewLimits(cmp.Or(s.PerMinute, serve.PerMinute)), Salt: k.Pseudonym}
	reader := envelope.NewReader(opening("portfolio"), h.Shards, h.Env)
	ask := &consent.Service{Store: h, Env: h.Env, Door: door, Custodians: h.custodians, LinkKey: k.Link, PagesURL: h.PagesURL()}
	gate := &seal.Service{Store: h, Env: h.Env, Door: door, Sealer: envelope.NewSealer(k.Closing("outer")), Shards: h.Shards, Public: k.Inner.Public, Kids: k.Inner.Kids}
	question := &challenge.Service{Store: h, Env: h.Env, Door: door, Display: opening("display"), Bank: h}
	reading := &portfolio.Service{Store: h, Env: h.Env, Door: door, Opener: reader, Interval: s.Interval}
	notices := deliver.New(h, h.Env, door, k.Closing("webhook"), opening("webhook"), k.Renewing("webhook"), s.Webhooks)
	removal := &erase.Service{Store: h, Env: h.Env, Door: door, Signers: k.Signers, Shards: h.Shards, Copies: h.copies, Forget: h.forget(reader)}

	h.sweep = &sweep.Service{Store: h, Env: h.Env, Lives: h.contracts.Overdue(), Every: cmp.Or(s.Sweep, 10*time.Second), Pace: s.Pace}
	h.Handlers = map[domain.Topic]domain.Handler{domain.TopicSession: h.session, domain.TopicNotice: notices.Notify,
		domain.TopicDelivery: notices.Deliver, domain.TopicErasure: removal.Erasure}
	h.functions = map[string]func(*http.ServeMux){
		"consent": func(m *http.ServeMux) { ask.Routes(m); ask.Pages(m) },
		"seal":    gate.Routes, "challenge": question.Routes, "portfolio": reading.Routes,
		"endpoints": notices.Routes, "erase": removal.Routes,
	}
	if h.cloud != nil {
		if err := h.cloud.Subscribe(ctx, slices.Collect(maps.Keys(h.Handlers))...); err != nil {
			return err
		}
	}
	h.sites = []site{{h.api, serve.NewServer(serve.Known(front(p, "api", h.functions), nil))}, {h.pages, serve.NewServer(serve.Known(front(p, "pages", h.functions), ask.Lost()))}}
	return nil
}

// Handler is what answers at one host of pipeline.json: api or pages. It works before Begin, without a socket.
func (h *Home) Handler(host string) http.Handler {
	return map[string]http.Handler{"api": h.sites[0].server.Handler, "pages": h.sites[1].server.Handler}[host]
}

// site is something that listens.
type site struct {
	listener net.Listener
	server   *http.Server
}

// forget drops a connection's keyset from every cache in this process.
func (h *Home) forget(reader *envelope.Reader) func(domain.ConnectionID) {
	return func(id domain.ConnectionID) {
		reader.Forget(id)
		for _, engine := range h.engines {
			engine.Portfolio.Forget(id)
		}
	}
}

// front is one host's face: it lets just the routes that pipeline.json lists for that host through to their functions,
// as the load balancer's URL map does in the cloud.
func front(p Pipeline, host string, functions map[string]func(*http.ServeMux)) *http.ServeMux {
	mux := http.NewServeMux()
	for _, f := range p.Functions {
		register := functions[f.Name]
		if register == nil {
			continue
		}
		own := http.NewServeMux()
		register(own)
		for _, r := range f.Routes {
			if r.Host == host {
				mux.Handle(r.Method+" "+r.Path, own)
			}
		}
	}
	return mux
}

// APIURL is where clients call, without a path.
func (h *Home) APIURL() string { return "http://" + h.api.Addr().String() }

// BankURL is where the sandbox bank listens, or empty where none runs here.
func (h *Home) BankURL() string {
	if h.bankServer == nil {
		return ""
	}
	return h.bankServer.URL()
}

// PagesURL is where investors come. It names localhost and not its address: browsers keep __Host- cookies for it without https.
func (h *Home) PagesURL() string {
	_, port, _ := net.SplitHostPort(h.pages.Addr().String())
	return "http://localhost:" + port
}

// Begin serves and works in the background until ctx ends or something fails.
func (h *Home) Begin(ctx context.Context) {
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	for _, s := range h.sites {
		h.start(s)
	}
	h.group.Go(func() {
		if err := h.Run(h.ctx, h.Handlers); err != nil {
			h.cancel(fmt.Errorf("delivering events: %w", err))
		}
	})
	h.group.Go(func() { h.sweep.Run(h.ctx) })
}

// Serve serves one more handler at l, after Begin, until the home ends.
func (h *Home) Serve(l net.Listener, handler http.Handler) {
	s := site{l, serve.NewServer(handler)}
	h.sites = append(h.sites, s)
	h.start(s)
}

// Stop ends the home as an interrupt does, waits until everything has stopped gracefully, and closes it.
func (h *Home) Stop() error {
	h.cancel(nil)
	return errors.Join(h.Wait(), h.Close())
}

// start serves one site in the background.
func (h *Home) start(s site) {
	s.server.BaseContext = func(net.Listener) context.Context { return h.ctx }
	h.group.Go(func() {
		if err := serve.Serve(s.server, s.listener); !errors.Is(err, http.ErrServerClosed) {
			h.cancel(fmt.Errorf("serving: %w", err))
		}
	})
}

// Wait returns once ctx has ended and everything has stopped gracefully: listeners first, then the queue.
func (h *Home) Wait() error {
	<-h.ctx.Done()
	h.shutdown()
	h.group.Wait()
	if err := context.Cause(h.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// shutdown lets requests finish for a bounded time. What is cut off after that is most often a connection that a browser
// opened ahead and never used, which net/http waits for.
func (h *Home) shutdown() {
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	for _, s := range h.sites {
		if err := s.server.Shutdown(ctx); err != nil {
			slog.Info("connections cut off", "error", errors.Join(err, s.server.Close()))
		}
	}
}

// Close lets go of everything that Open took.
func (h *Home) Close() error {
	var errs []error
	for _, l := range []net.Listener{h.api, h.pages} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if h.bankServer != nil {
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		errs = append(errs, h.bankServer.Close(ctx))
	}
	if h.closeShards != nil {
		errs = append(errs, h.closeShards())
	}
	return errors.Join(append(errs, h.Backend.Close(), h.telemetry.Close())...)
}
