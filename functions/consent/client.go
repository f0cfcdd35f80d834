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
	Endpoints     endpointCounts                   `json:"endpoints"`
	CreatedAt     domain.Time                      `json:"created_at"`
}

// endpointCounts say at a glance whether webhooks arrive: a client whose only endpoint was disabled is told nowhere else.
type endpointCounts struct {
	Enabled    int `json:"enabled"`
	Unverified int `json:"unverified"` // enabled, but the address has not answered its test
	Disabled   int `json:"disabled"`
}

// mostEndpoints is more than a client ever has.
const mostEndpoints = 1000

func (s *Service) countEndpoints(ctx context.Context, client domain.ClientID) (n endpointCounts, err error) {
	all, _, err := domain.List[domain.Endpoint](ctx, s.Store, domain.Query{Index: "endpoints_by_client", Match: []string{string(client)}, Limit: mostEndpoints})
	for i := range all {
		switch ep := &all[i]; {
		case ep.State == domain.EndpointDisabled:
			n.Disabled++
		case ep.State == domain.EndpointEnabled && ep.Unverified:
			n.Unverified++
		case ep.State == domain.EndpointEnabled:
			n.Enabled++
		}
	}
	return n, err
}

// showClient answers GET /v1/client.
func (s *Service) showClient(ctx context.Context, call *serve.Call) (serve.Answer, error) {
	c := &domain.Client{ID: call.Principal.ClientID}
	if err := s.Store.Get(ctx, c); err != nil {
		return serve.Answer{}, fmt.Errorf("reading client: %w", err)
	}
	endpoints, err := s.countEndpoints(ctx, c.ID)
	if err != nil {
		return serve.Answer{}, fmt.Errorf("counting endpoints: %w", err)
	}
	saving := make(map[domain.Product]domain.Saving, len(domain.Products))
	for _, p := range domain.Products {
		saving[p] = c.SavingFor(p)
	}
	return serve.Answer{Body: clientResource{ID: c.ID, Name: c.Name, State: c.State, Saving: saving, Regions: c.Regions,
		ReturnOrigins: c.ReturnOrigins, Endpoints: endpoints, CreatedAt: c.CreatedAt}}, nil
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
