// Package cloud plays journeys in a Google Cloud of the test's own: every function of pipeline.json is a process of its
// own, staged and built as Google does it, with an identity of its own and just the roles that pipeline.json gives it. Documents
// lie in Google's Firestore emulator, events are pushed by Google's Pub/Sub emulator, and Cloud KMS and Secret Manager are
// strict fakes. What the test plays itself is the rest of the platform: the load balancer, the scheduler, the
// metadata server, and the tokens that Pub/Sub shows.
package cloud

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluis.internal/functions/consent"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe/observetest"
	"sluis.internal/test/house"
)

const custodian = "sandbox-comdirect"

// region is a Google Cloud with every function deployed, and a client that plays journeys in it.
type region struct {
	journey.Place
	t                 testing.TB
	options           options
	project           string
	pipeline          home.Pipeline
	vault             *gcptest.Vault
	issuer            *gcptest.Issuer
	dir               string // of the staged functions
	family            int    // process group of the functions
	bank              *bank.Bank
	at                *bank.Server
	store             *gcp.Backend             // as an operator sees it
	firestore, pubsub *gcptest.Meter           // through which the functions reach the emulators
	secrets           map[string][]byte        // that functions hold
	second            net.Listener             // another address that webhooks may go to
	calls             map[string]int           // of functions, since they were taken last
	waiting           map[string]chan struct{} // closed when the function is called
	told              *observetest.Receiver    // of all functions' spans and metrics

	unruly    *unruly // how Pub/Sub behaves; nil is well
	mu        sync.Mutex
	functions map[string]*function
}

// options say what is special about a region. The zero value is a good choice.
type options struct {
	bank   bank.Options
	record *journey.Recorder
	env    []string // added to every function's environment
	unruly *unruly
	tap    *tap // hears everything; may be nil
}

// function is one deployed function.
type function struct {
	home.Function
	at      string // host and port of its process
	url     string // where others call it
	environ []string
	program string
	log     *os.File
	process *exec.Cmd
}

func (f *function) identity() string { return f.Name + "@p.iam.gserviceaccount.com" }

// open deploys everything.
func open(t testing.TB, o options) *region {
	t.Helper()
	gcptest.Emulators(t)
	r := &region{t: t, options: o, unruly: o.unruly, project: "p-" + random(4), vault: gcptest.NewVault(t), issuer: gcptest.NewIssuer(t),
		functions: map[string]*function{}, calls: map[string]int{}, waiting: map[string]chan struct{}{}, secrets: map[string][]byte{}, told: observetest.NewReceiver(t)}
	r.firestore, r.pubsub = gcptest.NewMeter(t, os.Getenv("FIRESTORE_EMULATOR_HOST")), gcptest.NewMeter(t, os.Getenv("PUBSUB_EMULATOR_HOST"))
	o.tap.at(r)
	var err error
	if r.pipeline, err = home.ReadPipeline(); err != nil {
		t.Fatal(err)
	}
	r.stage()
	r.practise()
	r.keys()
	r.together()
	r.balance()
	slices.SortStableFunc(r.pipeline.Functions, func(a, b home.Function) int { return len(a.Calls) - len(b.Calls) }) // who is called, first
	for _, f := range r.pipeline.Functions {
		r.deploy(f)
	}
	r.subscribe()
	r.join()
	return r
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// staged is where every function was built, once for all tests of this process.
var staged string

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(staged) // or else the system's cleaning does it
	os.Exit(code)
}

// stage builds every function as Google builds it, which takes a minute.
func (r *region) stage() {
	r.t.Helper()
	if r.dir = staged; staged != "" {
		return
	}
	var err error
	if r.dir, err = os.MkdirTemp("", "sluis-cloud-"); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.t.Context(), "go", "run", "./test/stage", "-build", r.dir)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil && os.Getenv("SLUIS_FULL") != "1" && bytes.Contains(out, []byte("dial tcp")) {
		r.t.Skipf("the module proxy cannot be reached: %s", out)
	}
	if err != nil {
		r.t.Fatalf("staging: %v\n%s", err, out)
	}
	staged = r.dir
}

// practise opens the sandbox bank and the client's inbox.
func (r *region) practise() {
	r.t.Helper()
	o := r.options.bank
	o.Slow, o.RetryAfter = 200*time.Millisecond, time.Second
	b := bank.New(o)
	server, err := bank.ServeTLS(b, "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.at, r.bank, r.Bank = server, b, b
	r.t.Cleanup(func() { _ = server.Close(context.Background()) })
	if err := os.WriteFile(filepath.Join(r.dir, r.project+".pem"), server.CertPEM(), 0o600); err != nil {
		r.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	if r.second, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = r.second.Close() })
	r.Inbox = journey.NewInbox(l, r.options.record)
	r.Record = r.options.record
	go func() { _ = r.Inbox.Serve() }() // ends with its listener
	r.t.Cleanup(func() { _ = l.Close() })
}

