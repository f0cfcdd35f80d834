package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/extraction"
	"sluis.internal/shared/serve"
	"sluis.internal/shared/webhook"
)

// settings say how a home is set up.
type settings struct {
	API, Pages, Bank string           // addresses to listen on; Bank empty means no sandbox bank
	Webhooks         []netip.AddrPort // private addresses that webhooks may go to
	PerMinute        int              // requests a minute from each caller
	Interval         time.Duration    // between a reading and the next that a client may ask for; 0 means one minute
	BankOptions      bank.Options
}

// home is every function wired to the embedded backend, as pipeline.json says, in one process.
type home struct {
	*openBackend
	keys       *envelope.Keys
	custodians []domain.Custodian
	engines    map[domain.CustodianID]*extraction.Engine
	bank       *bank.Bank
	bankServer *bank.Server
	api, pages net.Listener
	sites      []site
	handlers   map[domain.Topic]domain.Handler
	functions  map[string]func(*http.ServeMux) // by their names in pipeline.json: how each registers its routes
	sweep      *sweep.Service

	ctx    context.Context // of everything that begin started
	cancel context.CancelCauseFunc
	group  sync.WaitGroup
}

// openHome opens data and keys, starts listening, and wires the functions. Nothing is served before begin.
func openHome(ctx context.Context, o *options, s settings) (h *home, err error) {
	b, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	h = &home{openBackend: b, engines: map[domain.CustodianID]*extraction.Engine{}}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if h.keys, err = envelope.LocalKeys(o.keys()); err != nil {
		return h, err
	}
	secrets, err := envelope.OpenSecrets(o.keys())
	if err != nil {
		return h, err
	}
	if s.Bank != "" {
		if err := h.openBank(o, s); err != nil {
			return h, err
		}
	}
	if h.api, err = net.Listen("tcp", s.API); err != nil {
		return h, listening("client API", "--api", err)
	}
	if h.pages, err = net.Listen("tcp", s.Pages); err != nil {
		return h, listening("investor pages", "--pages", err)
	}
	h.extraction(ctx, bankSecrets{secrets})
	return h, h.wire(s)
}

func listening(what, flag string, err error) error {
	return fmt.Errorf("listening for the %s (choose another address with %s): %w", what, flag, err)
}

