package cloud

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
	"sluis.internal/test/leak"
)

// auditor is the identity with which the test itself opens what is sealed.
const auditor = "auditor@p.iam.gserviceaccount.com"

// tap hears what passes between the functions and Google's services, and between one function and another, and keeps it
// once, by place.
type tap struct {
	mu     sync.Mutex
	seed   maphash.Seed
	seen   map[uint64]bool
	heard  map[string][]piece
	papers chan gcptest.Document // written, for whoever opens them
	isShut bool
}

type piece struct {
	name string
	data []byte
}

func newTap() *tap {
	return &tap{seed: maphash.MakeSeed(), seen: map[uint64]bool{}, heard: map[string][]piece{}, papers: make(chan gcptest.Document, 100_000)}
}

// What a tap hears is at these places, and at "KMS" with the method and the key, and "Secret Manager".
const (
	wireStore = "on the wire to Firestore"
	wireBus   = "on the wire to Pub/Sub"
	written   = "written to Firestore"
	calling   = "calls between functions"
)

// at listens at a region.
func (p *tap) at(r *region) {
	if p == nil {
		return
	}
	r.firestore.Hear(func(method string, message []byte) {
		p.keep(wireStore, method, message)
		if method != "Commit" {
			return
		}
		all, _ := gcptest.Written(message) // the emulator says what is wrong with it
		for _, d := range all {
			p.paper(written, d)
			p.pass(d)
		}
	})
	r.pubsub.Hear(func(method string, message []byte) { p.keep(wireBus, method, message) })
	r.vault.Hear = func(identity, method string, asked, answer proto.Message) {
		if identity == auditor {
			return
		}
		place := "Secret Manager"
		if named, ok := asked.(interface{ GetName() string }); ok && method != "AccessSecretVersion" {
			place = "KMS " + key(named.GetName())
		}
		p.keep(place, method, bytesOf(asked))
		p.keep(place, method+" answered", bytesOf(answer))
	}
}

// pass hands a document on to whoever opens it, until the tap is shut.
func (p *tap) pass(d gcptest.Document) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isShut {
		p.papers <- d
	}
}

// shut ends what is handed on: the clock goes on writing as long as its process lives.
func (p *tap) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isShut = true
	close(p.papers)
}

// key is the name of a key in pipeline.json, by its resource name or that of a version.
func key(resource string) string {
	if dir, version := path.Split(resource); path.Base(dir) == "cryptoKeyVersions" && version != "" {
		resource = path.Dir(path.Dir(path.Clean(dir) + "/"))
	}
	return path.Base(resource)
}

func bytesOf(m proto.Message) []byte {
	if m == nil {
		return nil
	}
	raw, _ := proto.Marshal(m) // it came over the wire
	return raw
}

// paper keeps a document's fields, each by itself, as they are and unpacked.
func (p *tap) paper(place string, d gcptest.Document) {
	for _, name := range slices.Sorted(maps.Keys(d.Fields)) {
		p.keep(place, d.Collection+" "+name, append([]byte(d.ID+" "), d.Fields[name]...))
	}
	if packed := d.Fields["Packed"]; packed != nil {
		p.keep(place, d.Collection+" unpacked", body(d))
	}
}

// body is a document's JSON.
func body(d gcptest.Document) []byte {
	if text := d.Fields["Body"]; text != nil {
		return text
	}
	all, _ := io.ReadAll(flate.NewReader(bytes.NewReader(d.Fields["Packed"]))) // the store's own test unpacks it
	return all
}

// before hears requests to a function and answers.
func (p *tap) before(h http.Handler) http.Handler {
	if p == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked, err := io.ReadAll(q.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		var head bytes.Buffer
		_ = q.Header.Write(&head) // a buffer takes everything
		p.keep(calling, q.URL.Path, slices.Concat(head.Bytes(), asked))
		q.Body = io.NopCloser(bytes.NewReader(asked))
		h.ServeHTTP(&tapped{w, p, q.URL.Path + " answered"}, q)
	})
}

type tapped struct {
	http.ResponseWriter
	tap  *tap
	name string
}

func (t *tapped) Write(b []byte) (int, error) {
	t.tap.keep(calling, t.name, b)
	return t.ResponseWriter.Write(b)
}

func (p *tap) keep(place, name string, data []byte) {
	mark := maphash.Bytes(p.seed, data)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(data) == 0 || p.seen[mark] && place != calling {
		return
	}
	p.seen[mark] = true
	p.heard[place] = append(p.heard[place], piece{name, bytes.Clone(data)})
}

// places are where it heard something, with what may be there.
func (p *tap) places(may map[string][]leak.Class) (all []leak.Place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for place, pieces := range p.heard {
		all = append(all, leak.Place{Name: place, May: may[place], Pieces: func(each func(string, []byte)) error {
			for _, one := range pieces {
				each(one.name, one.data)
			}
			return nil
		}})
	}
	return all
}

// examine opens documents as they are written, also those that are soon written over or deleted, until the tap is shut.
func (p *tap) examine(ctx context.Context, a *leak.Archive, kinds []domain.DocumentKind) (err error) {
	for d := range p.papers {
		kind := domain.DocumentKind(d.Collection)
		if !slices.Contains(kinds, kind) {
			continue
		}
		if e := a.Examine(ctx, kind, json.RawMessage(body(d))); e != nil {
			err = errors.Join(err, fmt.Errorf("%s %s: %w", kind, d.ID, e))
		}
	}
	return err
}
