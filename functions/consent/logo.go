package consent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"net/http"

	"sluis.internal/shared/domain"
)

// Limits of a client's logo.
const (
	maxLogo     = 64 << 10 // bytes, as given and as kept
	maxLogoSide = 512      // pixels
)

// drawLogo reads a picture and draws it anew, so that nothing stays but its pixels: no script, no place where it was
// taken, nothing that a browser could take for something else. Formats that can hold scripts, such as SVG, are refused.
func drawLogo(raw []byte) (*domain.Logo, domain.Picture, error) {
	refused := func(format string, args ...any) (*domain.Logo, domain.Picture, error) {
		return nil, domain.Picture{}, domain.Invalidf("/logo", format, args...)
	}
	if len(raw) > maxLogo {
		return refused("want at most %d kB", maxLogo>>10)
	}
	size, format, err := image.DecodeConfig(bytes.NewReader(raw))
	if err != nil || format != "png" && format != "jpeg" {
		return refused("want a PNG or JPEG picture")
	}
	if min(size.Width, size.Height) < 16 || max(size.Width, size.Height) > maxLogoSide {
		return refused("want 16 to %d pixels a side", maxLogoSide)
	}
	picture, _, err := image.Decode(bytes.NewReader(raw))
	if err != nil {
		return refused("the picture is damaged")
	}
	var drawn bytes.Buffer
	if format == "png" {
		err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&drawn, picture)
	} else {
		err = jpeg.Encode(&drawn, picture, &jpeg.Options{Quality: 90})
	}
	if err != nil {
		return nil, domain.Picture{}, fmt.Errorf("drawing logo: %w", err)
	}
	if drawn.Len() > maxLogo {
		return refused("drawn anew it takes more than %d kB; use fewer pixels or colours", maxLogo>>10)
	}
	sum := sha256.Sum256(drawn.Bytes())
	return &domain.Logo{MediaType: "image/" + format, Image: drawn.Bytes()},
		domain.Picture{Digest: hex.EncodeToString(sum[:8]), Width: size.Width, Height: size.Height}, nil
}

// ClientChange says what of a client becomes different. Empty fields stay as they are.
type ClientChange struct {
	Name     string
	Logo     []byte // PNG or JPEG
	DropLogo bool
}

// ChangeClient changes a client's name or logo. It fails with Invalid, NotFound, or Conflict for a client that is closed.
func ChangeClient(ctx context.Context, store domain.Store, env domain.Env, id domain.ClientID, change ClientChange) error {
	var logo *domain.Logo
	var picture domain.Picture
	var err error
	if change.Name != "" {
		err = checkName("/name", change.Name)
	}
	if err == nil && len(change.Logo) > 0 {
		logo, picture, err = drawLogo(change.Logo)
	}
	if err != nil {
		return err
	}
	e := operatorNote(env, "client.changed", id, string(id))
	return settle(ctx, env, store, e, func(tx domain.Tx) error {
		c := &domain.Client{ID: id}
		if err := tx.Get(c); err != nil {
			return err
		}
		if c.State == domain.ClientClosed {
			return &domain.Error{Kind: domain.Conflict, Code: "client_closed", Message: "this client is closed; nothing of it changes"}
		}
		if change.Name != "" {
			c.Name = change.Name
			e.Data.Details["name"] = "changed"
		}
		if err := putLogo(tx, c, logo, picture, change.DropLogo, env.Now()); err != nil {
			return err
		}
		if logo != nil || change.DropLogo {
			e.Data.Details["logo"] = c.Logo.Digest
		}
		c.UpdatedAt = env.Now()
		return tx.Put(c)
	})
}

// putLogo lays a client's logo, or takes it away. The caller puts the client.
func putLogo(tx domain.Tx, c *domain.Client, logo *domain.Logo, picture domain.Picture, drop bool, now domain.Time) error {
	switch {
	case logo != nil:
		kept := *logo
		kept.ClientID, kept.UpdatedAt = c.ID, now
		c.Logo = picture
		return tx.Put(&kept)
	case drop && c.Logo != (domain.Picture{}):
		c.Logo = domain.Picture{}
		return tx.Delete(&domain.Logo{ClientID: c.ID})
	}
	return nil
}

// logoPolicy lets a browser that opens the image by itself do nothing with it.
const logoPolicy = "default-src 'none'; sandbox; frame-ancestors 'none'"

// logo serves a client's logo, by its present digest only: it is not to be found by trying.
func (s *Service) logo(w http.ResponseWriter, r *http.Request) {
	if limit := s.Door.Take(w, r); limit != nil {
		s.Lost().ServeHTTP(w, r)
		return
	}
	c := &domain.Client{ID: domain.ClientID(r.PathValue("file"))}
	l := &domain.Logo{ClientID: c.ID}
	v := r.URL.Query().Get("v")
	if s.Store.Get(r.Context(), c) != nil || c.Logo.Digest == "" || v != c.Logo.Digest || s.Store.Get(r.Context(), l) != nil {
		s.Lost().ServeHTTP(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", logoPolicy)
	h.Set("Content-Type", l.MediaType)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if _, err := w.Write(l.Image); err != nil {
		s.log().DebugContext(r.Context(), "logo not written", "error", err)
	}
}

// brand is a client's logo on a page; URL is empty where it has none.
type brand struct {
	URL           string
	Width, Height int // as shown, in CSS pixels
}

// brandOf fits a logo into 192 by 64 CSS pixels.
func brandOf(c *domain.Client) brand {
	p := c.Logo
	if p.Digest == "" {
		return brand{}
	}
	scale := min(1, 192/float64(p.Width), 64/float64(p.Height))
	return brand{URL: "/static/" + string(c.ID) + "?v=" + p.Digest, Width: max(1, int(float64(p.Width)*scale)), Height: max(1, int(float64(p.Height)*scale))}
}
