package journey

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"sluis.internal/functions/challenge"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// investor plays an investor's browser: it follows a link, keeps the cookie, and seals what it types as the page's
// script does.
type investor struct {
	*Place
	http      *http.Client
	cookie    *http.Cookie
	browser   *http.Cookie // by which it knows its visits again
	page      []byte       // the page seen last
	custodian domain.CustodianID
	state     challenge.State // as last seen
	progress  func(records int)
}

// Refusal is an answer of 4xx.
type Refusal struct {
	Status int
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (r *Refusal) Error() string { return fmt.Sprintf("%d %s: %s", r.Status, r.Code, r.Detail) }

// IsRefusal says whether err is a refusal: on purpose, and not for a failure on our side.
func IsRefusal(err error) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Status < 500
}

// do sends one request and reads a JSON answer into out. A form is sent as one, anything else as JSON.
func (in *investor) do(ctx context.Context, method, path string, body, out any) error {
	var r io.Reader
	media := "application/json"
	switch b := body.(type) {
	case nil:
	case url.Values:
		r, media = strings.NewReader(b.Encode()), "application/x-www-form-urlencoded"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, in.Pages+path, r)
	if err != nil {
		return err
	}
	if r != nil {
		req.Header.Set("Content-Type", media)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, c := range []*http.Cookie{in.cookie, in.browser} {
		if c != nil {
			req.AddCookie(c)
		}
	}
	resp, err := in.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for _, c := range resp.Cookies() {
		if strings.HasSuffix(c.Name, "-browser") {
			in.browser = c
		} else {
			in.cookie = c
		}
	}
	if err := in.Record.answer(resp); err != nil {
		return err
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		out = &in.page
	}
	return readAnswer(resp, out)
}

func readAnswer(resp *http.Response, out any) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		r := &Refusal{Status: resp.StatusCode}
		_ = json.Unmarshal(raw, r) // a page has no code; the status says enough
		return r
	}
	if page, ok := out.(*[]byte); ok {
		*page = raw
		return nil
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	return json.Unmarshal(raw, out)
}

// open follows a link: reads who asks, then goes on.
func (in *investor) open(ctx context.Context, link string) error {
	u, err := url.Parse(link)
	if err != nil {
		return err
	}
	if err := in.do(ctx, http.MethodGet, u.Path, nil, nil); err != nil {
		return err
	}
	in.cookie = nil
	if err := in.do(ctx, http.MethodPost, u.Path, url.Values{}, nil); err != nil {
		return err
	}
	if in.cookie == nil {
		return errors.New("the link gave no cookie")
	}
	return nil
}

func (in *investor) grant(ctx context.Context) error {
	return in.yes(ctx, "/consent", "/consent/grant", url.Values{"custodian": {string(in.custodian)}})
}

// yes reads the page at path and confirms what it says.
func (in *investor) yes(ctx context.Context, path, to string, form url.Values) error {
	in.page = nil
	if err := in.do(ctx, http.MethodGet, path, nil, nil); err != nil {
		return err
	}
	if found := shownShape.FindSubmatch(in.page); found != nil {
		form.Set("shown", string(found[1]))
	}
	return in.do(ctx, http.MethodPost, to, form, nil)
}

var shownShape = regexp.MustCompile(`name="shown" value="([0-9a-f]{64})"`)

// ready reads the page with the login, and confirms first what that is for where the page asks.
func (in *investor) ready(ctx context.Context) error {
	in.page = nil
	if err := in.do(ctx, http.MethodGet, "/connect", nil, nil); err != nil || !bytes.Contains(in.page, []byte("/connect/confirm")) {
		return err
	}
	return in.yes(ctx, "/connect", "/connect/confirm", url.Values{})
}

func (in *investor) deny(ctx context.Context) error {
	return in.do(ctx, http.MethodPost, "/consent/deny", url.Values{}, nil)
}

func (in *investor) revoke(ctx context.Context, consent string) error {
	return in.do(ctx, http.MethodPost, "/me/revoke", url.Values{"consent_id": {consent}}, nil)
}

// SealKey is what GET /seal/key answers.
type SealKey struct {
	JWK        envelope.JWK        `json:"jwk"`
	Subject    string              `json:"sub"`
	Credential domain.CredentialID `json:"cid"`
	Generation int64               `json:"gen"`
	Nonce      string              `json:"nonce"`
	Now        int64               `json:"now"`
}

