package domain

// Custodian is a row of custodians.json: a bank, broker or depot, and how it is spoken to.
type Custodian struct {
	ID          CustodianID       `json:"id"`
	Name        string            `json:"name"`
	Country     string            `json:"country"`   // ISO 3166-1 alpha-2
	Protocol    string            `json:"protocol"`  // names the folder under functions/extract
	Endpoints   map[string]string `json:"endpoints"` // base URLs by name; each is https
	Credentials []CredentialField `json:"credentials"`
	Methods     []SCAMethod       `json:"methods"`
	Products    []Product         `json:"products"`
	Secrets     []string          `json:"secrets,omitempty"` // names in Secrets that the connector needs
	Unattended  bool              `json:"unattended"`        // whether a refresh can pass without the investor
	RefreshHour int               `json:"refresh_hours"`     // hours between scheduled refreshes
	Sandbox     bool              `json:"sandbox"`           // only for practice; never in a deployed function
	Quirks      []string          `json:"quirks,omitempty"`
}

// CredentialField is one field of a custodian's login.
type CredentialField struct {
	Name   string            `json:"name"`
	Kind   string            `json:"kind"`  // text or password
	Label  map[string]string `json:"label"` // by language
	Max    int               `json:"max"`   // characters
	Digits bool              `json:"digits"`
}