// openBank starts the sandbox bank. What it remembers lies beside the data, so that it survives a restart as a bank
// would.
func (h *home) openBank(o *options, s settings) error {
	dir := filepath.Join(o.data(), "sandbox")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	options := s.BankOptions
	options.Env, options.StateFile = h.env, filepath.Join(dir, "bank.json")
	h.bank = bank.New(options)
	server, err := bank.ServeTLS(h.bank, s.Bank)
	if err != nil {
		return listening("sandbox bank", "--bank", err)
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
func (h *home) extraction(ctx context.Context, secrets domain.Secrets) {
	transport := extraction.TransportOptions{}
	sandbox := transport
	if h.bankServer != nil {
		sandbox.RootCAs = h.bankServer.CA()
		sandbox.DialTo = map[string]string{bank.HostName: h.bankServer.Address()}
	}
	for _, c := range h.catalogue {
		if c.Sandbox && h.bankServer == nil || !configured(ctx, secrets, c) {
			continue
		}
		network := transport
		if c.Sandbox {
			network = sandbox
		}
		h.custodians = append(h.custodians, c)
		h.engines[c.ID] = comdirect.New(extraction.Engine{Store: h, Env: h.env, Custodian: c,
			Network: extraction.Transport(network), Secrets: secrets,
			Opener:    envelope.NewOpener(h.keys.Decrypter(envelope.KeyOuter), h.keys.InnerDecrypters),
			State:     stateKey{h.keys.Encrypter(envelope.KeySession), h.keys.Decrypter(envelope.KeySession)},
			Display:   h.keys.Encrypter(envelope.KeyDisplay),
			Portfolio: envelope.NewCloser(h.keys.PortfolioKey(), h.env), Pseudonym: h.keys.Pseudonym(),
			Lease: 15 * time.Second})
	}
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

// stateKey is both halves of the session key.
type stateKey struct {
	domain.Encrypter
	domain.Decrypter
}

// Answer hands an answer to the custodian's engine: in the cloud this is a call from one function to another.
func (h *home) Answer(ctx context.Context, c domain.CustodianID, r domain.AnswerRequest) error {
	engine := h.engines[c]
	if engine == nil {
		return &domain.Error{Kind: domain.Unavailable, Code: "custodian_unavailable", Message: "this custodian cannot be reached from here"}
	}
	return engine.Answer(ctx, r)
}

// session routes an event to its custodian's engine: in the cloud this is the subscription's filter.
func (h *home) session(ctx context.Context, e domain.Event) error {
	engine := h.engines[e.Custodian]
	if engine == nil {
		return &domain.Error{Kind: domain.Unavailable, Code: "custodian_unavailable", RetryAfter: time.Minute}
	}
	return engine.Run(ctx, e)
}

// wire gives every function its ports, and serves its routes and topics as pipeline.json says.
func (h *home) wire(s settings) error {
	p, err := read[pipeline]("pipeline.json")
	if err != nil {
		return err
	}
	door := &serve.Door{Store: h, Env: h.env, Limits: serve.NewLimits(s.PerMinute), Salt: h.keys.Pseudonym()}
	reader := envelope.NewReader(h.keys.Decrypter(envelope.KeyPortfolio), h.env)
	ask := &consent.Service{Store: h, Env: h.env, Door: door, Custodians: h.custodians, LinkKey: h.keys.Link(), PagesURL: h.pagesURL()}
	gate := &seal.Service{Store: h, Env: h.env, Door: door, Sealer: envelope.NewSealer(h.keys.Encrypter(envelope.KeyOuter)),
		Public: h.keys.InnerPublic, Kids: h.keys.InnerKids}
	question := &challenge.Service{Store: h, Env: h.env, Door: door, Display: h.keys.Decrypter(envelope.KeyDisplay), Bank: h}
	reading := &portfolio.Service{Store: h, Env: h.env, Door: door, Opener: reader, Interval: s.Interval}
	rules := webhook.Rules{Allow: s.Webhooks}
	notices := &deliver.Service{Store: h, Env: h.env, Door: door, Rules: rules, Close: h.keys.Encrypter(envelope.KeyWebhook),
		Open: h.keys.Decrypter(envelope.KeyWebhook), Sender: webhook.NewSender(h.env, webhook.Options{Rules: rules})}
	removal := &erase.Service{Store: h, Env: h.env, Door: door, Signer: h.keys.CertificateSigner(),
		KeyID: h.keys.CertificateKeyID(), Forget: h.forget(reader)}

	h.sweep = h.sweeper()
	h.handlers = map[domain.Topic]domain.Handler{domain.TopicSession: h.session, domain.TopicNotice: notices.Notify,
		domain.TopicDelivery: notices.Deliver, domain.TopicErasure: removal.Erasure}
	h.functions = map[string]func(*http.ServeMux){
		"consent": func(m *http.ServeMux) { ask.Routes(m); ask.Pages(m) },
		"seal":    gate.Routes, "challenge": question.Routes, "portfolio": reading.Routes,
		"endpoints": notices.Routes, "erase": removal.Routes,
	}
	h.sites = []site{{h.api, serve.NewServer(serve.Known(front(p, "api", h.functions)))}, {h.pages, serve.NewServer(front(p, "pages", h.functions))}}
	return nil
}

// site is something that listens.
type site struct {
	listener net.Listener
	server   *http.Server
}

// forget drops a connection's keyset from every cache in this process.
func (h *home) forget(reader *envelope.Reader) func(domain.ConnectionID) {
	return func(id domain.ConnectionID) {
		reader.Forget(id)
		for _, engine := range h.engines {
			engine.Portfolio.Forget(id)
		}
	}
}

// front is one host's face: it lets just the routes that pipeline.json lists for that host through to their functions,
// as the load balancer's URL map does in the cloud.
func front(p pipeline, host string, functions map[string]func(*http.ServeMux)) *http.ServeMux {
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

// sweeper is the clock, with the lives of retention.json.
func (h *home) sweeper() *sweep.Service {
	s := &sweep.Service{Store: h, Env: h.env}
	for _, l := range h.lives {
		i := slices.IndexFunc(h.indexes, func(ix domain.Index) bool {
			return ix.Of == l.Kind && l.Field != "" && ix.Range == l.Field && len(ix.Equal) == 0
		})
		if l.Ends == "ttl" && i >= 0 {
			s.Lives = append(s.Lives, sweep.Life{Of: l.Kind, Index: h.indexes[i].Name})
		}
	}
	return s
}

func (h *home) apiURL() string { return "http://" + h.api.Addr().String() }

// pagesURL names localhost and not its address: browsers keep __Host- cookies for it without https.
func (h *home) pagesURL() string {
	_, port, _ := net.SplitHostPort(h.pages.Addr().String())
	return "http://localhost:" + port
}

// begin serves and works in the background until ctx ends or something fails.
func (h *home) begin(ctx context.Context) {
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	for _, s := range h.sites {
		h.serve(s)
	}
	h.group.Go(func() {
		if err := h.Run(h.ctx, h.handlers); err != nil {
			h.cancel(fmt.Errorf("delivering events: %w", err))
		}
	})
	h.group.Go(func() { h.sweep.Run(h.ctx, 10*time.Second) })
}

// serve serves one site in the background.
func (h *home) serve(s site) {
	s.server.BaseContext = func(net.Listener) context.Context { return h.ctx }
	h.group.Go(func() {
		if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			h.cancel(fmt.Errorf("serving: %w", err))
		}
	})
}

// wait returns once ctx has ended and everything has stopped gracefully: listeners first, then the queue.
func (h *home) wait() error {
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
func (h *home) shutdown() {
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	for _, s := range h.sites {
		if err := s.server.Shutdown(ctx); err != nil {
			slog.Info("connections cut off", "error", errors.Join(err, s.server.Close()))
		}
	}
}

// close lets go of everything that openHome took.
func (h *home) close() error {
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
	return errors.Join(append(errs, h.Close())...)
}
