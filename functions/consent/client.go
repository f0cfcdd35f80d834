package consent

import (
	"context"
	"fmt"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// clientResource is the calling client's own account.
type clientResource struct {
	ID            domain.ClientID                  `json:"id"`
	Name          string                           `json:"name"`
	State         domain.ClientState               `json:"state"`
	Saving        map[domain.Product]domain.Saving `json:"saving"` // of every product, defaults filled in
	Regions       []string                         `json:"regions"`
	ReturnOrigins []string                         `json:"return_origins"`
	CreatedAt     domain.Time                      `json:"created_at"`
}

// showClient answers GET /v1/client.
func (s *Service) showClient(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	c := &domain.Client{ID: call.Principal.ClientID}
	if err := s.Store.Get(ctx, c); err != nil {
		return serve.Answer{}, fmt.Errorf("reading client: %w", err)
	}
	saving := make(map[domain.Product]domain.Saving, len(domain.Products))
	for _, p := range domain.Products {
		saving[p] = c.SavingFor(p)
	}
	return serve.Answer{Body: clientResource{ID: c.ID, Name: c.Name, State: c.State, Saving: saving, Regions: c.Regions,
		ReturnOrigins: c.ReturnOrigins, CreatedAt: c.CreatedAt}}, nil
}

// custodianResource is a custodian as clients see it: nothing of how it is reached.
type custodianResource struct {
	ID         domain.CustodianID `json:"id"`
	Name       string             `json:"name"`
	Country    string             `json:"country"`
	Methods    []domain.SCAMethod `json:"methods"`
	Products   []domain.Product   `json:"products"`
	Unattended bool               `json:"unattended"` // whether a refresh can pass without the investor
	Sandbox    bool               `json:"sandbox"`
}

// listCustodians answers GET /v1/custodians: those available here.
func (s *Service) listCustodians(context.Context, *serve.Call) (serve.Answer, error) {
	var out serve.List[custodianResource]
	for _, c := range s.Custodians {
		out.Data = append(out.Data, custodianResource{ID: c.ID, Name: c.Name, Country: c.Country, Methods: c.Methods,
			Products: c.Products, Unattended: c.Unattended, Sandbox: c.Sandbox})
	}
	return serve.Answer{Body: out}, nil
}
