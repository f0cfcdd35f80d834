package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// api speaks to Sluis with the client's key.
type api struct {
	base string
	key  string
	http *http.Client
}

// maxAnswer bounds an answer of the API: a page of 1000 transactions has well under 2 MiB.
const maxAnswer = 16 << 20

func newAPI(c *Client) *api {
	a := &api{base: strings.TrimSuffix(c.API, "/"), key: c.Key, http: c.HTTP}
	if a.http == nil {
		a.http = &http.Client{Timeout: 30 * time.Second}
	}
	return a
}

// problem is what the API answers with 4xx and 5xx: RFC 9457 problem details. Code is stable, so a program may look at
// it; Detail is for people.
type problem struct {
	Status     int    `json:"status"`
	Code       string `json:"code"`
	Detail     string `json:"detail"`
	Field      string `json:"field"`
	RetryAfter string `json:"-"` // seconds
}

func (p *problem) Error() string { return fmt.Sprintf("%d %s: %s", p.Status, p.Code, p.Detail) }

func (p *problem) headline() string {
	switch {
	case p.Status == http.StatusNotFound:
		return "Nothing here"
	case p.Code == "unreachable":
		return "Sluis does not answer"
	case p.Status >= 500:
		return "Something failed"
	}
	return "This is not possible"
}

// codeOf is the stable code of the API's refusal, or nothing.
func codeOf(err error) string {
	var p *problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// request is one call. Every POST carries an Idempotency-Key, so each call may be sent again if no answer came.
type request struct {
	method, path string
	body         any
	once         string
}

// get reads path into out.
func (a *api) get(ctx context.Context, path string, out any) error {
	return a.do(ctx, request{method: http.MethodGet, path: path}, out)
}

// do sends the request, and sends it again, twice at most, where no answer came or one that says that the failure
// passes. Nothing is done twice by that: GET and DELETE may be repeated, and a POST has its Idempotency-Key.
func (a *api) do(ctx context.Context, r request, out any) error {
	for try := 0; ; try++ {
		err := a.send(ctx, r, out)
		var p *problem
		passing := errors.As(err, &p) && p.Status >= http.StatusBadGateway && p.RetryAfter == ""
		if !passing || try == 2 {
			return err
		}
		wait := time.NewTimer(200 * time.Millisecond << try)
		select {
		case <-ctx.Done():
			wait.Stop()
			return err
		case <-wait.C:
		}
	}
}

func (a *api) send(ctx context.Context, r request, out any) error {
	var body io.Reader
	if r.body != nil {
		raw, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("writing request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, a.base+r.path, body)
	if err != nil {
		return fmt.Errorf("making request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	req.Header.Set("Accept", "application/json, application/problem+json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.once != "" {
		req.Header.Set("Idempotency-Key", r.once)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return a.unreachable()
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return a.unreachable()
	}
	return a.take(resp, raw, out)
}

// unreachable says only where no answer came from: the cause may hold more than a page should show.
func (a *api) unreachable() error {
	return &problem{Status: http.StatusBadGateway, Code: "unreachable", Detail: "No answer came from " + a.base + ". Is it running?"}
}

// take reads an answer. Members that this program does not know are passed over: the API may gain some.
func (a *api) take(resp *http.Response, raw []byte, out any) error {
	if resp.StatusCode >= 300 {
		p := &problem{}
		if err := json.Unmarshal(raw, p); err != nil || p.Code == "" {
			p = &problem{Code: "unexpected_answer", Detail: "Sluis answered " + resp.Status + "."}
		}
		p.Status, p.RetryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
		if p.Status < 400 {
			p.Status = http.StatusBadGateway
		}
		return p
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("reading answer of %s: %w", resp.Request.URL.Path, err)
	}
	return nil
}

// onceKey is the Idempotency-Key of a form: the same for the same form sent twice, another if anything in it changed.
func onceKey(nonce string, r request) (string, error) {
	raw, err := json.Marshal(r.body)
	if err != nil {
		return "", fmt.Errorf("writing request: %w", err)
	}
	sum := sha256.Sum256([]byte(nonce + "\n" + r.method + " " + r.path + "\n" + string(raw)))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// list is a page of anything; Next is the cursor of the page after, absent at the end.
type list[T any] struct {
	Data []T    `json:"data"`
	Next string `json:"next"`
}

// readList follows cursors until all, or most, are read.
func readList[T any](ctx context.Context, a *api, path string, most int) ([]T, error) {
	var out []T
	q := url.Values{"limit": {"100"}}
	for {
		var page list[T]
		if err := a.get(ctx, path+"?"+q.Encode(), &page); err != nil {
			return nil, err
		}
		out = append(out, page.Data...)
		if page.Next == "" || len(out) >= most {
			return out[:min(len(out), most)], nil
		}
		q.Set("cursor", page.Next)
	}
}
