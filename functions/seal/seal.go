// Package seal closes the second gate. An investor's browser has sealed a credential to a key that only extraction can
// use; seal checks the envelope as far as that goes without a key, binds it to client, consent, connection and
// custodian under another key, and asks for a session at the bank. It holds nothing that opens either gate.
package seal

import (
	"context"
	"errors"
	"net/http"
	"strings"

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
	Inner  envelope.Inner // the keys that browsers seal to
}

// Routes registers what the investor's page calls.
func (s *Service) Routes(mux *http.ServeMux) {
	s.Door.Investor(mux, "GET /seal/key", s.key, serve.Text("kids", "name the keys that you know by their thumbprints, with commas between", 2048),
		serve.ID("challenge", domain.ParseID[domain.ChallengeID]))
	s.Door.Investor(mux, "POST /seal", s.seal)
	s.Door.Investor(mux, "POST /seal/again", s.again)
}

// keyAnswer is what a page needs to seal: the public key, what to seal as what, and the time by our clock.
type keyAnswer struct {
	JWK        publicKey           `json:"jwk"`
	Subject    string              `json:"sub"` // the connection, or the challenge that was asked about
	Credential domain.CredentialID `json:"cid,omitempty"`
	Generation int64               `json:"gen"`
	Nonce      string              `json:"nonce"`
	Now        int64               `json:"now"` // Unix seconds
}

// publicKey is an envelope.JWK without its methods, which play the browser: with them the linker would keep a whole
// library for JWE in this function, opening included.
type publicKey envelope.JWK

// key answers with the newest of the keys that the page knows. The page has their thumbprints from another function and
// takes no other key: what is answered here is never trusted alone. With it goes what is to be sealed: the connection's
// next login, or the next code for the challenge that is named. Nothing is written, however often it is asked.
func (s *Service) key(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	jwk, err := s.Inner.Among(strings.Split(c.Param("kids"), ","))
	if err != nil {
		return serve.Answer{}, err
	}
	next, err := s.next(ctx, c, c.Param("challenge"))
	if err != nil {
		return serve.Answer{}, err
	}
	t := c.Visit.Issue(s.Door.Salt, next, s.Env.Now())
	return serve.Answer{Body: keyAnswer{JWK: publicKey(jwk), Subject: t.Subject, Credential: t.Credential, Generation: t.Generation,
		Nonce: t.Nonce, Now: s.Env.Now().Unix()}}, nil
}

// next is what the visit may seal next. Another's challenge looks like one that does not exist, and asking for it is
// recorded.
func (s *Service) next(ctx context.Context, c *serve.Call, challenge string) (domain.Sealing, error) {
	if challenge == "" {
		conn := &domain.Connection{ID: c.Visit.ConnectionID}
		err := s.Store.Get(ctx, conn)
		return conn.NextSealing(s.Env), err
	}
	found := &domain.Challenge{ID: domain.ChallengeID(challenge)}
	if err := domain.IgnoreNotFound(s.Store.Get(ctx, found)); err != nil {
		return domain.Sealing{}, err
	}
	if found.ConnectionID != c.Visit.ConnectionID {
		return domain.Sealing{}, s.Door.Refuse(c, challenge, domain.ErrNotFound)
	}
	return found.NextSealing(), nil
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
	kids, err := s.Inner.Kids()
	if err != nil {
		return serve.Answer{}, err
	}
	told, err := envelope.Inspect(in.JWE, envelope.Expect{Typ: envelope.TypCredential,
		Subject: string(c.Visit.ConnectionID), Kids: kids}, s.Env.Now())
	if err != nil {
		return serve.Answer{}, envelope.At("/jwe", err)
	}
	if err := s.take(ctx, c, told.Sealing); err != nil {
		return serve.Answer{}, err
	}
	return s.begin(ctx, c, "credential.sealed", func(_ domain.Tx, _ *domain.Credential, conn *domain.Connection) (*domain.Credential, error) {
		return s.close(ctx, conn, in.JWE, told)
	})
}

