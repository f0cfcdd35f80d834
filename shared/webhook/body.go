package webhook

import (
	"encoding/json"
	"fmt"

	"sluis.internal/shared/domain"
)

// MaxBody is the largest body sent, in bytes. Standard Webhooks asks for small bodies: ours hold identifiers and
// states, and the client reads the rest through the API, where its consent is checked again.
const MaxBody = 20_000

// Body is what a client receives, as JSON. Timestamp is when the fact came to be, not when it is sent.
type Body struct {
	Type      domain.NoticeType `json:"type"`
	Timestamp domain.Time       `json:"timestamp"`
	Data      Data              `json:"data"`
}

// Data names what a Body is about. Sequence counts 1, 2, 3 … for each connection: no order of arrival is promised, and
// by the sequence a client knows the order and that nothing is missing. Notices about an endpoint have no connection,
// and so neither a sequence nor a consent.
type Data struct {
	ID           domain.NoticeID     `json:"id"`
	Sequence     int64               `json:"sequence,omitempty"`
	ClientID     domain.ClientID     `json:"client_id"`
	ConnectionID domain.ConnectionID `json:"connection_id,omitempty"`
	ConsentID    domain.ConsentID    `json:"consent_id,omitempty"`
	Custodian    domain.CustodianID  `json:"custodian,omitempty"`
	InvestorRef  string              `json:"investor_ref,omitempty"`
	State        string              `json:"state,omitempty"`
	Reason       domain.Reason       `json:"reason,omitempty"`
	Subject      string              `json:"subject,omitempty"`
}

// Render is the body for a notice: always the same bytes for the same notice, so that every attempt says the same.
func Render(n *domain.Notice) ([]byte, error) {
	body, err := json.Marshal(Body{Type: n.Type, Timestamp: n.CreatedAt, Data: Data{ID: n.ID, Sequence: n.Sequence,
		ClientID: n.ClientID, ConnectionID: n.ConnectionID, ConsentID: n.ConsentID, Custodian: n.Custodian,
		InvestorRef: n.InvestorRef, State: n.State, Reason: n.Reason, Subject: n.Subject}})
	if err != nil {
		return nil, fmt.Errorf("rendering notice: %w", err)
	}
	if len(body) > MaxBody {
		return nil, &domain.Error{Kind: domain.TooLarge, Code: "webhook_too_large", Message: "the notice does not fit into a webhook"}
	}
	return body, nil
}
