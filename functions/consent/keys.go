package consent

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// Bounds of a rotation: how many hours the old key lives beside the new one.
const (
	defaultOverlap = 24
	maxOverlap     = 168
)

// keyResource is an API key as the API gives it: never its hash, and its token only in the answer that makes it.
type keyResource struct {
	ID        domain.KeyID     `json:"id"`
	Role      domain.Role      `json:"role"`
	AdvisorID domain.AdvisorID `json:"advisor_id,omitempty"`
	Label     string           `json:"label,omitempty"`
	State     domain.KeyState  `json:"state"`
	ExpiresAt domain.Time      `json:"expires_at,omitzero"`
	CreatedAt domain.Time      `json:"created_at"`
	Token     string           `json:"token,omitempty"` // shown once; absent when the request is repeated
}

func keyOf(k *domain.APIKey) keyResource {
	return keyResource{ID: k.ID, Role: k.Role, AdvisorID: k.AdvisorID, Label: k.Label, State: k.State,
		ExpiresAt: k.ExpiresAt, CreatedAt: k.CreatedAt}
}

// checkKey checks what a new key is asked to be.
func checkKey(role domain.Role, advisor domain.AdvisorID, label string) error {
	switch {
	case role != domain.RoleClient && role != domain.RoleAdvisor && role != domain.RoleReviewer:
		return domain.Invalidf("/role", "want client, advisor or reviewer")
	case role == domain.RoleAdvisor && advisor == "":
		return domain.Invalidf("/advisor_id", "say whose key it is")
	case role != domain.RoleAdvisor && advisor != "":
		return domain.Invalidf("/advisor_id", "only the role advisor has one; leave it out")
	case len([]rune(label)) > 80 || !printable(label):
		return domain.Invalidf("/label", "want at most 80 printable characters")
	}
	return nil
}

// addKey puts a new key within tx, if its advisor may have one.
func addKey(tx domain.Tx, k *domain.APIKey) error {
	if k.Role == domain.RoleAdvisor {
		if err := ownAdvisor(tx, k.ClientID, k.AdvisorID, "/advisor_id"); err != nil {
			return err
		}
	}
	return tx.Put(k)
}

// createKey answers POST /v1/keys. The token is in this answer and nowhere else. A request repeated with its
// Idempotency-Key gets the key without the token: revoke it and make another if the first answer was lost.
func (s *Service) createKey(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	var in struct {
		Role      domain.Role       `json:"role"`
		AdvisorID *domain.AdvisorID `json:"advisor_id"`
		Label     string            `json:"label"`
	}
	if err := call.Decode(&in); err != nil {
		return serve.Answer{}, err
	}
	advisor := or(in.AdvisorID, "")
	if in.AdvisorID != nil && advisor == "" {
		return serve.Answer{}, domain.Invalidf("/advisor_id", "want the identifier of an advisor, or leave it out")
	}
	if err := checkKey(in.Role, advisor, in.Label); err != nil {
		return serve.Answer{}, err
	}
	fresh, token := domain.NewAPIKey(s.Env, call.Principal.ClientID, in.Role, advisor, in.Label)
	defer token.Wipe()
	e := s.note(call, "key.created", fresh.Key())
	return s.newKey(ctx, call, e, fresh, token, func(tx domain.Tx) error { return addKey(tx, fresh) })
}

