package comdirect

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

const (
	// maxChallenges is how many challenges one visit asks for. The bank locks the access at the fifth without a right
	// TAN in between (clause 2.3).
	maxChallenges = 4
	// maxWrong is how many wrong codes one visit hands in. The bank locks the access at the third; up to then the
	// investor can reset the count with a right one on the bank's own page (clause 2.4).
	maxWrong = 2
	// pollEvery is how often the bank is asked whether the app approved; the specification names no interval.
	pollEvery = 2 * time.Second
	// exempt is the type of a challenge that asks for nothing (clause 3.2).
	exempt        = "TAN_FREI"
	maxImageBytes = 512 << 10
)

// onceInfo is the header x-once-authentication-info as the bank sends it (clause 2.3). The link is not in the
// specification: the bank gives it with P_TAN_PUSH, to ask whether the app approved.
type onceInfo struct {
	ID        number   `json:"id"`
	Type      string   `json:"typ"`
	Challenge string   `json:"challenge"`
	Available []string `json:"availableTypes"`
	Link      struct {
		Href string `json:"href"`
	} `json:"link"`
}

// ask is the outcome in which the challenge stands at status.
func (v *visit) ask(status domain.SCAState) (extraction.Outcome, error) {
	sealed, err := v.seal()
	if err != nil {
		return extraction.Outcome{}, err
	}
	c := &extraction.Challenge{Status: status, Method: v.st.Challenge.Method, Display: v.st.Challenge.Display,
		TriesLeft: maxWrong - v.st.Wrong, State: sealed}
	for _, m := range v.s.Custodian.Methods {
		if slices.Contains(v.st.Methods, m.ID) {
			c.Methods = append(c.Methods, m)
		}
	}
	c.Flow = v.flow()
	if c.Flow == domain.FlowDecoupled {
		c.PollEvery = pollEvery
	}
	return extraction.Outcome{Challenge: c}, nil
}

// flow is that of the challenge's method, and empty where there is no challenge or none that we know.
func (v *visit) flow() domain.SCAFlow {
	for _, m := range v.s.Custodian.Methods {
		if m.ID == v.st.Challenge.Method {
			return m.Flow
		}
	}
	return ""
}

// waits is the status of a challenge that nobody has answered.
func (v *visit) waits() domain.SCAState {
	switch v.flow() {
	case domain.FlowCode:
		return domain.SCAIssued
	case domain.FlowDecoupled:
		return domain.SCAAwaiting
	}
	return domain.SCASelection
}

func (v *visit) renew(ctx context.Context) (extraction.Outcome, error) {
	return v.issue(ctx, v.st.Challenge.Method)
}

func (v *visit) choose(ctx context.Context, method string) (extraction.Outcome, error) {
	if !slices.Contains(v.st.Methods, method) {
		return extraction.Outcome{}, domain.Invalidf("method", "choose one of the methods that the bank offers")
	}
	return v.issue(ctx, method)
}

// issue asks the bank for a challenge: of the method given, or of the one that the investor prefers at the bank.
// Where one more could lock the access, the bank is not asked, and the challenge that stands is shown again.
func (v *visit) issue(ctx context.Context, method string) (extraction.Outcome, error) {
	if v.st.Challenges >= maxChallenges {
		return v.enough()
	}
	info, err := v.validate(ctx, method)
	if err != nil {
		return extraction.Outcome{}, err
	}
	if v.st.Challenge, err = v.understand(info); err != nil {
		return extraction.Outcome{}, err
	}
	v.st.Methods = v.known(append(info.Available, info.Type))
	switch {
	case info.Type == exempt:
		if err := v.activate(ctx, ""); err != nil {
			return extraction.Outcome{}, err
		}
		return v.open(ctx)
	case v.flow() == "" && len(v.st.Methods) == 0:
		return extraction.Outcome{}, &extraction.Failure{Reason: domain.ReasonActionRequired,
			Err: errors.New("passing SCA: the bank offers no method that we know")}
	}
	return v.ask(v.waits())
}

func (v *visit) enough() (extraction.Outcome, error) {
	out, err := v.ask(v.waits())
	if err == nil {
		out.Challenge.Display.Text = "The bank locks the access when a fifth challenge is asked for without a right answer. " +
			"Please answer this one."
	}
	return out, err
}

