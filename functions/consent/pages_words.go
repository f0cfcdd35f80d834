package consent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"golang.org/x/text/number"

	"sluis.internal/shared/domain"
)

// words is one language: every sentence of the pages by key, from locales/. A placeholder is written {name}.
type words struct {
	Lang string
	tag  language.Tag
	text map[string]string
}

func parseWords(lang string, raw []byte) (*words, error) {
	v := &words{Lang: lang, tag: language.Make(lang)}
	if err := json.Unmarshal(raw, &v.text); err != nil {
		return nil, fmt.Errorf("reading words of %s: %w", lang, err)
	}
	if lang == "fr" {
		for key, text := range v.text {
			v.text[key] = frenchSpaces.Replace(text)
		}
	}
	return v, nil
}

// frenchSpaces keep signs of two parts on the line of their word: a narrow no-break space (U+202F) before ; ! ?, and a
// no-break space (U+00A0) before a colon and inside guillemets. In the files they are plain spaces, which an eye sees.
var frenchSpaces = strings.NewReplacer(" ;", "\u202f;", " !", "\u202f!", " ?", "\u202f?", " :", "\u00a0:", "« ", "«\u00a0", " »", "\u00a0»")

// T is the sentence of key with its placeholders filled in from pairs of name and value. A key that does not exist is
// an error, so that a test finds it.
func (v *words) T(key string, pairs ...string) (string, error) {
	text, ok := v.text[key]
	if !ok {
		return "", fmt.Errorf("there is no text %s in %s", key, v.Lang)
	}
	return fill(text, pairs), nil
}

// Rich is T with the values set in bold. A value is text, which is escaped here, or the HTML that When made.
func (v *words) Rich(key string, pairs ...any) (template.HTML, error) {
	return v.markup(key, pairs, "<strong><bdi>", "</bdi></strong>")
}

// Line is T as HTML, for values that are HTML already, such as a time.
func (v *words) Line(key string, pairs ...any) (template.HTML, error) {
	return v.markup(key, pairs, "", "")
}

func (v *words) markup(key string, pairs []any, before, after string) (template.HTML, error) {
	text, ok := v.text[key]
	if !ok {
		return "", fmt.Errorf("there is no text %s in %s", key, v.Lang)
	}
	values := make([]string, len(pairs))
	for i, value := range pairs {
		said, safe := value.(template.HTML)
		values[i] = string(said)
		if !safe {
			values[i] = html.EscapeString(fmt.Sprint(value))
		}
		if i%2 == 1 {
			values[i] = before + values[i] + after
		}
	}
	return unsafeHTML(fill(html.EscapeString(text), values)), nil
}

// fill replaces all placeholders in one pass, so that a value which looks like a placeholder stays as it is.
func fill(text string, pairs []string) string {
	if len(pairs) == 0 {
		return text
	}
	marks := make([]string, len(pairs))
	for i := 0; i+1 < len(pairs); i += 2 {
		marks[i], marks[i+1] = "{"+pairs[i]+"}", pairs[i+1]
	}
	return strings.NewReplacer(marks...).Replace(text)
}

// Term is the word for one value of a closed set, such as a reason or a state. more is a suffix of the key, then pairs.
// A value that these pages do not know yet has the family's "other", or is shown as it is.
func (v *words) Term(family string, value any, more ...string) string {
	suffix, pairs := "", []string(nil)
	if len(more) > 0 {
		suffix, pairs = more[0], more[1:]
	}
	member := fmt.Sprint(value)
	for _, key := range []string{family + "." + member + suffix, family + ".other" + suffix} {
		if text, ok := v.text[key]; ok {
			return fill(text, pairs)
		}
	}
	return member
}

// N is the sentence of key for a number, in the plural that the language wants: French and Portuguese count zero as
// one (CLDR).
func (v *words) N(key string, count int) (string, error) {
	form := ".other"
	if count == 1 || count == 0 && (v.Lang == "fr" || v.Lang == "pt") {
		form = ".one"
	}
	return v.T(key+form, "count", message.NewPrinter(v.tag).Sprint(number.Decimal(count)))
}

// When is a moment in words, in UTC and saying so. times.js sets it in the reader's own zone and keeps UTC beside it;
// without a script UTC stands.
func (v *words) When(t domain.Time) template.HTML {
	if t.IsZero() {
		return ""
	}
	return unsafeHTML(`<time datetime="` + t.UTC().Format(time.RFC3339) + `">` + html.EscapeString(v.moment(t)) + `</time>`)
}

func (v *words) moment(t domain.Time) string {
	utc := t.UTC()
	day := strconv.Itoa(utc.Day())
	if v.Lang == "fr" && day == "1" {
		day = "1er"
	}
	month := strings.Fields(v.text["time.months"])[utc.Month()-1]
	return fill(v.text["time.full"], []string{"day", day, "month", month, "year", strconv.Itoa(utc.Year()), "clock", utc.Format("15:04")})
}

// And joins names as the language does: a, b and c.
func (v *words) And(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + v.text["list.and"] + names[last]
}

// toConfirm has the page carry the digest of the text that its form confirms.
func (p *sheet) toConfirm() error {
	c, err := p.confirmation(p.Name)
	p.Shown = c.Digest
	return err
}

// confirmation names the text of a page as this visitor sees it: all that stands in its main part, the client's and the
// custodians' names, the purpose and the times among it. What depends on the form itself is left out.
func (p *sheet) confirmation(page string) (domain.Confirmation, error) {
	shown := *p
	shown.Name, shown.Shown, shown.Missing, shown.Changed = page, "", false, false
	var text bytes.Buffer
	if err := p.site.templates[page].ExecuteTemplate(&text, "main", &shown); err != nil {
		return domain.Confirmation{}, err
	}
	version := p.site.version(page, p.Lang)
	sum := sha256.Sum256([]byte(version + "\n" + p.Lang + "\n" + text.String()))
	return domain.Confirmation{Digest: hex.EncodeToString(sum[:]), Language: p.Lang, Version: version}, nil
}

// some is the JSON object of the words whose keys begin with one of the prefixes.
func (v *words) some(prefixes []string) (string, error) {
	chosen := map[string]string{}
	for key, text := range v.text {
		for _, prefix := range prefixes {
			if strings.HasPrefix(key, prefix) {
				chosen[key] = text
			}
		}
	}
	raw, err := json.Marshal(chosen)
	return string(raw), err
}
