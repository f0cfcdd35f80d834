package domain

import "log/slog"

const redacted = "[redacted]"

// Secret is bytes that must not be seen: credentials, codes, tokens. It redacts itself wherever it might be printed,
// logged or marshalled, and is wiped after use. The zero Secret is empty. Do not copy the bytes that Reveal returns.
//
// The bytes lie within a function value: package fmt asks no methods of what stands in an unexported field, nor for
// verbs such as %d and %p, and would print bytes, and even those behind a pointer; of a function it prints the address.
type Secret struct{ reveal func() []byte }

// NewSecret takes b over; the caller must not use b again.
func NewSecret(b []byte) Secret { return Secret{func() []byte { return b }} }

// Reveal returns the bytes themselves, for the one call that needs them.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Len is the number of bytes.
func (s Secret) Len() int { return len(s.Reveal()) }

// Wipe overwrites the bytes with zeroes.
func (s Secret) Wipe() { clear(s.Reveal()) }

func (s Secret) String() string               { return redacted }
func (s Secret) GoString() string             { return redacted }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
