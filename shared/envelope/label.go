package envelope

import (
	"fmt"

	"sluis.internal/shared/domain"
)

// MaxSmall is the largest thing that Seal closes, in bytes.
const MaxSmall = 512 << 10

// SessionLabel ties a session's sealed state to the session (domain.Session.Sealed, session key).
func SessionLabel(s *domain.Session) []byte {
	return domain.Name("sluis/session/v1", string(s.ClientID), string(s.ConsentID), string(s.ConnectionID), string(s.ID))
}

// DisplayLabel ties what a challenge shows to the challenge (domain.Challenge.Display, display key).
func DisplayLabel(c *domain.Challenge) []byte {
	return domain.Name("sluis/display/v1", string(c.ClientID), string(c.ConsentID), string(c.ConnectionID), string(c.SessionID), string(c.ID))
}

// WebhookLabel ties a webhook secret to its endpoint (domain.Endpoint.Secret and Previous, webhook key).
func WebhookLabel(e *domain.Endpoint) []byte {
	return domain.Name("sluis/webhook/v1", string(e.ClientID), string(e.ID))
}

// Seal closes up to MaxSmall bytes under e, bound to one of the labels above.
func Seal(e domain.Encrypter, label, plain []byte) ([]byte, error) {
	if len(plain) > MaxSmall {
		return nil, &domain.Error{Kind: domain.TooLarge, Code: "sealed_too_large", Message: "what is to be sealed is too large"}
	}
	sealed, err := e.Encrypt(plain, label)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return sealed, nil
}
