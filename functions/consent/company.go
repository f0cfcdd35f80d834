package consent

import (
	"errors"
	"net/mail"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Company is who runs this installation, as investors are told before they decide: who reads for them and how to reach
// it (GDPR Article 13(1)(a) and (b)), and under whose authorisation (Directive (EU) 2015/2366, Article 33).
type Company struct {
	Name      string // up to 120 characters, as the two that follow
	Authority string // that supervises it
	Licence   string // its number there
	Privacy   string // address of its privacy notice: https
	Contact   string // an e-mail address, or the address of a page: https
}

// CompanyFrom reads a company from an environment: SLUIS_OPERATOR_NAME, _AUTHORITY, _LICENCE, _PRIVACY and _CONTACT.
func CompanyFrom(setting func(string) string) Company {
	return Company{Name: setting("SLUIS_OPERATOR_NAME"), Authority: setting("SLUIS_OPERATOR_AUTHORITY"), Licence: setting("SLUIS_OPERATOR_LICENCE"),
		Privacy: setting("SLUIS_OPERATOR_PRIVACY"), Contact: setting("SLUIS_OPERATOR_CONTACT")}
}

// Check names everything that investors would not learn of a company. Only practice goes without.
func (c Company) Check() error {
	var missing []string
	for _, want := range []struct {
		flag, what string
		right      bool
	}{
		{"name", "the company's name", line(c.Name)},
		{"authority", "the authority that supervises it", line(c.Authority)},
		{"licence", "its number there", line(c.Licence)},
		{"privacy", "the https address of its privacy notice", page(c.Privacy)},
		{"contact", "an e-mail address or an https address where investors reach it", page(c.Contact) || address(c.Contact)},
	} {
		if !want.right {
			missing = append(missing, "--operator-"+want.flag+" (SLUIS_OPERATOR_"+strings.ToUpper(want.flag)+"): "+want.what)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return errors.New("investors must learn who reads for them, or nothing starts. Missing or wrong:\n  " + strings.Join(missing, "\n  "))
}

// Reach is Contact as a link.
func (c Company) Reach() string {
	if address(c.Contact) {
		return "mailto:" + c.Contact
	}
	return c.Contact
}

// line says whether text is one line of words.
func line(text string) bool {
	return strings.TrimSpace(text) == text && text != "" && utf8.RuneCountInString(text) <= 120 && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

func page(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && len(text) <= 300
}

func address(text string) bool {
	a, err := mail.ParseAddress(text)
	return err == nil && a.Address == text && len(text) <= 254
}
