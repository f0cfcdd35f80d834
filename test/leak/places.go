package leak

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Place is somewhere to look.
type Place struct {
	Name   string
	May    []Class // what may be found there
	Pieces Pieces
}

// Pieces reads a place: it calls each with every part of it.
type Pieces func(each func(name string, data []byte)) error

// Tour is what a search of places found.
type Tour struct {
	Leaks []Leak                   // what must not be there
	Met   map[string]map[Class]int // what may be, by place: a search that finds nothing anywhere is blind
	Bytes int64
}

// Leak is a find in a place where it may not be.
type Leak struct {
	Place, Piece string
	Finding
}

// Visit searches places.
func (s *Searcher) Visit(places ...Place) (*Tour, error) {
	tour := &Tour{Met: map[string]map[Class]int{}}
	for _, p := range places {
		met := map[Class]int{}
		tour.Met[p.Name] = met
		err := p.Pieces(func(name string, data []byte) {
			tour.Bytes += int64(len(data))
			for _, f := range s.Search(data) {
				if slices.Contains(p.May, f.Canary.Class) {
					met[f.Canary.Class]++
					continue
				}
				tour.Leaks = append(tour.Leaks, Leak{p.Name, name, f})
			}
		})
		if err != nil {
			return tour, fmt.Errorf("reading %s: %w", p.Name, err)
		}
	}
	return tour, nil
}

// Files are all files below a directory, whatever they are. Who reads a database's files so gives up all locks that this
// process has on them (POSIX, fcntl): an Archive on them must rest meanwhile.
func Files(dir string) Pieces {
	return func(each func(string, []byte)) error {
		return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if os.IsNotExist(err) { // SQLite's other files come and go
				return nil
			}
			name, _ := filepath.Rel(dir, path)
			each(name, append([]byte(filepath.Base(path)+"\n"), data...))
			return err
		})
	}
}

// Without leaves out what lies below a directory of a place.
func Without(dir string, p Pieces) Pieces {
	return func(each func(string, []byte)) error {
		return p(func(name string, data []byte) {
			if !strings.HasPrefix(name, dir+string(filepath.Separator)) {
				each(name, data)
			}
		})
	}
}

// Pages are the files of a directory as Files has them, but of each page of a database only what was not there before:
// so that one can look often. A text lies within one page of SQLite, or is cut in two by its overflow pages; documents
// are searched whole by an Archive.
func Pages(dir string, seen map[uint64]bool) Pieces {
	seed := pagesSeed
	return func(each func(string, []byte)) error {
		return Files(dir)(func(name string, data []byte) {
			_, content, _ := bytes.Cut(data, []byte("\n"))
			head, frame := 0, pageBytes
			switch {
			case strings.HasSuffix(name, ".db-wal"):
				head, frame = 32, pageBytes+24 // https://sqlite.org/fileformat2.html#the_write_ahead_log
			case !strings.HasSuffix(name, ".db"):
				each(name, data)
				return
			}
			for at := head; at < len(content); at += frame {
				page := content[at:min(at+frame, len(content))]
				if mark := maphash.Bytes(seed, page); !seen[mark] {
					seen[mark] = true
					each(fmt.Sprint(name, ", page at ", at), page)
				}
			}
		})
	}
}

const pageBytes = 4096

var pagesSeed = maphash.MakeSeed()

// File is one file.
func File(path string) Pieces {
	return func(each func(string, []byte)) error {
		data, err := os.ReadFile(path)
		each(filepath.Base(path), data)
		return err
	}
}

// Text is something in memory.
func Text(name string, data []byte) Pieces {
	return func(each func(string, []byte)) error { each(name, data); return nil }
}

// Command is what everybody on the machine may see of a process, and what its children inherit.
func Command(pid int) Pieces {
	return func(each func(string, []byte)) error {
		for _, name := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if err != nil {
				return err
			}
			each(name, data)
		}
		return nil
	}
}

