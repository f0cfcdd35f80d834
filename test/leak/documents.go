package leak

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/local"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// Keys opens all that is sealed: every key in one hand.
type Keys interface {
	Closing(name string) domain.Encrypter
	Opening(name string) domain.Decrypter
}

// Archive reads a store beside the processes that use it, and opens all that is sealed in it with their keys. What
// it has looked at once it does not look at again, so that it can look often while journeys go on.
type Archive struct {
	shards domain.ShardReader
	store  domain.Store
	close  func() error
	keys   Keys
	inner  envelope.InnerKeys
	reader *envelope.Reader
	states *envelope.Shared // opens sessions\' states
	search *Searcher
	kinds  []domain.DocumentKind

	mu       sync.Mutex
	seen     map[[32]byte]bool
	Tour     Tour
	Vanish   []Canary // pieces of what must be gone once everything has been erased
	Rows     map[domain.DocumentKind]int
	Unopened map[string]bool // fields that look sealed, and that nobody here knows
}

// OpenArchive opens the data directory of a running house. Close it after use.
func OpenArchive(data string, s *Searcher) (*Archive, error) {
	return OpenArchiveBeside(data, home.ShardsIn(data, ""), s)
}

// OpenArchiveBeside opens a data directory beside a directory of shards.
func OpenArchiveBeside(data, beside string, s *Searcher) (*Archive, error) {
	store, err := home.OpenBackend(context.Background(), home.Settings{Data: data})
	if err != nil {
		return nil, err
	}
	keys, err := envelope.LocalKeys(home.KeysIn(data))
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	shards, err := local.OpenShards(beside)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	a, err := NewArchive(store, store.Env, localKeys{keys}, shards, keys.InnerDecrypters, s)
	if err != nil {
		return nil, errors.Join(err, shards.Close(), store.Close())
	}
	a.close = func() error { return errors.Join(shards.Close(), store.Close()) }
	return a, nil
}

// localKeys are Keys.
type localKeys struct{ *envelope.Keys }

func (k localKeys) Closing(name string) domain.Encrypter { return k.Encrypter(envelope.KeyName(name)) }
func (k localKeys) Opening(name string) domain.Decrypter { return k.Decrypter(envelope.KeyName(name)) }

// NewArchive reads any home's store, which it does not close. inner are the private halves of the inner gate's key.
func NewArchive(store domain.Store, env domain.Env, keys Keys, shards domain.ShardReader, inner envelope.InnerKeys, s *Searcher) (*Archive, error) {
	a := &Archive{store: store, close: func() error { return nil }, keys: keys, shards: shards, inner: inner, search: s, seen: map[[32]byte]bool{},
		Tour: Tour{Met: map[string]map[Class]int{}}, Rows: map[domain.DocumentKind]int{}, Unopened: map[string]bool{},
		reader: envelope.NewReader(keys.Opening(string(envelope.KeyPortfolio)), shards, env)}
	a.states = envelope.NewShared(struct {
		domain.Encrypter
		domain.Decrypter
	}{keys.Closing(string(envelope.KeySession)), keys.Opening(string(envelope.KeySession))}, env, string(envelope.KeySession))
	var lives []struct{ Kind domain.DocumentKind }
	return a, errors.Join(contract("retention.json", &lives), a.take(lives))
}

func (a *Archive) take(lives []struct{ Kind domain.DocumentKind }) error {
	for _, l := range lives {
		a.kinds = append(a.kinds, l.Kind)
	}
	return nil
}

