package gcp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"sluis.internal/shared/domain"
)

// Cloud is what one deployed function has of Google Cloud. Opening it asks for nothing over the network: what a
// function's identity may not use, it learns when it tries.
//
// It is configured by the environment:
//
//	GOOGLE_CLOUD_PROJECT   the runtime project: Firestore, Pub/Sub and Secret Manager
//	SLUIS_REGION           where the data stays, such as europe-west4
//	SLUIS_DATABASE         Firestore's database; empty means "(default)"
//	SLUIS_KEY_NAME         for each key of pipeline.json that the function uses, NAME in capitals: the crypto key's resource name
//	SLUIS_AUDIENCE         of the ID tokens that callers must show
//	SLUIS_CALLERS          e-mail addresses of the service accounts that may call, with commas
//	SLUIS_ISSUER           of those tokens; empty means Google
//
// and, on machines without Google Cloud, by the variables of Google's emulators (FIRESTORE_EMULATOR_HOST,
// PUBSUB_EMULATOR_HOST) and their like for the other two: KMS_EMULATOR_HOST and SECRET_MANAGER_EMULATOR_HOST, which are
// told SLUIS_IDENTITY in place of a token.
type Cloud struct {
	*Backend
	Env       domain.Env
	Secrets   *Secrets
	Contracts domain.Contracts

	kms *KMS
}

// Open opens Google Cloud as the environment says, for the documents that schemas declares.
func Open(ctx context.Context, schemas fs.FS) (c *Cloud, err error) {
	c = &Cloud{Env: domain.Env{Region: os.Getenv("SLUIS_REGION")}}
	if c.Contracts, err = domain.ReadContracts(schemas); err != nil {
		return nil, err
	}
	project := os.Getenv("GOOGLE_CLOUD_PROJECT")
	if project == "" || c.Env.Region == "" {
		return nil, errors.New("opening Google Cloud: set GOOGLE_CLOUD_PROJECT and SLUIS_REGION")
	}
	c.Backend, err = New(ctx, Options{Env: c.Env, Project: project, Database: os.Getenv("SLUIS_DATABASE"),
		Indexes: c.Contracts.Indexes, Kinds: c.Contracts.Kinds(), Ends: c.Contracts.Ends()})
	if err != nil {
		return nil, err
	}
	if c.kms, err = OpenKMS(ctx, c.Env, emulated("KMS_EMULATOR_HOST")...); err == nil {
		c.Secrets, err = OpenSecrets(ctx, c.Env, project, emulated("SECRET_MANAGER_EMULATOR_HOST")...)
	}
	if err != nil {
		return nil, errors.Join(err, c.Backend.Close())
	}
	return c, nil
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

// key is the resource name of a key of pipeline.json.
func key(name string) string { return os.Getenv("SLUIS_KEY_" + strings.ToUpper(name)) }

// Closing is the half that encrypts of a key of pipeline.json.
func (c *Cloud) Closing(name string) domain.Encrypter { return c.kms.Closing(key(name)) }

// Opening is the half that decrypts of a key of pipeline.json.
func (c *Cloud) Opening(name string) domain.Decrypter { return c.kms.Opening(key(name)) }

// Both is the whole of a key of pipeline.json.
func (c *Cloud) Both(name string) interface {
	domain.Encrypter
	domain.Decrypter
} {
	return c.kms.Both(key(name))
}

// Versions of an asymmetric key of pipeline.json.
func (c *Cloud) Versions(name string) *Versions { return c.kms.Versions(key(name)) }

// Held is a secret of pipeline.json that a function holds, such as "pseudonym": 32 bytes. It is read once, for what was
// derived from it must stay the same. Do not wipe it.
func (c *Cloud) Held(ctx context.Context, name string) (domain.Secret, error) {
	s, err := c.Secrets.Secret(ctx, "held/"+name)
	if err == nil && len(s.Reveal()) != 32 {
		return domain.Secret{}, fmt.Errorf("reading secret held/%s: want 32 bytes", name)
	}
	return s, err
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