// known are those of the bank's methods that the catalogue has, each once.
func (v *visit) known(offered []string) []string {
	var methods []string
	for _, m := range v.s.Custodian.Methods {
		if slices.Contains(offered, m.ID) {
			methods = append(methods, m.ID)
		}
	}
	return methods
}

// validate asks for a challenge (clause 2.3). Every attempt counts as one, whether or not its answer arrives: we
// cannot know what the bank counted.
func (v *visit) validate(ctx context.Context, method string) (onceInfo, error) {
	var info onceInfo
	c := call{method: http.MethodPost, path: pathSessions + "/" + v.st.Session + "/validate", body: v.activation()}
	if method != "" {
		c.once = fmt.Sprintf(`{"typ":%q}`, method)
	}
	err := patient(ctx, func() error {
		if v.st.Challenges >= maxChallenges {
			return &extraction.Failure{Reason: domain.ReasonBankUnavailable,
				Err: errors.New("asking for a challenge: one more could lock the access")}
		}
		v.st.Challenges++
		resp, err := v.sendAuthorised(ctx, c)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := json.Unmarshal([]byte(resp.Header.Get("x-once-authentication-info")), &info); err != nil {
			return misunderstood(fmt.Errorf("the challenge: %w", err))
		}
		return nil
	})
	return info, err
}

// activation is the body of validation and activation alike.
func (v *visit) activation() []byte {
	return fmt.Appendf(nil, `{"identifier":%q,"sessionTanActive":true,"activated2FA":true}`, v.st.Session)
}

// sendAuthorised sends once, or twice if the bank does not know the token the first time: then it did not look at the
// rest either.
func (v *visit) sendAuthorised(ctx context.Context, c call) (*http.Response, error) {
	body := c.body
	c.bearer, c.body = v.st.Access, bytes.Clone(body)
	resp, err := v.send(ctx, c)
	var r *refusal
	if !errors.As(err, &r) || r.status != http.StatusUnauthorized {
		return resp, err
	}
	if err := v.refresh(ctx); err != nil {
		return nil, err
	}
	c.bearer, c.body = v.st.Access, bytes.Clone(body)
	if resp, err = v.send(ctx, c); errors.As(err, &r) && r.status == http.StatusUnauthorized {
		return nil, errSessionOver
	}
	return resp, err
}

var (
	challengeID = domain.NewShape(`^[A-Za-z0-9_-]{1,64}$`)
	// masked is what a destination may look like; anything else is not shown.
	masked = domain.NewShape(`^[0-9+*Xx ./()-]{4,32}$`)
)

// understand makes of the bank's header what we keep and show.
func (v *visit) understand(info onceInfo) (challenge, error) {
	c := challenge{ID: string(info.ID), Method: info.Type}
	if !challengeID.MatchString(c.ID) {
		return c, misunderstood(errors.New("the challenge has no usable identifier"))
	}
	switch kind := v.kind(info.Type); kind {
	case "photo_tan":
		image, err := base64.StdEncoding.DecodeString(info.Challenge)
		if err != nil || len(image) > maxImageBytes || !bytes.HasPrefix(image, []byte("\x89PNG\r\n\x1a\n")) {
			return c, misunderstood(errors.New("the challenge is no PNG image"))
		}
		c.Display.Image, c.Display.MediaType = image, "image/png"
	case "sms":
		if masked.MatchString(info.Challenge) {
			c.Display.Destination = info.Challenge
		}
	case "app":
		if info.Link.Href == "" {
			break
		}
		link, err := url.Parse(info.Link.Href)
		if err != nil {
			return c, misunderstood(errors.New("the challenge's link is malformed"))
		}
		id, ok := strings.CutPrefix(link.Path, pathAuthentication)
		if !ok || !plainID.MatchString(id) {
			return c, misunderstood(errors.New("the challenge's link leads elsewhere"))
		}
		c.Poll = id
	}
	return c, nil
}

func (v *visit) kind(method string) string {
	for _, m := range v.s.Custodian.Methods {
		if m.ID == method {
			return m.Kind
		}
	}
	return ""
}

var tanShape = domain.NewShape(`^[A-Za-z0-9]{1,20}$`)