func contract(name string, v any) error {
	raw, err := schemas.FS.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// Kinds are all kinds of document that there are.
func (a *Archive) Kinds() []domain.DocumentKind { return a.kinds }

// Close lets go of the store.
func (a *Archive) Close() error { return a.close() }

// Look reads every document, searches it as it lies, opens what is sealed in it, and searches that.
func (a *Archive) Look(ctx context.Context) error {
	all, err := a.documents(ctx)
	return errors.Join(err, a.examineAll(ctx, all))
}

// LookAt does as Look with what one connection holds at present.
func (a *Archive) LookAt(ctx context.Context, id domain.ConnectionID) error {
	all := map[domain.DocumentKind][]json.RawMessage{}
	var indexes []domain.Index
	if err := contract("indexes.json", &indexes); err != nil {
		return err
	}
	for _, ix := range indexes {
		if slices.Equal(ix.Equal, list("connection_id")) {
			found, err := a.every(ctx, domain.Query{Index: ix.Name, Match: []string{string(id)}, Limit: 1000})
			if err != nil {
				return err
			}
			all[ix.Of] = found
		}
	}
	for _, kind := range []domain.DocumentKind{"credential", "data_key"} {
		found, err := a.byConnection(ctx, kind, id)
		if err != nil {
			return err
		}
		all[kind] = found
	}
	return a.examineAll(ctx, all)
}

func (a *Archive) examineAll(ctx context.Context, all map[domain.DocumentKind][]json.RawMessage) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, kind := range a.kinds {
		for _, raw := range all[kind] {
			if err := a.examine(ctx, kind, raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// Examine does as Look with one document, which a test saw on its way.
func (a *Archive) Examine(ctx context.Context, kind domain.DocumentKind, raw json.RawMessage) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.examine(ctx, kind, raw)
}

// Connections lists the identifiers of all connections.
func (a *Archive) Connections(ctx context.Context) ([]domain.ConnectionID, error) {
	all, err := a.documents(ctx)
	var ids []domain.ConnectionID
	for _, raw := range all["connection"] {
		ids = append(ids, domain.ConnectionID(field(raw, "id")))
	}
	return ids, err
}

// documents reads every document by the indexes of indexes.json: those that need nothing to match, then those that
// need an identifier which these have given. A kind that no index leads to has its connection's key.
func (a *Archive) documents(ctx context.Context) (map[domain.DocumentKind][]json.RawMessage, error) {
	var indexes []domain.Index
	if err := contract("indexes.json", &indexes); err != nil {
		return nil, err
	}
	all := map[domain.DocumentKind][]json.RawMessage{}
	for _, need := range []string{"", "client_id", "connection_id"} {
		for _, ix := range indexes {
			if all[ix.Of] != nil || !slices.Equal(ix.Equal, list(need)) {
				continue
			}
			all[ix.Of] = []json.RawMessage{}
			for _, match := range matches(all, need) {
				found, err := a.every(ctx, domain.Query{Index: ix.Name, Match: match, Limit: 1000})
				if err != nil {
					return nil, err
				}
				all[ix.Of] = append(all[ix.Of], found...)
			}
		}
	}
	for _, kind := range a.kinds {
		if all[kind] != nil {
			continue
		}
		for _, raw := range all["connection"] {
			doc, err := a.byConnection(ctx, kind, domain.ConnectionID(field(raw, "id")))
			if err != nil {
				return nil, err
			}
			all[kind] = append(all[kind], doc...)
		}
	}
	return all, nil
}

func list(need string) []string {
	if need == "" {
		return []string{}
	}
	return []string{need}
}

// matches are the values that an index of that field can be asked for.
func matches(all map[domain.DocumentKind][]json.RawMessage, need string) (values [][]string) {
	switch need {
	case "":
		return [][]string{nil}
	case "client_id":
		for _, raw := range all["client"] {
			values = append(values, []string{field(raw, "id")})
		}
	case "connection_id":
		for _, raw := range all["connection"] {
			values = append(values, []string{field(raw, "id")})
		}
	}
	return values
}

func field(raw json.RawMessage, name string) string {
	var doc map[string]any
	if json.Unmarshal(raw, &doc) != nil {
		return ""
	}
	text, _ := doc[name].(string)
	return text
}

func (a *Archive) every(ctx context.Context, q domain.Query) (docs []json.RawMessage, err error) {
	for {
		page, err := a.store.List(ctx, q)
		if err != nil {
			return nil, err
		}
		docs = append(docs, page.Documents...)
		if q.Cursor = page.Next; q.Cursor == "" {
			return docs, nil
		}
	}
}

// byConnection reads a document whose key is its connection's.
func (a *Archive) byConnection(ctx context.Context, kind domain.DocumentKind, id domain.ConnectionID) ([]json.RawMessage, error) {
	var doc domain.Document
	switch kind {
	case "credential":
		doc = &domain.Credential{ConnectionID: id}
	case "data_key":
		doc = &domain.DataKey{ConnectionID: id}
	default:
		return nil, fmt.Errorf("no index leads to all documents of kind %s: say here how they are found", kind)
	}
	if err := a.store.Get(ctx, doc); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil, nil
		}
		return nil, err
	}
	raw, err := json.Marshal(doc)
	return []json.RawMessage{raw}, err
}

// stored are the classes that documents may hold as they lie. The client's reference is its own opaque name for the
// investor; retention.json says why it stays.
var stored = []Class{Reference}

func (a *Archive) examine(ctx context.Context, kind domain.DocumentKind, raw json.RawMessage) error {
	mark := sha256.Sum256(raw)
	if a.seen[mark] {
		return nil
	}
	a.seen[mark] = true
	a.Rows[kind]++
	a.judge("document "+string(kind), stored, raw)
	a.guess(kind, raw)
	o := opening[kind]
	if o == nil {
		return nil
	}
	if err := o(ctx, a, raw); err != nil {
		return fmt.Errorf("opening %s: %w", kind, err)
	}
	return nil
}

func (a *Archive) judge(place string, may []Class, data []byte) {
	tour, _ := a.search.Visit(Place{place, may, Text("content", data)}) // reading a text cannot fail
	a.Tour.Leaks = append(a.Tour.Leaks, tour.Leaks...)
	a.Tour.Bytes += tour.Bytes
	if a.Tour.Met[place] == nil {
		a.Tour.Met[place] = map[Class]int{}
	}
	for class, n := range tour.Met[place] {
		a.Tour.Met[place][class] += n
	}
}

// bytesIn are the fields that hold bytes: sealed ones, which opening opens, and those that need not be opened.
var bytesIn = map[string]bool{"session.sealed": true, "challenge.display": true, "credential.sealed": true, "part.sealed": true,
	"portfolio.summary": true, "endpoint.secret": true, "endpoint.previous": true,
	"data_key.wrapped": true, "api_key.hash": true, "erasure.signature": true, "link.hash": true, "link.newest": true, "visit.hash": true, "once.id": true, "once.request": true,
	"part.id": true, "portfolio.summary_mark": true, "credential.inner_key": true, "erasure.key_id": true}

// guess looks for fields that are longer and stranger than any identifier: something sealed that nobody opens here.
func (a *Archive) guess(kind domain.DocumentKind, raw json.RawMessage) {
	var doc map[string]any
	if json.Unmarshal(raw, &doc) != nil {
		return
	}
	for name, v := range doc {
		text, _ := v.(string)
		if len(text) < 40 || bytesIn[string(kind)+"."+name] {
			continue
		}
		if _, err := base64.StdEncoding.DecodeString(text); err == nil {
			a.Unopened[string(kind)+"."+name] = true
		} else if _, err := base64.RawURLEncoding.DecodeString(text); err == nil {
			a.Unopened[string(kind)+"."+name] = true
		}
	}
}

// vanish takes a piece of a ciphertext that must be gone after erasure.
func (a *Archive) vanish(name string, sealed []byte) {
	if len(sealed) > 40 {
		a.Vanish = append(a.Vanish, Canary{Sealed, name, string(sealed[len(sealed)-32:])})
	}
}

// opening opens what documents of a kind hold sealed.
var opening = map[domain.DocumentKind]func(context.Context, *Archive, json.RawMessage) error{
	"credential": openCredential, "session": openSession, "challenge": openChallenge, "endpoint": openEndpoint,
	"part": openPart, "portfolio": openPortfolio,
	"data_key": openDataKey,
}

func openCredential(ctx context.Context, a *Archive, raw json.RawMessage) error {
	var c domain.Credential
	if err := json.Unmarshal(raw, &c); err != nil {
		return err
	}
	a.vanish("credential", c.Sealed)
	shard, err := a.shards.Get(ctx, c.Shard)
	if errors.Is(err, domain.ErrShardGone) {
		return nil // replaced or erased since it was listed
	}
	if err != nil {
		return err
	}
	o := envelope.NewOpener(a.keys.Opening(string(envelope.KeyOuter)), a.inner).Under(shard)
	fields, err := o.OpenCredentials(c.Sealed, c.InnerKey, domain.Binding{ClientID: c.ClientID, ConsentID: c.ConsentID,
		ConnectionID: c.ConnectionID, Custodian: c.Custodian})
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		a.judge("opened credential", []Class{Password, Username}, fields[name].Reveal())
	}
	return err
}

