package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
)

const (
	operator  = "operator@p.iam.gserviceaccount.com"
	developer = "developer@p.iam.gserviceaccount.com"
)

// project is a Google Cloud project as Terraform leaves it: the keys and secrets of pipeline.json, an operator who may
// administer them and use none, and a developer who may use all.
type project struct {
	desk
	name  string
	vault *gcptest.Vault
}

func newProject(t *testing.T) *project {
	t.Helper()
	gcptest.Emulators(t)
	random := make([]byte, 4)
	rand.Read(random) // never fails
	p := &project{name: "p-" + hex.EncodeToString(random), vault: gcptest.NewVault(t)}
	p.desk = desk{t, []string{"--backend", "gcp:" + p.name}, operator}
	pipeline, err := home.ReadPipeline()
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range pipeline.Keys {
		p.furnish(name, k.Use)
	}
	p.vault.MakeSecret(p.secret("comdirect/client_id"))
	p.vault.Grant(operator, gcptest.Adder, p.secret("comdirect/client_id"))
	p.vault.Grant(operator, gcptest.Adder, p.secret("held/link"))
	p.vault.Grant(operator, gcptest.Adder, p.secret("comdirect/unknown"))
	for variable, value := range map[string]string{"KMS_EMULATOR_HOST": p.vault.Host, "SECRET_MANAGER_EMULATOR_HOST": p.vault.Host,
		"SLUIS_REGION": "europe-west4", "SLUIS_IDENTITY": developer} {
		t.Setenv(variable, value)
	}
	return p
}

func (p *project) furnish(name, use string) {
	p.t.Helper()
	resource := p.key(name)
	p.t.Setenv("SLUIS_KEY_"+strings.ToUpper(name), resource)
	may := slices.Concat(gcptest.Encrypter, gcptest.Opener, gcptest.Signer)
	switch {
	case strings.HasPrefix(use, "AES"):
		p.vault.AddSymmetric(p.t, resource)
	case strings.HasPrefix(use, "RSA"):
		key, err := rsa.GenerateKey(rand.Reader, 4096)
		if err != nil {
			p.t.Fatal(err)
		}
		p.vault.AddRSA(p.t, resource, key)
	case strings.HasPrefix(use, "Ed25519"):
		p.vault.AddSigner(p.t, resource)
	default: // HMAC
		resource, may = p.secret("held/"+name), gcptest.Accessor
		value := make([]byte, 32)
		rand.Read(value) // never fails
		p.vault.AddSecret(resource, value)
	}
	p.vault.Grant(developer, may, resource)
	p.vault.Grant(operator, gcptest.Admin, resource)
}

func (p *project) key(name string) string {
	if name == "inner" {
		return "projects/inner/locations/europe-west4/keyRings/inner/cryptoKeys/inner"
	}
	return "projects/keys/locations/europe-west4/keyRings/r/cryptoKeys/" + name
}

func (p *project) secret(name string) string {
	return "projects/" + p.name + "/secrets/" + strings.ReplaceAll(name, "/", "--")
}

