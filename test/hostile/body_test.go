package hostile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

var (
	longNumber = strings.Repeat("9", 10_000)
	longText   = strings.Repeat("x", 20_000)
	deep       = 10_000
)

// values are what may stand where a member's value should: raw JSON, or nearly.
var values = map[string]string{
	"null": "null", "a truth": "true", "nought": "0", "minus nought": "-0", "one": "1", "a negative": "-1", "a fraction": "0.5",
	"an exponent": "1e2", "an endless exponent": "1e999", "a tiny one": "1e-999", "2^63": "9223372036854775808",
	"-2^63-1": "-9223372036854775809", "2^64": "18446744073709551616", "ten thousand digits": longNumber,
	"ten thousand decimals": "0." + longNumber, "digits as text": `"` + longNumber + `"`, "an empty text": `""`, "a space": `" "`,
	"NUL": `"\u0000"`, "half a surrogate": `"\ud800"`, "surrogates the wrong way round": `"\udc00\ud800"`, "no UTF-8": "\"\xff\xfe\"",
	"an overlong slash": "\"\xc0\xaf\"", "a byte order mark": "\"\ufeffx\"", "right to left": `"\u202emoc.live"`,
	"a line break": `"a\nb"`, "a bare line break": "\"a\nb\"", "a long text": `"` + longText + `"`, "a list": "[]",
	"a list of nothing": "[null]", "a list of lists": "[[]]", "an object": "{}", "an object with a name": `{"a":1}`,
	"a prototype": `{"__proto__":{"admin":true}}`, "deep lists": strings.Repeat("[", deep) + strings.Repeat("]", deep),
	"deep objects": strings.Repeat(`{"a":`, deep/2) + "1" + strings.Repeat("}", deep/2), "markup": `"<script>alert(1)</script>"`,
	"a query": `"' OR 1=1; DROP TABLE doc_consent --"`, "a path": `"../../../etc/passwd"`, "a percent": `"%00%2e%2e"`,
	"a template": `"{{.}}${7*7}"`, "NaN": "NaN", "infinity": "Infinity", "a leading nought": "01", "a plus": "+1", "a bare point": ".5",
	"hexadecimal": "0x10", "underscores": "1_000", "single quotes": "'a'", "a bare word": "accounts", "nothing at all": "",
	"a comment": "/*x*/1", "a far time": `"9999-12-31T23:59:59-14:00"`, "a time before time": `"0000-01-01T00:00:00+14:00"`,
	"the first of times": `"0001-01-01T00:00:00Z"`, "a sloppy time": `"2030-1-1T1:00:00Z"`, "a comma in a time": `"2030-01-01T01:00:00,5Z"`,
	"a leap second": `"2030-12-31T23:59:60Z"`, "an impossible day": `"2030-02-30T00:00:00Z"`, "an odd zone": `"2030-01-01T00:00:00+24:00"`,
}

// replaced is body with the member at the path set to raw, and false where body has no such place.
func replaced(body []byte, path []string, raw string) ([]byte, bool) {
	if len(path) == 0 {
		return []byte(raw), true
	}
	m := members(body)
	if m == nil {
		return nil, false
	}
	below, ok := replaced(m[path[0]], path[1:], raw)
	if !ok {
		return nil, false
	}
	m[path[0]] = json.RawMessage("0")
	var out []byte
	for name, value := range m {
		if name == path[0] {
			value = below
		}
		out = append(fmt.Appendf(out, "%q:", name), append(value, ',')...)
	}
	return fmt.Appendf(nil, "{%s}", bytes.TrimSuffix(out, []byte(","))), true
}

// places are the paths of all members that a schema has.
func places(schema map[string]any) (all [][]string) {
	properties, _ := schema["properties"].(map[string]any)
	for name, member := range properties {
		all = append(all, []string{name})
		below, _ := member.(map[string]any)
		for _, p := range places(below) {
			all = append(all, append([]string{name}, p...))
		}
	}
	return all
}

