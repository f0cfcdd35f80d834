package consent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// defaultLife is how long a consent lasts where the client does not say.
const defaultLife = 90 * 24 * time.Hour

// underClient is an act of the calling client under one of its consents.
func underClient(c *serve.Call, action string, id domain.ConsentID) domain.Act {
	return domain.Act{Action: action, Actor: c.Principal.Actor(), ConsentID: id, Origin: c.Origin,
		ClientID: c.Principal.ClientID, Details: map[string]string{}}
}

// consentResource is a consent as the API gives it.
type consentResource struct {
	ID           domain.ConsentID                 `json:"id"`
	ConnectionID domain.ConnectionID              `json:"connection_id"`
	InvestorRef  string                           `json:"investor_ref"`
	Purpose      domain.Purpose                   `json:"purpose"`
	Products     []domain.Product                 `json:"products"`
	Custodians   []domain.CustodianID             `json:"custodians"` // offered; empty means every one available
	Custodian    domain.CustodianID               `json:"custodian,omitempty"`
	Advisors     []domain.AdvisorID               `json:"advisors"`
	Access       domain.Access                    `json:"access"`
	ExpiresAt    domain.Time                      `json:"expires_at"`
	Saving       map[domain.Product]domain.Saving `json:"saving"` // of each product, defaults filled in
	Regions      []string                         `json:"regions"`
	Language     string                           `json:"language"`
	ReturnURL    string                           `json:"return_url,omitempty"`
	State        domain.ConsentState              `json:"state"`
	CreatedAt    domain.Time                      `json:"created_at"`
	DecidedAt    domain.Time                      `json:"decided_at,omitzero"`
	EndedAt      domain.Time                      `json:"ended_at,omitzero"`
	Link         *consentLink                     `json:"link,omitempty"` // of a new consent
}

// consentLink is the invitation to decide that comes with a new consent.
type consentLink struct {
	URL       string      `json:"url"`
	ExpiresAt domain.Time `json:"expires_at"`
}

func resourceOf(c *domain.Consent) consentResource {
	saving := make(map[domain.Product]domain.Saving, len(c.Products))
	for _, p := range c.Products {
		saving[p] = c.SavingFor(p)
	}
	return consentResource{ID: c.ID, ConnectionID: c.ConnectionID, InvestorRef: c.InvestorRef, Purpose: c.Purpose,
		Products: c.Products, Custodians: c.Custodians, Custodian: c.Custodian, Advisors: c.Advisors, Access: c.Access,
		ExpiresAt: c.ExpiresAt, Saving: saving, Regions: c.Regions, Language: c.Language, ReturnURL: c.ReturnURL,
		State: c.State, CreatedAt: c.CreatedAt, DecidedAt: c.DecidedAt, EndedAt: c.EndedAt}
}

// consentRequest is the body of POST /v1/consents.
type consentRequest struct {
	InvestorRef string               `json:"investor_ref"`
	Purpose     domain.Purpose       `json:"purpose"`
	Products    []domain.Product     `json:"products"`
	Custodians  []domain.CustodianID `json:"custodians"`
	Advisors    []domain.AdvisorID   `json:"advisors"`
	Access      *domain.Access       `json:"access"`
	ExpiresAt   *domain.Time         `json:"expires_at"`
	Language    *string              `json:"language"`
	ReturnURL   *string              `json:"return_url"`
}

// or is what was sent, or a default where nothing was.
func or[T any](sent *T, otherwise T) T {
	if sent == nil {
		return otherwise
	}
	return *sent
}

