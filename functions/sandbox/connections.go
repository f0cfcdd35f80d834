package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"time"
)

// links keeps the newest link of each connection until it is used up or expires. They are secrets: they stand in no
// address, no log, and no file.
type links struct {
	now func() time.Time
	mu  sync.Mutex
	of  map[string]link
}

func newLinks(now func() time.Time) *links { return &links{now: now, of: map[string]link{}} }

func (l *links) put(connection string, made link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, old := range l.of {
		if !l.now().Before(old.ExpiresAt) {
			delete(l.of, id)
		}
	}
	l.of[connection] = made
}

// get gives the link to show for the connection in its state. An invitation to decide is used up by the decision.
func (l *links) get(c *connection) *link {
	l.mu.Lock()
	defer l.mu.Unlock()
	made, ok := l.of[c.ID]
	over := made.Purpose == "consent" && c.State != "pending" || made.Purpose == "reconnect" && c.State == "removed"
	if !ok || over || !l.now().Before(made.ExpiresAt) {
		return nil
	}
	return &made
}

var connectionShape = regexp.MustCompile(`^conn_[0-9a-z]{26}$`)

// connectionOf is the connection that the request's address names, or nothing.
func connectionOf(r *http.Request) string {
	id := r.PathValue("connection")
	if !connectionShape.MatchString(id) {
		return ""
	}
	return id
}

// find asks the API for the connection of the address.
func (a *app) find(r *http.Request) (*connection, error) {
	id := connectionOf(r)
	if id == "" {
		return nil, &problem{Status: http.StatusNotFound, Code: "not_found", Detail: "There is no such connection."}
	}
	var c connection
	if err := a.api.get(r.Context(), "/v1/connections/"+id, &c); err != nil {
		return nil, err
	}
	a.know(&c)
	return &c, nil
}

func (a *app) know(c *connection) { a.inbox.know(c, c.CreatedAt.Before(a.began)) }

// house is what the app learns once: the client's name, and what custodians are called.
type house struct {
	mu         sync.Mutex
	name       string
	custodians map[string]string
}

// learn asks for names until they are known. Nothing depends on them, so a failure shows identifiers instead.
func (a *app) learn(ctx context.Context) (name string, custodians map[string]string) {
	a.house.mu.Lock()
	defer a.house.mu.Unlock()
	if a.house.name == "" {
		var client struct{ Name string }
		known, err := readList[struct{ ID, Name string }](ctx, a.api, "/v1/custodians", 1000)
		if err == nil {
			err = a.api.get(ctx, "/v1/client", &client)
		}
		if err != nil {
			return "", nil
		}
		names := map[string]string{}
		for _, c := range known {
			names[c.ID] = c.Name
		}
		a.house.name, a.house.custodians = client.Name, names
	}
	return a.house.name, a.house.custodians
}

// homePage is the list of connections and the form for a new one.
type homePage struct {
	Connections []connection
	Gaps        map[string]int // missing webhooks, by connection
	Next        string
	Paged       bool
	Webhooks    []line
	Refused     int
	Fault       error
	Form        askForm
}

// askForm is the form for a new consent, as it was filled in.
type askForm struct {
	Ref, Access, Language string
	Products              []string
	Once                  string
	Problem               *problem
}

func (f askForm) Wants(product string) bool { return slices.Contains(f.Products, product) }

// home lists the client's connections, newest first, and the webhooks as they come.
func (a *app) home(w http.ResponseWriter, r *http.Request) error {
	return a.showHome(w, r, http.StatusOK, askForm{Access: "recurring", Language: "en",
		Products: []string{"accounts", "cash", "positions", "transactions", "orders"}})
}

func (a *app) showHome(w http.ResponseWriter, r *http.Request, code int, form askForm) error {
	q := url.Values{"limit": {"20"}}
	cursor := r.URL.Query().Get("cursor")
	if cursor != "" && len(cursor) <= 512 {
		q.Set("cursor", cursor)
	}
	var page list[connection]
	if err := a.api.get(r.Context(), "/v1/connections?"+q.Encode(), &page); err != nil {
		return err
	}
	gaps := map[string]int{}
	for i := range page.Data {
		a.know(&page.Data[i])
		gaps[page.Data[i].ID] = a.inbox.gaps(page.Data[i].ID)
	}
	form.Once = rand.Text()
	return a.show(w, r, code, view{Name: "home", Title: "Investors", Live: true, Body: homePage{Connections: page.Data,
		Gaps: gaps, Next: page.Next, Paged: cursor != "", Webhooks: a.inbox.recent(20), Refused: a.inbox.refusals(),
		Fault: a.inbox.fault, Form: form}})
}

// ask creates a consent. The answer holds the investor's link.
func (a *app) ask(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return &problem{Status: http.StatusBadRequest, Code: "form", Detail: "The form could not be read."}
	}
	form := askForm{Ref: r.PostFormValue("investor_ref"), Access: r.PostFormValue("access"),
		Language: r.PostFormValue("language"), Products: append([]string{}, r.PostForm["products"]...)}
	req := request{method: http.MethodPost, path: "/v1/consents", body: map[string]any{
		"investor_ref": form.Ref, "purpose": purpose{Code: "wealth_overview"}, "products": form.Products,
		"access": form.Access, "language": form.Language,
		"return_url": a.own + "/returned?investor=" + url.QueryEscape(form.Ref),
	}}
	var err error
	if req.once, err = onceKey(r.PostFormValue("once"), req); err != nil {
		return err
	}
	var made consent
	err = a.api.do(r.Context(), req, &made)
	var p *problem
	if errors.As(err, &p) && p.Status == http.StatusBadRequest {
		form.Problem = p
		return a.showHome(w, r, p.Status, form)
	}
	if err != nil {
		return err
	}
	made.Link.Purpose = "consent"
	a.links.put(made.ConnectionID, made.Link)
	http.Redirect(w, r, "/connections/"+made.ConnectionID+"?done=asked", http.StatusSeeOther)
	return nil
}

