package consent

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// maxName bounds names that investors are shown.
const maxName = 100

// checkName checks a name that investors are shown.
func checkName(field, name string) error {
	if n := len([]rune(name)); n < 1 || n > maxName || !printable(name) || name[0] == ' ' || name[len(name)-1] == ' ' {
		return domain.Invalidf(field, "want 1 to 100 printable characters without spaces at the ends")
	}
	return nil
}

// ownAdvisor checks within tx that the client has such an advisor, and that they are active. Another client's advisor
// looks like one that does not exist.
func ownAdvisor(tx domain.Tx, client domain.ClientID, id domain.AdvisorID, field string) error {
	unknown := domain.Invalidf(field, "want one of your active advisors, as GET /v1/advisors lists them")
	if _, err := domain.ParseID[domain.AdvisorID](string(id)); err != nil {
		return unknown
	}
	a := &domain.Advisor{ID: id}
	if err := tx.Get(a); err != nil && domain.KindOf(err) != domain.NotFound {
		return err
	}
	if a.ClientID != client || a.State != domain.AdvisorActive {
		return unknown
	}
	return nil
}

// advisorResource is an advisor as the API gives it.
type advisorResource struct {
	ID        domain.AdvisorID    `json:"id"`
	Name      string              `json:"name"`
	State     domain.AdvisorState `json:"state"`
	CreatedAt domain.Time         `json:"created_at"`
}

func advisorOf(a *domain.Advisor) advisorResource {
	return advisorResource{ID: a.ID, Name: a.Name, State: a.State, CreatedAt: a.CreatedAt}
}

// createAdvisor answers POST /v1/advisors.
func (s *Service) createAdvisor(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	var in struct {
		Name string `json:"name"`
	}
	faults, err := call.Read(&in)
	if err != nil {
		return serve.Answer{}, err
	}
	if err := errors.Join(faults.Join(checkName("/name", in.Name)), faults.Err()); err != nil {
		return serve.Answer{}, err
	}
	now := s.Env.Now()
	fresh := domain.Advisor{ID: domain.NewID[domain.AdvisorID](s.Env), ClientID: call.Principal.ClientID, Name: in.Name,
		State: domain.AdvisorActive, CreatedAt: now, UpdatedAt: now}
	var a domain.Advisor
	e := s.note(call, "advisor.created", fresh.Key())
	err = settle(ctx, s.Env, s.Store, e, func(tx domain.Tx) error {
		made, err := call.Once.Before(tx, fresh.ClientID)
		if err != nil {
			return err
		}
		if made != "" {
			e.Subject, e.Data.Details = made, map[string]string{"repeated": "true"}
			a = domain.Advisor{ID: domain.AdvisorID(made)}
			return tx.Get(&a)
		}
		a = fresh
		e.Subject, e.Data.Details = a.Key(), nil
		if err := tx.Put(&a); err != nil {
			return err
		}
		return call.Once.Remember(s.Env, tx, a.ClientID, a.Key())
	})
	if err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Status: http.StatusCreated, Body: advisorOf(&a)}, nil
}

// listAdvisors answers GET /v1/advisors, oldest first, removed ones too.
func (s *Service) listAdvisors(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	limit, cursor := call.Paging()
	advisors, next, err := domain.List[domain.Advisor](ctx, s.Store, domain.Query{Index: "advisors_by_client",
		Match: []string{string(call.Principal.ClientID)}, Cursor: cursor, Limit: limit})
	if err != nil {
		return serve.Answer{}, fmt.Errorf("listing advisors: %w", err)
	}
	out := serve.List[advisorResource]{Next: next}
	for i := range advisors {
		out.Data = append(out.Data, advisorOf(&advisors[i]))
	}
	return serve.Answer{Body: out}, nil
}

// removeAdvisor answers DELETE /v1/advisors/{advisor}. Their keys open nothing from then on, as every request checks
// the advisor; consents that name them stay, and name them to investors no longer. Removing again changes nothing.
func (s *Service) removeAdvisor(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	id, err := serve.PathID(call, "advisor", domain.ParseID[domain.AdvisorID])
	if err != nil {
		return serve.Answer{}, err
	}
	e := s.note(call, "advisor.removed", string(id))
	return serve.Answer{}, settle(ctx, s.Env, s.Store, e, func(tx domain.Tx) error {
		a := &domain.Advisor{ID: id}
		if err := tx.Get(a); err != nil {
			return err
		}
		if a.ClientID != call.Principal.ClientID {
			return domain.ErrNotFound
		}
		if a.State == domain.AdvisorRemoved {
			e.Data.Details = map[string]string{"repeated": "true"}
			return nil
		}
		if err := a.Move(domain.AdvisorRemoved, s.Env.Now()); err != nil {
			return err
		}
		return tx.Put(a)
	})
}