// draft makes a consent of a request, and notes what is wrong with it that needs no look into the store.
func (s *Service) draft(in *consentRequest, client domain.ClientID, faults *domain.Faults) (*domain.Consent, error) {
	now := s.Env.Now()
	c := &domain.Consent{ID: domain.NewID[domain.ConsentID](s.Env), ClientID: client,
		ConnectionID: domain.NewID[domain.ConnectionID](s.Env), InvestorRef: in.InvestorRef, Purpose: in.Purpose,
		Products: in.Products, Custodians: in.Custodians, Advisors: in.Advisors, Access: or(in.Access, domain.AccessRecurring),
		ExpiresAt: or(in.ExpiresAt, now.Add(defaultLife)), Language: or(in.Language, "en"), ReturnURL: or(in.ReturnURL, ""),
		State: domain.ConsentReceived, CreatedAt: now, UpdatedAt: now}
	err := faults.Join(c.Validate(now))
	if in.ReturnURL != nil && c.ReturnURL == "" {
		faults.Add("/return_url", "want an address, or leave it out")
	}
	if !printable(c.Purpose.Text) {
		faults.Add("/purpose/text", "want letters, digits, signs and spaces on one line")
	}
	for i, id := range c.Custodians {
		if s.custodian(id) == nil || slices.Contains(c.Custodians[:i], id) {
			faults.Add("/custodians/"+strconv.Itoa(i), "want custodians of GET /v1/custodians, each at most once")
		}
	}
	return c, err
}

// printable says whether text may be shown to investors: no line breaks, no control or direction characters that could
// make it look like something else.
func printable(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) < 0
}

// createConsent answers POST /v1/consents: the consent, its connection and the investor's link, in one transaction.
func (s *Service) createConsent(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	var in consentRequest
	faults, err := call.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	draft, err := s.draft(&in, call.Principal.ClientID, faults)
	if err != nil {
		return serve.Answer{}, err
	}
	if faults.Len() > 0 {
		return serve.Answer{}, s.refuseDraft(ctx, draft, faults)
	}
	e, nonce, out := s.note(call, "consent.created", draft.Key()), s.nonce(), consentResource{}
	err = settle(ctx, s.Env, s.Store, e, func(tx domain.Tx) error {
		made, err := call.Once.Before(tx, draft.ClientID)
		if err != nil {
			return err
		}
		if made != "" {
			out, err = s.askedBefore(tx, made, e)
			return err
		}
		c := *draft
		if err := checkAgainstClient(s.Env, tx, &c); err != nil {
			return err
		}
		token := s.token(c.ID, domain.LinkConsent, nonce)
		l := s.newLink(&c, domain.LinkConsent, token, call.Origin)
		con := &domain.Connection{ID: c.ConnectionID, ClientID: c.ClientID, ConsentID: c.ID, InvestorRef: c.InvestorRef,
			State: domain.ConnectionPending, CreatedAt: c.CreatedAt, UpdatedAt: c.CreatedAt}
		if err := putAll(tx, &c, con, l, points(l)); err != nil {
			return err
		}
		about(e, &c, map[string]string{"products": join(c.Products), "access": string(c.Access), "expires_at": c.ExpiresAt.String()})
		out = resourceOf(&c)
		out.Link = &consentLink{URL: s.url(token), ExpiresAt: l.ExpiresAt}
		return call.Once.Remember(s.Env, tx, c.ClientID, c.Key()+" "+nonce)
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Status: http.StatusCreated, Location: "/v1/consents/" + string(out.ID), Body: out}, nil
}

// refuseDraft is the refusal of a request that has faults, with those that only the client's own data show.
func (s *Service) refuseDraft(ctx context.Context, draft *domain.Consent, faults *domain.Faults) error {
	var all domain.Faults
	err := s.Store.Commit(ctx, func(tx domain.Tx) error {
		c := *draft
		all = domain.Faults{}
		return errors.Join(all.Join(faults.Err()), checkDeclared(tx, &c, &all))
	})
	return errors.Join(err, all.Err())
}

// askedBefore answers a repeated request with what it made: the consent as it stands now, and the same link.
func (s *Service) askedBefore(tx domain.Tx, made string, e *domain.Entry) (consentResource, error) {
	id, nonce, _ := strings.Cut(made, " ")
	c := &domain.Consent{ID: domain.ConsentID(id)}
	if err := tx.Get(c); err != nil {
		return consentResource{}, err
	}
	token := s.token(c.ID, domain.LinkConsent, nonce)
	about(e, c, map[string]string{"repeated": "true"})
	out := resourceOf(c)
	out.Link = &consentLink{URL: s.url(token), ExpiresAt: c.CreatedAt.Add(domain.LinkLife)}
	return out, nil
}

// about makes e an entry about c.
func about(e *domain.Entry, c *domain.Consent, details map[string]string) {
	e.Subject, e.Data.ConsentID, e.Data.ConnectionID = string(c.ID), c.ID, c.ConnectionID
	e.Data.Purpose, e.Data.Details = c.Purpose.Code, details
}

// checkAgainstClient checks what the client declared (where data may be kept, what is saved, where investors may be
// sent back to) and the advisors named, and notes the declarations in the consent: they are what the investor agrees to.
func checkAgainstClient(env domain.Env, tx domain.Tx, c *domain.Consent) error {
	var faults domain.Faults
	if err := errors.Join(checkDeclared(tx, c, &faults), faults.Err()); err != nil {
		return err
	}
	// A consent that could never be acted on here is refused now, not after the investor has read it.
	return c.Permits(env, &domain.Act{States: []domain.ConsentState{domain.ConsentReceived}})
}

// checkDeclared notes the client's declarations in c, and what in c goes against them.
func checkDeclared(tx domain.Tx, c *domain.Consent, faults *domain.Faults) error {
	client := &domain.Client{ID: c.ClientID}
	if err := tx.Get(client); err != nil {
		return err
	}
	c.Saving, c.Regions = client.Saving, client.Regions
	if err := faults.Join(c.ValidateReturn(client.ReturnOrigins)); err != nil {
		return err
	}
	for i, id := range c.Advisors {
		if faults.Len() == domain.MaxFaults {
			return nil
		}
		if slices.Contains(c.Advisors[:i], id) {
			faults.Add("/advisors/"+strconv.Itoa(i), "name each advisor once")
			continue
		}
		if err := faults.Join(ownAdvisor(tx, c.ClientID, id, "/advisors/"+strconv.Itoa(i))); err != nil {
			return err
		}
	}
	return nil
}

func join[T ~string](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = string(v)
	}
	return strings.Join(texts, ",")
}

