package home

import (
	"context"
	"fmt"
	"slices"

	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// Verdict is what Verify found.
type Verdict struct {
	Counts map[string]int // what was looked at
	Faults []Fault
}

// Fault is one kind of fault: how often, and where first.
type Fault struct {
	Kind, First string
	Count       int
}

func (v *Verdict) fault(kind, where string) {
	i := slices.IndexFunc(v.Faults, func(f Fault) bool { return f.Kind == kind })
	if i < 0 {
		v.Faults = append(v.Faults, Fault{kind, where, 1})
		return
	}
	v.Faults[i].Count++
}

// Verify reads everything and changes nothing: the database's own structure and indexes, that every key version that
// anything names is there, that what lies closed opens, and that every part that a version names exists. Credentials
// are not opened, as nobody but extraction may see one: of them, both gates' key versions must be there.
func (b *Backend) Verify(ctx context.Context) (v Verdict, err error) {
	db, local := b.Store.(*sql.Backend)
	if !local {
		return v, fmt.Errorf("verifying: this reads what lies on this machine")
	}
	v.Counts = map[string]int{}
	damage, err := db.Check(ctx, true)
	for _, line := range damage {
		v.fault("the database is damaged", line)
	}
	if err != nil || len(damage) > 0 {
		return v, err
	}
	if err := b.verifyKeys(ctx, &v); err != nil {
		return v, err
	}
	keys, err := envelope.ReadKeys(KeysIn(b.data))
	if err != nil {
		v.fault("keys cannot be read", err.Error())
		return v, nil
	}
	look := &opening{b: b, v: &v, keys: keys, reader: envelope.NewReader(keys.Decrypter(envelope.KeyPortfolio), b.Env)}
	if err := look.small(ctx); err != nil {
		return v, err
	}
	if err := look.connections(ctx); err != nil {
		return v, err
	}
	return v, b.verifyOutbox(ctx, &v)
}

// verifyKeys holds the directory of keys against what is noted, and what is noted by documents.
func (b *Backend) verifyKeys(ctx context.Context, v *Verdict) error {
	if b.installation.ID == "" {
		v.fault("the database names no installation: start sluis serve once", b.data)
	}
	if err := b.belongs(); err != nil {
		v.fault("the keys are another installation's", err.Error())
	}
	there, err := envelope.Inventory(KeysIn(b.data))
	if err != nil {
		v.fault("keys cannot be read", err.Error())
		return nil
	}
	v.Counts["key versions"] = len(there)
	needed, err := b.needed(ctx, rotating)
	if err != nil {
		return err
	}
	for n, count := range needed {
		v.Counts["documents closed under "+n.key] += count
	}
	for _, gone := range b.missing(there, b.installation.Missing(there), needed) {
		for range max(1, needed[need{gone.Name, gone.Mark}]) {
			v.fault("a key version is missing", fmt.Sprintf("%s version %d", gone.Name, gone.Number))
		}
	}
	return nil
}

// verifyOutbox reads every event.
func (b *Backend) verifyOutbox(ctx context.Context, v *Verdict) error {
	waiting, err := b.Pending(ctx)
	if err != nil {
		v.fault("the outbox cannot be read", err.Error())
		return nil
	}
	for _, w := range waiting {
		v.Counts["events "+w.State] += w.Count
	}
	if _, err := b.DeadLetters(ctx, 1000); err != nil {
		v.fault("the outbox cannot be read", err.Error())
	}
	return nil
}

// opening opens what is closed, and looks at none of it.
type opening struct {
	b      *Backend
	v      *Verdict
	keys   *envelope.Keys
	reader *envelope.Reader
}

// small are webhook secrets, and what sessions and challenges hold for a while. What does not open is read again, as a
// running server may have replaced or ended it.
func (o *opening) small(ctx context.Context) error {
	check := func(kind string, key envelope.KeyName, doc domain.Document, read func() (label []byte, sealed [][]byte)) error {
		for range 3 {
			label, sealed := read()
			if o.opens(key, label, sealed) {
				o.v.Counts[kind] += len(sealed)
				return nil
			}
			if err := o.b.Get(ctx, doc); domain.KindOf(err) == domain.NotFound {
				return nil
			} else if err != nil {
				return err
			}
		}
		o.v.fault(kind+" that do not open", doc.Key())
		return nil
	}
	var failed error
	keep := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	keep(each(ctx, o.b, "endpoints", func(e *domain.Endpoint) {
		keep(check("webhook secrets", envelope.KeyWebhook, e, func() ([]byte, [][]byte) { return envelope.WebhookLabel(e), [][]byte{e.Secret, e.Previous} }))
	}))
	keep(each(ctx, o.b, "expired_challenges", func(c *domain.Challenge) {
		keep(check("challenges", envelope.KeyDisplay, c, func() ([]byte, [][]byte) { return envelope.DisplayLabel(c), [][]byte{c.Display} }))
	}))
	return failed
}

func (o *opening) opens(key envelope.KeyName, label []byte, sealed [][]byte) bool {
	for _, s := range sealed {
		if len(s) == 0 {
			continue
		}
		plain, err := envelope.Open(o.keys.Decrypter(key), label, s)
		if err != nil {
			return false
		}
		plain.Wipe()
	}
	return true
}

// connections looks at the data of each connection of each client. A fault that a second look does not see was a change
// under way.
func (o *opening) connections(ctx context.Context) (failed error) {
	err := each(ctx, o.b, "clients", func(c *domain.Client) {
		q := domain.Query{Index: "connections_by_client", Match: []string{string(c.ID)}, Limit: 1000}
		for failed == nil {
			page, next, err := domain.List[domain.Connection](ctx, o.b, q)
			if err != nil {
				failed = err
				return
			}
			for i := range page {
				if err := o.connection(ctx, page[i].ID); err != nil {
					failed = err
					return
				}
			}
			if q.Cursor = next; next == "" {
				return
			}
		}
	})
	if failed == nil {
		failed = err
	}
	return failed
}

func (o *opening) connection(ctx context.Context, id domain.ConnectionID) error {
	o.v.Counts["connections"]++
	for try := 1; ; try++ {
		found := Verdict{Counts: map[string]int{}}
		if err := o.data(ctx, id, &found); err != nil {
			return err
		}
		if len(found.Faults) > 0 && try < 3 {
			continue
		}
		for name, n := range found.Counts {
			o.v.Counts[name] += n
		}
		for _, f := range found.Faults {
			for range f.Count {
				o.v.fault(f.Kind, f.First)
			}
		}
		return nil
	}
}

// data opens every part and summary of a connection, and looks for the parts that its versions name.
func (o *opening) data(ctx context.Context, id domain.ConnectionID, found *Verdict) error {
	key := &domain.DataKey{ConnectionID: id}
	err := o.b.Get(ctx, key)
	if domain.KindOf(err) == domain.NotFound {
		return nil // erased, or nothing was read yet
	}
	if err != nil {
		return err
	}
	found.Counts["data keys"]++
	open := func(kind, what, name, where string, sealed []byte) {
		found.Counts[kind]++
		if plain, err := o.reader.Open(key, what, name, sealed); err != nil {
			found.fault(kind+" that do not open", where)
		} else {
			clear(plain)
		}
	}
	parts := map[string]bool{}
	where := func(index string) domain.Query {
		return domain.Query{Index: index, Match: []string{string(id)}, Limit: 1000}
	}
	if err := eachOf(ctx, o.b, where("parts_by_connection"), func(p *domain.Part) {
		parts[p.ID] = true
		open("parts", string(p.Product), p.ID, string(id), p.Sealed)
	}); err != nil {
		return err
	}
	return eachOf(ctx, o.b, where("portfolios_by_connection"), func(p *domain.Portfolio) {
		if len(p.Summary) > 0 {
			open("summaries", "summary", p.SummaryMark, string(p.ID), p.Summary)
		}
		found.Counts["versions"]++
		for _, status := range p.Products {
			for _, part := range status.Parts {
				if !parts[part] {
					found.fault("versions that name a part that is not there", string(p.ID))
				}
			}
		}
	})
}
