package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
	"sluis.internal/shared/webhook"
)

// Bounds of a client's endpoints. The first counts those not removed; a client that races itself may pass it by as
// many as it has requests under way. The second counts all ever made, so that one page of a query holds them.
const (
	maxEndpoints = 10
	everMade     = 1000
)

// How long an old secret signs beside a new one.
const (
	overlapDefault = 24
	overlapMost    = 7 * 24
)

// Routes registers the client API of this function, as pipeline.json lists it under "endpoints".
func (s *Service) Routes(mux *http.ServeMux) {
	write, read := []domain.Role{domain.RoleClient}, []domain.Role{domain.RoleClient, domain.RoleReviewer}
	s.Door.API(mux, "POST /v1/endpoints", write, s.createEndpoint)
	s.Door.API(mux, "GET /v1/endpoints", read, s.Door.Looking(function, "endpoints", s.listEndpoints), serve.Limit, serve.Cursor)
	s.Door.API(mux, "GET /v1/endpoints/{endpoint}", read, s.Door.Looking(function, "endpoints", s.getEndpoint))
	s.Door.API(mux, "PATCH /v1/endpoints/{endpoint}", write, s.patchEndpoint)
	s.Door.API(mux, "DELETE /v1/endpoints/{endpoint}", write, s.removeEndpoint)
	s.Door.API(mux, "POST /v1/endpoints/{endpoint}/rotate", write, s.rotateSecret)
	s.Door.API(mux, "POST /v1/endpoints/{endpoint}/test", write, s.testEndpoint)
	s.Door.API(mux, "GET /v1/deliveries", read, s.Door.Looking(function, "deliveries", s.listDeliveries), serve.ID("endpoint_id", domain.ParseID[domain.EndpointID]),
		serve.ID("notice_id", domain.ParseID[domain.NoticeID]), serve.Word("state", domain.DeliveryStates...), serve.Limit, serve.Cursor)
	s.Door.API(mux, "GET /v1/deliveries/{delivery}", read, s.Door.Looking(function, "deliveries", s.getDelivery))
	s.Door.API(mux, "POST /v1/replays", write, s.replay)
}

// endpointView is an endpoint as the API shows it. Secret is there once: in the first answer to a creation or rotation.
type endpointView struct {
	ID           domain.EndpointID    `json:"id"`
	URL          string               `json:"url"`
	Types        []domain.NoticeType  `json:"types"` // empty means all
	State        domain.EndpointState `json:"state"`
	Disabled     domain.DisabledBy    `json:"disabled_reason,omitempty"`
	Verified     bool                 `json:"verified"` // nothing but tests is sent before
	VerifiedAt   domain.Time          `json:"verified_at,omitzero"`
	Failures     int                  `json:"failures"`
	FailingSince domain.Time          `json:"failing_since,omitzero"`
	OpenAfter    domain.Time          `json:"open_after,omitzero"`
	PreviousEnds domain.Time          `json:"previous_ends,omitzero"`
	CreatedAt    domain.Time          `json:"created_at"`
	UpdatedAt    domain.Time          `json:"updated_at"`
	Secret       string               `json:"secret,omitempty"`
}

// viewEndpoint is an endpoint as p may see it. A reviewer sees where webhooks go; path and query may hold a client's secret.
func viewEndpoint(ep *domain.Endpoint, p domain.Principal) endpointView {
	address := ep.URL
	if u, err := url.Parse(address); p.Role != domain.RoleClient && err == nil {
		address = u.Scheme + "://" + u.Host
	}
	return endpointView{ID: ep.ID, URL: address, Types: slices.Concat([]domain.NoticeType{}, ep.Types), State: ep.State,
		Disabled: ep.Disabled, Verified: !ep.Unverified, VerifiedAt: ep.VerifiedAt, Failures: ep.Failures, FailingSince: ep.FailingSince, OpenAfter: ep.OpenAfter, PreviousEnds: ep.PreviousEnds,
		CreatedAt: ep.CreatedAt, UpdatedAt: ep.UpdatedAt}
}

// audited is an entry about what a client did to its endpoints and deliveries.
func (s *Service) audited(c *serve.Call, action, subject string, details map[string]string) *domain.Entry {
	entry := domain.Note(s.Env, function, action, c.Principal.Actor(), c.Principal.ClientID, subject, details)
	entry.Data.Origin = c.Origin
	return entry
}

