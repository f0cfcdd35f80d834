package gcp

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

// Cloud is what one deployed function has of Google Cloud. Opening it asks for nothing over the network: what a
// function's identity may not use, it learns when it tries.
//
// It is configured by the environment:
//
//	GOOGLE_CLOUD_PROJECT   the runtime project: Firestore, Pub/Sub and Secret Manager
//	SLUIS_REGION           where the data stays, such as europe-west4
//	SLUIS_DATABASE         Firestore's database; empty means "(default)"
//	SLUIS_SHARDS           Firestore's database of shards; empty means "shards"
//	SLUIS_LOG_LEVEL        debug, info, warn or error; empty means info
//	SLUIS_CUSTODIAN        of extract and answer: which one; SLUIS_CUSTODIANS, with commas: all that have functions
//	SLUIS_ANSWER_URL       where answer is called, with {custodian} in place of its name
//	SLUIS_PAGES_URL        where investors come
//	SLUIS_REFRESH_INTERVAL between a reading and the next that a client may ask for, such as 1m; empty means the usual one
//	SLUIS_WEBHOOKS_ALLOW   private addresses that webhooks may go to, each with its port, with commas; empty means none
//	SLUIS_HOLDS            secrets of pipeline.json that the function holds, with commas
//	SLUIS_KEY_NAME         for each key of pipeline.json that the function uses, NAME in capitals: the crypto key's resource name
//	SLUIS_AUDIENCE         of the ID tokens that callers must show
//	SLUIS_CALLERS          e-mail addresses of the service accounts that may call, with commas
//	SLUIS_ISSUER           of those tokens; empty means Google
//	OTEL_EXPORTER_OTLP_ENDPOINT  where spans and metrics go, such as https://telemetry.googleapis.com; empty means nowhere
//	OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG  which traces are kept; see [observe.Open]
//
// and, on machines without Google Cloud, by the variables of Google's emulators (FIRESTORE_EMULATOR_HOST,
// PUBSUB_EMULATOR_HOST) and their like for the other two: KMS_EMULATOR_HOST and SECRET_MANAGER_EMULATOR_HOST, which are
// told SLUIS_IDENTITY in place of a token.
type Cloud struct {
	*Backend
	Env       domain.Env
	Secrets   *Secrets
	Contracts domain.Contracts
	Held      map[string]domain.Secret // by name, 32 bytes each; not to be wiped
	KMS       *KMS
	Shards    *Shards
	Interval  time.Duration    // SLUIS_REFRESH_INTERVAL
	Webhooks  []netip.AddrPort // SLUIS_WEBHOOKS_ALLOW
	telemetry *observe.Exporter
}

// Proxies is how many hops Google's load balancer appends to X-Forwarded-For: the caller's address and its own.
const Proxies = 2

// Backups is how long Firestore's backups and its point-in-time recovery keep what was deleted, as Terraform sets them
// (terraform/store.tf; test/terraform holds the two together).
const Backups = 7 * 24 * time.Hour

// ShardVersions is how long Firestore keeps what was deleted even without point-in-time recovery: whoever may read the
// database of shards with a time reads it so long.
const ShardVersions = time.Hour

// Memory is how long other functions' processes may remember a keyset that they opened: envelope.KeysetLife.
const Memory = 10 * time.Minute

// At opens Google Cloud as the environment says, for the documents that schemas declares.
func At(schemas fs.FS) func(context.Context) (*Cloud, error) {
	return func(ctx context.Context) (*Cloud, error) {
		project := os.Getenv("GOOGLE_CLOUD_PROJECT")
		level, err := logLevel()
		slog.SetDefault(NewLogger(os.Stderr, project, level))
		if err != nil {
			return nil, err
		}
		c, err := Open(ctx, schemas, Options{Project: project, Database: os.Getenv("SLUIS_DATABASE")})
		if err == nil {
			err = c.Hold(ctx, strings.Split(os.Getenv("SLUIS_HOLDS"), ",")...)
		}
		if err != nil && c != nil {
			return nil, errors.Join(err, c.Close())
		}
		if err == nil {
			c.observe(ctx, project)
		}
		return c, err
	}
}

// logLevel is SLUIS_LOG_LEVEL, or info.
func logLevel() (level slog.Level, err error) {
	if text := os.Getenv("SLUIS_LOG_LEVEL"); text != "" && level.UnmarshalText([]byte(text)) != nil {
		err = fmt.Errorf("opening Google Cloud: want debug, info, warn or error in SLUIS_LOG_LEVEL, not %q", text)
	}
	return level, err
}

// Hold reads secrets that the process holds, once: what was derived from them must stay the same.
func (c *Cloud) Hold(ctx context.Context, names ...string) error {
	for _, name := range names {
		if name == "" {
			continue
		}
		s, err := c.Secrets.Secret(ctx, "held/"+name)
		if err == nil && len(s.Reveal()) != 32 {
			err = fmt.Errorf("reading secret held/%s: want 32 bytes", name)
		}
		if err != nil {
			return err
		}
		c.Held[name] = s
	}
	return nil
}

