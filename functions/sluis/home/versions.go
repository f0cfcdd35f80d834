package home

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
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
	all, numberIn, err := b.versions(ctx, keys)
	if err != nil {
		return nil, err
	}
	needed := map[Version]int{}
	count := func(key, written string) {
		if slices.Contains(keys, key) {
			needed[Version{Key: key, written: written}]++
		}
	}
	symmetric := func(key string, sealed []byte) {
		if len(sealed) > 0 {
			count(key, strconv.Itoa(numberIn(key, sealed)))
		}
	}
	err = errors.Join(
		each(ctx, b, "credentials", func(c *domain.Credential) { symmetric("outer", c.Sealed); count("inner", c.InnerKey) }),
		each(ctx, b, "data_keys", func(k *domain.DataKey) { symmetric("portfolio", envelope.WrappedBy(k)) }),
		each(ctx, b, "endpoints", func(e *domain.Endpoint) { symmetric("webhook", e.Secret); symmetric("webhook", e.Previous) }),
		each(ctx, b, "expired_sessions", func(s *domain.Session) { symmetric("session", s.Sealed) }),
		each(ctx, b, "expired_challenges", func(c *domain.Challenge) { symmetric("display", c.Display) }))
	if err != nil {
		return nil, err
	}
	for i, v := range all {
		key := Version{Key: v.Key, written: v.written}
		all[i].Needed = needed[key]
		delete(needed, key)
	}
	for v, n := range needed { // what no version opens
		all = append(all, Version{Key: v.Key, State: "MISSING", Needed: n})
	}
	return all, nil
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
	q := domain.Query{Index: index, Limit: 1000}
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

// versions asks the keys' keeper, and tells also how to see which version closed something.
func (b *Backend) versions(ctx context.Context, keys []string) (all []Version, numberIn func(key string, sealed []byte) int, err error) {
	if b.cloud == nil {
		return b.localVersions(keys)
	}
	for _, key := range keys {
		kept, err := gcp.Versions(ctx, b.cloud.KMS, key)
		if err != nil {
			return nil, nil, err
		}
		for _, k := range kept {
			v := Version{Key: key, Number: k.Number, State: k.State, Closes: k.Closes, written: strconv.Itoa(k.Number)}
			if public, ok := k.Public.(*rsa.PublicKey); ok {
				v.written = envelope.Thumbprint(public)
			}
			all = append(all, v)
		}
	}
	return all, func(_ string, sealed []byte) int { return gcp.VersionOf(sealed) }, nil
}

func (b *Backend) localVersions(keys []string) (all []Version, numberIn func(string, []byte) int, err error) {
	local, err := envelope.LocalKeys(KeysIn(b.data))
	if err != nil {
		return nil, nil, err
	}
	kids, err := local.InnerVersions()
	if err != nil {
		return nil, nil, err
	}
	numbers := map[string]map[int]string{"inner": {}}
	for kid, n := range kids {
		numbers["inner"][n] = kid
	}
	for _, name := range envelope.KeyNames {
		numbers[string(name)] = map[int]string{}
		for _, n := range local.Versions(name) {
			numbers[string(name)][n] = strconv.Itoa(n)
		}
	}
	for _, key := range keys {
		order := slices.Sorted(maps.Keys(numbers[key]))
		for i, n := range order {
			all = append(all, Version{Key: key, Number: n, State: "ENABLED", Closes: i == len(order)-1, written: numbers[key][n]})
		}
	}
	return all, func(key string, sealed []byte) int { return local.VersionOf(envelope.KeyName(key), sealed) }, nil
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
	return envelope.Disable(KeysIn(b.data), key, number)
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
