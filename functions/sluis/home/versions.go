package home

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sluis.internal/functions/sweep"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// rotating are the keys that have versions which open what they closed.
var rotating = []string{"inner", "outer", "session", "display", "portfolio", "webhook"}

// Version is a version of a key, and how much of what is kept it alone opens.
type Version struct {
	Key     string
	Number  int // 0 where the version is not there any more, or not known
	State   string
	Closes  bool   // what is closed now, it closes
	Needed  int    // documents
	written string // what a document notes of it
}

// Versions lists all versions of the keys that are named, or of all that rotate. No other key is asked for: whoever administers
// one gate's may not look at the other's. It reads everything that a key closed, as the documents alone know which version
// that was.
func (b *Backend) Versions(ctx context.Context, names ...string) ([]Version, error) {
	keys, err := named(names)
	if err != nil {
		return nil, err
	}
	all, err := b.versions(ctx, keys)
	if err != nil {
		return nil, err
	}
	needed, err := b.needed(ctx, keys)
	if err != nil {
		return nil, err
	}
	for i, v := range all {
		key := need{v.Key, v.written}
		all[i].Needed = needed[key]
		delete(needed, key)
	}
	for n, count := range needed { // what no version opens, and nobody noted
		all = append(all, Version{Key: n.key, State: "MISSING", Needed: count})
	}
	return all, nil
}

// need is a version of a key as documents know it: by what they note of it, or by the mark on what it closed.
type need struct{ key, mark string }

// needed counts the documents that each version of the keys alone opens. It reads everything that a key closed.
func (b *Backend) needed(ctx context.Context, keys []string) (map[need]int, error) {
	needed := map[need]int{}
	count := func(key, mark string) {
		if slices.Contains(keys, key) {
			needed[need{key, mark}]++
		}
	}
	symmetric := func(key string, sealed []byte) {
		if len(sealed) > 0 {
			count(key, b.marked(sealed))
		}
	}
	return needed, errors.Join(
		each(ctx, b, "credentials", func(c *domain.Credential) { symmetric("outer", c.Sealed); count("inner", c.InnerKey) }),
		each(ctx, b, "data_keys", func(k *domain.DataKey) { symmetric("portfolio", envelope.WrappedBy(k)) }),
		each(ctx, b, "endpoints", func(e *domain.Endpoint) { symmetric("webhook", e.Secret); symmetric("webhook", e.Previous) }),
		each(ctx, b, "expired_sessions", func(s *domain.Session) { symmetric("session", s.Sealed) }),
		each(ctx, b, "expired_challenges", func(c *domain.Challenge) { symmetric("display", c.Display) }))
}

// marked is what tells, on something closed, which version of its key closed it.
func (b *Backend) marked(sealed []byte) string {
	if b.cloud != nil {
		return strconv.Itoa(gcp.VersionOf(sealed))
	}
	return envelope.Marked(sealed)
}

// named are those of the rotating keys that have one of the names; all if none is given.
func named(names []string) ([]string, error) {
	for _, name := range names {
		if !slices.Contains(rotating, name) {
			return nil, fmt.Errorf("listing versions of %s: no such key rotates; want %s", name, strings.Join(rotating, ", "))
		}
	}
	if len(names) == 0 {
		return rotating, nil
	}
	return slices.DeleteFunc(slices.Clone(rotating), func(key string) bool { return !slices.Contains(names, key) }), nil
}

// each reads all documents of an index.
func each[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, b *Backend, index string, do func(P)) error {
	return eachOf(ctx, b, domain.Query{Index: index, Limit: 1000}, do)
}

// eachOf reads all documents of a query.
func eachOf[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, b *Backend, q domain.Query, do func(P)) error {
	for {
		page, next, err := domain.List[T, P](ctx, b, q)
		if err != nil {
			return err
		}
		for i := range page {
			do(&page[i])
		}
		if q.Cursor = next; next == "" {
			return nil
		}
	}
}

// versions asks the keys' keeper.
func (b *Backend) versions(ctx context.Context, keys []string) (all []Version, err error) {
	if b.cloud == nil {
		return b.localVersions(keys)
	}
	for _, key := range keys {
		kept, err := gcp.Versions(ctx, b.cloud.KMS, key)
		if err != nil {
			return nil, err
		}
		for _, k := range kept {
			v := Version{Key: key, Number: k.Number, State: k.State, Closes: k.Closes, written: strconv.Itoa(k.Number)}
			if public, ok := k.Public.(*rsa.PublicKey); ok {
				v.written = envelope.Thumbprint(public)
			}
			all = append(all, v)
		}
	}
	return all, nil
}

// localVersions are the files that are there, and those that were and are noted.
func (b *Backend) localVersions(keys []string) (all []Version, err error) {
	there, err := envelope.Inventory(KeysIn(b.data))
	if err != nil {
		return nil, err
	}
	newest := map[string]int{}
	for _, v := range there {
		if !v.Disabled {
			newest[v.Name] = max(newest[v.Name], v.Number)
		}
	}
	gone := slices.DeleteFunc(b.installation.Missing(there), func(v domain.KeyVersion) bool { return slices.ContainsFunc(there, v.Same) })
	for _, v := range append(there, gone...) {
		state := "ENABLED"
		switch {
		case v.Disabled:
			state = "DISABLED"
		case !slices.Contains(there, v):
			state = "MISSING"
		}
		if slices.Contains(keys, v.Name) {
			all = append(all, Version{Key: v.Name, Number: v.Number, State: state, Closes: state == "ENABLED" && v.Number == newest[v.Name], written: v.Mark})
		}
	}
	slices.SortStableFunc(all, func(v, w Version) int { return slices.Index(keys, v.Key) - slices.Index(keys, w.Key) })
	return all, nil
}

// Disable puts a version of a key out of use, unless it closes or anything that is kept needs it.
func (b *Backend) Disable(ctx context.Context, key string, number int) error {
	all, err := b.Versions(ctx, key)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(v Version) bool { return v.Key == key && v.Number == number })
	switch {
	case i < 0:
		return fmt.Errorf("disabling version %d of %s: there is none", number, key)
	case all[i].Closes:
		return fmt.Errorf("disabling version %d of %s: it is the one that closes; rotate first", number, key)
	case all[i].Needed > 0:
		return fmt.Errorf("disabling version %d of %s: %d documents open with nothing else", number, key, all[i].Needed)
	case b.cloud != nil:
		return gcp.Disable(ctx, b.cloud.KMS, key, number)
	}
	if err := envelope.Disable(KeysIn(b.data), key, number); err != nil {
		return err
	}
	return b.noteVersion(domain.KeyVersion{Name: key, Number: number, Mark: all[i].written, Disabled: true})
}

// Rewrap has everything that may be closed anew looked at now, and says how many documents that is. The functions that
// hold the keys do it as they come to it.
func (b *Backend) Rewrap(ctx context.Context) (asked int, err error) {
	s := &sweep.Service{Store: b, Env: b.Env}
	for until := b.Env.Now().Add(domain.RewrapEvery); ; {
		n, err := s.Rewrap(ctx, until)
		if asked += n; err != nil || n == 0 {
			return asked, err
		}
	}
}
