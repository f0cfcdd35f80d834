package consent

import (
	"html"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

var beacon = Company{Name: "Beacon Data & Söhne GmbH", Authority: "BaFin", Licence: "10012345",
	Privacy: "https://beacon.example/privacy", Contact: "help@beacon.example"}

func TestCompanyIsNamedWholly(t *testing.T) {
	if err := beacon.Check(); err != nil {
		t.Error(err)
	}
	all := []string{"--operator-name", "--operator-authority", "--operator-licence", "--operator-privacy", "--operator-contact"}
	err := Company{}.Check()
	for _, flag := range all {
		if err == nil || !strings.Contains(err.Error(), flag+" ") {
			t.Errorf("nobody says that %s is missing: %v", flag, err)
		}
	}
	for name, spoil := range map[string]func(*Company){
		"--operator-name": func(c *Company) { c.Name = " " }, "--operator-authority": func(c *Company) { c.Authority = "Ba\nFin" },
		"--operator-licence": func(c *Company) { c.Licence = strings.Repeat("1", 121) }, "--operator-privacy": func(c *Company) { c.Privacy = "http://beacon.example" },
		"--operator-contact": func(c *Company) { c.Contact = "javascript:alert(1)" },
	} {
		c := beacon
		spoil(&c)
		err := c.Check()
		if err == nil || !strings.Contains(err.Error(), name) || strings.Count(err.Error(), "--operator") != 1 {
			t.Errorf("a wrong %s: %v", name, err)
		}
	}
	of := CompanyFrom(func(name string) string { return strings.ToLower(strings.TrimPrefix(name, "SLUIS_OPERATOR_")) })
	if of != (Company{"name", "authority", "licence", "privacy", "contact"}) {
		t.Errorf("the environment gives %+v", of)
	}
}

// TestInvestorsLearnWhoReads: company, licence, privacy notice and contact stand on each page and in the request; where
// it is only practice, that stands there too.
func TestInvestorsLearnWhoReads(t *testing.T) {
	for _, practice := range []bool{false, true} {
		for _, lang := range domain.Languages {
			h := pageHome(t)
			h.Company, h.Practice = beacon, practice
			cookie, _ := undecided(h)
			for _, path := range []string{"/", "/consent"} {
				page := html.UnescapeString(bodyOf(t, h.browse(cookie, "GET", path+"?lang="+lang, nil)))
				for _, want := range []string{beacon.Name, beacon.Authority, beacon.Licence, `href="` + beacon.Privacy + `"`, `href="mailto:` + beacon.Contact + `"`} {
					if !strings.Contains(page, want) {
						t.Errorf("%s in %s does not say %s", path, lang, want)
					}
				}
				if strings.Contains(page, theSite().words[lang].text["operator.practice"]) != practice {
					t.Errorf("%s in %s: practice is %t", path, lang, practice)
				}
			}
			if page := bodyOf(t, h.browse(cookie, "GET", "/consent?lang="+lang, nil)); strings.Count(page, "10012345") != 2 {
				t.Errorf("the request in %s does not say who reads", lang)
			}
		}
	}
	h := pageHome(t)
	h.Practice = true
	if page := bodyOf(t, h.browse("", "GET", "/", nil)); !strings.Contains(page, theSite().words["en"].text["operator.practice"]) || strings.Contains(page, "BaFin") {
		t.Error("practice without a company is not marked as such")
	}
}
