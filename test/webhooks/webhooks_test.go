// Package webhooks checks that what we send verifies with the libraries of Standard Webhooks, in Go and in JavaScript,
// and that what somebody changed does not.
package webhooks

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/webhook"
)

// received is a webhook as it arrived, and the secret that the client checks it with.
type received struct {
	Name    string            `json:"name"`
	Secret  string            `json:"secret"`
	Body    string            `json:"body"`
	Headers map[string]string `json:"headers"`
	valid   bool
	why     error // of the Go library; nil where any will do
}

// send has our sender deliver a notice to a server, at a moment that lies shift from now, and returns what arrived.
func send(t *testing.T, shift time.Duration, secrets ...string) received {
	t.Helper()
	var got received
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = received{Body: string(body), Headers: map[string]string{}, valid: true}
		for name := range r.Header {
			got.Headers[strings.ToLower(name)] = r.Header.Get(name)
		}
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	env := domain.Env{Clock: func() time.Time { return time.Now().Add(shift) }}
	sender := webhook.NewSender(env, webhook.Options{RootCAs: roots,
		Rules: webhook.Rules{Allow: []netip.AddrPort{netip.MustParseAddrPort(server.Listener.Addr().String())}}})
	notice := &domain.Notice{ID: domain.NewID[domain.NoticeID](env), ClientID: domain.NewID[domain.ClientID](env),
		ConnectionID: domain.NewID[domain.ConnectionID](env), ConsentID: domain.NewID[domain.ConsentID](env), Custodian: "comdirect",
		InvestorRef: "inv-1 <é>", Type: domain.NoticePortfolioUpdated, Sequence: 7, State: "active", CreatedAt: env.Now()}
	body, err := webhook.Render(notice)
	if err != nil {
		t.Fatal(err)
	}
	m := webhook.Message{ID: notice.ID, URL: server.URL, Body: body}
	for _, s := range secrets {
		m.Secrets = append(m.Secrets, domain.NewSecret([]byte(s)))
	}
	if r, err := sender.Send(t.Context(), m); err != nil || !r.Delivered() {
		t.Fatalf("sending: %+v, %v", r, err)
	}
	got.Secret = secrets[0]
	return got
}

func newSecret() string { return string(webhook.NewSecret(domain.Env{}).Reveal()) }

// cases are what a client may meet.
func cases(t *testing.T) []received {
	secret, next := newSecret(), newSecret()
	changed := func(name string, from received, change func(*received)) received {
		r := received{Name: name, Secret: from.Secret, Body: from.Body, Headers: map[string]string{}}
		for k, v := range from.Headers {
			r.Headers[k] = v
		}
		change(&r)
		return r
	}
	good, both, old, future := send(t, 0, secret), send(t, 0, next, secret), send(t, -6*time.Minute, secret), send(t, 6*time.Minute, secret)
	good.Name, both.Name = "as sent", "rotation, new secret"
	other := send(t, 0, secret)
	withOld := changed("rotation, old secret", both, func(r *received) { r.Secret = secret })
	withOld.valid = true
	shifted := func(r *received) { r.Headers[webhook.HeaderTimestamp] = strconv.FormatInt(time.Now().Unix()+1, 10) }
	return []received{good, both, withOld,
		changed("tampered body", good, func(r *received) {
			r.Body, r.why = strings.Replace(r.Body, `"sequence":7`, `"sequence":8`, 1), standard.ErrNoMatchingSignature
		}),
		changed("body with a space more", good, func(r *received) { r.Body += " " }),
		changed("old timestamp", old, func(r *received) { r.why = standard.ErrMessageTooOld }),
		changed("timestamp from the future", future, func(r *received) { r.why = standard.ErrMessageTooNew }),
		changed("another timestamp", good, shifted),
		changed("another id", good, func(r *received) { r.Headers[webhook.HeaderID] = other.Headers[webhook.HeaderID] }),
		changed("another's signature", good, func(r *received) { r.Headers[webhook.HeaderSignature] = other.Headers[webhook.HeaderSignature] }),
		changed("no signature", good, func(r *received) { delete(r.Headers, webhook.HeaderSignature) }),
		changed("wrong secret", good, func(r *received) { r.Secret, r.why = next, standard.ErrNoMatchingSignature }),
		changed("rotation, a third secret", both, func(r *received) { r.Secret = newSecret() }),
	}
}

func TestGoLibrary(t *testing.T) {
	for _, c := range cases(t) {
		t.Run(c.Name, func(t *testing.T) {
			headers := http.Header{}
			for k, v := range c.Headers {
				headers.Set(k, v)
			}
			library, err := standard.NewWebhook(c.Secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := library.Verify([]byte(c.Body), headers); (err == nil) != c.valid || c.why != nil && !errors.Is(err, c.why) {
				t.Errorf("the library said %v, want valid %v (%v)", err, c.valid, c.why)
			}
		})
	}
}

func TestJavaScriptLibrary(t *testing.T) {
	dir := node(t)
	all := cases(t)
	question, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "verify.mjs")
	var failure bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stderr = dir, bytes.NewReader(question), &failure
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, failure.String())
	}
	var said []string
	if err := json.Unmarshal(out, &said); err != nil || len(said) != len(all) {
		t.Fatalf("%v: %d answers to %d cases", err, len(said), len(all))
	}
	for i, c := range all {
		if (said[i] == "") != c.valid || !c.valid && !strings.HasPrefix(said[i], "Error: ") && !strings.HasPrefix(said[i], "WebhookVerificationError: ") {
			t.Errorf("%s: the library said %q, want valid %v", c.Name, said[i], c.valid)
		}
	}
}

// node is a directory with the script and the library.
func node(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			missing(t, program+" is not installed")
		}
	}
	dir := t.TempDir()
	for _, file := range []string{"verify.mjs", "package.json", "package-lock.json"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("npm ci: %v\n%s", err, out))
	}
	return dir
}

// missing skips the test, but not where everything is to be tested.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("SLUIS_FULL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}
