package consent

import (
	"bytes"
	"cmp"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// sheet is one page view: the request, the language, and what the template says.
type sheet struct {
	*words
	w      http.ResponseWriter
	r      *http.Request
	chosen bool // the visitor chose the language, so links keep it
	lost   bool // there is no page at this address
	now    domain.Time
	region string // where this process keeps data

	Company  Company
	Practice bool

	Name   string // of the template
	Title  string
	Status int
	Step   int           // 1 to 4 on the way through a consent, 0 elsewhere
	Mark   string        // how that step stands, where it is not under way: past, partly, failed or stopped
	Visit  *domain.Visit // nil before a visit
	View   View
	Views  []View // of the overview
	site   *site

	Left    bool           // home: a visit was just ended
	Purpose domain.LinkUse // link
	Until   domain.Time    // link
	Resumes bool           // link: it leads back into this browser's visit
	Shown   string         // consent and confirm: digest of the text to confirm
	Missing bool           // consent: no custodian was chosen
	Changed bool           // consent and confirm: what was confirmed is not what is asked now
	Outcome string         // done: read, partly, paused, denied, expired or ended
	Asked   *View          // me: the consent that the investor asked to withdraw, and is asked about once more
	Remedy  string         // error
	Keys    string         // connect, sca: thumbprints of the keys that may be sealed to, a space between
}

// pageHandler fills in the sheet, and says where to go instead, if anywhere.
type pageHandler func(p *sheet) (next string, err error)

// Pages registers the investor's pages, as pipeline.json lists them.
func (s *Service) Pages(mux *http.ServeMux) {
	mux.Handle("GET /{$}", s.page(s.homePage))
	mux.Handle("GET /i/{token}", s.page(s.linkPage))
	mux.Handle("POST /i/{token}", s.page(s.redeemLink))
	mux.Handle("GET /consent", s.visited(s.consentPage))
	mux.Handle("POST /consent/grant", s.visited(s.grantConsent))
	mux.Handle("POST /consent/deny", s.visited(s.denyConsent))
	mux.Handle("GET /connect", s.visited(s.connectPage))
	mux.Handle("POST /connect/confirm", s.visited(s.confirmConnect))
	mux.Handle("GET /sca", s.visited(s.scaPage))
	mux.Handle("GET /done", s.visited(s.donePage))
	mux.Handle("GET /me", s.visited(s.mePage))
	mux.Handle("POST /me/revoke", s.visited(s.revokeConsent))
	mux.Handle("POST /leave", s.page(s.leaveVisit))
	mux.Handle("GET /static/{file}", http.HandlerFunc(s.static))
}

// contentPolicy lets pages run only our own scripts and talk only to ourselves. Nothing inline, nothing from elsewhere,
// no frame, and no string becomes markup or script (Trusted Types).
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"worker-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

const permissionsPolicy = "accelerometer=(), browsing-topics=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), " +
	"microphone=(), midi=(), payment=(), usb=()"

// secure sets the headers that every answer of the pages' host has.
func (s *Service) secure(h http.Header) {
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // other sites learn nothing, and browsers say truly where a form comes from
	h.Set("Permissions-Policy", permissionsPolicy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if strings.HasPrefix(s.PagesURL, "https://") {
		h.Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
	}
}

// maxForm bounds a form: the largest has one identifier.
const maxForm = 4 << 10

// page wraps a handler: headers, pace, forgery check, language, rendering, and errors as friendly pages.
func (s *Service) page(fn pageHandler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := s.sheet(w, r)
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler {
					panic(v)
				}
				// The value may hold what it should not; the stack says where.
				s.log().ErrorContext(r.Context(), "page panicked", "route", r.Pattern, "stack", string(debug.Stack()))
				s.fail(p, &domain.Error{Kind: domain.Internal, Code: "internal"})
			}
		}()
		err := s.admit(p, crossOrigin)
		next := ""
		if err == nil {
			next, err = fn(p)
		}
		if err != nil {
			s.fail(p, err)
			return
		}
		if next != "" {
			http.Redirect(w, r, p.Link(next), http.StatusSeeOther)
			return
		}
		if err := p.render(); err != nil {
			s.fail(p, err)
		}
	})
}

// sheet begins the answer to a request.
func (s *Service) sheet(w http.ResponseWriter, r *http.Request) *sheet {
	s.secure(w.Header())
	w.Header().Set("Cache-Control", "no-store")
	p := &sheet{w: w, r: r, site: theSite(), now: s.Env.Now(), region: s.Env.Region,
		Company: s.Company, Practice: s.Practice, Status: http.StatusOK}
	p.guessLanguage()
	return p
}

// Lost answers what there is no page for. Nothing of the request is looked at but its language.
func (s *Service) Lost() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := s.sheet(w, r), error(domain.ErrNotFound)
		if limit := s.Door.Take(w, r); limit != nil {
			err = limit
		}
		p.lost = true
		s.fail(p, err)
	})
}