// connectionPage is all that is known of one connection.
type connectionPage struct {
	Connection   *connection
	Consent      consent
	Link         *link
	LinkFault    bool // it leads elsewhere than to the investor pages
	Products     []productLine
	Webhooks     []line
	Gaps         int
	Certificates []certificate
	Once         string
}

// productLine is one product's completeness.
type productLine struct {
	Name, Label string
	Asked       bool
	Read        bool // whether a reading said anything of it
	status
}

// connection shows one connection: how it does, what was read, what came by webhook, what was erased.
func (a *app) connection(w http.ResponseWriter, r *http.Request) error {
	c, err := a.find(r)
	if err != nil {
		return err
	}
	page := connectionPage{Connection: c, Link: a.links.get(c), Webhooks: a.inbox.of(c.ID), Gaps: a.inbox.gaps(c.ID), Once: rand.Text()}
	if page.Link != nil && !a.leadsToInvestorPages(page.Link.URL) {
		page.Link, page.LinkFault = nil, true
	}
	if err := a.api.get(r.Context(), "/v1/consents/"+url.PathEscape(c.ConsentID), &page.Consent); err != nil {
		return err
	}
	if page.Certificates, err = a.certificates(r.Context(), c.ID); err != nil {
		return err
	}
	for _, p := range products {
		said, read := c.Products[p.Name]
		page.Products = append(page.Products, productLine{Name: p.Name, Label: p.Label, status: said, Read: read,
			Asked: slices.Contains(page.Consent.Products, p.Name)})
	}
	v := view{Name: "connection", Title: c.InvestorRef, Live: true, Body: page}
	if c.Session.underWay() || c.State == "connecting" {
		v.Poll = 2
	}
	return a.show(w, r, http.StatusOK, v)
}

// leadsToInvestorPages says whether a link may be given to an investor: not if it leads anywhere else.
func (a *app) leadsToInvestorPages(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (a.pages == "" || u.Scheme+"://"+u.Host == a.pages)
}

// acts are what the buttons of a connection do: one call each.
var acts = map[string]func(c *connection) request{
	"refresh": func(c *connection) request {
		return request{method: http.MethodPost, path: "/v1/connections/" + c.ID + "/refresh", body: struct{}{}}
	},
	"invite":             func(c *connection) request { return linkRequest(c, "consent") },
	"reconnect":          func(c *connection) request { return linkRequest(c, "reconnect") },
	"manage":             func(c *connection) request { return linkRequest(c, "manage") },
	"remove-credentials": func(c *connection) request { return removal(c, "/credentials") },
	"remove-data":        func(c *connection) request { return removal(c, "/data") },
	"remove":             func(c *connection) request { return removal(c, "") },
}

func linkRequest(c *connection, purpose string) request {
	return request{method: http.MethodPost, path: "/v1/consents/" + url.PathEscape(c.ConsentID) + "/links",
		body: map[string]string{"purpose": purpose}}
}

func removal(c *connection, what string) request {
	return request{method: http.MethodDelete, path: "/v1/connections/" + c.ID + what}
}

// act does what a button says, and leads back to the connection.
func (a *app) act(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("act")
	button, known := acts[name]
	if !known && name != "replay" {
		return a.nowhere(w, r)
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	if name == "replay" {
		err = a.replay(r.Context(), c, r.PostFormValue("once"))
	} else {
		err = a.call(r, c, button(c))
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/connections/"+c.ID+"?done="+name, http.StatusSeeOther)
	return nil
}

// call sends the request of a button, and keeps the link if one comes back.
func (a *app) call(r *http.Request, c *connection, req request) (err error) {
	if req.method == http.MethodPost {
		if req.once, err = onceKey(r.PostFormValue("once"), req); err != nil {
			return err
		}
	}
	var made link
	if err := a.api.do(r.Context(), req, &made); err != nil {
		return err
	}
	if made.URL != "" {
		a.links.put(c.ID, made)
	}
	return nil
}

// replay has Sluis send again what it told this app's endpoint since the connection began: the way to close a gap.
// What came before comes a second time, and the inbox drops it.
func (a *app) replay(ctx context.Context, c *connection, nonce string) error {
	endpoints, err := readList[struct{ ID, URL, State string }](ctx, a.api, "/v1/endpoints", 1000)
	if err != nil {
		return err
	}
	for _, e := range endpoints {
		if e.URL != a.own+"/webhooks" || e.State != "enabled" {
			continue
		}
		req := request{method: http.MethodPost, path: "/v1/replays", body: map[string]string{"endpoint_id": e.ID,
			"from": c.CreatedAt.Format(time.RFC3339Nano), "to": a.now().UTC().Format(time.RFC3339Nano)}}
		if req.once, err = onceKey(nonce, req); err != nil {
			return err
		}
		return a.api.do(ctx, req, nil)
	}
	return &problem{Status: http.StatusConflict, Code: "no_endpoint",
		Detail: fmt.Sprintf("Sluis has no enabled endpoint for %s/webhooks. Register one with POST /v1/endpoints.", a.own)}
}
