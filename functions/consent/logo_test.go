package consent

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

// speckled is a picture that compresses badly; flat one that does well.
func speckled(w, h int) image.Image {
	m, random := image.NewRGBA(image.Rect(0, 0, w, h)), rand.New(rand.NewPCG(1, 2))
	for i := range m.Pix {
		m.Pix[i] = byte(random.Uint32())
	}
	return m
}

func flat(w, h int) image.Image {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for x := range w {
		for y := range h {
			m.Set(x, y, color.RGBA{11, 91, byte(x), 255})
		}
	}
	return m
}

func pngOf(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLogosThatCannotRun(t *testing.T) {
	var small, animated bytes.Buffer
	if err := jpeg.Encode(&small, flat(64, 32), nil); err != nil {
		t.Fatal(err)
	}
	if err := gif.Encode(&animated, flat(64, 32), nil); err != nil {
		t.Fatal(err)
	}
	script := append(pngOf(t, flat(40, 20)), "<script>alert(1)</script>"...)
	for _, c := range []struct {
		name string
		raw  []byte
		want string // media type, or what the refusal says
	}{
		{"png", pngOf(t, flat(200, 50)), "image/png"},
		{"jpeg", small.Bytes(), "image/jpeg"},
		{"a script behind the picture", script, "image/png"},
		{"svg", []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`), "PNG or JPEG"},
		{"gif", animated.Bytes(), "PNG or JPEG"},
		{"page", []byte("<!DOCTYPE html><script>alert(1)</script>"), "PNG or JPEG"},
		{"too wide", pngOf(t, flat(513, 16)), "512 pixels"},
		{"a dot", pngOf(t, flat(8, 8)), "16 to 512"},
		{"too large", pngOf(t, speckled(200, 200)), "at most 64 kB"},
		{"cut off", pngOf(t, flat(200, 50))[:60], "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			logo, picture, err := drawLogo(c.raw)
			if err != nil {
				if domain.KindOf(err) != domain.Invalid || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				return
			}
			if logo.MediaType != c.want || bytes.Contains(logo.Image, []byte("script")) || len(picture.Digest) != 16 {
				t.Errorf("got %s of %+v, want %s", logo.MediaType, picture, c.want)
			}
		})
	}
}

func TestInvestorsSeeTheClientsLogo(t *testing.T) {
	h, ctx := pageHome(t), context.Background()
	change := func(c ClientChange) {
		t.Helper()
		if err := ChangeClient(ctx, h.store, h.Env, h.client.ID, c); err != nil {
			t.Fatal(err)
		}
	}
	change(ClientChange{Name: "Beacon & Daughters", Logo: pngOf(t, flat(400, 100))})
	h.wantEntry("client.changed", domain.OutcomeAllowed, "")
	_, token := h.ask(rich)
	page := bodyOf(t, h.browse("", "GET", "/i/"+token, nil))
	_, after, _ := strings.Cut(page, `<img class="logo" src="`)
	address, after, _ := strings.Cut(after, `"`)
	if !strings.HasPrefix(address, "/static/cli_") || !strings.HasPrefix(after, ` width="192" height="48" alt="Beacon &amp; Daughters"`) {
		t.Fatalf("the link shows %q %.80s", address, after)
	}
	if asked := bodyOf(t, h.browse(h.enter(token), "GET", "/consent", nil)); !strings.Contains(asked, `src="`+address+`"`) {
		t.Error("the request shows no logo")
	}
	res := h.browse("", "GET", address, nil)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "image/png" || res.Header.Get("X-Content-Type-Options") != "nosniff" ||
		!strings.Contains(res.Header.Get("Content-Security-Policy"), "sandbox") || !strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the logo comes as %d %v", res.StatusCode, res.Header)
	}
	for _, wrong := range []string{strings.Split(address, "?")[0], address + "0", "/static/cli_06eajh8a03h8x3zr43fvd20ahm?v=0"} {
		if res := h.browse("", "GET", wrong, nil); res.StatusCode != 404 {
			t.Errorf("%s: status %d", wrong, res.StatusCode)
		}
	}
	change(ClientChange{DropLogo: true})
	if page := bodyOf(t, h.browse("", "GET", "/i/"+token, nil)); strings.Contains(page, "logo") {
		t.Error("the logo that was removed is shown")
	}
	if res := h.browse("", "GET", address, nil); res.StatusCode != 404 {
		t.Errorf("the logo that was removed: status %d", res.StatusCode)
	}
	if err := h.store.Get(ctx, &domain.Logo{ClientID: h.client.ID}); domain.KindOf(err) != domain.NotFound {
		t.Errorf("it lies there still: %v", err)
	}
	for _, c := range []struct {
		id     domain.ClientID
		change ClientChange
		kind   domain.Kind
	}{
		{"cli_06eajh8a03h8x3zr43fvd20ahm", ClientChange{Name: "Nobody"}, domain.NotFound},
		{h.client.ID, ClientChange{Name: " "}, domain.Invalid},
		{h.client.ID, ClientChange{Logo: []byte("<svg/>")}, domain.Invalid},
	} {
		if err := ChangeClient(ctx, h.store, h.Env, c.id, c.change); domain.KindOf(err) != c.kind {
			t.Errorf("%+v: %v", c.change, err)
		}
	}
}
