// Package gcptest runs Google Cloud on one machine, for tests: Google's own emulators of Firestore and Pub/Sub as
// processes, and fakes of the few calls of Cloud KMS and Secret Manager that we make.
package gcptest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluis.internal/shared/domain"
)

// emulator is one of Google's, as its Debian package installs it.
type emulator struct {
	name, jars string // Debian package; below Google's SDK
	main       string // class
	setting    string // the variable that clients look for
	args       func(port string) []string

	once  sync.Once
	host  string
	stdin io.Closer // held open until this process ends
	err   error
}

var (
	store = &emulator{name: "google-cloud-cli-firestore-emulator", jars: "platform/cloud-firestore-emulator/*.jar",
		main: "com.google.cloud.datastore.emulator.firestore.CloudFirestore", setting: "FIRESTORE_EMULATOR_HOST", args: func(port string) []string { return []string{"--host", "127.0.0.1", "--port", port} }}
	bus = &emulator{name: "google-cloud-cli-pubsub-emulator", jars: "platform/pubsub-emulator/lib/*.jar",
		main: "com.google.cloud.pubsub.testing.v1.Main", setting: "PUBSUB_EMULATOR_HOST", args: func(port string) []string { return []string{"--host=127.0.0.1", "--port=" + port} }}
)

// Emulators has both emulators run, one process each for all tests of this package's process, and points Google's
// clients to them. Emulators that run already, as FIRESTORE_EMULATOR_HOST and PUBSUB_EMULATOR_HOST say, are used as
// they are. SLUIS_CLOUD_SDK names the SDK's folder where it is not /usr/lib/google-cloud-sdk. Without emulators the
// test is skipped, or fails where SLUIS_FULL=1.
func Emulators(t testing.TB) {
	t.Helper()
	for _, e := range []*emulator{store, bus} {
		e.once.Do(e.start)
		if e.err != nil && os.Getenv("SLUIS_FULL") == "1" {
			t.Fatalf("%s: %v", e.name, e.err)
		}
		if e.err != nil {
			t.Skipf("%s: %v", e.name, e.err)
		}
		if err := os.Setenv(e.setting, e.host); err != nil {
			t.Fatal(err)
		}
	}
}

// start runs the emulator until this process ends: a shell between the two sees its standard input close then, also
// if the process is killed.
func (e *emulator) start() {
	if e.host = os.Getenv(e.setting); e.host != "" {
		return
	}
	sdk := os.Getenv("SLUIS_CLOUD_SDK")
	if sdk == "" {
		sdk = "/usr/lib/google-cloud-sdk"
	}
	jars, err := filepath.Glob(filepath.Join(sdk, e.jars))
	if err != nil || len(jars) == 0 {
		e.err = fmt.Errorf("no %s; install the Debian package, or set SLUIS_CLOUD_SDK", filepath.Join(sdk, e.jars))
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.err = err
		return
	}
	e.host = l.Addr().String()
	_, port, _ := net.SplitHostPort(e.host)
	_ = l.Close() // the emulator takes its place
	script := `java -Xmx1g -cp "$0" "$@" >/dev/null 2>&1 & pid=$!; cat >/dev/null; kill -9 $pid`
	cmd := exec.Command("sh", append([]string{"-c", script, strings.Join(jars, ":"), e.main}, e.args(port)...)...)
	if e.stdin, e.err = cmd.StdinPipe(); e.err != nil {
		return
	}
	if e.err = cmd.Start(); e.err == nil {
		e.err = answers("http://" + e.host)
	}
}

// answers waits until something answers at the address.
func answers(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the emulator does not answer: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Topics makes topics in the project, each with a subscription of its name; there may be some already.
func Topics(t testing.TB, project string, topics ...domain.Topic) {
	t.Helper()
	ctx := context.Background()
	c, err := pubsub.NewClient(ctx, project)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, topic := range topics {
		name := fmt.Sprintf("projects/%s/topics/%s", project, topic)
		_, err := c.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: name})
		if err != nil && status.Code(err) != codes.AlreadyExists {
			t.Fatal(err)
		}
		_, err = c.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{Topic: name, AckDeadlineSeconds: 10,
			Name: fmt.Sprintf("projects/%s/subscriptions/%s", project, topic)})
		if err != nil && status.Code(err) != codes.AlreadyExists {
			t.Fatal(err)
		}
	}
}

// Push has a topic's messages pushed to an address, under a subscription of that name. There may be others.
func Push(t testing.TB, project string, topic domain.Topic, subscription, address string) {
	t.Helper()
	ctx := context.Background()
	c, err := pubsub.NewClient(ctx, project)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	name := fmt.Sprintf("projects/%s/topics/%s", project, topic)
	if _, err := c.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: name}); err != nil && status.Code(err) != codes.AlreadyExists {
		t.Fatal(err)
	}
	if _, err := c.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{Topic: name, AckDeadlineSeconds: 600,
		Name: fmt.Sprintf("projects/%s/subscriptions/%s", project, subscription), PushConfig: &pubsubpb.PushConfig{PushEndpoint: address}}); err != nil {
		t.Fatal(err)
	}
}
