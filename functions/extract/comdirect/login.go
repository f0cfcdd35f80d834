package comdirect

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// early is how long before its end a token counts as ended, so that a reading does not begin with a dying one.
const early = time.Minute

// loginAnswer is how long the bank may take to say whether it takes the credentials.
const loginAnswer = 40 * time.Second

// errSessionOver means that neither token nor refresh token is any good.
var errSessionOver = errors.New("the session at the bank is over")

// login gives the password, once, and goes on as far as it leads.
func login(ctx context.Context, s extraction.Session, in extraction.Input) (extraction.Outcome, error) {
	v := &visit{s: s}
	v.st.Client = hex.EncodeToString(s.Env.Random(16))
	if err := v.password(ctx, in.Credentials); err != nil {
		return extraction.Outcome{}, err
	}
	out, err := v.afterPassword(ctx)
	if err != nil {
		// No State goes back with an error, so nobody else could close what was opened.
		tidy, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer stop()
		_ = v.revoke(tidy) // best effort: the token ends by itself within 20 minutes
	}
	return out, accepted(err)
}

// accepted adds to a failure that the bank took the password before it.
func accepted(err error) error {
	var f *extraction.Failure
	if !errors.As(failed(err), &f) {
		return err
	}
	after := *f
	after.Accepted = true
	return &after
}

func (v *visit) afterPassword(ctx context.Context) (extraction.Outcome, error) {
	active, err := v.session(ctx)
	switch {
	case errors.Is(err, errSessionOver):
		return extraction.Outcome{}, misunderstood(errors.New("it refuses a token that it just issued"))
	case err != nil:
		return extraction.Outcome{}, err
	case active:
		return v.open(ctx)
	case !v.s.Attended:
		return v.ask(domain.SCARequired)
	}
	return v.issue(ctx, "")
}

// token is the bank's answer to every grant (clauses 2.1, 2.5 and 3.1.1).
type token struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Expires number `json:"expires_in"`
}

// password trades the credentials for the first token. It is sent once: whatever happens, nobody repeats it by itself.
func (v *visit) password(ctx context.Context, fields map[string]domain.Secret) error {
	// They stand first, so that what follows them writes over them where net/http copies the body; see wiping.
	form := make([]byte, 0, 512)
	for _, name := range []string{"username", "password"} {
		secret, ok := fields[name]
		if !ok || secret.Len() == 0 {
			clear(form)
			return fmt.Errorf("logging in: the credential has no field %s", name)
		}
		form = addField(form, name, secret.Reveal())
	}
	form, err := v.client(ctx, form, "password")
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		clear(form)
		return &extraction.Failure{Reason: domain.ReasonInternal, Unjudged: true, Retry: true, Err: err}
	}
	// The answer opens a session at the bank that nobody can close without it: it is waited for even if the work is cut
	// short meanwhile.
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), loginAnswer)
	defer stop()
	resp, err := v.send(ctx, call{method: http.MethodPost, path: pathToken, form: true, body: form})
	if err != nil {
		return loginFailure(err)
	}
	defer resp.Body.Close()
	var t token
	if err := decode(ctx, resp.Body, &t); err != nil {
		return once(err)
	}
	return once(v.take(t))
}

// once takes the permission to retry from a failure that may have come after the password was looked at.
func once(err error) error {
	var f *extraction.Failure
	if errors.As(err, &f) && !f.Unjudged {
		f.Retry = false
	}
	return err
}

// loginFailure says what a refused password grant means. OAuth (RFC 6749, 5.2) tells the client's own faults from the
// investor's; what the bank adds to lock or to demand something is in its codes and descriptions.
func loginFailure(err error) error {
	var r *refusal
	if !errors.As(err, &r) {
		return once(err)
	}
	f := &extraction.Failure{Err: r}
	switch {
	case r.passing():
		errors.As(failed(r), &f)
		f.Unjudged = true
	case r.says("invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"):
		f.Reason, f.Unjudged = domain.ReasonInternal, true
	case locked(r):
		f.Reason = domain.ReasonAccountLocked
	case demands(r):
		f.Reason = domain.ReasonActionRequired
	case r.status == http.StatusUnauthorized || r.says("invalid_grant"):
		f.Reason = domain.ReasonCredentialsRefused
	default:
		f.Reason = domain.ReasonBankAnswer
	}
	return f
}

// secondary trades the activated token for one that opens accounts and depots (clause 2.5).
func (v *visit) secondary(ctx context.Context) error {
	primary := v.st.Access
	if err := v.grant(ctx, "cd_secondary", "token", primary); err != nil {
		return err
	}
	v.st.Primary, v.st.Open = primary, true
	return nil
}

// refresh trades the refresh token for new ones (clause 3.1.1).
func (v *visit) refresh(ctx context.Context) error {
	err := v.grant(ctx, "refresh_token", "refresh_token", v.st.Refresh)
	var r *refusal
	if errors.As(err, &r) && !r.passing() {
		return errSessionOver
	}
	return err
}

func (v *visit) grant(ctx context.Context, kind, field, value string) error {
	form, err := v.client(ctx, make([]byte, 0, 512), kind)
	if err != nil {
		return err
	}
	var t token
	c := call{method: http.MethodPost, path: pathToken, form: true, body: addField(form, field, []byte(value))}
	if _, err := v.fetch(extraction.Uncounted(ctx), c, &t); err != nil { // it shows no password
		return err
	}
	return v.take(t)
}