// Open opens the project and database that o names, for the documents that schemas declares. The rest is as the
// environment says, the region also where o leaves it open.
func Open(ctx context.Context, schemas fs.FS, o Options) (c *Cloud, err error) {
	if o.Env.Region == "" {
		o.Env.Region = os.Getenv("SLUIS_REGION")
	}
	c = &Cloud{Held: map[string]domain.Secret{}, Env: o.Env}
	if c.Contracts, err = domain.ReadContracts(schemas); err != nil {
		return nil, err
	}
	if err := c.read(); err != nil {
		return nil, err
	}
	if o.Project == "" || c.Env.Region == "" {
		return nil, errors.New("opening Google Cloud: set GOOGLE_CLOUD_PROJECT and SLUIS_REGION")
	}
	o.Indexes, o.Kinds, o.Ends = c.Contracts.Indexes, c.Contracts.Kinds(), c.Contracts.Ends()
	if c.Backend, err = New(ctx, o); err != nil {
		return nil, err
	}
	if c.KMS, err = OpenKMS(ctx, c.Env, key, emulated("KMS_EMULATOR_HOST")...); err == nil {
		c.Secrets, err = OpenSecrets(ctx, c.Env, o.Project, emulated("SECRET_MANAGER_EMULATOR_HOST")...)
	}
	if err == nil {
		c.Shards, err = OpenShards(ctx, o.Project, cmp.Or(os.Getenv("SLUIS_SHARDS"), ShardsDatabase), o.Client...)
	}
	if err != nil {
		return nil, errors.Join(err, c.Backend.Close())
	}
	return c, nil
}

// read reads the settings that have a form.
func (c *Cloud) read() (err error) {
	if text := os.Getenv("SLUIS_REFRESH_INTERVAL"); text != "" {
		if c.Interval, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("SLUIS_REFRESH_INTERVAL: want a time such as 1m: %w", err)
		}
	}
	for text := range strings.SplitSeq(os.Getenv("SLUIS_WEBHOOKS_ALLOW"), ",") {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			return fmt.Errorf("SLUIS_WEBHOOKS_ALLOW: want addresses such as 10.0.0.7:443: %w", err)
		}
		c.Webhooks = append(c.Webhooks, a)
	}
	return nil
}

// Close closes every client.
func (c *Cloud) Close() error {
	return errors.Join(c.Backend.Close(), c.KMS.Close(), c.Secrets.Close(), c.Shards.Close(), c.telemetry.Close())
}

// emulated is how a client reaches what stands in for Google's service, if the variable names it.
func emulated(variable string) []option.ClientOption {
	host := os.Getenv(variable)
	if host == "" {
		return nil
	}
	identity := "Bearer " + os.Getenv("SLUIS_IDENTITY")
	return []option.ClientOption{option.WithEndpoint(host), option.WithoutAuthentication(), option.WithTelemetryDisabled(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		option.WithGRPCDialOption(grpc.WithUnaryInterceptor(func(ctx context.Context, method string, q, a any, c *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption) error {
			return call(metadata.AppendToOutgoingContext(ctx, "authorization", identity), method, q, a, c, o...)
		}))}
}

// Setting is what the environment says of one thing.
func Setting(variable string) string { return os.Getenv(variable) }

// key is the resource name of a key of pipeline.json.
func key(name string) string { return os.Getenv("SLUIS_KEY_" + strings.ToUpper(name)) }

// Keys is every key in one hand, for extraction: it opens both gates, and closes what it read.
type Keys struct{ KMS *KMS }

// Closing implements extraction.Keys.
func (k Keys) Closing(name string) domain.Encrypter { return Closing(k.KMS, name) }

// Opening implements extraction.Keys.
func (k Keys) Opening(name string) domain.Decrypter { return Opening(k.KMS, name) }

// Renewing implements extraction.Keys.
func (k Keys) Renewing(name string) domain.Rewrapper { return Renewing(k.KMS, name) }

// Decrypters implements extraction.Keys.
func (k Keys) Decrypters(name string) func() ([]crypto.Decrypter, error) {
	return Decrypters(k.KMS, name)
}

// Custodian is the one whose function this is.
func (c *Cloud) Custodian() domain.Custodian {
	return c.Contracts.Custodian(domain.CustodianID(os.Getenv("SLUIS_CUSTODIAN")))
}

// Custodians are those that have functions here.
func (c *Cloud) Custodians() []domain.Custodian {
	here := strings.Split(os.Getenv("SLUIS_CUSTODIANS"), ",")
	return slices.DeleteFunc(slices.Clone(c.Contracts.Custodians), func(x domain.Custodian) bool { return !slices.Contains(here, string(x.ID)) })
}

// Client calls another function with an ID token of this one's service account for it. Google's metadata server makes
// the token.
func (c *Cloud) Client(ctx context.Context, audience string) (*http.Client, error) {
	client, err := idtoken.NewClient(ctx, audience)
	if err != nil {
		return nil, fmt.Errorf("getting an ID token for %s: %w", audience, err)
	}
	client.Timeout = 2 * time.Minute
	return client, nil
}

// Callers are the service accounts that may call the function.
func (c *Cloud) Callers() (issuer, audience string, emails []string) {
	if issuer = os.Getenv("SLUIS_ISSUER"); issuer == "" {
		issuer = "https://accounts.google.com"
	}
	return issuer, os.Getenv("SLUIS_AUDIENCE"), strings.Split(os.Getenv("SLUIS_CALLERS"), ",")
}

// Minute has work done for most of a minute, while what is due is published: the clock calls once a minute.
func (c *Cloud) Minute(ctx context.Context, work func(context.Context)) error {
	ctx, cancel := context.WithTimeout(ctx, 55*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); work(ctx) }()
	err := c.Pump(ctx)
	<-done
	return err
}
