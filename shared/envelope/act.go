package envelope

import (
	"context"
	"crypto"

	"sluis.internal/shared/domain"
)

// In is the same Opener for the calls of one act: domain.In.
func (o *Opener) In(ctx context.Context) *Opener {
	return &Opener{domain.In(ctx, o.outer), func() (map[string]crypto.Decrypter, error) {
		keys, err := o.inner()
		mine := make(map[string]crypto.Decrypter, len(keys))
		for kid, key := range keys {
			mine[kid] = domain.In(ctx, key)
		}
		return mine, err
	}}
}

// In is the same Sealer for the calls of one act: domain.In.
func (s *Sealer) In(ctx context.Context) *Sealer { return &Sealer{domain.In(ctx, s.outer)} }

// In is the same Closer for the calls of one act, with the same memory: domain.In.
func (c *Closer) In(ctx context.Context) *Closer {
	return &Closer{c.ring, domain.In(ctx, c.kek), c.shards.in(ctx)}
}

// In is the same Reader for the calls of one act, with the same memory: domain.In.
func (r *Reader) In(ctx context.Context) any {
	return &Reader{r.ring, readOnly{domain.In(ctx, r.kek.Decrypter)}, r.shards.in(ctx)}
}