func openSession(ctx context.Context, a *Archive, raw json.RawMessage) error {
	var s domain.Session
	if err := json.Unmarshal(raw, &s); err != nil || len(s.Sealed) == 0 {
		return err
	}
	a.vanish("session state", s.Sealed)
	shard, err := a.shards.Get(ctx, s.Shard)
	if errors.Is(err, domain.ErrShardGone) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.openBy("opened session", []Class{Token, Shown, Personal}, envelope.Under(shard, domain.ShardSession, a.states), envelope.SessionLabel(&s), s.Sealed)
}

func openChallenge(_ context.Context, a *Archive, raw json.RawMessage) error {
	var c domain.Challenge
	if err := json.Unmarshal(raw, &c); err != nil || len(c.Display) == 0 {
		return err
	}
	a.vanish("challenge's display", c.Display)
	return a.open("opened display", []Class{Shown}, envelope.KeyDisplay, envelope.DisplayLabel(&c), c.Display)
}

func openEndpoint(_ context.Context, a *Archive, raw json.RawMessage) error {
	var e domain.Endpoint
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	for _, sealed := range [][]byte{e.Secret, e.Previous} {
		if len(sealed) == 0 {
			continue
		}
		if err := a.open("opened endpoint", []Class{Signing}, envelope.KeyWebhook, envelope.WebhookLabel(&e), sealed); err != nil {
			return err
		}
	}
	return nil
}