// listConsents answers GET /v1/consents, newest first: for an advisor those that name them.
func (s *Service) listConsents(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	limit, cursor := call.Paging()
	q := domain.Query{Index: "consents_by_client", Match: []string{string(call.Principal.ClientID)}, Cursor: cursor, Limit: limit}
	switch ref, state := call.Param("investor_ref"), call.Param("state"); {
	case ref != "" && state != "":
		q.Index, q.Match = "consents_by_investor_state", append(q.Match, ref, state)
	case ref != "":
		q.Index, q.Match = "consents_by_investor", append(q.Match, ref)
	case state != "":
		q.Index, q.Match = "consents_by_client_state", append(q.Match, state)
	}
	consents, next, err := serve.Visible(ctx, s.Store, q, call.Principal, func(c *domain.Consent) (bool, error) { return call.Principal.Sees(c), nil })
	if err != nil {
		return serve.Answer{}, fmt.Errorf("listing consents: %w", err)
	}
	out := serve.List[consentResource]{Next: next}
	for i := range consents {
		out.Data = append(out.Data, resourceOf(&consents[i]))
	}
	return serve.Answer{Body: out}, nil
}

// showConsent answers GET /v1/consents/{consent}. Asking for one that the caller may not see is recorded.
func (s *Service) showConsent(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(call, "consent", domain.ParseID[domain.ConsentID])
	if err != nil {
		return serve.Answer{}, err
	}
	c := &domain.Consent{ID: id}
	err = s.Store.Get(ctx, c)
	if err == nil && call.Principal.Sees(c) {
		return serve.Answer{Body: resourceOf(c)}, nil
	}
	if err != nil && domain.KindOf(err) != domain.NotFound {
		return serve.Answer{}, fmt.Errorf("reading consent: %w", err)
	}
	e := s.note(call, "consent.read", string(id))
	e.Data.ConsentID = id
	if err := deny(ctx, s.Store, e, domain.ErrNotFound); err != nil {
		return serve.Answer{}, fmt.Errorf("recording refusal: %w", err)
	}
	return serve.Answer{}, domain.ErrNotFound
}

