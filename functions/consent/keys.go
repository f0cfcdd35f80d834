package consent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// Bounds of a rotation: how many hours the old key lives beside the new one. And of a client: how many keys it has that
// open anything. One that races itself may pass that by as many as it has requests under way. Keys that were replaced do
// not count, so that a client that has all of its keys can still rotate them; they have a bound of their own.
const (
	defaultOverlap = 24
	maxOverlap     = 168
	maxKeys        = 50
	maxReplaced    = 100
)

// keyResource is an API key as the API gives it: never its hash, and its token only in the answer that makes it.
type keyResource struct {
	ID         domain.KeyID     `json:"id"`
	Line       domain.KeyID     `json:"line"` // the first key of those that follow one another by rotation
	Role       domain.Role      `json:"role"`
	Admin      bool             `json:"admin"` // may make, rotate and revoke keys
	AdvisorID  domain.AdvisorID `json:"advisor_id,omitempty"`
	Label      string           `json:"label,omitempty"`
	State      domain.KeyState  `json:"state"`
	ReplacedBy domain.KeyID     `json:"replaced_by,omitempty"`
	ExpiresAt  domain.Time      `json:"expires_at,omitzero"`
	CreatedAt  domain.Time      `json:"created_at"`
	Token      string           `json:"token,omitempty"` // shown once; absent when the request is repeated
}

func keyOf(k *domain.APIKey) keyResource {
	return keyResource{ID: k.ID, Line: k.First(), Role: k.Role, Admin: k.Administers(), AdvisorID: k.AdvisorID, Label: k.Label,
		State: k.State, ReplacedBy: k.ReplacedBy, ExpiresAt: k.ExpiresAt, CreatedAt: k.CreatedAt}
}

// KeyTerms are what a new key is asked to be.
type KeyTerms struct {
	Role      domain.Role
	AdvisorID domain.AdvisorID // with RoleAdvisor
	Label     string
	Admin     bool // with RoleClient: may administer keys
	Days      int  // how long it opens; 0 means a year
}

// validate notes every rule that the terms break.
func (t *KeyTerms) validate(faults *domain.Faults) {
	if t.Role != domain.RoleClient && t.Role != domain.RoleAdvisor && t.Role != domain.RoleReviewer {
		faults.Add("/role", "want client, advisor or reviewer")
	}
	switch {
	case t.Role == domain.RoleAdvisor && t.AdvisorID == "":
		faults.Add("/advisor_id", "say whose key it is")
	case t.Role != domain.RoleAdvisor && t.AdvisorID != "":
		faults.Add("/advisor_id", "only the role advisor has one; leave it out")
	}
	if len([]rune(t.Label)) > 80 || !printable(t.Label) {
		faults.Add("/label", "want at most 80 printable characters")
	}
	if t.Admin && t.Role != domain.RoleClient {
		faults.Add("/admin", "only the role client may administer keys; leave it out")
	}
	if most := int(domain.MaxKeyLife / (24 * time.Hour)); t.Days < 0 || t.Days > most {
		faults.Add("/days", "want 1 to %d days; leave it out for a year", most)
	}
}

// make makes the key, not yet put, and the token to show once.
func (t *KeyTerms) make(env domain.Env, client domain.ClientID) (*domain.APIKey, domain.Secret) {
	k, token := domain.NewAPIKey(env, client, t.Role, t.AdvisorID, t.Label)
	k.Admin = t.Admin
	if t.Days > 0 {
		k.Lasts(time.Duration(t.Days) * 24 * time.Hour)
	}
	return k, token
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

// room refuses another key where a client has as many as it may, and another rotation where too many replaced keys live on.
func room(keys []domain.APIKey, now domain.Time, rotation bool) error {
	living, replaced := 0, 0
	for i := range keys {
		switch k := &keys[i]; {
		case !k.Lives(now):
		case k.Replaced():
			replaced++
		default:
			living++
		}
	}
	if rotation && replaced < maxReplaced || !rotation && living < maxKeys {
		return nil
	}
	if rotation {
		return &domain.Error{Kind: domain.Conflict, Code: "key_limit",
			Message: fmt.Sprintf("a client has at most %d replaced keys that still open; revoke some, or wait until their overlap is over", maxReplaced)}
	}
	return &domain.Error{Kind: domain.Conflict, Code: "key_limit",
		Message: fmt.Sprintf("a client has at most %d keys; revoke those that nobody uses", maxKeys)}
}

// createKey answers POST /v1/keys. The token is in this answer and nowhere else. A request repeated with its
// Idempotency-Key gets the key without the token: revoke it and make another if the first answer was lost.
func (s *Service) createKey(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	var in struct {
		Role      domain.Role       `json:"role"`
		AdvisorID *domain.AdvisorID `json:"advisor_id"`
		Label     string            `json:"label"`
		Admin     bool              `json:"admin"`
		Days      *int              `json:"days"`
	}
	faults, err := call.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	terms := KeyTerms{Role: in.Role, AdvisorID: or(in.AdvisorID, ""), Label: in.Label, Admin: in.Admin, Days: or(in.Days, 0)}
	if in.AdvisorID != nil && terms.AdvisorID == "" {
		faults.Add("/advisor_id", "want the identifier of an advisor, or leave it out")
	}
	if in.Days != nil && terms.Days == 0 {
		terms.Days = -1
	}
	terms.validate(faults)
	if err := faults.Err(); err != nil {
		return serve.Answer{}, err
	}
	all, err := ListKeys(ctx, s.Store, call.Principal.ClientID)
	if err != nil {
		return serve.Answer{}, err
	}
	fresh, token := terms.make(s.Env, call.Principal.ClientID)
	defer token.Wipe()
	e := s.note(call, "key.created", fresh.Key())
	return s.newKey(ctx, call, e, fresh, token, func(tx domain.Tx) error {
		if err := room(all, s.Env.Now(), false); err != nil {
			return err
		}
		return addKey(tx, fresh)
	})
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
		describeKey(details, fresh)
		out = keyOf(fresh)
		out.Token = string(token.Reveal())
		return call.Once.Remember(s.Env, tx, fresh.ClientID, fresh.Key())
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Status: http.StatusCreated, Body: out}, nil
}

