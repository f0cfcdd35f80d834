package comdirect

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"sluis.internal/shared/domain"
)

// identifyForm names the login that a token request is about: by its number, or by the token it brings.
func (b *Bank) identifyForm(r *http.Request) caller {
	if r.ParseForm() != nil {
		return caller{}
	}
	if r.PostForm.Get("grant_type") == "password" {
		return caller{login: find(r.PostForm.Get("username")), password: true}
	}
	for _, field := range []string{"token", "refresh_token"} {
		if g, ok := b.open(r.PostForm.Get(field)); ok {
			return caller{login: find(g.Login), session: g.Session, grant: g}
		}
	}
	return caller{}
}

// token is the token endpoint: chapters 2.1, 2.5 and 3.1.1.
func (b *Bank) token(w http.ResponseWriter, r *http.Request, c caller) {
	if !same(r.PostForm.Get("client_id"), b.opts.ClientID) || !same(r.PostForm.Get("client_secret"), b.opts.ClientSecret) {
		refuseToken(w, http.StatusUnauthorized, "invalid_client", "Bad client credentials")
		return
	}
	switch r.PostForm.Get("grant_type") {
	case "password":
		b.passwordGrant(w, r, c)
	case "cd_secondary":
		b.secondaryGrant(w, c)
	case "refresh_token":
		b.refreshGrant(w, c)
	default:
		refuseToken(w, http.StatusBadRequest, "unsupported_grant_type", "Unsupported grant type")
	}
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// passwordGrant judges number and PIN, and opens a session (chapter 2.1).
func (b *Bank) passwordGrant(w http.ResponseWriter, r *http.Request, c caller) {
	if c.login == nil {
		refuseToken(w, http.StatusBadRequest, "invalid_grant", "Bad credentials")
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.save()
	p := b.person(c.login.Number)
	switch {
	case c.login.locked || p.Locked:
		refuseToken(w, http.StatusBadRequest, "invalid_grant", "User account is locked")
		return
	case c.login.refuse || !b.rightPIN(c.login, p, r.PostForm.Get("password")):
		p.Refused++
		b.strike(c.login.Number, domain.CountLogin)
		refuseToken(w, http.StatusBadRequest, "invalid_grant", "Bad credentials")
		return
	}
	b.prune()
	p.right(domain.CountLogin, b.opts.Env.Now())
	p.Visits++
	id, now := b.newID(), b.opts.Env.Now()
	s := &session{Login: c.login.Number, Visit: p.Visits, OpenedAt: now, TANActive: c.login.exempt}
	b.memory.Sessions[id] = s
	b.issue(w, id, s, false)
}

// rightPIN compares with the table's PIN, or with the digest of the one it was changed to.
func (b *Bank) rightPIN(l *Login, p *person, pin string) bool {
	if p.PINMark != "" {
		return same(b.mac("pin", l.Number, pin), p.PINMark)
	}
	return same(pin, l.PIN)
}

// secondaryGrant turns a first-phase token into one for data, once the session TAN is active (chapter 2.5).
func (b *Bank) secondaryGrant(w http.ResponseWriter, c caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.opts.Env.Now()
	s := b.memory.Sessions[c.session]
	good := c.login != nil && s != nil && !s.over(now) && c.grant.Use == useAccess && now.Before(c.grant.Expires)
	if !good || !s.TANActive {
		refuseToken(w, http.StatusBadRequest, "invalid_grant", "the token is unknown, expired or without second factor")
		return
	}
	b.issue(w, c.session, s, true)
	b.save()
}

// refreshGrant replaces both tokens of a session; each refresh token works once (chapter 3.1.1).
func (b *Bank) refreshGrant(w http.ResponseWriter, c caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.opts.Env.Now()
	s := b.memory.Sessions[c.session]
	good := c.login != nil && s != nil && !s.over(now) && c.grant.Use == useRefresh && now.Before(c.grant.Expires)
	if !good || c.grant.Generation != s.Generation {
		refuseToken(w, http.StatusUnauthorized, "invalid_grant", "the refresh token is unknown, expired or used")
		return
	}
	b.issue(w, c.session, s, c.grant.Full)
	b.save()
}

// issue answers with fresh tokens of a session. The caller holds the lock.
func (b *Bank) issue(w http.ResponseWriter, id string, s *session, full bool) {
	now := b.opts.Env.Now()
	s.Generation++
	s.Until = now.Add(refreshLife)
	g := grant{Use: useAccess, Login: s.Login, Session: id, Full: full, Generation: s.Generation,
		Expires: now.Add(accessLife)}
	access := b.sign(g)
	g.Use, g.Expires = useRefresh, s.Until
	scope := "TWO_FACTOR"
	if full {
		scope = "BANKING_RO BROKERAGE_RW SESSION_RW"
	}
	answer(w, http.StatusOK, map[string]any{
		"access_token": access, "token_type": "bearer", "refresh_token": b.sign(g),
		"expires_in": int(accessLife.Seconds()), "scope": scope,
		"kdnr": "10" + s.Login, "bpid": s.Login[1:], "kontaktId": "20" + s.Login,
	})
}

// revoke ends the session of a token (chapter 3.1.2).
func (b *Bank) revoke(w http.ResponseWriter, _ *http.Request, c caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.mine(w, c)
	if s == nil {
		return
	}
	s.Ended = true
	b.save()
	w.WriteHeader(http.StatusNoContent)
}

// mine returns the caller's session, which may have ended since it was admitted. The caller holds the lock.
func (b *Bank) mine(w http.ResponseWriter, c caller) *session {
	s := b.memory.Sessions[c.session]
	if s == nil || s.over(b.opts.Env.Now()) {
		refuseToken(w, http.StatusUnauthorized, "invalid_token", "the session has ended")
		return nil
	}
	return s
}

// sessionObject is chapter 2.2.1's.
type sessionObject struct {
	Identifier   string `json:"identifier"`
	TANActive    bool   `json:"sessionTanActive"`
	Activated2FA bool   `json:"activated2FA"`
}

// sessions says where the session stands (chapter 2.2).
func (b *Bank) sessions(w http.ResponseWriter, _ *http.Request, c caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.mine(w, c)
	if s == nil || !b.clear(w, c) {
		return
	}
	answer(w, http.StatusOK, []sessionObject{{Identifier: c.session, TANActive: s.TANActive, Activated2FA: s.TANActive}})
}

// clear refuses a login that has something to do first. The caller holds the lock.
func (b *Bank) clear(w http.ResponseWriter, c caller) bool {
	if !c.login.terms || b.person(c.login.Number).Accepted {
		return true
	}
	refuse(w, http.StatusUnprocessableEntity, CodeAction, CodeAction,
		"Bitte bestätigen Sie zuerst unsere neuen Bedingungen auf unserer Website.")
	return false
}

// onceInfo is the header x-once-authentication-info (chapters 2.3 and 2.4).
type onceInfo struct {
	ID        string    `json:"id,omitempty"`
	Type      string    `json:"typ,omitempty"`
	Challenge string    `json:"challenge,omitempty"`
	Available []string  `json:"availableTypes,omitempty"`
	Link      *onceLink `json:"link,omitempty"`
}

// onceLink is where to ask after a push.
type onceLink struct {
	Href   string `json:"href"`
	Rel    string `json:"rel"`
	Method string `json:"method"`
	Type   string `json:"type"`
}

const onceHeader = "x-once-authentication-info"

// sane checks path and body of a session request: the session must be the token's, both flags true.
func sane(w http.ResponseWriter, r *http.Request, c caller) (once onceInfo, ok bool) {
	var o sessionObject
	err := json.NewDecoder(r.Body).Decode(&o)
	if err != nil || r.PathValue("session") != c.session || o.Identifier != c.session || !o.TANActive || !o.Activated2FA {
		refuse(w, http.StatusUnprocessableEntity, CodeObject, CodeObject, "Das Session-Objekt ist ungültig.", "identifier")
		return onceInfo{}, false
	}
	if header := r.Header.Get(onceHeader); header != "" && json.Unmarshal([]byte(header), &once) != nil {
		refuseOnce(w)
		return onceInfo{}, false
	}
	return once, true
}

func refuseOnce(w http.ResponseWriter) {
	refuse(w, http.StatusUnprocessableEntity, "UNPROCESSABLE_ONCE_AUTHENTICATION_INFO_HEADER",
		"UNPROCESSABLE_ONCE_AUTHENTICATION_INFO_HEADER", "Der Header x-once-authentication-info ist ungültig.")
}

// validate issues a challenge (chapter 2.3).
func (b *Bank) validate(w http.ResponseWriter, r *http.Request, c caller) {
	once, ok := sane(w, r, c)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.mine(w, c)
	if s == nil || !b.clear(w, c) {
		return
	}
	defer b.save()
	method, ok := chooseMethod(c.login, s, once.Type)
	if !ok {
		refuseOnce(w)
		return
	}
	if method != FreeTAN && b.strike(c.login.Number, domain.CountChallenge) {
		refuse(w, http.StatusUnprocessableEntity, CodeLocked, CodeLocked, "Ihr Zugang wurde gesperrt.")
		return
	}
	s.Challenges++
	s.Challenge = b.newChallenge(method)
	w.Header().Set(onceHeader, headerJSON(b.describe(c.login, s.Challenge)))
	answer(w, http.StatusCreated, sessionObject{Identifier: c.session, TANActive: true, Activated2FA: true})
}

// chooseMethod is the method asked for, or the login's favourite. Nothing is asked where a session TAN is active.
func chooseMethod(l *Login, s *session, wanted string) (string, bool) {
	switch {
	case s.TANActive || l.free:
		return FreeTAN, true
	case wanted == "":
		return l.Methods[0], true
	}
	return wanted, slices.Contains(l.Methods, wanted)
}

func (b *Bank) newChallenge(method string) *challenge {
	id := 100_000_000 + binary.BigEndian.Uint32(b.opts.Env.Random(4))%900_000_000
	ch := &challenge{ID: strconv.Itoa(int(id)), Method: method, IssuedAt: b.opts.Env.Now()}
	if method == PushTAN {
		ch.Authentication, ch.Push = b.newID(), StatusPending
	}
	return ch
}

// describe is what the investor's program is told of a challenge.
func (b *Bank) describe(l *Login, ch *challenge) onceInfo {
	info := onceInfo{ID: ch.ID, Type: ch.Method, Available: l.Methods}
	switch ch.Method {
	case PhotoTAN:
		info.Challenge = base64.StdEncoding.EncodeToString(photo(ch.ID, Codes[PhotoTAN]))
	case SMSTAN:
		info.Challenge = "+49-170-12XXXX"
	case PushTAN:
		info.Link = &onceLink{Href: "/api/session/v1/authentications/" + ch.Authentication, Rel: "related",
			Method: http.MethodGet, Type: "application/json"}
	}
	return info
}

// authentication says what became of a push.
func (b *Bank) authentication(w http.ResponseWriter, r *http.Request, c caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.mine(w, c)
	if s == nil {
		return
	}
	ch := s.Challenge
	if ch == nil || ch.Authentication == "" || ch.Authentication != r.PathValue("authentication") {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	status := b.poll(c.login, ch)
	b.save()
	answer(w, http.StatusOK, map[string]string{"authenticationId": ch.Authentication, "status": status})
}

// poll asks after a push once more: the investor of the table may have reacted by now. The caller holds the lock.
func (b *Bank) poll(l *Login, ch *challenge) string {
	if ch.Push != StatusPending {
		return ch.Push
	}
	ch.Polls++
	switch {
	case b.opts.Env.Now().Sub(ch.IssuedAt) >= b.opts.PushLife:
		ch.Push = StatusExpired
	case l.push == pushApproved && ch.Polls >= b.opts.PushPolls:
		ch.Push = StatusAuthenticated
	case l.push == pushRejected && ch.Polls >= b.opts.PushPolls:
		ch.Push = StatusRejected
	}
	return ch.Push
}

// activate takes the answer to a challenge and activates the session TAN (chapter 2.4).
func (b *Bank) activate(w http.ResponseWriter, r *http.Request, c caller) {
	once, ok := sane(w, r, c)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.mine(w, c)
	if s == nil {
		return
	}
	defer b.save()
	if s.Challenge == nil || once.ID == "" || once.ID != s.Challenge.ID {
		refuseOnce(w)
		return
	}
	if !b.passed(w, c.login, s, r.Header.Get("x-once-authentication")) {
		return
	}
	b.person(c.login.Number).right(domain.CountCode, b.opts.Env.Now())
	s.TANActive, s.Challenge = true, nil
	answer(w, http.StatusOK, sessionObject{Identifier: c.session, TANActive: true, Activated2FA: true})
}

// passed judges the answer to the session's challenge, and refuses a bad one. The caller holds the lock.
func (b *Bank) passed(w http.ResponseWriter, l *Login, s *session, code string) bool {
	ch := s.Challenge
	switch ch.Method {
	case FreeTAN:
		return true
	case PushTAN:
		return b.pushed(w, l, ch)
	}
	switch {
	case code == "":
		refuse(w, http.StatusUnprocessableEntity, CodeObject, "TAN_FEHLT", "Die TAN fehlt.", "x-once-authentication")
	case l.stale && s.Challenges == 1, b.opts.Env.Now().Sub(ch.IssuedAt) >= b.opts.ChallengeLife:
		refuse(w, http.StatusUnprocessableEntity, CodeExpired, CodeExpired, "Die TAN ist abgelaufen.")
	case same(code, Codes[ch.Method]):
		return true
	default:
		b.wrongTAN(w, l.Number)
	}
	return false
}

func (b *Bank) pushed(w http.ResponseWriter, l *Login, ch *challenge) bool {
	switch b.poll(l, ch) {
	case StatusAuthenticated:
		return true
	case StatusPending:
		refuseWith(w, http.StatusBadRequest, CodeWrongTAN, businessMessage{Severity: "INFO", Key: KeyPushPending,
			Message: "Die Freigabe in der App steht noch aus."})
	case StatusRejected:
		refuse(w, http.StatusBadRequest, CodeWrongTAN, KeyPushRejected, "Die Freigabe wurde in der App abgelehnt.")
	default:
		refuse(w, http.StatusUnprocessableEntity, CodeExpired, CodeExpired, "Die Frist für die Freigabe ist abgelaufen.")
	}
	return false
}

// wrongTAN counts a wrong TAN, and locks at the third (chapter 2.4). The caller holds the lock.
func (b *Bank) wrongTAN(w http.ResponseWriter, number string) {
	if b.strike(number, domain.CountCode) {
		refuse(w, http.StatusUnprocessableEntity, CodeLocked, CodeLocked, "Ihr Zugang wurde gesperrt.")
		return
	}
	left := strconv.Itoa(locks()[domain.CountCode].At - b.person(number).Wrong)
	refuseWith(w, http.StatusBadRequest, CodeWrongTAN, businessMessage{Severity: "ERROR", Key: CodeWrongTAN,
		Message: "Die TAN ist falsch. Verbleibende Versuche: " + left, Args: map[string]string{"versuche": left}})
}

// clientID is the bank's identifier of a customer.
func clientID(number string) string { return identifier("client", number) }