// client adds to a form what every grant sends. If it fails, it wipes the form.
func (v *visit) client(ctx context.Context, form []byte, grant string) ([]byte, error) {
	form = addField(form, "grant_type", []byte(grant))
	for _, name := range []string{"client_id", "client_secret"} {
		at := ""
		for _, known := range v.s.Custodian.Secrets {
			if strings.HasSuffix(known, "/"+name) {
				at = known
			}
		}
		secret, err := v.s.Secrets.Secret(ctx, at)
		if err != nil {
			clear(form)
			return nil, &extraction.Failure{Reason: domain.ReasonInternal, Unjudged: true,
				Err: fmt.Errorf("reading the custodian's secret %s: %w", name, err)}
		}
		form = addField(form, name, secret.Reveal())
	}
	return form, nil
}

// addField appends a form field. It keeps to byte slices, which can be wiped, and wipes what it outgrows.
func addField(form []byte, name string, value []byte) []byte {
	const hexDigits = "0123456789ABCDEF"
	if need := len(form) + len(name) + 3*len(value) + 2; need > cap(form) {
		larger := append(make([]byte, 0, 2*need), form...)
		clear(form)
		form = larger
	}
	if len(form) > 0 {
		form = append(form, '&')
	}
	form = append(append(form, name...), '=')
	for _, b := range value {
		if 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || bytes.IndexByte([]byte("-._~"), b) >= 0 {
			form = append(form, b)
			continue
		}
		form = append(form, '%', hexDigits[b>>4], hexDigits[b&15])
	}
	return form
}

// take keeps an issued token.
func (v *visit) take(t token) error {
	seconds, err := strconv.ParseInt(string(t.Expires), 10, 32)
	if t.Access == "" || len(t.Access) > 4096 || len(t.Refresh) > 4096 || strings.ContainsAny(t.Access, " \r\n") ||
		t.Expires != "" && (err != nil || seconds < 0) {
		return misunderstood(errors.New("it holds no usable token"))
	}
	if t.Expires == "" {
		seconds = 599 // what the specification states for every token
	}
	v.st.Access, v.st.Refresh = t.Access, t.Refresh
	v.st.Expires = v.s.Env.Now().Unix() + seconds
	return nil
}

// freshen renews a token that is about to end.
func (v *visit) freshen(ctx context.Context) error {
	if v.s.Env.Now().Add(early).Unix() < v.st.Expires {
		return nil
	}
	return v.refresh(ctx)
}

// authorised makes a request that may be repeated with the token, and once more with a new one if the bank says that
// it does not know the first.
func (v *visit) authorised(ctx context.Context, c call, out any) (http.Header, error) {
	c.bearer = v.st.Access
	body := bytes.Clone(c.body)
	header, err := v.fetch(ctx, c, out)
	var r *refusal
	if !errors.As(err, &r) || r.status != http.StatusUnauthorized {
		return header, err
	}
	if err := v.refresh(ctx); err != nil {
		return nil, err
	}
	c.bearer, c.body = v.st.Access, body
	if header, err = v.fetch(ctx, c, out); errors.As(err, &r) && r.status == http.StatusUnauthorized {
		return nil, errSessionOver
	}
	return header, err
}

// session learns the bank's identifier of the session, and whether it asks for no TAN (clause 2.2). The
// specification shows one object, the bank sends a list of one.
func (v *visit) session(ctx context.Context) (active bool, err error) {
	var raw json.RawMessage
	if _, err := v.authorised(ctx, call{method: http.MethodGet, path: pathSessions}, &raw); err != nil {
		return false, err
	}
	type session struct {
		Identifier string `json:"identifier"`
		TAN        bool   `json:"sessionTanActive"`
		TwoFactor  bool   `json:"activated2FA"`
	}
	list := make([]session, 1)
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
		err = json.Unmarshal(raw, &list)
	} else {
		err = json.Unmarshal(raw, &list[0])
	}
	if err != nil {
		return false, misunderstood(err)
	}
	if len(list) == 0 || !plainID.MatchString(list[0].Identifier) {
		return false, misunderstood(errors.New("it names no session"))
	}
	v.st.Session = list[0].Identifier
	return list[0].TAN && list[0].TwoFactor, nil
}

// open gets the second token, and so opens the door.
func (v *visit) open(ctx context.Context) (extraction.Outcome, error) {
	if err := v.secondary(ctx); err != nil {
		return extraction.Outcome{}, err
	}
	v.st.Challenge, v.st.Methods = challenge{}, nil
	return v.portfolio(ctx)
}

// revoke ends the session at the bank. One that the bank no longer knows is ended.
func (v *visit) revoke(ctx context.Context) error {
	for _, bearer := range []string{v.st.Access, v.st.Primary} {
		if bearer == "" {
			continue
		}
		_, err := v.fetch(ctx, call{method: http.MethodDelete, path: pathRevoke, form: true, bearer: bearer}, nil)
		var r *refusal
		if err != nil && !(errors.As(err, &r) && !r.passing()) {
			return err
		}
	}
	return nil
}
