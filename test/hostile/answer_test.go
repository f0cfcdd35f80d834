package hostile

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"unicode/utf8"

	"sluis.internal/shared/serve"
)

// answer is what came of a request.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %.300s", a.status, a.body) }

// problem is the answer's, and empty where it is none.
func (a answer) problem() (p serve.Problem) {
	_ = json.Unmarshal(a.body, &p)
	return p
}

// insides are words that only somebody inside would say.
var insides = regexp.MustCompile(`(?i)sqlite|sql:|select |goroutine|panic|runtime error|\.go:|0x[0-9a-f]{6}|sluis\.internal|jsontext|` +
	`json:|jsonv2|unmarshal|stack trace|/tmp/|/root|/home/|nil pointer|context canceled|tink|go-jose|strconv|parsing time|http:`)

// wrong says what no answer of the route may be, whatever was asked: a failure on our side, or one that does not say
// what to do; and what the contracts do not describe.
func (b *bed) wrong(r route, a answer) error {
	switch {
	case a.status >= 500:
		return errors.New("it fails on our side")
	case a.header.Get("X-Content-Type-Options") != "nosniff":
		return errors.New("it may be sniffed")
	case !strings.Contains(a.header.Get("Content-Security-Policy"), "default-src 'none'"):
		return errors.New("it has no content policy")
	case a.status >= 400 && a.header.Get("Cache-Control") != "no-store":
		return errors.New("it may be kept")
	case a.status >= 400 && insides.Match(a.body):
		return fmt.Errorf("it tells of our insides: %q", insides.Find(a.body))
	case r.page && a.status >= 400:
		return wrongPage(a)
	case r.page || r.ID == "watchState":
		return nil
	case a.status >= 400:
		if err := wrongProblem(r, a); err != nil {
			return err
		}
	}
	return b.check.Answer(r.Method, r.Template, a.status, a.body)
}

// wrongProblem says what is missing of a problem: its type, its code, a remedy, and of wrong input the field, unless the
// body as a whole is wrong.
func wrongProblem(r route, a answer) error {
	p := a.problem()
	switch {
	case a.header.Get("Content-Type") != "application/problem+json":
		return fmt.Errorf("it is no problem but %q", a.header.Get("Content-Type"))
	case !utf8.Valid(a.body):
		return errors.New("it is not UTF-8")
	case len(p.Detail) < 10:
		return errors.New("it names no remedy")
	case p.Field == "" && a.status == http.StatusBadRequest && !aboutWhole(r, p.Detail):
		return errors.New("it names no field")
	}
	return nil
}

// aboutWhole says whether a remedy tells of the body as a whole, or names its members itself.
func aboutWhole(r route, detail string) bool {
	properties, _ := r.Body["properties"].(map[string]any)
	for name := range properties {
		if strings.Contains(detail, name) {
			return true
		}
	}
	return strings.Contains(detail, "body") || strings.Contains(detail, "object")
}

var mainText = regexp.MustCompile(`(?s)<main.*<h1[^>]*>.{3,}</h1>.*</main>`)

// wrongPage says what is missing of a page that tells of a failure.
func wrongPage(a answer) error {
	switch {
	case a.header.Get("Content-Type") != "text/html; charset=utf-8":
		return fmt.Errorf("it is no page but %q", a.header.Get("Content-Type"))
	case !mainText.Match(a.body):
		return errors.New("it says nothing")
	}
	return nil
}