func (s *Service) createEndpoint(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	var in struct {
		URL   string              `json:"url"`
		Types []domain.NoticeType `json:"types"`
	}
	faults, err := c.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	validateTypes(faults, in.Types)
	if err := errors.Join(faults.Join(s.Rules.Validate(in.URL)), faults.Err()); err != nil {
		return serve.Answer{}, err
	}
	all, err := s.endpoints(ctx, c.Principal.ClientID)
	if err != nil {
		return serve.Answer{}, err
	}
	now := s.Env.Now()
	ep := &domain.Endpoint{ID: domain.NewID[domain.EndpointID](s.Env), ClientID: c.Principal.ClientID,
		Types: in.Types, State: domain.EndpointEnabled, CreatedAt: now, UpdatedAt: now, RewrapAt: now.Add(domain.RewrapEvery)}
	ep.Names(in.URL)
	secret, sealed, err := s.newSecret(ctx, ep)
	if err != nil {
		return serve.Answer{}, err
	}
	defer secret.Wipe()
	ep.Secret = sealed
	found, err := s.commitEndpoint(ctx, c, ep, all)
	if err != nil {
		return serve.Answer{}, err
	}
	view := viewEndpoint(found, c.Principal)
	if found == ep {
		view.Secret = string(secret.Reveal())
	}
	return serve.Answer{Status: http.StatusCreated, Location: "/v1/endpoints/" + found.Key(), Body: view}, nil
}

// commitEndpoint puts ep, unless the same request made one before: then it returns that.
func (s *Service) commitEndpoint(ctx context.Context, c *serve.Call, ep *domain.Endpoint, all []domain.Endpoint) (*domain.Endpoint, error) {
	var found *domain.Endpoint
	err := s.Store.Commit(ctx, func(tx domain.Tx) error {
		found = ep
		before, err := c.Once.Before(tx, ep.ClientID)
		if err != nil {
			return err
		}
		if before != "" {
			found = &domain.Endpoint{ID: domain.EndpointID(before)}
			return tx.Get(found)
		}
		live := len(slices.DeleteFunc(slices.Clone(all), func(e domain.Endpoint) bool { return e.State == domain.EndpointRemoved }))
		if live >= maxEndpoints || len(all) >= everMade {
			return &domain.Error{Kind: domain.Conflict, Code: "endpoint_limit",
				Message: fmt.Sprintf("a client has at most %d endpoints; change or remove one", maxEndpoints)}
		}
		if _, err := s.ask(tx, ep); err != nil {
			return err
		}
		if err := tx.Put(ep); err != nil {
			return err
		}
		if err := c.Once.Remember(s.Env, tx, ep.ClientID, ep.Key()); err != nil {
			return err
		}
		return tx.Record(s.audited(c, "endpoint.created", ep.Key(), nil))
	})
	return found, err
}

// newSecret makes a secret for ep: once to show, once closed to keep.
func (s *Service) newSecret(ctx context.Context, ep *domain.Endpoint) (domain.Secret, []byte, error) {
	secret := webhook.NewSecret(s.Env)
	sealed, err := envelope.Seal(domain.In(ctx, s.Close), envelope.WebhookLabel(ep), secret.Reveal())
	if err != nil {
		secret.Wipe()
		return domain.Secret{}, nil, fmt.Errorf("sealing webhook secret: %w", err)
	}
	return secret, sealed, nil
}

func validateTypes(faults *domain.Faults, types []domain.NoticeType) {
	for i, t := range types {
		if !slices.Contains(domain.NoticeTypes, t) || slices.Contains(types[:i], t) {
			faults.Add("/types/"+strconv.Itoa(i), "want each of %q at most once; leave types out for all", domain.NoticeTypes)
		}
	}
}

func (s *Service) listEndpoints(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	all, err := s.endpoints(ctx, c.Principal.ClientID)
	if err != nil {
		return serve.Answer{}, err
	}
	out := serve.List[endpointView]{Data: []endpointView{}}
	for i := range all {
		if all[i].State != domain.EndpointRemoved {
			out.Data = append(out.Data, viewEndpoint(&all[i], c.Principal))
		}
	}
	return serve.Answer{Body: out}, nil
}

func (s *Service) getEndpoint(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(c, "endpoint", domain.ParseID[domain.EndpointID])
	if err != nil {
		return serve.Answer{}, err
	}
	ep := &domain.Endpoint{ID: id}
	if err := ownEndpoint(c, ep, s.Store.Get(ctx, ep)); err != nil {
		return serve.Answer{}, s.missing(c, ep.Key(), err)
	}
	return serve.Answer{Body: viewEndpoint(ep, c.Principal)}, nil
}

// missing is err; if it says that there is no such thing for the caller, it records that they asked.
func (s *Service) missing(c *serve.Call, subject string, err error) error {
	if domain.KindOf(err) == domain.NotFound {
		return s.Door.Refuse(c, subject, domain.ErrNotFound)
	}
	return err
}

