// Package sandbox is a client to practise with: a small wealth manager's app, and the example of how to integrate
// Sluis. An engineer reads it; a person opens it in a browser, invites an investor, and sees the portfolio arrive.
//
// It is written as an outside client would be. It imports nothing of this project: it speaks to Sluis over the client
// API alone, with a bearer key, and declares for itself the few members that it reads ([api], records.go).
//
// Where to look for what:
//
//	api.go          calling the API: the key, Idempotency-Key, what to repeat and what not, problem+json, cursors
//	inbox.go        webhooks: verify the raw body, answer quickly, drop repetitions, put in order, notice gaps
//	connections.go  asking for a consent, following a connection, refreshing, erasing
//	portfolio.go    one version of a portfolio, read to its last page, and its history
//	totals.go       sums: decimals, one sum for each currency, nothing counted twice, nothing hidden
//	charts.go       drawing: the only place with floats, and only for coordinates
//
// What a real client has and this one has not: a login of its own (whoever reaches its address sees everything, so it
// belongs on a loopback address), and a database. It keeps webhooks in memory and asks the API for all else.
package sandbox

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client is the sample client's configuration. API, Key, Secret and Own must be set.
type Client struct {
	API         string           // base address of the client API, for example http://127.0.0.1:8080
	Key         string           // API key of the role client
	Secret      string           // whsec_…: what the endpoint at Own + "/webhooks" was given when it was registered
	PagesOrigin string           // where investors' links must lead, for example http://localhost:8081; empty means anywhere
	Own         string           // this app's own address; an origin that the client has declared for return_url
	HTTP        *http.Client     // nil means one that waits at most 30 seconds
	Clock       func() time.Time // nil means time.Now
}

// app is the running sample client.
type app struct {
	api   *api
	inbox *inbox
	links *links
	house house
	pages string // the origin of investors' links
	own   string
	now   func() time.Time
	began time.Time
}

// Routes registers the app's pages and its webhook endpoint, POST /webhooks.
func (c *Client) Routes(mux *http.ServeMux) {
	a := &app{api: newAPI(c), now: c.Clock, pages: strings.TrimSuffix(c.PagesOrigin, "/"), own: strings.TrimSuffix(c.Own, "/")}
	if a.now == nil {
		a.now = time.Now
	}
	a.began = a.now()
	a.inbox, a.links = newInbox(c.Secret, a.now), newLinks(a.now)
	mux.Handle("POST /webhooks", a.inbox)
	mux.Handle("GET /static/{file}", http.HandlerFunc(serveAsset))
	for pattern, page := range map[string]page{
		"GET /{$}":                                   a.home,
		"POST /consents":                             a.ask,
		"GET /connections/{connection}":              a.connection,
		"POST /connections/{connection}/{act}":       a.act,
		"GET /connections/{connection}/portfolio":    a.portfolio,
		"GET /connections/{connection}/transactions": a.transactions,
		"GET /returned":                              a.returned,
		"GET /events":                                a.events,
		"/":                                          a.nowhere,
	} {
		mux.Handle(pattern, a.door(page))
	}
}

// page answers a request of a person's browser. An error becomes an error page.
type page func(w http.ResponseWriter, r *http.Request) error

// policy lets a page load its own files and nothing else, and nothing inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// crossOrigin refuses forms that another site sends in this browser's name.
var crossOrigin = http.NewCrossOriginProtection()

// door stands before every page: headers, where the request comes from, errors.
func (a *app) door(p page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
		err := crossOrigin.Check(r)
		if err != nil || !a.mine(r.Host) {
			err = &problem{Status: http.StatusForbidden, Code: "cross_origin", Detail: "This came from another site. Open the app by its own address."}
		} else {
			err = p(w, r)
		}
		if err != nil {
			a.failed(w, r, err)
		}
	})
}

// mine says whether the request names this app by a name of its own. A site that has its name point at 127.0.0.1 (DNS
// rebinding) could otherwise read these pages through a visitor's browser.
func (a *app) mine(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if name == "localhost" || net.ParseIP(strings.Trim(name, "[]")) != nil {
		return true
	}
	own, err := url.Parse(a.own)
	return err == nil && own.Host == host
}

// failed shows what went wrong: in the API's own words where it has some.
func (a *app) failed(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	if !errors.As(err, &p) {
		slog.ErrorContext(r.Context(), "sample client failed", "route", r.Pattern, "error", err)
		p = &problem{Status: http.StatusInternalServerError, Code: "sample_client", Detail: "The sample client itself failed; its log says more."}
	}
	err = a.show(w, r, p.Status, view{Name: "error", Title: p.headline(), Problem: p, Body: errorPage{Connection: connectionOf(r)}})
	if err != nil {
		slog.ErrorContext(r.Context(), "sample client failed", "route", r.Pattern, "error", err)
		http.Error(w, "The sample client itself failed; its log says more.", http.StatusInternalServerError)
	}
}

// errorPage is where one may go on from an error.
type errorPage struct{ Connection string }

// nowhere answers for addresses that do not exist.
func (a *app) nowhere(http.ResponseWriter, *http.Request) error {
	return &problem{Status: http.StatusNotFound, Code: "not_found", Detail: "There is no such page."}
}

// returned is where the investor's pages lead back to: it is in the investor's browser, and knows no more than what
// its own address says.
func (a *app) returned(w http.ResponseWriter, r *http.Request) error {
	ref := r.URL.Query().Get("investor")
	if len(ref) > 64 {
		ref = ""
	}
	return a.show(w, r, http.StatusOK, view{Name: "returned", Title: "Thank you", Body: ref})
}