// resource is a key's name, in a ring of its own; gate 1's in a project of its own.
func resource(key string) string {
	if key == "inner" {
		return "projects/inner/locations/europe-west4/keyRings/inner/cryptoKeys/inner"
	}
	return "projects/keys/locations/europe-west4/keyRings/" + key + "/cryptoKeys/" + key
}

func (r *region) secret(name string) string {
	return "projects/" + r.project + "/secrets/" + strings.ReplaceAll(name, "/", "--")
}

// keys makes the keys and secrets of pipeline.json, and gives each function the roles that it says, no more.
func (r *region) keys() {
	r.t.Helper()
	for name, k := range r.pipeline.Keys {
		switch {
		case strings.HasPrefix(k.Use, "AES"):
			r.vault.AddSymmetric(r.t, resource(name))
		case strings.HasPrefix(k.Use, "RSA"):
			key, err := rsa.GenerateKey(rand.Reader, 4096)
			if err != nil {
				r.t.Fatal(err)
			}
			r.vault.AddRSA(r.t, resource(name), key)
		case strings.HasPrefix(k.Use, "Ed25519"):
			r.vault.AddSigner(r.t, resource(name))
		default: // HMAC
			value := make([]byte, 32)
			rand.Read(value) // never fails
			r.vault.AddSecret(r.secret("held/"+name), value)
			r.secrets[name] = value
		}
	}
	r.vault.AddSecret(r.secret(custodian+"/client_id"), []byte(bank.DefaultClientID))
	r.vault.AddSecret(r.secret(custodian+"/client_secret"), []byte(bank.DefaultClientSecret))
	for _, f := range r.pipeline.Functions {
		r.grant(f)
	}
}

func (r *region) grant(f home.Function) {
	who := (&function{Function: f}).identity()
	for _, key := range f.Close {
		r.vault.Grant(who, gcptest.Encrypter, resource(key))
	}
	for _, key := range f.Open {
		role := gcptest.Decrypter
		if key == "inner" {
			role = gcptest.Opener
		}
		r.vault.Grant(who, role, resource(key))
	}
	for _, name := range f.Shows {
		r.vault.Grant(who, gcptest.Public, resource(name))
	}
	for _, name := range f.Holds {
		if name == "certificate" {
			r.vault.Grant(who, append(slices.Clone(gcptest.Signer), gcptest.Public...), resource(name))
			continue
		}
		r.vault.Grant(who, gcptest.Accessor, r.secret("held/"+name))
	}
	if f.Per == "custodian" {
		r.vault.Grant(who, gcptest.Accessor, r.secret(custodian+"/client_id"))
		r.vault.Grant(who, gcptest.Accessor, r.secret(custodian+"/client_secret"))
	}
}

// balance is the load balancer: one address for each host of pipeline.json, with just the routes that stand there.
func (r *region) balance() {
	r.t.Helper()
	addresses := map[string]*string{"api": &r.API, "pages": &r.Pages}
	for host, address := range addresses {
		mux := http.NewServeMux()
		for _, f := range r.pipeline.Functions {
			for _, route := range f.Routes {
				if route.Host == host {
					mux.Handle(route.Method+" "+route.Path, r.proxy(f.Name))
				}
			}
		}
		server := httptest.NewServer(mux)
		r.t.Cleanup(server.Close)
		*address = server.URL
	}
	r.Pages = strings.Replace(r.Pages, "127.0.0.1", "localhost", 1)
}

// proxy passes requests on to a function, and appends what Google's load balancer does: the caller's address and its own.
func (r *region) proxy(name string) http.Handler {
	return &httputil.ReverseProxy{FlushInterval: -1, Transport: patient, ErrorHandler: unavailable, ErrorLog: silent, Rewrite: func(q *httputil.ProxyRequest) {
		r.called(name)
		q.SetURL(&url.URL{Scheme: "http", Host: r.function(name).at})
		q.Out.Host = q.In.Host
		peer, _, _ := net.SplitHostPort(q.In.RemoteAddr)
		q.Out.Header["X-Forwarded-For"] = append(q.In.Header["X-Forwarded-For"], peer+", 203.0.113.7")
	}}
}

// called notes that a function is called.
func (r *region) called(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[name]++
	if waiting := r.waiting[name]; waiting != nil {
		close(waiting)
		delete(r.waiting, name)
	}
}