// ours refuses what another site had the browser send. A browser says where a request comes from by Sec-Fetch-Site, or, if
// it is too old for that (iOS up to 16.3), by an Origin, which must be exactly ours: this host by the scheme that investors
// come by. Where it says neither truly (a page saved or shown by another program sends "Origin: null"), it gets a page that
// names that, as the same link in the same browser would end there again.
func (s *Service) ours(r *http.Request, crossOrigin *http.CrossOriginProtection) error {
	err := crossOrigin.Check(r)
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	site, origin := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Origin")
	scheme, _, _ := strings.Cut(s.PagesURL, ":")
	switch {
	case site == "" && origin == "null":
		return &domain.Error{Kind: domain.Forbidden, Code: "origin_hidden", Message: "the browser does not say where this comes from; use a current one"}
	case err != nil, site == "" && origin != "" && origin != scheme+"://"+r.Host:
		return &domain.Error{Kind: domain.Forbidden, Code: "cross_origin", Message: "this may only be sent from our own pages"}
	}
	return nil
}

func (s *Service) admit(p *sheet, crossOrigin *http.CrossOriginProtection) error {
	if err := s.Door.Take(p.w, p.r); err != nil {
		return err
	}
	if err := s.ours(p.r, crossOrigin); err != nil {
		return err
	}
	if p.r.Method != http.MethodPost {
		return nil
	}
	if err := serve.Media(p.r, "application/x-www-form-urlencoded"); err != nil {
		return err
	}
	p.r.Body = http.MaxBytesReader(p.w, p.r.Body, maxForm)
	if err := p.r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return &domain.Error{Kind: domain.TooLarge, Code: "body_too_large", Message: "the form is too large"}
		}
		return domain.Invalidf("form", "the form could not be read")
	}
	return nil
}

// visited is page for those who came by a link.
func (s *Service) visited(fn pageHandler) http.Handler {
	return s.page(func(p *sheet) (string, error) {
		visit, err := s.Door.Visiting(p.r)
		if err != nil {
			return "", err
		}
		view, err := s.Show(p.r.Context(), visit)
		if domain.KindOf(err) == domain.NotFound {
			call := &serve.Call{Visit: visit, Origin: s.Door.Commitment(p.r), Request: p.r}
			return "", s.Door.Refuse(call, string(visit.ConsentID), domain.ErrNotFound)
		}
		if err != nil {
			return "", err
		}
		p.Visit, p.View = visit, view
		if !p.chosen {
			p.words = p.site.words[view.Consent.Language]
		}
		if p.words == nil {
			p.words = p.site.words["en"]
		}
		return fn(p)
	})
}

// guessLanguage takes the visitor's choice, else the browser's wish. A visit's consent overrides the latter.
func (p *sheet) guessLanguage() {
	if p.words = p.site.words[p.r.URL.Query().Get("lang")]; p.words != nil {
		p.chosen = true
		return
	}
	p.words = p.site.wished(p.r.Header.Get("Accept-Language"))
}

func (p *sheet) render() error {
	var b bytes.Buffer
	if err := p.site.templates[p.Name].ExecuteTemplate(&b, "layout.html", p); err != nil {
		return err
	}
	p.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	p.w.Header().Set("Content-Language", p.Lang)
	p.w.WriteHeader(p.Status)
	_, err := b.WriteTo(p.w)
	if err != nil {
		slog.Debug("page not written", "error", err)
	}
	return nil
}

// fail answers with a page that says what happened and what to do, and nothing of our insides.
func (s *Service) fail(p *sheet, err error) {
	problem := serve.ProblemOf(err)
	kind := domain.KindOf(err)
	if kind == domain.Internal {
		s.log().ErrorContext(p.r.Context(), "page failed", "route", p.r.Pattern, "error", err)
	}
	var e *domain.Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		p.w.Header().Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	title := p.text["error."+problem.Code]
	remedy := p.text["error."+problem.Code+".do"]
	if title == "" || remedy == "" {
		title, remedy = p.text["error."+string(kind)], p.text["error."+string(kind)+".do"]
	}
	p.Name, p.Status, p.Title, p.Remedy, p.Step = "error", problem.Status, title, remedy, 0
	if err := p.render(); err != nil {
		s.log().ErrorContext(p.r.Context(), "error page failed", "route", p.r.Pattern, "error", err)
		http.Error(p.w, http.StatusText(problem.Status), problem.Status)
	}
}

func (s *Service) log() *slog.Logger {
	if s.Door.Log != nil {
		return s.Door.Log
	}
	return slog.Default()
}

// Link is a path on our own pages that keeps a chosen language.
func (p *sheet) Link(path string) string {
	if !p.chosen {
		return path
	}
	if strings.Contains(path, "?") {
		return path + "&lang=" + p.Lang
	}
	return path + "?lang=" + p.Lang
}