// describeKey says in an entry what a new key is.
func describeKey(details map[string]string, k *domain.APIKey) {
	details["role"], details["line"], details["expires_at"] = string(k.Role), string(k.First()), k.ExpiresAt.String()
	if k.Admin {
		details["admin"] = "true"
	}
}

// listKeys answers GET /v1/keys, oldest first, revoked ones too.
func (s *Service) listKeys(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	limit, cursor := call.Paging()
	q := domain.Query{Index: "keys_by_client", Match: []string{string(call.Principal.ClientID)}, Cursor: cursor, Limit: limit}
	if state := call.Param("state"); state != "" {
		q.Index, q.Match = "keys_by_state", append(q.Match, state)
	}
	keys, next, err := domain.List[domain.APIKey](ctx, s.Store, q)
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
	faults, err := call.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	overlap := defaultOverlap
	if in.OverlapHours != nil {
		overlap = *in.OverlapHours
	}
	if overlap < 0 || overlap > maxOverlap {
		faults.Add("/overlap_hours", "want 0 to 168")
	}
	if err := faults.Err(); err != nil {
		return serve.Answer{}, err
	}
	all, err := ListKeys(ctx, s.Store, call.Principal.ClientID)
	if err != nil {
		return serve.Answer{}, err
	}
	fresh, token := domain.NewAPIKey(s.Env, call.Principal.ClientID, "", "", "")
	defer token.Wipe()
	e := s.note(call, "key.rotated", fresh.Key())
	e.Data.Details["replaces"] = string(id)
	return s.newKey(ctx, call, e, fresh, token, func(tx domain.Tx) error {
		if err := room(all, s.Env.Now(), true); err != nil {
			return err
		}
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
	if err := old.Replace(fresh, overlap, now); err != nil {
		return err
	}
	if err := addKey(tx, fresh); err != nil {
		return err
	}
	return tx.Put(old)
}

// revokeKey answers DELETE /v1/keys/{key}: it opens nothing from then on, and with ?line=true neither does any other key of
// its line, whoever rotated it. Revoking again changes nothing.
func (s *Service) revokeKey(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(call, "key", domain.ParseID[domain.KeyID])
	if err != nil {
		return serve.Answer{}, err
	}
	line := call.Param("line")
	if line == "true" && !call.Principal.Admin {
		return serve.Answer{}, s.Door.Refuse(call, string(id), errLine)
	}
	e := s.note(call, "key.revoked", string(id))
	return serve.Answer{}, settle(ctx, s.Env, s.Store, e, func(tx domain.Tx) error {
		return endKey(tx, e, id, call.Principal.ClientID, line == "true", s.Env.Now())
	})
}

var errLine = &domain.Error{Kind: domain.Forbidden, Code: "key_administration",
	Message: "this key may end itself alone; use one with admin to end its line, or ask your operator"}

// endKey revokes within tx the key id of client, or of any client where that is empty; with line also every other key of
// its line. The line is walked in the transaction, so that a rotation at the same time is part of it or comes after.
func endKey(tx domain.Tx, e *domain.Entry, id domain.KeyID, client domain.ClientID, line bool, now domain.Time) error {
	k := &domain.APIKey{ID: id}
	if err := tx.Get(k); err != nil {
		return err
	}
	if client != "" && k.ClientID != client {
		return domain.ErrNotFound
	}
	e.ClientID, e.Data.Details = k.ClientID, map[string]string{"line": string(k.First())}
	all := []*domain.APIKey{k}
	if line {
		var err error
		if all, err = lineOf(tx, k); err != nil {
			return err
		}
	}
	all = slices.DeleteFunc(all, func(k *domain.APIKey) bool { return k.State == domain.KeyRevoked })
	if len(all) == 0 {
		e.Data.Details["repeated"] = "true"
		return nil
	}
	e.Data.Details["keys"] = strconv.Itoa(len(all))
	for _, k := range all {
		if err := k.Move(domain.KeyRevoked, now); err != nil {
			return err
		}
		k.WarnAt = domain.Time{}
		if err := tx.Put(k); err != nil {
			return err
		}
	}
	return nil
}

// lineOf reads every key of k's line, from the first to the newest.
func lineOf(tx domain.Tx, k *domain.APIKey) (all []*domain.APIKey, err error) {
	for id := k.First(); id != ""; {
		next := &domain.APIKey{ID: id}
		if err := tx.Get(next); err != nil {
			return nil, err
		}
		all, id = append(all, next), next.ReplacedBy
	}
	return all, nil
}