// asked is closed when the function is called the next time.
func (r *region) asked(name string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[name] == nil {
		r.waiting[name] = make(chan struct{})
	}
	return r.waiting[name]
}

func (r *region) function(name string) *function {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.functions[name]
}

// deploy starts a function's process with its own environment and metadata server.
func (r *region) deploy(f home.Function) {
	r.t.Helper()
	out, err := os.Create(filepath.Join(r.t.ArtifactDir(), f.Name+".log"))
	if err != nil {
		r.t.Fatal(err)
	}
	folder := f.Source
	if folder == "" {
		folder = f.Name
	}
	if f.Per == "custodian" {
		folder += "-comdirect"
	}
	d := &function{Function: f, at: house.Reserve(r.t), program: filepath.Join(r.dir, folder, "function.bin"), log: out}
	answer := "http://" + d.at
	if a := r.function("answer"); a != nil {
		answer = a.url
	}
	d.url = r.front(d)
	_, port, _ := net.SplitHostPort(d.at)
	inbox, err := url.Parse(r.Inbox.URL())
	if err != nil {
		r.t.Fatal(err)
	}
	d.environ = []string{"PORT=" + port, "OTEL_EXPORTER_OTLP_ENDPOINT=" + r.told.URL, "FUNCTION_TARGET=" + f.EntryPoint, "GOOGLE_CLOUD_PROJECT=" + r.project, "SLUIS_REGION=europe-west4",
		"FIRESTORE_EMULATOR_HOST=" + r.firestore.For(r.t, f.Name), "PUBSUB_EMULATOR_HOST=" + r.pubsub.For(r.t, f.Name),
		"KMS_EMULATOR_HOST=" + r.vault.Host, "SECRET_MANAGER_EMULATOR_HOST=" + r.vault.Host, "SLUIS_IDENTITY=" + d.identity(),
		"GCE_METADATA_HOST=" + r.metadata(d), "SLUIS_ISSUER=" + r.issuer.URL, "SLUIS_AUDIENCE=" + d.url,
		"SLUIS_CALLERS=push@p.iam.gserviceaccount.com,challenge@p.iam.gserviceaccount.com",
		"SLUIS_LOG_LEVEL=debug", "SLUIS_CUSTODIAN=" + custodian, "SLUIS_CUSTODIANS=" + custodian, "SLUIS_SANDBOX=" + r.at.Address(), "SLUIS_SANDBOX_CA=" + filepath.Join(r.dir, r.project+".pem"),
		"SLUIS_PAGES_URL=" + r.Pages, "SLUIS_OPERATOR_NAME=Example Data B.V.", "SLUIS_OPERATOR_AUTHORITY=De Nederlandsche Bank", "SLUIS_OPERATOR_LICENCE=R123456",
		"SLUIS_OPERATOR_PRIVACY=https://example.com/privacy", "SLUIS_OPERATOR_CONTACT=help@example.com", "SLUIS_ANSWER_URL=" + answer, "SLUIS_REFRESH_INTERVAL=1ms", "SLUIS_WEBHOOKS_ALLOW=" + inbox.Host + "," + r.second.Addr().String()}
	held := slices.DeleteFunc(slices.Clone(f.Holds), func(name string) bool { return name == "certificate" })
	d.environ = append(d.environ, "SLUIS_HOLDS="+strings.Join(held, ","))
	for name := range r.pipeline.Keys {
		d.environ = append(d.environ, "SLUIS_KEY_"+strings.ToUpper(name)+"="+resource(name))
	}
	d.environ = append(d.environ, r.options.env...)
	r.mu.Lock()
	r.functions[f.Name] = d
	r.mu.Unlock()
	r.start(d)
	r.t.Cleanup(func() { r.kill(d); _ = d.log.Close() })
}

// together has all functions' processes be of one family, which ends with this process, however that ends: a shell sees
// its standard input close.
func (r *region) together() {
	r.t.Helper()
	cmd := exec.Command("sh", "-c", "cat >/dev/null; kill -9 0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.family = cmd.Process.Pid
	r.t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
}

func (r *region) start(d *function) {
	r.t.Helper()
	d.process = exec.Command(d.program)
	d.process.Env, d.process.Stdout, d.process.Stderr = d.environ, d.log, d.log
	d.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: r.family}
	if err := d.process.Start(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *region) kill(d *function) {
	_ = d.process.Process.Kill()
	_ = d.process.Wait()
}

// patient waits for a function's process that is about to start, as Google's front end holds a request until there is an
// instance.
var patient = &http.Transport{MaxIdleConnsPerHost: 32, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return conn, err
		}
		time.Sleep(20 * time.Millisecond) // another process: nothing tells us
	}
}}

