package sandbox

import (
	"bytes"
	"crypto/sha512"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"sync"
)

//go:embed templates/*.html static/app.css static/app.js static/mark.svg
var files embed.FS

// view is what the layout shows around a page's own Body.
type view struct {
	Name    string // of the template
	Title   string
	Live    bool // redraw when a webhook comes
	Poll    int  // seconds: redraw even so, while something is under way
	Done    string
	Problem *problem
	Client  string // its name, as investors see it
	Banks   map[string]string
	Body    any
}

// Bank is what a custodian is called.
func (v view) Bank(id string) string {
	if name := v.Banks[id]; name != "" {
		return name
	}
	return id
}

// templates are parsed once; they are fixed when the program is built, so a fault in them is a panic.
var templates = sync.OnceValue(func() map[string]*template.Template {
	base := template.Must(template.New("layout.html").Funcs(helpers).ParseFS(files, "templates/layout.html", "templates/parts.html"))
	pages := map[string]*template.Template{}
	for _, name := range []string{"home", "connection", "portfolio", "transactions", "returned", "error"} {
		pages[name] = template.Must(template.Must(base.Clone()).ParseFS(files, "templates/"+name+".html"))
	}
	return pages
})

// show draws a page. It is written to memory first, so that a failure does not leave half of one.
func (a *app) show(w http.ResponseWriter, r *http.Request, code int, v view) error {
	v.Done = done[r.URL.Query().Get("done")]
	if v.Problem == nil || v.Problem.Code != "unreachable" {
		v.Client, v.Banks = a.learn(r.Context())
	}
	if v.Client == "" {
		v.Client = "Sample client"
	}
	var page bytes.Buffer
	if err := templates()[v.Name].Execute(&page, v); err != nil {
		return fmt.Errorf("drawing page: %w", err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = page.WriteTo(w) // a reader that left needs no answer
	return nil
}

// asset is a static file. Its address holds its digest, so browsers may keep it; the digest also guards it (SRI).
type asset struct {
	URL, Integrity string
	mediaType      string
	content        []byte
}

var assets = sync.OnceValue(func() map[string]asset {
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	all := map[string]asset{}
	for _, name := range []string{"app.css", "app.js", "mark.svg"} {
		content, err := files.ReadFile("static/" + name)
		if err != nil {
			panic("reading static files: " + err.Error())
		}
		sum := sha512.Sum384(content)
		all[name] = asset{URL: "/static/" + name + "?v=" + base64.RawURLEncoding.EncodeToString(sum[:9]),
			Integrity: "sha384-" + base64.StdEncoding.EncodeToString(sum[:]), mediaType: types[path.Ext(name)], content: content}
	}
	return all
})

func assetOf(name string) asset { return assets()[name] }

func serveAsset(w http.ResponseWriter, r *http.Request) {
	file, known := assets()[r.PathValue("file")]
	if !known {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", file.mediaType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'")
	h.Set("Cache-Control", "no-cache")
	if r.URL.RequestURI() == file.URL {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	_, _ = w.Write(file.content) // a reader that left needs no answer
}