// Sealing is what the page was told to seal.
func (k SealKey) Sealing() domain.Sealing {
	return domain.Sealing{Subject: k.Subject, Credential: k.Credential, Generation: k.Generation, Nonce: k.Nonce}
}

// key asks for the key as the page does, with what is in query.
func (in *investor) key(ctx context.Context, query string) (SealKey, error) {
	var k SealKey
	err := in.do(ctx, http.MethodGet, "/seal/key"+query, nil, &k)
	return k, err
}

func (in *investor) seal(ctx context.Context, fields map[string]string) error {
	if err := in.ready(ctx); err != nil {
		return err
	}
	k, err := in.key(ctx, "")
	if err != nil {
		return err
	}
	jwe, err := k.JWK.SealCredential(k.Sealing(), maps.Clone(fields), domain.At(time.Unix(k.Now, 0)))
	if err != nil {
		return err
	}
	return in.do(ctx, http.MethodPost, "/seal", map[string]string{"jwe": jwe}, nil)
}

func (in *investor) again(ctx context.Context) error {
	if err := in.ready(ctx); err != nil {
		return err
	}
	return in.do(ctx, http.MethodPost, "/seal/again", map[string]string{}, nil)
}

// watch follows the page's event stream until the state is as wanted.
func (in *investor) watch(ctx context.Context, wanted func(*challenge.State) bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.Pages+"/challenge/events", nil)
	if err != nil {
		return err
	}
	req.AddCookie(in.cookie)
	resp, err := in.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readAnswer(resp, nil)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		in.state = challenge.State{}
		if err := json.Unmarshal([]byte(data), &in.state); err != nil {
			return err
		}
		if wanted(&in.state) {
			return nil
		}
		if in.progress != nil && in.state.Session != nil && in.state.Session.Records > 0 {
			in.progress(in.state.Session.Records)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("waiting, last seen %s %s: %w", in.state.Page, in.state.Reason, err)
	}
	return errors.New("the event stream ended")
}

// Busy says whether a visit to the bank is under way.
func Busy(s *challenge.State) bool {
	return s.Session != nil && !domain.SessionMoves.Final(s.Session.State)
}

// atPage says whether the investor's page is so far; reason is compared where one is given.
func atPage(page, reason string) func(*challenge.State) bool {
	return func(s *challenge.State) bool {
		return s.Page == page && (reason == "" || string(s.Reason) == reason) && (page == "ended" || !Busy(s))
	}
}

// asked says whether the bank asks: for a code, decoupled, again (after a wrong code or a renewal), or expired.
func asked(kind string) func(*challenge.State) bool {
	return func(s *challenge.State) bool {
		c := s.Challenge
		if c == nil || s.Session.State != domain.SessionSuspended {
			return false
		}
		switch kind {
		case "expired":
			return c.State == domain.SCAExpired
		case "again":
			return c.State == domain.SCARejected || c.State == domain.SCAIssued
		}
		return string(c.Flow) == kind
	}
}

func (in *investor) answer(ctx context.Context, kind, method string) error {
	return in.send(ctx, map[string]string{"kind": kind, "method": method})
}

func (in *investor) code(ctx context.Context, code string) error {
	if in.state.Challenge == nil {
		return errors.New("the bank asks nothing")
	}
	k, err := in.key(ctx, "?challenge="+string(in.state.Challenge.ID))
	if err != nil {
		return err
	}
	sealed, err := k.JWK.SealCode(k.Sealing(), code, domain.At(time.Unix(k.Now, 0)))
	if err != nil {
		return err
	}
	return in.send(ctx, map[string]string{"kind": "code", "sealed_code": sealed})
}

func (in *investor) send(ctx context.Context, body map[string]string) error {
	if in.state.Challenge == nil {
		return errors.New("the bank asks nothing")
	}
	body["challenge_id"] = string(in.state.Challenge.ID)
	return in.do(ctx, http.MethodPost, "/challenge/answer", body, nil)
}

// image fetches the challenge's picture and makes sure that it is one.
func (in *investor) image(ctx context.Context) error {
	if in.state.Challenge == nil {
		return errors.New("the bank asks nothing")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.Pages+in.state.Challenge.ImageURL, nil)
	if err != nil {
		return err
	}
	req.AddCookie(in.cookie)
	resp, err := in.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || http.DetectContentType(raw) != resp.Header.Get("Content-Type") {
		return fmt.Errorf("%d, %s", resp.StatusCode, http.DetectContentType(raw))
	}
	return nil
}
