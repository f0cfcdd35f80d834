package domain

import "log/slog"

const redacted = "[redacted]"

// Secret is bytes that must not be seen: credentials, codes, tokens. It redacts itself wherever it might be printed,
// logged or marshalled, and is wiped after use. The zero Secret is empty. Do not copy the bytes that Reveal returns.
type Secret struct{ b []byte }

// NewSecret takes b over; the caller must not use b again.
func NewSecret(b []byte) Secret { return Secret{b} }

// Reveal returns the bytes themselves, for the one call that needs them.
func (s Secret) Reveal() []byte { return s.b }

// Len is the number of bytes.
func (s Secret) Len() int { return len(s.b) }

// Wipe overwrites the bytes with zeroes.
func (s Secret) Wipe() { clear(s.b) }

func (s Secret) String() string               { return redacted }
func (s Secret) GoString() string             { return redacted }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