func (a *Archive) open(place string, may []Class, key envelope.KeyName, label, sealed []byte) error {
	return a.openBy(place, may, a.keys.Opening(string(key)), label, sealed)
}

func (a *Archive) openBy(place string, may []Class, key domain.Decrypter, label, sealed []byte) error {
	plain, err := envelope.Open(key, label, sealed)
	if err == nil {
		a.judge(place, may, plain.Reveal())
	}
	return err
}

func openPart(ctx context.Context, a *Archive, raw json.RawMessage) error {
	var p domain.Part
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	a.vanish("part", p.Sealed)
	return a.openData(ctx, "opened part", p.ConnectionID, string(p.Product), p.ID, p.Sealed)
}

func openPortfolio(ctx context.Context, a *Archive, raw json.RawMessage) error {
	var p domain.Portfolio
	if err := json.Unmarshal(raw, &p); err != nil || len(p.Summary) == 0 {
		return err
	}
	a.vanish("summary", p.Summary)
	return a.openData(ctx, "opened summary", p.ConnectionID, "summary", p.SummaryMark, p.Summary)
}

// openData opens portfolio data. Data whose key was destroyed since it was listed stays shut, as it must.
func (a *Archive) openData(ctx context.Context, place string, id domain.ConnectionID, what, name string, sealed []byte) error {
	key := &domain.DataKey{ConnectionID: id}
	if err := a.store.Get(ctx, key); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil
		}
		return err
	}
	plain, err := a.reader.Open(key, what, name, sealed)
	if errors.Is(err, domain.ErrShardGone) {
		return nil // erased since it was listed, or in a copy from before
	}
	if err != nil && domain.CodeOf(err) == "sealed_unreadable" {
		return a.changed(ctx, key, err)
	}
	a.judge(place, []Class{Personal}, plain)
	return err
}

// changed forgives data that does not open if its key has been replaced or destroyed meanwhile.
func (a *Archive) changed(ctx context.Context, before *domain.DataKey, cause error) error {
	now := &domain.DataKey{ConnectionID: before.ConnectionID}
	if err := a.store.Get(ctx, now); err != nil || !slices.Equal(now.Wrapped, before.Wrapped) {
		return nil
	}
	return cause
}
