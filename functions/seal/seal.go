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
	return s.begin(ctx, c, "credential.sealed", func(_ *domain.Credential, conn *domain.Connection) (*domain.Credential, error) {
		sealed, err := s.Sealer.In(ctx).Seal(in.JWE, conn.Binding())
		if err != nil {
			return nil, err
		}
		now := s.Env.Now()
		return &domain.Credential{ID: domain.NewID[domain.CredentialID](s.Env), ConnectionID: conn.ID, ConsentID: conn.ConsentID,
			ClientID: conn.ClientID, Custodian: conn.Custodian, State: domain.CredentialSealed, InnerKey: kid,
			Sealed: sealed, CreatedAt: now, UpdatedAt: now}, nil
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
		held, err := read(tx, v.ConnectionID)
		if err != nil {
			return err
		}
		if err := held.refusal(consent); err != nil {
			return err
		}
		if held.live(s.Env.Now()) {
			return errRunning
		}
		credential, err := choose(held.credential, held.connection)
		if err != nil {
			return err
		}
		a.Details["session"] = string(id)
		return s.put(tx, held, credential, id)
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Status: http.StatusAccepted, Body: sessionAnswer{id}}, nil
}

var errRunning = &domain.Error{Kind: domain.Conflict, Code: "session_running", Message: "we are at your bank already; wait for the result"}

// held is what a connection has when the investor comes with a credential. What is not there is nil.
type held struct {
	connection *domain.Connection
	session    *domain.Session // the last one
	challenge  *domain.Challenge
	credential *domain.Credential
}

func read(tx domain.Tx, id domain.ConnectionID) (*held, error) {
	h := &held{connection: &domain.Connection{ID: id}}
	if err := tx.Get(h.connection); err != nil {
		return nil, err
	}
	var err error
	if h.credential, err = domain.Maybe(tx, &domain.Credential{ConnectionID: id}); err != nil || h.connection.SessionID == "" {
		return h, err
	}
	if h.session, err = domain.Maybe(tx, &domain.Session{ID: h.connection.SessionID}); err != nil || h.session == nil || h.session.ChallengeID == "" {
		return h, err
	}
	h.challenge, err = domain.Maybe(tx, &domain.Challenge{ID: h.session.ChallengeID})
	return h, err
}

// refusal says what the consent has against another visit to the bank of this connection.
func (h *held) refusal(c *domain.Consent) error {
	switch {
	case h.connection.Custodian != c.Custodian || h.connection.ConsentID != c.ID:
		return &domain.Error{Kind: domain.Forbidden, Code: "consent_custodian", Message: "the consent does not cover this custodian"}
	case c.Access == domain.AccessOnce && !h.connection.LastRefreshedAt.IsZero():
		return &domain.Error{Kind: domain.Forbidden, Code: "consent_one_off", Message: "the consent allows one reading, and it was done; ask for a new consent"}
	}
	return nil
}

// live says whether a session is at work. One that only waits for an answer gives way, and so does one that nobody
// has ended in all its life.
func (h *held) live(now domain.Time) bool {
	return h.session != nil && now.Before(h.session.ExpiresAt) &&
		(h.session.State == domain.SessionQueued || h.session.State == domain.SessionRunning)
}

// put writes the credential if it is new, the session, and the connection.
func (s *Service) put(tx domain.Tx, h *held, credential *domain.Credential, id domain.SessionID) error {
	now, conn := s.Env.Now(), h.connection
	cause := domain.CauseFirst
	if conn.Versions > 0 || credential == nil {
		cause = domain.CauseReconnect
	}
	if err := h.giveWay(tx, now); err != nil {
		return err
	}
	if credential != nil {
		if err := tx.Put(credential); err != nil {
			return err
		}
	}
	if conn.State != domain.ConnectionBusy {
		if err := conn.Move(domain.ConnectionBusy, "", now); err != nil {
			return err
		}
	}
	conn.SessionID = id
	session := &domain.Session{ID: id, ClientID: conn.ClientID, ConsentID: conn.ConsentID, ConnectionID: conn.ID,
		Custodian: conn.Custodian, Cause: cause, State: domain.SessionQueued, CreatedAt: now, UpdatedAt: now,
		ExpiresAt: now.Add(domain.SessionLife)}
	return errors.Join(tx.Put(session), tx.Put(conn),
		tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: session.Key(), Custodian: conn.Custodian, Lane: session.Lane()}))
}

// giveWay cancels the session that waits for an answer, wipes what its question showed, and hands it to extraction,
// which closes it at the bank.
func (h *held) giveWay(tx domain.Tx, now domain.Time) error {
	if h.session == nil || domain.SessionMoves.Final(h.session.State) {
		return nil
	}
	if err := h.session.Move(domain.SessionCancelled, domain.ReasonInterrupted, now); err != nil {
		return err
	}
	if h.challenge != nil && !domain.SCAMoves.Final(h.challenge.State) {
		if err := errors.Join(h.challenge.Move(domain.SCAFailed, now), tx.Put(h.challenge)); err != nil {
			return err
		}
	}
	return errors.Join(tx.Put(h.session), tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: h.session.Key(), Custodian: h.session.Custodian,
		Lane: h.session.Lane()}))
}