// narrowing is the body of PATCH /v1/consents/{consent}: what remains. An absent member changes nothing.
type narrowing struct {
	Products *[]domain.Product   `json:"products"`
	Advisors *[]domain.AdvisorID `json:"advisors"`
}

// narrowConsent answers PATCH /v1/consents/{consent}: products and advisors may be taken away, never added, as the
// investor agreed to no more. What is taken away is out of reach at once; what is stored of a product that was taken away
// is erased by an event.
func (s *Service) narrowConsent(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(call, "consent", domain.ParseID[domain.ConsentID])
	if err != nil {
		return serve.Answer{}, err
	}
	var in narrowing
	if err := call.Decode(&in); err != nil {
		return serve.Answer{}, err
	}
	if in.Products == nil && in.Advisors == nil {
		return serve.Answer{}, domain.Invalidf("", "send products or advisors: what shall remain")
	}
	a, out := underClient(call, "consent.narrowed", id), consentResource{}
	a.States = []domain.ConsentState{domain.ConsentReceived, domain.ConsentValid}
	err = s.act(ctx, a, func(tx domain.Tx, c *domain.Consent, act *domain.Act) error {
		products, advisors := c.Products, c.Advisors
		if c.Products, err = remaining("/products", products, in.Products); err != nil {
			return err
		}
		if c.Advisors, err = remaining("/advisors", advisors, in.Advisors); err != nil {
			return err
		}
		if len(c.Products) == 0 {
			return domain.Invalidf("/products", "a consent keeps at least one product; end it with DELETE instead")
		}
		out = resourceOf(c)
		if len(c.Products) == len(products) && len(c.Advisors) == len(advisors) {
			act.Details["repeated"] = "true"
			return nil
		}
		act.Details["products"], act.Details["advisors"] = join(c.Products), join(c.Advisors)
		c.UpdatedAt = s.Env.Now()
		con := &domain.Connection{ID: c.ConnectionID}
		if err := tx.Get(con); err != nil {
			return err
		}
		forget(con, c.Products)
		if err := putAll(tx, c, con); err != nil || len(c.Products) == len(products) {
			return err
		}
		return tx.Emit(domain.Event{Topic: domain.TopicErasure, Subject: con.Key(), Custodian: con.Custodian, Lane: string(con.ClientID)})
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: out}, nil
}

// forget takes away what the connection says of products beyond those covered: how many records there were, and whether
// they were saved.
func forget(con *domain.Connection, covered []domain.Product) {
	for p := range con.Products {
		if !slices.Contains(covered, p) {
			con.Products[p] = domain.ProductStatus{State: domain.ProductNotConsented}
		}
	}
}

// remaining is have reduced to keep, in have's order. Whatever keep has beyond have is refused.
func remaining[T ~string](field string, have []T, keep *[]T) ([]T, error) {
	if keep == nil {
		return have, nil
	}
	for i, v := range *keep {
		if !slices.Contains(have, v) {
			return nil, domain.Invalidf(field+"/"+strconv.Itoa(i), "a consent can only be narrowed; ask the investor for a new one")
		}
	}
	return slices.DeleteFunc(slices.Clone(have), func(v T) bool { return !slices.Contains(*keep, v) }), nil
}

// terminateConsent answers DELETE /v1/consents/{consent}: the client ends it. Ending it again changes nothing.
func (s *Service) terminateConsent(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(call, "consent", domain.ParseID[domain.ConsentID])
	if err != nil {
		return serve.Answer{}, err
	}
	a := underClient(call, "consent.terminated", id)
	a.Late, a.States = true, []domain.ConsentState{domain.ConsentReceived, domain.ConsentValid, domain.ConsentTerminated}
	return serve.Answer{}, s.act(ctx, a, s.end(domain.ConsentTerminated))
}
