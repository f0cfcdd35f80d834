package bench

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/backend/gcp/gcptest"
)

// hello is the smallest function that the framework serves.
const hello = `package main

import (
	"io"
	"log"
	"net/http"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
)

func init() {
	functions.HTTP("Hello", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
}

func main() {
	if err := funcframework.StartHostPort("127.0.0.1", os.Getenv("PORT")); err != nil {
		log.Fatal(err)
	}
}
`

// BenchmarkCold starts every deployed function, built as Google builds it, up to its first answer. What it needs at that
// request, it opens then: the clients, and its secrets from a vault on this machine.
func BenchmarkCold(b *testing.B) {
	dir := b.TempDir()
	staged := filepath.Join(dir, "staged")
	run(b, "../..", "go", "run", "./test/stage", "-build", staged)
	bare := build(b, filepath.Join(dir, "hello"))
	p, err := home.ReadPipeline()
	if err != nil {
		b.Fatal(err)
	}
	vault := gcptest.NewVault(b)
	for _, name := range []string{"held--pseudonym", "held--link"} {
		vault.AddSecret("projects/p/secrets/"+name, make([]byte, 32))
		vault.Grant("function", gcptest.Accessor, "projects/p/secrets/"+name)
	}
	vault.AddSigner(b, "certificate")
	vault.Grant("function", gcptest.Public, "certificate")
	for _, f := range p.Functions {
		b.Run(f.Name, func(b *testing.B) {
			program := filepath.Join(staged, folder(f), "function.bin")
			compare(b, row{act: "cold " + f.Name, against: "a function that says hello", aim: 1.5}, cold(program, environment(vault, f)), cold(bare, []string{"FUNCTION_TARGET=Hello"}))
		})
	}
}

func folder(f home.Function) string {
	name := f.Source
	if name == "" {
		name = f.Name
	}
	if f.Per == "custodian" {
		name += "-comdirect"
	}
	return name
}

func environment(vault *gcptest.Vault, f home.Function) []string {
	held := strings.TrimSuffix(strings.ReplaceAll(strings.Join(f.Holds, ",")+",", "certificate,", ""), ",")
	return []string{"FUNCTION_TARGET=" + f.EntryPoint, "GOOGLE_CLOUD_PROJECT=p", "SLUIS_REGION=europe-west4", "SLUIS_CUSTODIAN=comdirect",
		"FIRESTORE_EMULATOR_HOST=127.0.0.1:1", "PUBSUB_EMULATOR_HOST=127.0.0.1:1", "KMS_EMULATOR_HOST=" + vault.Host,
		"SECRET_MANAGER_EMULATOR_HOST=" + vault.Host, "SLUIS_IDENTITY=function", "SLUIS_HOLDS=" + held, "SLUIS_KEY_CERTIFICATE=certificate"}
}

func run(b *testing.B, dir, program string, args ...string) {
	b.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
}

// build builds hello with this module's versions.
func build(b *testing.B, dir string) (program string) {
	b.Helper()
	files := map[string]string{"main.go": hello}
	for _, name := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile("../../" + name)
		if err != nil {
			b.Fatal(err)
		}
		files[name] = string(raw)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	run(b, dir, "go", "build", "-mod=mod", "-trimpath", "-o", "hello", ".")
	return filepath.Join(dir, "hello")
}

// cold runs a function until it has answered once, whatever it says.
func cold(program string, environ []string) act {
	return func() (c cost, err error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return c, err
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		_ = l.Close() // the function takes its place
		p := exec.Command(program)
		p.Env = append(environ, "PORT="+port)
		begun := time.Now()
		if err := p.Start(); err != nil {
			return c, err
		}
		defer func() {
			_ = p.Process.Kill() // all is measured
			_ = p.Wait()         // "signal: killed"
			c.cpu = p.ProcessState.UserTime() + p.ProcessState.SystemTime()
		}()
		for time.Since(begun) < 10*time.Second {
			resp, err := http.Post("http://127.0.0.1:"+port+"/nowhere", "application/json", strings.NewReader("{}"))
			if err != nil {
				time.Sleep(200 * time.Microsecond)
				continue
			}
			c.wall = time.Since(begun)
			if resp.StatusCode >= 500 {
				return c, fmt.Errorf("%s answers %s", filepath.Base(filepath.Dir(program)), resp.Status)
			}
			return c, resp.Body.Close()
		}
		return c, fmt.Errorf("%s does not answer", program)
	}
}