var silent = log.New(io.Discard, "", 0) // processes that die break answers off

func unavailable(w http.ResponseWriter, _ *http.Request, _ error) {
	w.WriteHeader(http.StatusBadGateway)
}

// front is the address of a function: Google's front end, behind which its processes come and go.
func (r *region) front(d *function) string {
	server := httptest.NewServer(r.options.tap.before(&httputil.ReverseProxy{Transport: patient, ErrorHandler: unavailable, ErrorLog: silent,
		Rewrite: func(q *httputil.ProxyRequest) {
			r.called(d.Name)
			q.SetURL(&url.URL{Scheme: "http", Host: d.at})
		}}))
	r.t.Cleanup(server.Close)
	return server.URL
}

// metadata is a function's metadata server, which makes ID tokens of its service account for any audience.
func (r *region) metadata(d *function) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		if !strings.HasSuffix(q.URL.Path, "/identity") {
			http.NotFound(w, q)
			return
		}
		_, _ = io.WriteString(w, r.issuer.Token(r.t, d.identity(), q.URL.Query().Get("audience"), nil))
	}))
	r.t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// subscribe has Pub/Sub push each topic to its functions, through a proxy that shows the token that Google would show.
func (r *region) subscribe() {
	r.t.Helper()
	pushes := http.NewServeMux()
	server := httptest.NewServer(pushes)
	r.t.Cleanup(server.Close)
	for _, f := range r.pipeline.Functions {
		if f.Trigger == "" {
			continue
		}
		pushes.Handle("POST /"+f.Name, r.unruly.before(&httputil.ReverseProxy{Transport: patient, ErrorHandler: unavailable, ErrorLog: silent,
			Rewrite: func(q *httputil.ProxyRequest) {
				d := r.function(f.Name)
				r.called(f.Name)
				r.called("push")
				q.SetURL(&url.URL{Scheme: "http", Host: d.at})
				q.Out.URL.Path = "/projects/" + r.project + "/topics/" + string(f.Trigger)
				q.Out.Header.Set("Authorization", "Bearer "+r.issuer.Token(r.t, "push@p.iam.gserviceaccount.com", d.url, nil))
			}}))
		gcptest.Push(r.t, r.project, f.Trigger, f.Name, server.URL+"/"+f.Name)
	}
}

// tick is the scheduler: sweep is called again and again, as it returns within a minute.
func (r *region) tick() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.t.Cleanup(func() { stop(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			d := r.function("sweep")
			r.called("sweep")
			q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.at+"/", strings.NewReader("{}"))
			if err != nil {
				return
			}
			q.Header.Set("Content-Type", "application/json")
			q.Header.Set("Authorization", "Bearer "+r.issuer.Token(r.t, "push@p.iam.gserviceaccount.com", d.url, nil))
			if a, err := http.DefaultClient.Do(q); err == nil {
				_ = a.Body.Close()
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
}

// join adds the client, as an operator does.
func (r *region) join() {
	r.t.Helper()
	env := domain.Env{Region: "europe-west4"}
	r.store = r.open()
	r.t.Cleanup(func() { _ = r.store.Close() })
	var err error
	for range 100 {
		if err = r.Join(r.t.Context(), r.store, env, consent.Terms{}); err == nil {
			return
		}
		time.Sleep(200 * time.Millisecond) // a function is starting
	}
	r.t.Fatal(err)
}

// open opens the store as one outside the functions does.
func (r *region) open() *gcp.Backend {
	r.t.Helper()
	contracts, err := domain.ReadContracts(schemas.FS)
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := gcp.New(r.t.Context(), gcp.Options{Env: domain.Env{Region: "europe-west4"}, Project: r.project,
		Indexes: contracts.Indexes, Kinds: contracts.Kinds(), Ends: contracts.Ends()})
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// play plays journeys, a few at once, and says which did not come to their end.
func (r *region) play(t *testing.T, all []journey.Journey) {
	turns := make(chan struct{}, 4)
	for _, j := range all {
		t.Run(j.Name, func(t *testing.T) {
			t.Parallel()
			turns <- struct{}{}
			defer func() { <-turns }()
			var told strings.Builder
			if !r.Perform(t.Context(), j, func(l journey.Line) { fmt.Fprintf(&told, "%s: %t %d ms %s\n", l.Step, l.OK, l.Milliseconds, l.Error) }) {
				t.Error(told.String())
			}
		})
	}
}

func TestJourneys(t *testing.T) {
	r := open(t, options{})
	all, err := journey.All()
	if err != nil {
		t.Fatal(err)
	}
	r.tick()
	r.play(t, all)
}