// entitled are the classes that an answer may hold, by route: what the one who asks asked for. Every other answer holds
// none. To its own client the house tells the client's own reference everywhere on the API; and a refusal may quote to
// the caller the member or address that is at fault.
var entitled = map[string][]Class{
	"POST /v1/consents":                                    {Link},
	"POST /v1/consents/{consent}/links":                    {Link},
	"POST /v1/keys":                                        {APIKey},
	"POST /v1/keys/{key}/rotate":                           {APIKey},
	"POST /v1/endpoints":                                   {Signing},
	"POST /v1/endpoints/{endpoint}/rotate":                 {Signing},
	"GET /v1/connections/{connection}/portfolio":           {Personal},
	"GET /v1/connections/{connection}/portfolio/{product}": {Personal},
	"GET /i/{token}":                                       {Link}, // its form leads to the same address
	"POST /i/{token}":                                      {Cookie},
	"POST /challenge/answer":                               {Shown},
	"GET /challenge/events":                                {Shown},
	"GET /challenge/state":                                 {Shown},
	"GET /challenge/{challenge}/image":                     {Shown},
}

// Answers are the answers that passed, a place for each route.
func (tr *Traffic) Answers() []Place {
	byRoute := map[string][]*Exchange{}
	for _, x := range tr.Seen() {
		byRoute[x.Host+": "+x.Route] = append(byRoute[x.Host+": "+x.Route], x)
	}
	var places []Place
	for name, all := range byRoute {
		for _, refused := range []bool{false, true} {
			p := Place{Name: "answers of " + name, Pieces: bodies(all, refused)}
			if refused {
				p.Name, p.May = "refusals of "+name, []Class{Stray}
			} else {
				p.May = slices.Clone(entitled[all[0].Route])
			}
			if all[0].Host == "api" && !refused {
				p.May = append(p.May, Reference)
			}
			places = append(places, p)
		}
	}
	return places
}

// bodies are the answers of one route, headers and bodies: those of 4xx and 5xx, or the others.
func bodies(all []*Exchange, refused bool) Pieces {
	return func(each func(string, []byte)) error {
		for _, x := range all {
			if (x.Status >= 400) != refused {
				continue
			}
			var head bytes.Buffer
			if err := x.Answered.Write(&head); err != nil {
				return err
			}
			each(fmt.Sprint("headers, ", x.Status), head.Bytes())
			each(fmt.Sprint("body, ", x.Status), x.Body())
		}
		return nil
	}
}

// Addresses are what stands in logs of proxies and in histories of browsers: where somebody asked, came from or was sent
// to. A link's token stands in its own address, where it works once.
func (tr *Traffic) Addresses() []Place {
	each := func(own bool) Pieces {
		return func(each func(string, []byte)) error {
			for _, x := range tr.Seen() {
				if isLink := strings.HasSuffix(x.Route, " /i/{token}"); isLink == own {
					each(x.Route, []byte(x.Address))
				}
				if !own {
					each(x.Route+", Referer", []byte(strings.ReplaceAll(x.Asked.Get("Referer"), "/i/", "/link/")))
					each(x.Route+", Location", []byte(x.Answered.Get("Location")))
				}
			}
			return nil
		}
	}
	return []Place{{"links asked for", []Class{Link, Stray}, each(true)}, {"addresses", []Class{Stray}, each(false)}}
}

// Uncached lists answers that a cache on the way, or the browser's own, might keep: all but the pages' static files must
// forbid it.
func (tr *Traffic) Uncached() (wrong []string) {
	for _, x := range tr.Seen() {
		if x.Route == "GET /static/{file}" || x.Route == "" { // an address that is not there says nothing of anybody
			continue
		}
		if !strings.Contains(x.Answered.Get("Cache-Control"), "no-store") {
			wrong = append(wrong, fmt.Sprintf("%s %s answered %d with Cache-Control %q", x.Host, x.Route, x.Status, x.Answered.Get("Cache-Control")))
		}
		if media := x.Answered.Get("Content-Type"); strings.HasPrefix(media, "text/html") && x.Answered.Get("Referrer-Policy") != "no-referrer" {
			wrong = append(wrong, fmt.Sprintf("%s %s answered a page with Referrer-Policy %q", x.Host, x.Route, x.Answered.Get("Referrer-Policy")))
		}
	}
	slices.Sort(wrong)
	return slices.Compact(wrong)
}

// Unrouted lists rows of entitled that pipeline.json does not have.
func (tr *Traffic) Unrouted() (stale []string) {
	for route := range entitled {
		method, path, _ := strings.Cut(route, " ")
		found := false
		for _, mux := range tr.routes {
			_, pattern := mux.Handler(&http.Request{Method: method, Host: "any", URL: addressOf(path)})
			found = found || pattern == route
		}
		if !found {
			stale = append(stale, route)
		}
	}
	return stale
}
