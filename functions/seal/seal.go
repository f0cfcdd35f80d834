// Package seal closes the second gate. An investor's browser has sealed a credential to a key that only extraction can
// use; seal checks the envelope as far as that goes without a key, binds it to client, consent, connection and
// custodian under another key, and asks for a session at the bank. It holds nothing that opens either gate.
package seal

import (
	"context"
	"errors"
	"net/http"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

// Service is the function.
type Service struct {
	Store  domain.Store
	Env    domain.Env
	Door   *serve.Door
	Sealer *envelope.Sealer
	Shards domain.ShardMaker
	Public func() (envelope.JWK, error) // the inner key that browsers seal to now
	Kids   func() ([]string, error)     // every inner key that can still be opened
}

// Routes registers what the investor's page calls.
func (s *Service) Routes(mux *http.ServeMux) {
	s.Door.Investor(mux, "GET /seal/key", s.key)
	s.Door.Investor(mux, "POST /seal", s.seal)
	s.Door.Investor(mux, "POST /seal/again", s.again)
}

// keyAnswer is what a page needs to seal: the public key, what to seal for, and the time by our clock.
type keyAnswer struct {
	JWK     publicKey           `json:"jwk"`
	Subject domain.ConnectionID `json:"sub"`
	Now     int64               `json:"now"` // Unix seconds
}

// publicKey is an envelope.JWK without its methods, which play the browser: with them the linker would keep a whole
// library for JWE in this function, opening included.
type publicKey envelope.JWK

func (s *Service) key(_ context.Context, c *serve.Call) (serve.Answer, error) {
	jwk, err := s.Public()
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: keyAnswer{JWK: publicKey(jwk), Subject: c.Visit.ConnectionID, Now: s.Env.Now().Unix()}}, nil
}

// sessionAnswer names the session that was asked for.
type sessionAnswer struct {
	SessionID domain.SessionID `json:"session_id"`
}

func (s *Service) seal(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	var in struct {
		JWE string `json:"jwe"`
	}
	if err := c.Decode(&in); err != nil {
		return serve.Answer{}, err
	}
	kids, err := s.Kids()
	if err != nil {
		return serve.Answer{}, err
	}
	kid, err := envelope.Inspect(in.JWE, envelope.Expect{Typ: envelope.TypCredential,
		Subject: string(c.Visit.ConnectionID), Kids: kids}, s.Env.Now())
	if err != nil {
		return serve.Answer{}, envelope.At("/jwe", err)
	}
	shards, err := s.makeShards(ctx, c)
	if err != nil {
		return serve.Answer{}, err
	}
	defer shards.wipe()
	return s.begin(ctx, c, "credential.sealed", func(_ *domain.Credential, conn *domain.Connection) (*domain.Credential, error) {
		sealed, err := s.Sealer.In(ctx).Under(shards.bits).Seal(in.JWE, conn.Binding())
		if err != nil {
			return nil, err
		}
		now := s.Env.Now()
		return &domain.Credential{ID: domain.NewID[domain.CredentialID](s.Env), ConnectionID: conn.ID, ConsentID: conn.ConsentID,
			ClientID: conn.ClientID, Custodian: conn.Custodian, State: domain.CredentialSealed, InnerKey: kid,
			Sealed: sealed, Shard: shards.credential, SessionShard: shards.session, CreatedAt: now, UpdatedAt: now}, nil
	})
}

// again is a person's word that the credential given before shall be used once more.
func (s *Service) again(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	if err := c.Decode(&struct{}{}); err != nil {
		return serve.Answer{}, err
	}
	return s.begin(ctx, c, "session.requested", func(old *domain.Credential, _ *domain.Connection) (*domain.Credential, error) {
		if old == nil || old.State == domain.CredentialRefused || old.State == domain.CredentialTrying {
			return nil, &domain.Error{Kind: domain.Conflict, Code: "credential_needed", Message: "enter your credentials again"}
		}
		return nil, nil
	})
}

// begin makes a session under the consent, with the credential that choose gives, or the one that is held if it
// gives nil.
func (s *Service) begin(ctx context.Context, c *serve.Call, action string, choose func(*domain.Credential, *domain.Connection) (*domain.Credential, error)) (serve.Answer, error) {
	v := c.Visit
	id := domain.NewID[domain.SessionID](s.Env)
	act := domain.Act{Action: action, Function: "seal", Actor: v.Actor(), Origin: c.Origin, ConsentID: v.ConsentID,
		ClientID: v.ClientID, InvestorRef: v.InvestorRef, ConnectionID: v.ConnectionID, Subject: string(v.ConnectionID)}
	err := domain.Perform(ctx, s.Env, s.Store, act, func(tx domain.Tx, consent *domain.Consent, a *domain.Act) error {
		held, err := domain.ReadHeld(tx, v.ConnectionID)
		if err != nil {
			return err
		}
		begin := domain.Beginning{ID: id, Cause: domain.CauseReconnect}
		if err := held.MayBegin(consent, begin, s.Env.Now()); err != nil && !errors.Is(err, domain.ErrCredentialMissing) && !errors.Is(err, domain.ErrCredentialRefused) {
			return err // before any key is asked for
		}
		if begin.Credential, err = choose(held.Credential, held.Connection); err != nil {
			return err
		}
		if begin.Credential != nil && held.Connection.Versions == 0 {
			begin.Cause = domain.CauseFirst
		}
		a.Details["session"] = string(id)
		_, err = domain.BeginSession(s.Env, tx, consent, held, begin)
		return err
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Status: http.StatusAccepted, Body: sessionAnswer{id}}, nil
}
