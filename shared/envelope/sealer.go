package envelope

import (
	"fmt"
	"strconv"

	"sluis.internal/shared/domain"
)

// Sealer closes the outer gate, and can do nothing else: whoever seals cannot open.
type Sealer struct{ outer domain.Encrypter }

// NewSealer makes a Sealer of the outer gate's closing half.
func NewSealer(outer domain.Encrypter) *Sealer { return &Sealer{outer} }

// Seal closes the outer gate over a compact JWE that Inspect has let pass, and binds it to b and to what it was sealed
// as, all of whose fields must be set. The result is domain.Credential.Sealed.
func (s *Sealer) Seal(jwe string, b domain.Binding, t domain.Sealing) ([]byte, error) {
	label, err := credentialLabel(b, t)
	if err != nil {
		return nil, err
	}
	if len(jwe) > MaxCredentialJWE {
		return nil, ErrTooLarge
	}
	sealed, err := s.outer.Encrypt([]byte(jwe), label)
	if err != nil {
		return nil, fmt.Errorf("sealing credential: %w", err)
	}
	return sealed, nil
}

// credentialLabel is the associated data of the outer gate: whose credential it is, and which of theirs, so that an
// older one in the place of a newer does not open.
func credentialLabel(b domain.Binding, t domain.Sealing) ([]byte, error) {
	if b.ClientID == "" || b.ConsentID == "" || b.ConnectionID == "" || b.Custodian == "" || t.Credential == "" || t.Generation <= 0 {
		return nil, fmt.Errorf("binding credential: want client, consent, connection, custodian, credential and generation")
	}
	return domain.Name("sluis/credential/v2", string(b.ClientID), string(b.ConsentID), string(b.ConnectionID), string(b.Custodian),
		string(t.Credential), strconv.FormatInt(t.Generation, 10)), nil
}