// TestOperatorInCloud: every command works on Google Cloud, with no more than an operator's roles.
func TestOperatorInCloud(t *testing.T) {
	p := newProject(t)
	client := p.prints(`client (cli_\w+)\nkey key_\w+ \(client, admin\) until \S+\ntoken sluis_key_`, "", "client", "add", "Wealth")[1]
	p.prints(client+` +Wealth +active`, "", "client", "list")
	key := p.prints(`key (key_\w+) \(reviewer\)`, "", "key", "issue", client, "--role", "reviewer")[1]
	p.prints(`^$`, "", "key", "revoke", key)
	p.prints(key+` +reviewer +revoked`, "", "key", "list", client)
	p.prints(`"type":"sluis.key.revoked"`, "", "audit")
	p.prints(`^$`, "", "audit", "--from", "2100-01-01T00:00:00Z")
	p.prints(`(?m)^api_key +2 +-$`, "", "status")
	p.prints(`(?m)^flowchart LR$`, "", "flow")

	p.prints(`^$`, "hush\n", "secret", "set", "comdirect/client_id")
	p.vault.Grant(developer, gcptest.Accessor, p.secret("comdirect/client_id"))
	p.refuses(`there is no projects/.*unknown; Terraform`, "hush\n", "secret", "set", "comdirect/unknown")
	p.refuses(`cannot be changed`, "hush\n", "secret", "set", "held/link")
	p.refuses(`PermissionDenied`, "hush\n", "secret", "set", "other/client_id")
	p.prints(`now on: .*/inner/cryptoKeyVersions/2\n`, "", "rotate", "inner")
	p.prints(`now on: .*/portfolio/cryptoKeyVersions/2\n`, "", "rotate", "portfolio")
	t.Setenv("SLUIS_KEY_SESSION", "")
	p.refuses(`set SLUIS_KEY_SESSION`, "", "rotate", "session")
	p.refuses(`GOOGLE_CLOUD_PROJECT`, "", "--backend", "gcp:", "status")

	cloud := p.open(gcp.Options{})
	if kept, err := cloud.Secrets.Secret(t.Context(), "comdirect/client_id"); err != nil || string(kept.Reveal()) != "hush" {
		t.Errorf("the secret is %q, %v", kept.Reveal(), err)
	}
	if inner, err := gcp.Public(cloud.KMS, "inner")(); err != nil || len(inner) != 2 {
		t.Errorf("browsers may seal to %d keys, %v", len(inner), err)
	}
	if n := p.vault.Calls("Encrypt") + p.vault.Calls("Decrypt") + p.vault.Calls("AsymmetricDecrypt"); n > 0 {
		t.Errorf("keys were used %d times", n)
	}
}

// TestTwoAdministrators: whoever administers one gate's key does all that there is to do with it, with no right to the other's, and
// no setting that names it.
func TestTwoAdministrators(t *testing.T) {
	p := newProject(t)
	inner, outer := p.desk, p.desk
	inner.who, outer.who = "inner@example.com", "keys@example.com"
	for _, right := range []gcptest.Role{gcptest.Admin, gcptest.PublicKeyViewer} {
		p.vault.Grant(inner.who, right, p.key("inner"))
	}
	for _, key := range []string{"outer", "session", "display", "portfolio", "webhook"} {
		p.vault.Grant(outer.who, gcptest.Admin, p.key(key))
	}
	work := func(mine, other desk, key, neighbour string) {
		t.Setenv("SLUIS_KEY_"+strings.ToUpper(neighbour), "")
		mine.prints(`is used from now on`, "", "rotate", key)
		mine.prints(`(?m)^`+key+` +1 +ENABLED +0$`, "", "versions", "list", key)
		mine.prints(`^$`, "", "versions", "disable", key, "1")
		mine.prints(`(?m)^`+key+` +1 +DISABLED +0$`, "", "versions", "list", key)
		other.refuses(`PermissionDenied`, "", "rotate", key)
		other.refuses(`PermissionDenied`, "", "versions", "list", key)
		other.refuses(`PermissionDenied`, "", "versions", "disable", key, "2")
		t.Setenv("SLUIS_KEY_"+strings.ToUpper(neighbour), p.key(neighbour))
		mine.refuses(`PermissionDenied`, "", "versions", "list")
	}
	work(inner, outer, "inner", "outer")
	work(outer, inner, "outer", "inner")
}

