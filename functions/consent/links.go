package consent

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// tokenLength is a link's token: base64url of 32 bytes.
const tokenLength = 43

// token is what stands in a link's address. It is derived, so that a request repeated with the same Idempotency-Key
// answers with the same link though no token is kept: only the nonce is, and without the link key it opens nothing.
func (s *Service) token(id domain.ConsentID, purpose domain.LinkUse, nonce string) string {
	mac := hmac.New(sha256.New, s.LinkKey.Reveal())
	mac.Write([]byte("link/v1\n" + string(id) + "\n" + string(purpose) + "\n" + nonce))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// visitToken is the cookie of the visit that a link's token opens in one browser. It is derived, so that two clicks make one
// visit, and so that the link opened again in that browser finds it. Without the browser's random value and our key nobody
// else can make it: not whoever passed the link on, and not whoever finds it.
func (s *Service) visitToken(token, browser string) string {
	mac := hmac.New(sha256.New, s.LinkKey.Reveal())
	mac.Write([]byte("visit/v1\n" + token + "\n" + browser))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// nonce makes a link unlike every other of the same consent and purpose.
func (s *Service) nonce() string { return base64.RawURLEncoding.EncodeToString(s.Env.Random(16)) }

// url is where a link's token leads.
func (s *Service) url(token string) string {
	return strings.TrimSuffix(s.PagesURL, "/") + "/i/" + token
}

// newLink makes the link of token for c. origin is where it was asked for.
func (s *Service) newLink(c *domain.Consent, purpose domain.LinkUse, token, origin string) *domain.Link {
	now := s.Env.Now()
	return &domain.Link{Hash: domain.HashToken(token), ConsentID: c.ID, ClientID: c.ClientID, Purpose: purpose, Origin: origin,
		CreatedAt: now, ExpiresAt: now.Add(domain.LinkLife)}
}

// latest points at a consent's newest link for the decision, so that a newer one can void it: only one invitation to
// decide is open at a time. It lies among the links, under a key that is no token's hash, and ends with them.
type latest struct {
	domain.Link
	Newest string `json:"newest"` // the hash of that link
}

func latestOf(id domain.ConsentID) *latest {
	return &latest{Link: domain.Link{Hash: "latest-" + string(id)}}
}

// points makes the pointer to l.
func points(l *domain.Link) *latest {
	p := latestOf(l.ConsentID)
	p.Newest, p.ConsentID, p.ClientID, p.Purpose = l.Hash, l.ConsentID, l.ClientID, l.Purpose
	p.CreatedAt, p.ExpiresAt = l.CreatedAt, l.ExpiresAt
	return p
}

// opensIn says in which states of its consent a link can be redeemed, and whether past the consent's time.
func opensIn(purpose domain.LinkUse) (states []domain.ConsentState, late bool) {
	switch purpose {
	case domain.LinkConsent:
		return []domain.ConsentState{domain.ConsentReceived, domain.ConsentValid}, false
	case domain.LinkReconnect:
		return []domain.ConsentState{domain.ConsentValid}, false
	default: // to manage: withdrawing and erasing are always possible
		return domain.AnyConsentState, true
	}
}

// linkResource is a link as the API gives it.
type linkResource struct {
	URL       string         `json:"url"`
	Purpose   domain.LinkUse `json:"purpose"`
	ExpiresAt domain.Time    `json:"expires_at"`
}

// createLink answers POST /v1/consents/{consent}/links: a new way in for the investor.
func (s *Service) createLink(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(c, "consent", domain.ParseID[domain.ConsentID])
	if err != nil {
		return serve.Answer{}, err
	}
	var in struct {
		Purpose domain.LinkUse `json:"purpose"`
	}
	faults, err := c.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	a := underClient(c, "link.created", id)
	switch in.Purpose {
	case domain.LinkConsent:
		a.States = []domain.ConsentState{domain.ConsentReceived}
	case domain.LinkReconnect, domain.LinkManage:
		a.States, a.Late = opensIn(in.Purpose)
	default:
		faults.Add("/purpose", "want consent, reconnect or manage")
	}
	if err := faults.Err(); err != nil {
		return serve.Answer{}, err
	}
	a.Details["purpose"] = string(in.Purpose)
	fresh, out := s.nonce(), linkResource{}
	err = s.act(ctx, a, func(tx domain.Tx, consent *domain.Consent, act *domain.Act) error {
		out, err = s.issueLink(tx, c, consent, act, in.Purpose, fresh)
		return err
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Status: http.StatusCreated, Body: out}, nil
}

// issueLink makes the link within tx, or finds the one that this very request made before. A new invitation to decide
// voids the one before it.
func (s *Service) issueLink(tx domain.Tx, call *serve.Call, c *domain.Consent, act *domain.Act, purpose domain.LinkUse, nonce string) (linkResource, error) {
	made, err := call.Once.Before(tx, c.ClientID)
	if err != nil {
		return linkResource{}, err
	}
	if made != "" {
		nonce = made
	}
	token := s.token(c.ID, purpose, nonce)
	before := &domain.Link{Hash: domain.HashToken(token)}
	if err := tx.Get(before); domain.KindOf(err) != domain.NotFound {
		act.Details["repeated"] = "true"
		return linkResource{URL: s.url(token), Purpose: purpose, ExpiresAt: before.ExpiresAt}, err
	}
	l := s.newLink(c, purpose, token, call.Origin)
	docs := []domain.Document{l}
	if purpose == domain.LinkConsent {
		old, err := s.superseded(tx, c.ID)
		if err != nil {
			return linkResource{}, err
		}
		docs = append(append(docs, old...), points(l))
	}
	if err := putAll(tx, docs...); err != nil {
		return linkResource{}, err
	}
	out := linkResource{URL: s.url(token), Purpose: purpose, ExpiresAt: l.ExpiresAt}
	return out, call.Once.Remember(s.Env, tx, c.ClientID, nonce)
}

// superseded finds the open invitation to decide, marked as used, or nothing.
func (s *Service) superseded(tx domain.Tx, id domain.ConsentID) ([]domain.Document, error) {
	p := latestOf(id)
	if err := tx.Get(p); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil, nil
		}
		return nil, err
	}
	l := &domain.Link{Hash: p.Newest}
	err := tx.Get(l)
	switch {
	case domain.KindOf(err) == domain.NotFound:
		return nil, nil
	case err != nil:
		return nil, err
	case l.Use(s.Env.Now()) != nil: // used or expired already
		return nil, nil
	}
	return []domain.Document{l}, nil
}