// take counts what was sealed, in a commit of its own: whatever becomes of it, it is not taken again, and the outer
// gate's key is used for no more of it than the bounds allow. What could not begin a session is not even counted.
func (s *Service) take(ctx context.Context, c *serve.Call, t domain.Sealing) error {
	act := s.act(c, "sealing.taken")
	act.Details["credential"] = string(t.Credential)
	return domain.Perform(ctx, s.Env, s.Store, act, func(tx domain.Tx, consent *domain.Consent, _ *domain.Act) error {
		if _, err := s.may(tx, consent, c.Visit); err != nil {
			return err
		}
		return domain.TakeSealing(tx, s.Door.Salt, c.Visit, &domain.Connection{ID: c.Visit.ConnectionID}, t, s.Env.Now())
	})
}

// act begins the description of an act of the visiting investor.
func (s *Service) act(c *serve.Call, action string) domain.Act {
	a := c.Visit.Act("seal", action, domain.MayConnect, c.Visit.ConsentID, c.Origin)
	a.Subject = string(c.Visit.ConnectionID)
	return a
}

// may reads what the connection holds and says whether a session may begin, before any key is asked for. A login that is
// missing or was refused is no obstacle to a new one.
func (s *Service) may(tx domain.Tx, consent *domain.Consent, v *domain.Visit) (*domain.Held, error) {
	held, err := domain.ReadHeld(tx, v.ConnectionID)
	if err != nil {
		return nil, err
	}
	err = held.MayBegin(consent, domain.Beginning{Cause: domain.CauseReconnect, Visit: v}, s.Env.Now())
	if errors.Is(err, domain.ErrCredentialMissing) || errors.Is(err, domain.ErrCredentialRefused) {
		err = nil
	}
	return held, err
}

// close closes the outer gate, unless a newer login was kept meanwhile. The connection says from then on which it holds.
func (s *Service) close(ctx context.Context, conn *domain.Connection, jwe string, told envelope.Told) (*domain.Credential, error) {
	t, now := told.Sealing, s.Env.Now()
	if t.Generation <= conn.Generation {
		return nil, domain.ErrSealingUsed
	}
	sealed, err := s.Sealer.In(ctx).Seal(jwe, conn.Binding(), t)
	if err != nil {
		return nil, err
	}
	conn.Generation = t.Generation
	return &domain.Credential{ID: t.Credential, ConnectionID: conn.ID, ConsentID: conn.ConsentID, ClientID: conn.ClientID,
		Custodian: conn.Custodian, State: domain.CredentialSealed, Generation: t.Generation, Nonce: t.Nonce, InnerKey: told.Kid,
		Sealed: sealed, CreatedAt: now, UpdatedAt: now}, nil
}

// again is a person's word that the credential given before shall be used once more.
func (s *Service) again(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	if err := c.Decode(&struct{}{}); err != nil {
		return serve.Answer{}, err
	}
	return s.begin(ctx, c, "session.requested", func(tx domain.Tx, old *domain.Credential, conn *domain.Connection) (*domain.Credential, error) {
		if old == nil || !old.Fits(conn) || old.State == domain.CredentialRefused || old.State == domain.CredentialTrying {
			return nil, &domain.Error{Kind: domain.Conflict, Code: "credential_needed", Message: "enter your credentials again"}
		}
		return nil, domain.SpendVisit(tx, c.Visit)
	})
}

// begin makes a session under the consent, with the credential that choose gives, or the one that is held if it
// gives nil.
func (s *Service) begin(ctx context.Context, c *serve.Call, action string, choose func(domain.Tx, *domain.Credential, *domain.Connection) (*domain.Credential, error)) (serve.Answer, error) {
	id := domain.NewID[domain.SessionID](s.Env)
	err := domain.Perform(ctx, s.Env, s.Store, s.act(c, action), func(tx domain.Tx, consent *domain.Consent, a *domain.Act) error {
		held, err := s.may(tx, consent, c.Visit)
		if err != nil {
			return err
		}
		begin := domain.Beginning{ID: id, Cause: domain.CauseReconnect, Visit: c.Visit}
		if begin.Credential, err = choose(tx, held.Credential, held.Connection); err != nil {
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