// TestDeadLettersInCloud: what was given up is listed, and put back.
func TestDeadLettersInCloud(t *testing.T) {
	p := newProject(t)
	cloud := p.open(gcp.Options{MaxAttempts: 1})
	if err := cloud.Subscribe(t.Context(), domain.TopicErasure); err != nil {
		t.Fatal(err)
	}
	note := func(tx domain.Tx) error {
		return tx.Record(domain.Note(cloud.Env, "test", "tested", domain.Actor{Kind: domain.ActorOperator, ID: "operator"}, "", "x", nil))
	}
	for i := range 2 {
		if err := cloud.Commit(t.Context(), func(tx domain.Tx) error {
			return errors.Join(tx.Emit(domain.Event{Topic: domain.TopicErasure, Subject: fmt.Sprint("subject-", i)}), note(tx))
		}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- cloud.Run(ctx, map[domain.Topic]domain.Handler{domain.TopicErasure: func(context.Context, domain.Event) error {
			return &domain.Error{Kind: domain.Internal, Code: "no_way"}
		}})
	}()
	for letters := []domain.DeadLetter(nil); len(letters) < 2; time.Sleep(50 * time.Millisecond) {
		var err error
		if letters, err = cloud.DeadLetters(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.prints(`erasure-requested +2 +dead`, "", "status")
	id := p.prints(`(msg_\w+) +erasure-requested +subject-0 +no_way`, "", "dead-letters", "list")[1]
	p.prints(`put back `+id, "", "dead-letters", "redrive", id)
	p.prints(`"topic":"erasure-requested","subject":"subject-1"`, "", "dead-letters", "list", "--json")
	p.prints(`put back msg_`, "", "dead-letters", "redrive", "--all")
	p.prints(`^EVENT +TOPIC.*\n$`, "", "dead-letters", "list")
	p.prints(`erasure-requested +2 +leased`, "", "status")
	p.refuses(`name the events`, "", "dead-letters", "redrive")
}

// open opens the project as the developer.
func (p *project) open(o gcp.Options) *gcp.Cloud {
	p.t.Helper()
	o.Project = p.name
	c, err := gcp.Open(p.t.Context(), schemas.FS, o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// settings are those of all functions in one process on the project. The sandbox bank's memory lies on this machine.
func (p *project) settings() home.Settings {
	return home.Settings{Data: filepath.Join(p.t.TempDir(), "data"), Backend: "gcp:" + p.name}
}

// TestServeInCloud: all functions in one process play whole journeys on Google's services, and a session that is
// suspended when the process stops goes on in the next one.
func TestServeInCloud(t *testing.T) {
	p := newProject(t)
	set := p.settings()
	s, err := journey.OpenStage(context.Background(), set, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := journey.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"login-20000001", "login-20000003", "refresh", "erase-data", "revoked"} {
		i := slices.IndexFunc(all, func(j journey.Journey) bool { return j.Name == name })
		s.Perform(t.Context(), all[i], func(l journey.Line) {
			if !l.OK {
				t.Errorf("%s: %s: %s", name, l.Step, l.Error)
			}
		})
	}
	player := s.Player("restarted")
	play := func(steps ...string) {
		t.Helper()
		for _, words := range steps {
			if err := player.Play(t.Context(), words); err != nil {
				t.Fatalf("%s: %v", words, err)
			}
		}
	}
	play("ask", "open", "grant", "login 20000002", "challenge code")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.Background(), set); err != nil {
		t.Fatal(err)
	}
	play("code 111111", "done", "read positions complete", "webhooks consent.granted connection.active portfolio.updated")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := p.vault.Calls("AsymmetricDecrypt"); n < 6 {
		t.Errorf("the inner gate was opened %d times by Cloud KMS", n)
	}
}

// TestServeBesideFunctions: a project whose functions are deployed is refused, as they would handle every event too; and so
// is one whose keys nobody names.
func TestServeBesideFunctions(t *testing.T) {
	p := newProject(t)
	set := p.settings()
	set.API, set.Pages = "127.0.0.1:0", "127.0.0.1:0"
	refused := func(why string) {
		t.Helper()
		if h, err := home.Open(t.Context(), set); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("it opens, or says another reason: %v", err)
			if h != nil {
				_ = h.Close()
			}
		}
	}
	gcptest.Push(t, p.name, domain.TopicSession, "extract", "http://127.0.0.1:1/")
	refused("functions are deployed")
	t.Setenv("SLUIS_KEY_OUTER", "")
	refused("set SLUIS_KEY_OUTER")
}
