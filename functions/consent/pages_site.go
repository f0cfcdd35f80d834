package consent

import (
	"crypto/sha256"
	"crypto/sha512"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/text/language"

	"sluis.internal/shared/domain"
)

//go:embed templates/*.html locales/*.json static/*.css static/*.js static/*.svg
var pageFiles embed.FS

// site is everything the pages are made of, read once from the embedded files.
type site struct {
	templates map[string]*template.Template
	words     map[string]*words
	assets    map[string]*asset
	sources   map[string][]byte // of templates and languages, by name
	matcher   language.Matcher
}

// asset is a static file. Its address holds the digest of its content, so it may be kept for ever; Integrity (SRI) has
// the browser refuse any other content.
//
// An import inside a module has no place for a digest, and an import map, which has one, would have to be inline,
// which the content policy forbids. So every module that a page needs, also one that only another imports, has a
// script element of its own with its digest, before those that import it. A document keeps one module per address
// (HTML, "module map"): the import finds what the element fetched and checked, and if the check failed, the import
// fails too. For that both must name the same address, digest and all, so imports are rewritten when the site is read.
type asset struct {
	URL       string
	Integrity string
	version   string
	mediaType string
	content   []byte
}

var mediaTypes = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// theSite reads the embedded files. They are fixed when the program is built, so a fault in them is a panic.
var theSite = sync.OnceValue(func() *site {
	s, err := readSite(pageFiles)
	if err != nil {
		panic("reading the pages: " + err.Error())
	}
	return s
})

func readSite(files fs.FS) (*site, error) {
	s := &site{templates: map[string]*template.Template{}, words: map[string]*words{}, assets: map[string]*asset{}, sources: map[string][]byte{}}
	var tags []language.Tag
	for _, lang := range domain.Languages {
		raw, err := fs.ReadFile(files, "locales/"+lang+".json")
		if err != nil {
			return nil, err
		}
		if s.words[lang], err = parseWords(lang, raw); err != nil {
			return nil, err
		}
		tags, s.sources[lang] = append(tags, s.words[lang].tag), raw
	}
	s.matcher = language.NewMatcher(tags)
	if err := s.readTemplates(files); err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "static/*")
	for _, name := range names {
		if err == nil {
			_, err = s.readAsset(files, path.Base(name), 0)
		}
	}
	return s, err
}

func (s *site) readTemplates(files fs.FS) error {
	for _, name := range []string{"home", "link", "consent", "confirm", "connect", "sca", "done", "me", "withdraw", "error"} {
		t, err := template.New(name).Option("missingkey=error").ParseFS(files,
			"templates/layout.html", "templates/products.html", "templates/"+name+".html")
		if err != nil {
			return err
		}
		s.templates[name] = t
		if s.sources[name], err = fs.ReadFile(files, "templates/"+name+".html"); err != nil {
			return err
		}
	}
	return nil
}

// version names the template of a page and the words of a language as they are: whoever has them makes the same text of
// the same consent again.
func (s *site) version(page, lang string) string {
	sum := sha256.Sum256(append(append([]byte(page+"\n"), s.sources[page]...), s.sources[lang]...))
	return hex.EncodeToString(sum[:8])
}

var moduleImport = regexp.MustCompile(`(?m)^(import\s[^"']*|import\s*)["']\./([a-z]+\.js)["']`)

// readAsset reads one file and, first, those that it imports.
func (s *site) readAsset(files fs.FS, name string, depth int) (*asset, error) {
	if a := s.assets[name]; a != nil {
		return a, nil
	}
	content, err := fs.ReadFile(files, "static/"+name)
	if err != nil {
		return nil, err
	}
	if depth > 4 {
		return nil, fmt.Errorf("modules import one another in a circle at %s", name)
	}
	text := string(content)
	for _, found := range moduleImport.FindAllStringSubmatch(text, -1) {
		imported, err := s.readAsset(files, found[2], depth+1)
		if err != nil {
			return nil, err
		}
		text = strings.Replace(text, found[0], found[1]+`"`+imported.URL+`"`, 1)
	}
	sum, sri := sha256.Sum256([]byte(text)), sha512.Sum384([]byte(text))
	version := hex.EncodeToString(sum[:8])
	s.assets[name] = &asset{URL: "/static/" + name + "?v=" + version, version: version, content: []byte(text),
		Integrity: "sha384-" + base64.StdEncoding.EncodeToString(sri[:]), mediaType: mediaTypes[path.Ext(name)]}
	return s.assets[name], nil
}

// wished is the language that the browser asks for, or English.
func (s *site) wished(header string) *words {
	if len(header) > 200 {
		header = ""
	}
	_, i := language.MatchStrings(s.matcher, header)
	return s.words[domain.Languages[i]]
}

// static serves one file of the static folder. Only its present version may be kept.
func (s *Service) static(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	s.secure(h)
	if strings.HasPrefix(r.PathValue("file"), "cli_") {
		s.logo(w, r)
		return
	}
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	a := theSite().assets[r.PathValue("file")]
	if a == nil {
		s.Lost().ServeHTTP(w, r)
		return
	}
	tag := `"` + a.version + `"`
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.version {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", a.mediaType)
	if _, err := w.Write(a.content); err != nil {
		s.log().DebugContext(r.Context(), "static file not written", "error", err)
	}
}