// code hands in what the investor typed. What cannot be a TAN is not shown to the bank, which would count it.
func (v *visit) code(ctx context.Context, code domain.Secret) (extraction.Outcome, error) {
	if v.flow() != domain.FlowCode {
		return extraction.Outcome{}, domain.Invalidf("kind", "this challenge takes no code")
	}
	tan := string(bytes.TrimSpace(code.Reveal()))
	if !tanShape.MatchString(tan) {
		return v.ask(domain.SCARejected)
	}
	return v.settle(ctx, v.activate(ctx, tan))
}

// poll asks whether the investor approved in the app.
func (v *visit) poll(ctx context.Context) (extraction.Outcome, error) {
	if v.flow() != domain.FlowDecoupled {
		return extraction.Outcome{}, domain.Invalidf("kind", "this challenge takes a code")
	}
	if v.st.Challenge.Poll == "" {
		return v.settle(ctx, v.activate(ctx, ""))
	}
	var answer struct {
		Status string `json:"status"`
	}
	_, err := v.authorised(ctx, call{method: http.MethodGet, path: pathAuthentication + v.st.Challenge.Poll}, &answer)
	if err != nil {
		return v.pollFailed(err)
	}
	status := strings.ToUpper(answer.Status)
	switch {
	case status == "AUTHENTICATED":
		return v.settle(ctx, v.activate(ctx, ""))
	case containsAny(status, "EXPIRE", "TIMEOUT"):
		return v.ask(domain.SCAExpired)
	case containsAny(status, "REJECT", "DECLINE", "DENIED", "CANCEL", "ABORT", "FAIL"):
		v.st.Wrong = maxWrong // the investor said no: do not ask again
		return v.ask(domain.SCARejected)
	}
	return v.ask(domain.SCAAwaiting)
}

func containsAny(s string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(s, p) })
}

// pollFailed keeps waiting where the bank only stumbles: the approval is not lost by that.
func (v *visit) pollFailed(err error) (extraction.Outcome, error) {
	var r *refusal
	var f *extraction.Failure
	switch {
	case errors.As(err, &r) && (r.status == http.StatusNotFound || r.status == http.StatusGone || expired(r)):
		return v.ask(domain.SCAExpired)
	case r != nil && r.passing(), errors.As(err, &f) && f.Retry:
		out, err := v.ask(domain.SCAAwaiting)
		if err == nil && r != nil {
			out.Challenge.PollEvery = max(pollEvery, min(r.after, longestWait))
		}
		return out, err
	}
	return extraction.Outcome{}, err
}

func expired(r *refusal) bool { return r.says("expired", "abgelaufen") }

// activate hands in the TAN, or none (clause 2.4). Where the bank's answer leaves open whether it took it, the session
// is looked at before the TAN is given a second time: it might be counted as a wrong one.
func (v *visit) activate(ctx context.Context, tan string) error {
	c := call{method: http.MethodPatch, path: pathSessions + "/" + v.st.Session, body: v.activation(),
		once: fmt.Sprintf(`{"id":%q}`, v.st.Challenge.ID), tan: tan}
	for try := 0; ; try++ {
		resp, err := v.sendAuthorised(ctx, c)
		if err == nil {
			return resp.Body.Close()
		}
		if errors.Is(err, errSessionOver) {
			return err
		}
		var r *refusal
		if errors.As(err, &r) && (locked(r) || expired(r) || pending(r)) {
			return err
		}
		if active, e := v.session(ctx); e == nil && active {
			return nil
		}
		wait, repeat := again(err, try)
		if r == nil || !repeat || try == tries-1 {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// pending says that the app has not approved yet.
func pending(r *refusal) bool { return r.says("pushtan_angefordert", "pending") }

// settle goes on from an activation that came to err.
func (v *visit) settle(ctx context.Context, err error) (extraction.Outcome, error) {
	var r *refusal
	switch {
	case err == nil:
		return v.open(ctx)
	case !errors.As(err, &r) || r.passing() || locked(r):
		return extraction.Outcome{}, err
	case expired(r):
		return v.ask(domain.SCAExpired)
	case pending(r):
		return v.ask(domain.SCAAwaiting)
	case r.says("header") || r.status != http.StatusBadRequest && r.status != http.StatusUnprocessableEntity:
		return extraction.Outcome{}, err
	}
	v.st.Wrong++ // at maxWrong no try is left, and the engine gives up before the bank locks the access
	return v.ask(domain.SCARejected)
}
