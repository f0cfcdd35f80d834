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
	JWK     envelope.JWK        `json:"jwk"`
	Subject domain.ConnectionID `json:"sub"`
	Now     int64               `json:"now"` // Unix seconds
}

func (s *Service) key(_ context.Context, c *serve.Call) (serve.Answer, error) {
	jwk, err := s.Public()
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: keyAnswer{JWK: jwk, Subject: c.Visit.ConnectionID, Now: s.Env.Now().Unix()}}, nil
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
		return serve.Answer{}, err
	}
	return s.begin(ctx, c, "credential.sealed", func(old *domain.Credential, conn *domain.Connection) (*domain.Credential, error) {
		sealed, err := s.Sealer.Seal(in.JWE, conn.Binding())
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
		if err := held.free(); err != nil {
			return err
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

// held is what a connection has when the investor comes with a credential.
type held struct {
	connection *domain.Connection
	session    *domain.Session    // the last one; nil if there is none
	credential *domain.Credential // nil if there is none
}

func read(tx domain.Tx, id domain.ConnectionID) (*held, error) {
	h := &held{connection: &domain.Connection{ID: id}, credential: &domain.Credential{ConnectionID: id}}
	if err := tx.Get(h.connection); err != nil {
		return nil, err
	}
	if err := tx.Get(h.credential); domain.KindOf(err) == domain.NotFound {
		h.credential = nil
	} else if err != nil {
		return nil, err
	}
	if h.connection.SessionID == "" {
		return h, nil
	}
	h.session = &domain.Session{ID: h.connection.SessionID}
	if err := tx.Get(h.session); domain.KindOf(err) == domain.NotFound {
		h.session = nil
	} else if err != nil {
		return nil, err
	}
	return h, nil
}

// free makes sure that no session is at work. One that only waits for an answer gives way.
func (h *held) free() error {
	if h.session != nil && (h.session.State == domain.SessionQueued || h.session.State == domain.SessionRunning) {
		return &domain.Error{Kind: domain.Conflict, Code: "session_running", Message: "we are at your bank already; wait for the result"}
	}
	return nil
}

// put writes the credential if it is new, the session, and the connection; a suspended session is cancelled and
// handed to extraction, which closes it at the bank.
func (s *Service) put(tx domain.Tx, h *held, credential *domain.Credential, id domain.SessionID) error {
	now, conn := s.Env.Now(), h.connection
	cause := domain.CauseFirst
	if conn.Versions > 0 || credential == nil {
		cause = domain.CauseReconnect
	}
	if h.session != nil && h.session.State == domain.SessionSuspended {
		if err := h.session.Move(domain.SessionCancelled, domain.ReasonInterrupted, now); err != nil {
			return err
		}
		if err := errors.Join(tx.Put(h.session), tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: h.session.Key(), Custodian: h.session.Custodian})); err != nil {
			return err
		}
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
		tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: string(id), Custodian: conn.Custodian}))
}