// proper says whether a body is what the API takes: JSON in UTF-8 that has every member once, as openapi.yaml describes.
func (b *bed) proper(r route, body []byte) error {
	if len(body) == 0 && !r.BodyRequired {
		return nil
	}
	if !utf8.Valid(body) {
		return errors.New("it is not UTF-8")
	}
	if !json.Valid(body) {
		return errors.New("it is not JSON")
	}
	if err := single(json.NewDecoder(bytes.NewReader(body))); err != nil {
		return err
	}
	return b.check.Request(r.Method, r.Template, body)
}

// single says whether every object has each of its names once, and no text holds half a surrogate, for which
// encoding/json puts the replacement character.
func single(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if s, ok := t.(string); ok && strings.ContainsRune(s, utf8.RuneError) {
		return errors.New("it may have half a surrogate")
	}
	if t != json.Delim('{') && t != json.Delim('[') {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if t == json.Delim('{') {
			name, err := d.Token()
			if err != nil {
				return err
			}
			if text := name.(string); seen[text] {
				return fmt.Errorf("it has %q twice", text)
			}
			seen[name.(string)] = true
		}
		if err := single(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// attack sends a body and says what is wrong with what came of it: an answer that none may be; a body taken that the
// description refuses; something kept of what was refused.
func (b *bed) attack(t testing.TB, r route, body []byte) (answer, error) {
	t.Helper()
	before, entries := b.held(t)
	a := b.ask(r, b.request(r, body))
	after, noted := b.held(t)
	switch err := b.wrong(r, a); {
	case err != nil:
		return a, err
	case a.status >= 400 && after != before:
		return a, errors.New("it changes what it keeps, although it refuses")
	case a.status >= 400 && noted > entries+1:
		return a, fmt.Errorf("it notes a refusal %d times", noted-entries)
	}
	if a.status >= 400 {
		return a, nil
	}
	if err := b.anew(); err != nil {
		t.Fatal(err)
	}
	if err := b.proper(r, body); err != nil && !r.page {
		return a, fmt.Errorf("it takes what openapi.yaml refuses: %w", err)
	}
	return a, nil
}

// elsewhere are members whose fault may be told of another: they stand or fall together.
var elsewhere = map[string][]string{
	"replay": {"/from", "/endpoint_id", ""}, // a range goes with an endpoint, and only one identifier is wanted
}

// names says whether field names the place, one above or one below it.
func names(field, place string) bool {
	return field == place || strings.HasPrefix(field, place+"/") || field != "" && strings.HasPrefix(place, field+"/")
}

// TestMembers sets every member of every body to every value. What the description does not allow is refused at that
// very place.
func TestMembers(t *testing.T) {
	b := rest(t)
	for _, r := range b.routes {
		for _, path := range places(r.Body) {
			place := "/" + strings.Join(path, "/")
			t.Run(r.String()+place, func(t *testing.T) {
				for name, raw := range values {
					raw = strings.ReplaceAll(raw, "2030-01-01", b.now.AddDate(0, 1, 0).Format(time.DateOnly))
					for _, good := range b.goods(r) {
						if body, ok := replaced(good, path, raw); ok {
							if err := b.attackMember(t, r, place, body); err != nil {
								t.Errorf("%s: %v", name, err)
							}
						}
					}
				}
			})
		}
	}
}

// attackMember attacks with a body that is wrong at one place, if anywhere.
func (b *bed) attackMember(t testing.TB, r route, place string, body []byte) error {
	t.Helper()
	a, err := b.attack(t, r, body)
	p := a.problem()
	if err == nil && a.status == 400 && p.Code != "invalid_json" && b.proper(r, body) != nil &&
		!names(p.Field, place) && !slices.Contains(elsewhere[r.ID], p.Field) {
		err = fmt.Errorf("it blames %q", p.Field)
	}
	if err != nil {
		return fmt.Errorf("%w; %s", err, a)
	}
	return nil
}

// bodies are what may stand for a whole body, made of a good one. None of them is to be taken.
var bodies = map[string]func(good string) string{
	"null":                  func(string) string { return "null" },
	"a list":                func(good string) string { return "[" + good + "]" },
	"a text":                func(string) string { return `"x"` },
	"a number":              func(string) string { return "1e999" },
	"nothing but space":     func(string) string { return " \r\n\t " },
	"a NUL":                 func(string) string { return "\x00" },
	"a NUL after":           func(good string) string { return good + "\x00" },
	"two":                   func(good string) string { return good + good },
	"two lines":             func(good string) string { return good + "\n" + good },
	"a bracket after":       func(good string) string { return good + "}" },
	"a word after":          func(good string) string { return good + " null" },
	"cut off":               func(good string) string { return good[:len(good)-1] },
	"a comma at the end":    func(good string) string { return strings.TrimSuffix(good, "}") + ",}" },
	"a comment":             func(good string) string { return "/**/" + good },
	"a byte order mark":     func(good string) string { return "\ufeff" + good },
	"UTF-16":                wide,
	"an unknown member":     func(good string) string { return added(good, `"unknown_member":1`) },
	"an empty name":         func(good string) string { return added(good, `"":1`) },
	"a prototype":           func(good string) string { return added(good, `"__proto__":{"role":"client"}`) },
	"a name not UTF-8":      func(good string) string { return added(good, "\"\xff\":1") },
	"a name of half a pair": func(good string) string { return added(good, `"\ud800":1`) },
	"a name twice":          func(good string) string { return added(added(good, `"zzz":1`), `"zzz":1`) },
	"deep lists":            func(string) string { return strings.Repeat("[", 60_000) },
	"deep objects": func(good string) string {
		return added(good, `"a":`+strings.Repeat(`{"a":`, 8000)+"1"+strings.Repeat("}", 8000))
	},
	"ten thousand members": func(good string) string { return added(good, numbered(5000)) },
	"too large":            func(good string) string { return added(good, `"a":"`+strings.Repeat("x", 64<<10)+`"`) },
	"too large with space": func(good string) string { return good + strings.Repeat(" ", 64<<10) },
	"a form":               func(string) string { return "name=x&role=client" },
	"XML": func(string) string {
		return `<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>`
	},
	"the beginning of a zip": func(string) string { return "\x1f\x8b\x08\x00" },
}

func wide(good string) string {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(good)) {
		out = append(out, byte(u), byte(u>>8))
	}
	return string(out)
}

// added is an object with one member more.
func added(good, member string) string {
	if good = strings.TrimSuffix(good, "}"); !strings.HasSuffix(good, "{") {
		good += ","
	}
	return good + member + "}"
}

func numbered(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf(`"m%d":1`, i)
	}
	return strings.Join(names, ",")
}

// TestBodies sends every route every body, and each of its members twice.
func TestBodies(t *testing.T) {
	b := rest(t)
	for _, r := range b.routes {
		if r.Body == nil {
			continue
		}
		t.Run(r.String(), func(t *testing.T) {
			good := string(b.good(r))
			try := func(name, body string) {
				t.Helper()
				a, err := b.attack(t, r, []byte(body))
				if a.status < 400 {
					err = errors.Join(err, errors.New("it was taken"))
				}
				if err != nil {
					t.Errorf("%s: %v; %s", name, err, a)
				}
			}
			for name, body := range bodies {
				try(name, body(good))
			}
			for name, value := range members([]byte(good)) {
				try(name+" twice", added(good, fmt.Sprintf("%q:%s", name, value)))
				try(name+" twice, written otherwise", added(good, fmt.Sprintf(`"\u%04x%s":%s`, name[0], name[1:], value)))
				try(name+" in capitals", strings.Replace(good, `"`+name+`"`, `"`+strings.ToUpper(name)+`"`, 1))
			}
			if r.BodyRequired {
				try("none at all", "")
			}
		})
	}
}