// newKey settles the making of fresh by put and answers with it, or with the key that this very request made before.
func (s *Service) newKey(ctx context.Context, call *serve.Call, e *domain.Entry, fresh *domain.APIKey, token domain.Secret, put func(domain.Tx) error) (serve.Answer, error) {
	var out keyResource
	details := e.Data.Details
	err := settle(ctx, s.Env, s.Store, e, func(tx domain.Tx) error {
		made, err := call.Once.Before(tx, call.Principal.ClientID)
		if err != nil {
			return err
		}
		if made != "" {
			e.Subject, e.Data.Details = made, map[string]string{"repeated": "true"}
			k := &domain.APIKey{ID: domain.KeyID(made)}
			err := tx.Get(k)
			out = keyOf(k)
			return err
		}
		e.Subject, e.Data.Details = fresh.Key(), details
		if err := put(tx); err != nil {
			return err
		}
		details["role"] = string(fresh.Role)
		out = keyOf(fresh)
		out.Token = string(token.Reveal())
		return call.Once.Remember(s.Env, tx, fresh.ClientID, fresh.Key())
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Status: http.StatusCreated, Body: out}, nil
}

// listKeys answers GET /v1/keys, oldest first, revoked ones too.
func (s *Service) listKeys(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	limit, cursor, err := call.Paging()
	if err != nil {
		return serve.Answer{}, err
	}
	keys, next, err := domain.List[domain.APIKey](ctx, s.Store, domain.Query{Index: "keys_by_client",
		Match: []string{string(call.Principal.ClientID)}, Cursor: cursor, Limit: limit})
	if err != nil {
		return serve.Answer{}, fmt.Errorf("listing keys: %w", err)
	}
	out := serve.List[keyResource]{Next: next}
	for i := range keys {
		out.Data = append(out.Data, keyOf(&keys[i]))
	}
	return serve.Answer{Body: out}, nil
}

// rotateKey answers POST /v1/keys/{key}/rotate: a new key of the same role, and an end for the old one. Of two
// rotations at once one wins; a key whose end is set is not rotated again.
func (s *Service) rotateKey(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(call, "key", domain.ParseID[domain.KeyID])
	if err != nil {
		return serve.Answer{}, err
	}
	var in struct {
		OverlapHours *int `json:"overlap_hours"`
	}
	if err := call.Decode(&in); err != nil {
		return serve.Answer{}, err
	}
	overlap := defaultOverlap
	if in.OverlapHours != nil {
		overlap = *in.OverlapHours
	}
	if overlap < 0 || overlap > maxOverlap {
		return serve.Answer{}, domain.Invalidf("/overlap_hours", "want 0 to 168")
	}
	fresh, token := domain.NewAPIKey(s.Env, call.Principal.ClientID, "", "", "")
	defer token.Wipe()
	e := s.note(call, "key.rotated", fresh.Key())
	e.Data.Details["replaces"] = string(id)
	return s.newKey(ctx, call, e, fresh, token, func(tx domain.Tx) error {
		return s.replaceKey(tx, call.Principal.ClientID, id, fresh, time.Duration(overlap)*time.Hour)
	})
}

// replaceKey puts fresh in the place of the key id, which lives on for overlap.
func (s *Service) replaceKey(tx domain.Tx, client domain.ClientID, id domain.KeyID, fresh *domain.APIKey, overlap time.Duration) error {
	old, now := &domain.APIKey{ID: id}, s.Env.Now()
	if err := tx.Get(old); err != nil {
		return err
	}
	if old.ClientID != client {
		return domain.ErrNotFound
	}
	if old.State != domain.KeyActive || !old.ExpiresAt.IsZero() {
		return &domain.Error{Kind: domain.Conflict, Code: "key_over",
			Message: "this key was rotated or revoked already; rotate the newest one, or make a new key"}
	}
	fresh.Role, fresh.AdvisorID, fresh.Label = old.Role, old.AdvisorID, old.Label
	if err := addKey(tx, fresh); err != nil {
		return err
	}
	old.ExpiresAt, old.UpdatedAt = now.Add(overlap), now
	if overlap == 0 {
		if err := old.Move(domain.KeyRevoked, now); err != nil {
			return err
		}
	}
	return tx.Put(old)
}

// revokeKey answers DELETE /v1/keys/{key}: it opens nothing from then on. Revoking again changes nothing.
func (s *Service) revokeKey(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(call, "key", domain.ParseID[domain.KeyID])
	if err != nil {
		return serve.Answer{}, err
	}
	e := s.note(call, "key.revoked", string(id))
	return serve.Answer{}, settle(ctx, s.Env, s.Store, e, func(tx domain.Tx) error {
		return endKey(tx, e, id, call.Principal.ClientID, s.Env.Now())
	})
}

// endKey revokes within tx the key id of client, or of any client where that is empty.
func endKey(tx domain.Tx, e *domain.Entry, id domain.KeyID, client domain.ClientID, now domain.Time) error {
	k := &domain.APIKey{ID: id}
	if err := tx.Get(k); err != nil {
		return err
	}
	if client != "" && k.ClientID != client {
		return domain.ErrNotFound
	}
	e.ClientID = k.ClientID
	if k.State == domain.KeyRevoked {
		e.Data.Details = map[string]string{"repeated": "true"}
		return nil
	}
	if err := k.Move(domain.KeyRevoked, now); err != nil {
		return err
	}
	return tx.Put(k)
}