// ownEndpoint is err, to which getting ep came; an endpoint that is not the caller's, or removed, looks as if it did not exist.
func ownEndpoint(c *serve.Call, ep *domain.Endpoint, err error) error {
	if err != nil {
		return err
	}
	if ep.ClientID != c.Principal.ClientID || ep.State == domain.EndpointRemoved {
		return domain.ErrNotFound
	}
	return nil
}

// change applies fn to the caller's endpoint of the path, with the audit entry.
func (s *Service) change(ctx context.Context, c *serve.Call, action string, fn func(domain.Tx, *domain.Endpoint) error) (*domain.Endpoint, error) {
	id, err := serve.PathID(c, "endpoint", domain.ParseID[domain.EndpointID])
	if err != nil {
		return nil, err
	}
	var ep *domain.Endpoint
	err = s.Store.Commit(ctx, func(tx domain.Tx) error {
		ep = &domain.Endpoint{ID: id}
		if err := ownEndpoint(c, ep, tx.Get(ep)); err != nil {
			return err
		}
		if err := fn(tx, ep); err != nil {
			return err
		}
		ep.UpdatedAt = s.Env.Now()
		if err := tx.Put(ep); err != nil {
			return err
		}
		return tx.Record(s.audited(c, action, ep.Key(), map[string]string{"state": string(ep.State)}))
	})
	return ep, s.missing(c, string(id), err)
}

