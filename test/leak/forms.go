package leak

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Lengths below which a find would be chance.
const (
	shortest        = 8 // as it is: seven digits of a price stand in many a time of day
	shortestEncoded = 9 // in another spelling
	shortestHalf    = 9 // of a secret that was cut off
)

// forms are the spellings in which a text may stand somewhere, by what they are called.
func forms(c Canary) map[string]string {
	s := c.Text
	out := map[string]string{}
	add := func(name, text string) {
		if text != s && len(text) >= shortestEncoded {
			out[name] = text
		}
	}
	add("lower case", strings.ToLower(s))
	add("upper case", strings.ToUpper(s))
	add("hex", hex.EncodeToString([]byte(s)))
	add("upper hex", strings.ToUpper(hex.EncodeToString([]byte(s))))
	for skip := range 3 {
		add("base64 at "+strconv.Itoa(skip), shifted(base64.RawStdEncoding, s, skip))
		add("base64url at "+strconv.Itoa(skip), shifted(base64.RawURLEncoding, s, skip))
	}
	for name, text := range escaped(s) {
		add(name, text)
	}
	add("decimal bytes", strings.Trim(fmt.Sprint([]byte(s)), "[]"))
	add("decimal bytes in JSON", strings.ReplaceAll(strings.Trim(fmt.Sprint([]byte(s)), "[]"), " ", ","))
	if utf8.ValidString(s) {
		add("UTF-16LE", wide(s, 0))
		add("UTF-16BE", wide(s, 1))
	}
	switch c.Class {
	case Code, Password, APIKey, Link, Cookie, Signing: // even half of one is too much
		if half := len(s) / 2; half >= shortestHalf {
			out["first half"], out["second half"] = s[:half], s[half:]
		}
	}
	out["as it is"] = s
	return out
}

// escaped are the spellings of programs that mark special characters.
func escaped(s string) map[string]string {
	out := map[string]string{"URL query": url.QueryEscape(s), "URL segment": url.PathEscape(s), "URL path": (&url.URL{Path: s}).EscapedPath(), "HTML": html.EscapeString(s),
		"quoted": strings.Trim(strconv.Quote(s), `"`), "quoted in ASCII": strings.Trim(strconv.QuoteToASCII(s), `"`)}
	var percent, escapes strings.Builder
	for _, b := range []byte(s) {
		fmt.Fprintf(&percent, "%%%02X", b)
	}
	for _, u := range utf16.Encode([]rune(s)) {
		if u < 0x80 {
			escapes.WriteByte(byte(u))
			continue
		}
		fmt.Fprintf(&escapes, `\u%04x`, u)
	}
	out["all in per cents"], out["JSON in ASCII"] = percent.String(), escapes.String()
	out["URL query in lower case"] = lowerPercents(out["URL query"])
	if raw, err := json.Marshal(s); err == nil {
		out["JSON"] = strings.Trim(string(raw), `"`)
	}
	return out
}

// lowerPercents writes %C3 as %c3.
func lowerPercents(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], strings.ToLower(string(b[i+1:i+3])))
		}
	}
	return string(b)
}

// shifted is what is the same of s in base64 whatever stands around it, if skip bytes (modulo 3) stand before it.
func shifted(e *base64.Encoding, s string, skip int) string {
	text := e.EncodeToString([]byte(strings.Repeat("\x00", skip) + s))
	from := []int{0, 2, 3}[skip]
	to := (skip + len(s)) * 8 / 6 // the last letter that holds bits of s alone
	return text[from:min(to, len(text))]
}

func wide(s string, first int) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		pair := [2]byte{byte(u), byte(u >> 8)}
		b.WriteByte(pair[first])
		b.WriteByte(pair[1-first])
	}
	return b.String()
}
