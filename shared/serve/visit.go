package serve

import (
	"encoding/base64"
	"net/http"
	"time"

	"sluis.internal/shared/domain"
)

// cookieName has the __Host- prefix: browsers keep such a cookie only when it is Secure, for Path=/ and for this very
// host (RFC 6265bis, section 4.1.3.2). They count http://localhost as secure.
const cookieName = "__Host-sluis"

// SetVisit hands the browser the cookie of a new visit.
func SetVisit(w http.ResponseWriter, token string) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: token, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, MaxAge: int(domain.VisitLife / time.Second)})
}

// browserName is the cookie by which a browser knows its visits again. It is Lax, as it must come along when a link in
// a message is opened, and alone it opens nothing.
const browserName = "__Host-sluis-browser"

// Browser is the random value of the browser that asks: 43 characters of base64url. One that has none is given one.
func (d *Door) Browser(w http.ResponseWriter, r *http.Request) string {
	value := ""
	if cookie, err := r.Cookie(browserName); err == nil && browserShape.MatchString(cookie.Value) {
		value = cookie.Value
	} else {
		value = base64.RawURLEncoding.EncodeToString(d.Env.Random(32))
	}
	http.SetCookie(w, &http.Cookie{Name: browserName, Value: value, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, MaxAge: int(domain.LinkLife / time.Second)})
	return value
}

var browserShape = domain.NewShape(`^[A-Za-z0-9_-]{43}$`)

// EndVisit takes the cookie back.
func EndVisit(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, MaxAge: -1})
}

// Visiting finds the visit of a browser by its cookie. An unknown or ended visit is Unauthenticated.
func (d *Door) Visiting(r *http.Request) (*domain.Visit, error) {
	none := &domain.Error{Kind: domain.Unauthenticated, Code: "visit_ended",
		Message: "your visit has ended; open a new link from your wealth manager or app"}
	cookie, err := r.Cookie(cookieName)
	if err != nil || len(cookie.Value) != 43 {
		return nil, none
	}
	v := &domain.Visit{Hash: domain.HashToken(cookie.Value)}
	err = d.lookUp(r, func() error {
		err := d.Store.Get(r.Context(), v)
		if domain.KindOf(err) == domain.NotFound || err == nil && !d.Env.Now().Before(v.ExpiresAt) {
			return none
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	v.Pseudonym = d.Pseudonym(v.ClientID, v.ConsentID, v.InvestorRef)
	return v, nil
}

// Take counts a page view by network address, for pages that write their own answers.
func (d *Door) Take(w http.ResponseWriter, r *http.Request) error {
	return d.Limits.take(w, "address:"+d.Network(r), d.Env.Now())
}