// patchEndpoint changes the address, the types or the state. A new address, and enabling, begin with a clean sheet; a new
// address is to be verified first.
func (s *Service) patchEndpoint(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	var in struct {
		URL   *string               `json:"url"`
		Types *[]domain.NoticeType  `json:"types"`
		State *domain.EndpointState `json:"state"`
	}
	faults, err := c.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	if in.URL == nil && in.Types == nil && in.State == nil && faults.Len() == 0 {
		faults.Add("", "send url, types or state: what shall change")
	}
	if in.URL != nil {
		err = faults.Join(s.Rules.Validate(*in.URL))
	}
	if in.Types != nil {
		validateTypes(faults, *in.Types)
	}
	if in.State != nil && *in.State != domain.EndpointEnabled && *in.State != domain.EndpointDisabled {
		faults.Add("/state", "want enabled or disabled; use DELETE to remove an endpoint")
	}
	if err := errors.Join(err, faults.Err()); err != nil {
		return serve.Answer{}, err
	}
	ep, err := s.change(ctx, c, "endpoint.changed", func(tx domain.Tx, ep *domain.Endpoint) error {
		named := in.URL != nil && *in.URL != ep.URL
		if named {
			ep.Names(*in.URL)
			webhook.Succeeded(ep)
		}
		if in.Types != nil {
			ep.Types = *in.Types
		}
		moved := in.State != nil && *in.State != ep.State
		if moved {
			webhook.Succeeded(ep)
			if err := ep.Move(*in.State, s.Env.Now()); err != nil {
				return err
			}
		}
		return s.afterwards(tx, ep, named, moved)
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: viewEndpoint(ep, c.Principal)}, nil
}

// afterwards is what follows from a change: who is disabled says so, and an address that can be sent to and is not verified
// is tested; where it is verified, what waited begins.
func (s *Service) afterwards(tx domain.Tx, ep *domain.Endpoint, named, moved bool) error {
	switch {
	case ep.State == domain.EndpointDisabled:
		if moved {
			ep.Disabled = domain.DisabledByClient
		}
		return nil
	case ep.Unverified && (named || moved):
		_, err := s.ask(tx, ep)
		return err
	case moved:
		return lookAfter(tx, ep)
	}
	return nil
}

// removeEndpoint ends an endpoint for good and destroys its secrets.
func (s *Service) removeEndpoint(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	_, err := s.change(ctx, c, "endpoint.removed", func(tx domain.Tx, ep *domain.Endpoint) error {
		ep.Secret, ep.Previous, ep.PreviousEnds, ep.RewrapAt = nil, nil, domain.Time{}, domain.Time{}
		webhook.Succeeded(ep)
		if err := ep.Move(domain.EndpointRemoved, s.Env.Now()); err != nil {
			return err
		}
		return lookAfter(tx, ep)
	})
	return serve.Answer{}, err
}

// rotateSecret gives the endpoint a new secret. The one before signs beside it for the overlap; one older than that is
// dropped, so that there are two at most.
func (s *Service) rotateSecret(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	in := struct {
		Hours *int `json:"overlap_hours"`
	}{}
	faults, err := c.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	hours := overlapDefault
	if in.Hours != nil {
		hours = *in.Hours
	}
	if hours < 0 || hours > overlapMost {
		faults.Add("/overlap_hours", "want 0 to %d hours", overlapMost)
	}
	if err := faults.Err(); err != nil {
		return serve.Answer{}, err
	}
	id, err := serve.PathID(c, "endpoint", domain.ParseID[domain.EndpointID])
	if err != nil {
		return serve.Answer{}, err
	}
	ep := &domain.Endpoint{ID: id, ClientID: c.Principal.ClientID}
	secret, sealed, err := s.newSecret(ctx, ep)
	if err != nil {
		return serve.Answer{}, err
	}
	defer secret.Wipe()
	rotated, err := s.commitRotation(ctx, c, ep, sealed, time.Duration(hours)*time.Hour)
	if err != nil {
		return serve.Answer{}, s.missing(c, string(id), err)
	}
	view := viewEndpoint(ep, c.Principal)
	if rotated {
		view.Secret = string(secret.Reveal())
	}
	return serve.Answer{Status: http.StatusCreated, Location: "/v1/endpoints/" + ep.Key(), Body: view}, nil
}

// commitRotation reports whether it rotated: the same request again changes nothing and fills ep only.
func (s *Service) commitRotation(ctx context.Context, c *serve.Call, ep *domain.Endpoint, sealed []byte, overlap time.Duration) (rotated bool, err error) {
	err = s.Store.Commit(ctx, func(tx domain.Tx) error {
		rotated = false
		before, err := c.Once.Before(tx, c.Principal.ClientID)
		if err != nil {
			return err
		}
		*ep = domain.Endpoint{ID: ep.ID}
		if err := ownEndpoint(c, ep, tx.Get(ep)); err != nil || before != "" {
			return err
		}
		now := s.Env.Now()
		ep.Previous, ep.PreviousEnds = ep.Secret, now.Add(overlap)
		if overlap == 0 {
			ep.Previous, ep.PreviousEnds = nil, domain.Time{}
		}
		ep.Secret, ep.UpdatedAt, rotated = sealed, now, true
		if err := tx.Put(ep); err != nil {
			return err
		}
		if err := c.Once.Remember(s.Env, tx, ep.ClientID, ep.Key()); err != nil {
			return err
		}
		return tx.Record(s.audited(c, "endpoint.secret_rotated", ep.Key(), map[string]string{"overlap": overlap.String()}))
	})
	return rotated, err
}

// testEndpoint raises a notice for this endpoint alone. It is tried even while the breaker is open, and its success
// closes the breaker. An address that is not verified is tested again by it, at a pace.
func (s *Service) testEndpoint(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(c, "endpoint", domain.ParseID[domain.EndpointID])
	if err != nil {
		return serve.Answer{}, err
	}
	if err := c.Decode(&struct{}{}); err != nil {
		return serve.Answer{}, err
	}
	var notice domain.NoticeID
	err = s.Store.Commit(ctx, func(tx domain.Tx) error {
		before, err := c.Once.Before(tx, c.Principal.ClientID)
		if err != nil {
			return err
		}
		ep := &domain.Endpoint{ID: id}
		if err := ownEndpoint(c, ep, tx.Get(ep)); err != nil {
			return err
		}
		if notice = domain.NoticeID(before); before != "" {
			return nil
		}
		if ep.State != domain.EndpointEnabled {
			return errDisabled
		}
		if wait := ep.TestedAt.Add(testEvery).Sub(s.Env.Now()); ep.Unverified && wait > 0 {
			return &domain.Error{Kind: domain.RateLimited, Code: "test_pending", RetryAfter: wait, Message: "a test of this address has just begun; wait a little"}
		}
		if notice, err = s.ask(tx, ep); err != nil {
			return err
		}
		if err := tx.Put(ep); err != nil {
			return err
		}
		if err := c.Once.Remember(s.Env, tx, ep.ClientID, string(notice)); err != nil {
			return err
		}
		return tx.Record(s.audited(c, "endpoint.tested", ep.Key(), map[string]string{"notice_id": string(notice)}))
	})
	if err != nil {
		return serve.Answer{}, s.missing(c, string(id), err)
	}
	delivery := deliveryID(notice, id)
	return serve.Answer{Status: http.StatusAccepted, Location: "/v1/deliveries/" + string(delivery),
		Body: map[string]any{"notice_id": notice, "delivery_id": delivery}}, nil
}

var errUnverified = &domain.Error{Kind: domain.Conflict, Code: "endpoint_unverified",
	Message: "its address has not answered a test with 2xx yet, and everything waits for that; ask for a test with POST …/test"}

var errDisabled = &domain.Error{Kind: domain.Conflict, Code: "endpoint_state", Message: `the endpoint is disabled; enable it first with PATCH {"state": "enabled"}`}
