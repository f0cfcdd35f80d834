package serve

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"sluis.internal/shared/domain"
)

// looks is what this process remembers of who has looked at what: in which minute it was last recorded, and how often they
// have looked since. It saves asking the store; the entry's own identifier keeps it from being there twice.
type looks struct {
	mu  sync.Mutex
	who map[string]*looked
}

type looked struct {
	minute time.Time
	since  int
}

// maxLooks bounds the memory of looks. What is forgotten is asked of the store again, and its count begins anew.
const maxLooks = 10000

func (l *looks) count(who string, minute time.Time) (since int, recorded bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.who == nil || len(l.who) >= maxLooks {
		l.who = map[string]*looked{}
	}
	at := l.who[who]
	if at == nil {
		at = &looked{}
		l.who[who] = at
	}
	at.since++
	return at.since, at.minute.Equal(minute)
}

func (l *looks) recorded(who string, minute time.Time, counted int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.who[who]; at != nil {
		at.minute, at.since = minute, max(at.since-counted, 0)
	}
}

// Looking is fn for what gives things of kind to read. That somebody looked is recorded before they get them.
func (d *Door) Looking(function, kind string, fn Endpoint) Endpoint {
	return func(ctx context.Context, c *Call) (Answer, error) {
		a, err := fn(ctx, c)
		if err == nil {
			err = d.Look(ctx, c, function, kind, string(c.Principal.KeyID))
		}
		if err != nil {
			return Answer{}, err
		}
		return a, nil
	}
}

// Look records that the caller looks at things of kind; what they look at is given only if that was done. Reads are many,
// and would double the log: of one key or visit, one kind and one minute there is one entry, in all processes, and it says
// how often this one has let them look since the entry before. The first is always recorded.
func (d *Door) Look(ctx context.Context, c *Call, function, kind, subject string) error {
	now := d.Env.Now()
	minute, who := now.Truncate(time.Minute), string(c.Principal.KeyID)
	actor, client := c.Principal.Actor(), c.Principal.ClientID
	if c.Visit != nil {
		who, actor, client = c.Visit.Hash, c.Visit.Actor(), c.Visit.ClientID
	}
	counted, done := d.looks.count(who+" "+kind, minute)
	if done {
		return nil
	}
	entry := domain.Note(d.Env, function, kind+".looked", actor, client, subject, map[string]string{"looks": strconv.Itoa(counted)})
	entry.ID, entry.Data.Origin = domain.DerivedID[domain.EntryID](domain.At(minute), "look", who, kind), c.Origin
	if c.Visit != nil {
		entry.Data.ConsentID, entry.Data.ConnectionID = c.Visit.ConsentID, c.Visit.ConnectionID
	}
	err := d.Store.Commit(ctx, func(tx domain.Tx) error {
		there, err := domain.Find(tx, &domain.Entry{ID: entry.ID})
		if err != nil || there {
			return err
		}
		return tx.Record(entry)
	})
	if err != nil {
		return fmt.Errorf("recording look: %w", err)
	}
	d.looks.recorded(who+" "+kind, minute, counted)
	return nil
}
