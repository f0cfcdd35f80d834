package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/backend/gcp/gcptest"
)

// Code that a program may hold, by a symbol that is in every program that holds it.
var code = map[string]string{
	"closes gate 2":       "sluis.internal/shared/envelope.(*Sealer).Seal",
	"opens gate 1":        "sluis.internal/shared/envelope.openInner",
	"opens gate 2":        "sluis.internal/shared/envelope.(*Opener).OpenCredentials",
	"decrypts with KMS":   "sluis.internal/shared/backend/gcp.opening.open",
	"decrypts RSA":        "sluis.internal/shared/backend/gcp.decrypter.Decrypt",
	"encrypts with KMS":   "sluis.internal/shared/backend/gcp.closing.Encrypt",
	"opens portfolios":    "sluis.internal/shared/envelope.(*Reader).",
	"signs with KMS":      "sluis.internal/shared/backend/gcp.signer.Sign",
	"administers keys":    "sluis.internal/shared/backend/gcp.Rotate",
	"talks to banks":      "sluis.internal/shared/extraction.(*Engine).",
	"sends webhooks":      "sluis.internal/shared/webhook.(*Sender).Send",
	"SQL":                 "modernc.org/sqlite.",
	"keys in plain files": "sluis.internal/shared/envelope.LocalKeys",
}

// holds is what each staged function's program holds of code, and nothing else of it.
var holds = map[string][]string{
	"challenge":         {"decrypts with KMS"},
	"consent":           {},
	"deliver":           {"decrypts with KMS", "encrypts with KMS", "sends webhooks"},
	"erase":             {"signs with KMS"},
	"extract-comdirect": {"opens gate 1", "opens gate 2", "decrypts with KMS", "decrypts RSA", "encrypts with KMS", "talks to banks"},
	"portfolio":         {"decrypts with KMS", "opens portfolios"},
	"seal":              {"closes gate 2", "encrypts with KMS"},
	"sweep":             {},
}

// TestStages stages every function, builds each as Google does, looks at what its program holds, and starts each of
// its entry points.
func TestStages(t *testing.T) {
	out := t.TempDir()
	if err := Stage("../..", out); err != nil {
		t.Fatal(err)
	}
	staged, err := os.ReadDir(out)
	if err != nil || len(staged) != len(holds) {
		t.Fatalf("%d functions are staged, and %d known here: %v", len(staged), len(holds), err)
	}
	p, err := home.ReadPipeline()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range staged {
		t.Run(s.Name(), func(t *testing.T) {
			program, err := build(filepath.Join(out, s.Name()))
			if err != nil && os.Getenv("SLUIS_FULL") != "1" && strings.Contains(err.Error(), "dial tcp") {
				t.Skipf("the module proxy cannot be reached: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			report(t, s.Name(), program)
			for _, f := range p.Functions {
				if source(f) == s.Name() {
					t.Run(f.EntryPoint, func(t *testing.T) { starts(t, program, f) })
				}
			}
		})
	}
}

func source(f home.Function) string {
	folder := f.Source
	if folder == "" {
		folder = f.Name
	}
	if f.Per == "custodian" {
		folder += "-comdirect"
	}
	return folder
}

// report prints a program's size and what of code it holds, and compares that with holds.
func report(t *testing.T, name, program string) {
	t.Helper()
	symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var has []string
	for what, symbol := range code {
		if bytes.Contains(symbols, []byte(" "+symbol)) {
			has = append(has, what)
		}
	}
	slices.Sort(has)
	want := slices.Sorted(slices.Values(holds[name]))
	if !slices.Equal(has, want) {
		t.Errorf("its program holds %q, want %q", has, want)
	}
	size, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%-18s %5.1f MB  %s", name, float64(size.Size())/1e6, strings.Join(has, ", "))
}

// starts runs one entry point with nothing of Google's but a vault, and asks it for something that it must refuse by
// itself: an address that is not there, or a caller that shows nothing.
func starts(t *testing.T, program string, f home.Function) {
	vault := gcptest.NewVault(t)
	const identity = "function@p.iam.gserviceaccount.com"
	environment := []string{"PATH=" + os.Getenv("PATH"), "FUNCTION_TARGET=" + f.EntryPoint, "GOOGLE_CLOUD_PROJECT=p", "SLUIS_REGION=europe-west4",
		"FIRESTORE_EMULATOR_HOST=127.0.0.1:1", "PUBSUB_EMULATOR_HOST=127.0.0.1:1", "KMS_EMULATOR_HOST=" + vault.Host, "SECRET_MANAGER_EMULATOR_HOST=" + vault.Host,
		"SLUIS_IDENTITY=" + identity, "SLUIS_HOLDS=", "SLUIS_CUSTODIAN=comdirect", "SLUIS_AUDIENCE=https://f.example", "SLUIS_CALLERS=push@p.iam.gserviceaccount.com",
		"SLUIS_ISSUER=http://127.0.0.1:1"}
	for _, key := range append(append(slices.Clone(f.Close), f.Open...), f.Holds...) {
		name := "projects/k/locations/europe-west4/keyRings/r/cryptoKeys/" + key
		environment = append(environment, "SLUIS_KEY_"+strings.ToUpper(key)+"="+name)
		if key == "certificate" {
			vault.AddSigner(t, name)
			vault.Grant(identity, gcptest.Public, name)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close() // the function takes its place
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program)
	var said bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(environment, "PORT="+port), &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stop(); _ = cmd.Wait() }()
	status, problem := ask(t, ctx, "http://127.0.0.1:"+port+"/nowhere")
	want := "404 not_found"
	if f.Trigger != "" || f.Schedule != "" || f.Name == "answer" {
		want = "401 caller_unknown"
	}
	if got := fmt.Sprintf("%d %s", status, problem); got != want {
		stop()
		_ = cmd.Wait()
		t.Errorf("it answers %s, want %s\n%s", got, want, said.String())
	}
}

// ask posts until something answers, and returns the status and the problem's code.
func ask(t *testing.T, ctx context.Context, address string) (int, string) {
	t.Helper()
	ctx, done := context.WithTimeout(ctx, time.Minute)
	defer done()
	for {
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/json")
		a, err := http.DefaultClient.Do(q)
		if err == nil {
			defer a.Body.Close()
			raw, _ := io.ReadAll(a.Body)
			var p struct{ Code string }
			_ = json.Unmarshal(raw, &p)
			return a.StatusCode, p.Code
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it does not answer: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
