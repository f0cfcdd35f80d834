package extraction

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// Keys are the keys of pipeline.json, as their keeper gives them to a function. What its identity may not use, it learns
// when it tries.
type Keys interface {
	Closing(name string) domain.Encrypter
	Opening(name string) domain.Decrypter
	Decrypters(name string) func() ([]crypto.Decrypter, error)
	Renewing(name string) domain.Rewrapper
}

// New makes the engine of a deployed function, without its connector. SLUIS_SANDBOX (host:port) and SLUIS_SANDBOX_CA (a
// file of certificates) say where a sandbox bank listens; a real bank is where its catalogue entry says.
func New(store domain.Store, env domain.Env, c domain.Custodian, keys Keys, shards Shards, secrets domain.Secrets, pseudonym domain.Secret) (Engine, error) {
	var network TransportOptions
	if at := os.Getenv("SLUIS_SANDBOX"); c.Sandbox && at != "" {
		raw, err := os.ReadFile(os.Getenv("SLUIS_SANDBOX_CA"))
		if err != nil {
			return Engine{}, fmt.Errorf("reading the sandbox bank's certificates: %w", err)
		}
		network.RootCAs = x509.NewCertPool()
		network.RootCAs.AppendCertsFromPEM(raw)
		network.DialTo = map[string]string{}
		for _, base := range c.Endpoints {
			if u, err := url.Parse(base); err == nil {
				network.DialTo[u.Hostname()] = at
			}
		}
	}
	return Engine{Store: store, Env: env, Custodian: c, Network: Transport(network), Secrets: secrets,
		Opener:    envelope.NewOpener(keys.Opening("outer"), envelope.ByKid(keys.Decrypters("inner"))),
		State:     envelope.NewShared(whole{keys.Closing("session"), keys.Opening("session")}, env, "session"),
		Display:   keys.Closing("display"),
		Portfolio: envelope.NewCloser(whole{keys.Closing("portfolio"), keys.Opening("portfolio")}, shards, env),
		Rewrapper: keys.Renewing("portfolio"),
		Shards:    shards,
		Pseudonym: pseudonym}, nil
}

// whole is both halves of a key.
type whole struct {
	domain.Encrypter
	domain.Decrypter
}

// In is the same key for the calls of one act: domain.In.
func (w whole) In(ctx context.Context) any {
	return whole{domain.In(ctx, w.Encrypter), domain.In(ctx, w.Decrypter)}
}