// Query is what scripts append to a path, so that a chosen language is kept.
func (p *sheet) Query() string { return p.Link("") }

// Path is where the visitor is.
func (p *sheet) Path() string { return p.r.URL.EscapedPath() }

// tongue is one entry of the language switch.
type tongue struct {
	Code, Short, Name, URL string
	Current                bool
}

// Languages is the switch. Pages that answer a form have none: their address cannot be opened again. Where there is no
// page there is none either: the address may be anything, and //other.example in a link would lead to another host.
func (p *sheet) Languages() []tongue {
	if p.lost || p.r.Method != http.MethodGet && p.r.Method != http.MethodHead {
		return nil
	}
	var all []tongue
	for _, code := range domain.Languages {
		all = append(all, tongue{Code: code, Short: strings.ToUpper(code), Name: p.site.words[code].text["language"],
			URL: p.Path() + "?lang=" + code, Current: code == p.Lang})
	}
	return all
}

// stage is one of the steps shown above a page. State is past, now, partly, failed, stopped, or "" if it is to come;
// Said is the same in words, for who does not see the colour.
type stage struct{ Name, State, Said string }

// Steps are those of the way through a consent.
func (p *sheet) Steps() []stage {
	steps := make([]stage, 4)
	for i := range steps {
		steps[i].Name = p.text["step."+strconv.Itoa(i+1)]
		switch {
		case i+1 < p.Step:
			steps[i].State = "past"
		case i+1 == p.Step:
			steps[i].State = cmp.Or(p.Mark, "now")
		}
		steps[i].Said = p.text["step."+steps[i].State]
	}
	return steps
}

// scripts of each page, what they import before them: see site.
var pageScripts = map[string][]string{
	"connect": {"seal.js", "page.js", "connect.js"},
	"sca":     {"seal.js", "page.js", "sca.js"},
	"me":      {"page.js", "me.js"},
}

// Scripts are the page's modules with the digests of what they must be. Every page of a visit has the one that keeps it
// from being shown again when the visit is over.
func (p *sheet) Scripts() []*asset {
	names := []string{"times.js"}
	if p.Visit != nil {
		names = append(names, "fresh.js")
	}
	names = append(names, pageScripts[p.Name]...)
	if p.Name == "consent" && p.Many() {
		names = append(names, "consent.js")
	}
	var all []*asset
	for _, name := range names {
		all = append(all, p.site.assets[name])
	}
	return all
}

// Asset is a file of the static folder.
func (p *sheet) Asset(name string) (*asset, error) {
	if a := p.site.assets[name]; a != nil {
		return a, nil
	}
	return nil, errors.New("there is no static file " + name)
}

// scriptWords are the families of words that each page's scripts use.
var scriptWords = map[string][]string{
	"connect": {"js.", "problem."},
	"sca":     {"js.", "problem.", "sca.", "method.", "step."},
	"me":      {"problem.", "me.erase."},
}

// Words is the JSON object of what the page's scripts may say.
func (p *sheet) Words() (string, error) { return p.words.some(scriptWords[p.Name]) }

var tokenShape = domain.NewShape(`^[A-Za-z0-9_-]{43}$`)

// Many says whether the choice of custodians needs a search.
func (p *sheet) Many() bool { return len(p.View.Custodians) > 6 }

// isOver says whether the consent's time has run out, noted already or not.
func isOver(c *domain.Consent, now domain.Time) bool {
	return c.State == domain.ConsentExpired || !domain.ConsentMoves.Final(c.State) && !now.Before(c.ExpiresAt)
}

// place is where an investor belongs as things stand: each page sends those on who belong elsewhere.
func (p *sheet) place() string {
	c := &p.View.Consent
	switch {
	case isOver(c, p.now):
		return "/done"
	case c.State == domain.ConsentReceived && p.Visit.May(domain.MayDecide, c.ID):
		return "/consent"
	case c.State == domain.ConsentReceived:
		return "/me"
	case c.State != domain.ConsentValid:
		return "/done"
	case !p.Visit.May(domain.MayConnect, c.ID) && p.View.Connection.State != domain.ConnectionActive:
		return "/me"
	}
	switch p.View.Connection.State {
	case domain.ConnectionAwaiting:
		return "/connect"
	case domain.ConnectionBusy, domain.ConnectionSCA:
		return "/sca"
	}
	return "/done"
}

// Live says whether the consent lets data be read now.
func (p *sheet) Live(v View) bool {
	return v.Consent.State == domain.ConsentValid && !isOver(&v.Consent, p.now)
}

// unsafeHTML marks text whose every variable part was escaped by Rich.
func unsafeHTML(s string) template.HTML { return template.HTML(s) }

// retryable says whether the stored login may be tried again on the investor's word.
func retryable(s domain.CredentialState) bool {
	return slices.Contains([]domain.CredentialState{domain.CredentialSealed, domain.CredentialAccepted, domain.CredentialUnconfirmed}, s)
}
