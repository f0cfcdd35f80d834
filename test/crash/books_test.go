package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// books is all that is known of one journey after its end: what the store holds, what the audit log tells, what reached
// the inbox, and what the bank saw.
type books struct {
	consents   []domain.Consent // of the investor
	connection domain.Connection
	credential *domain.Credential
	sessions   []domain.Session
	challenges []domain.Challenge
	portfolios []domain.Portfolio
	parts      map[string]bool
	erasures   []domain.Erasure
	notices    []domain.Notice
	deliveries map[domain.NoticeID][]domain.Delivery
	links      []domain.Link
	entries    []domain.Entry // in the order of their time
	received   []journey.Webhook
	attempts   int // logins that the bank heard of, whatever became of them
	visits     int // logins that it took
	refused    int // logins that it refused for the password
	open       int // sessions that still stand open at the bank
	kills      int // of the house, meanwhile
}

// all reads every page of a query.
func all[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, s domain.Store, index string, match ...string) (docs []T, err error) {
	q := domain.Query{Index: index, Match: match, Limit: 1000}
	for {
		page, next, err := domain.List[T, P](ctx, s, q)
		docs = append(docs, page...)
		if err != nil || next == "" {
			return docs, err
		}
		q.Cursor = next
	}
}

// keeping is what all books of a run are drawn from.
type keeping struct {
	notices []domain.Notice
	entries []domain.Entry
	links   []domain.Link
}

func (l *lane) keeping(ctx context.Context, b *home.Backend, client domain.ClientID, since time.Time) (k keeping, err error) {
	if k.notices, err = all[domain.Notice](ctx, b, "notices_by_client", string(client)); err != nil {
		return k, err
	}
	if k.links, err = all[domain.Link](ctx, b, "expired_links"); err != nil {
		return k, err
	}
	q := domain.Query{Index: "entries_by_time", From: domain.At(since).String(), Limit: 1000}
	for {
		page, next, err := domain.List[domain.Entry](ctx, b, q)
		k.entries = append(k.entries, page...)
		if err != nil || next == "" {
			return k, err
		}
		q.Cursor = next
	}
}

// draw draws a walker's books.
func (l *lane) draw(ctx context.Context, b *home.Backend, k keeping, w *walker) (*books, error) {
	own := &books{connection: domain.Connection{ID: domain.ConnectionID(w.player.Connection())}, parts: map[string]bool{},
		deliveries: map[domain.NoticeID][]domain.Delivery{}, received: l.house.Inbox.Webhooks(w.player.Connection()), kills: w.kills()}
	if err := b.Get(ctx, &own.connection); err != nil {
		return nil, err
	}
	c := &own.connection
	credential := &domain.Credential{ConnectionID: c.ID}
	if err := b.Get(ctx, credential); err == nil {
		own.credential = credential
	} else if domain.KindOf(err) != domain.NotFound {
		return nil, err
	}
	if err := own.list(ctx, b); err != nil {
		return nil, err
	}
	for _, n := range k.notices {
		if n.ConnectionID != c.ID {
			continue
		}
		own.notices = append(own.notices, n)
		made, err := all[domain.Delivery](ctx, b, "deliveries_by_notice", string(n.ID))
		if err != nil {
			return nil, err
		}
		own.deliveries[n.ID] = made
	}
	for _, e := range k.entries {
		if e.Data.ConsentID == c.ConsentID {
			own.entries = append(own.entries, e)
		}
	}
	for _, link := range k.links {
		if link.ConsentID == c.ConsentID && !strings.HasPrefix(link.Hash, "latest-") {
			own.links = append(own.links, link)
		}
	}
	if login := loginOf(w.journey); login != "" {
		bank := l.house.Bank
		own.attempts, own.visits, own.refused, own.open = bank.Attempts(login), bank.Visits(login), bank.Refused(login), bank.OpenSessions(login)
	}
	return own, nil
}

// list reads what indexes find by the connection.
func (own *books) list(ctx context.Context, b *home.Backend) (err error) {
	c, id := &own.connection, string(own.connection.ID)
	if own.consents, err = all[domain.Consent](ctx, b, "consents_by_investor", string(c.ClientID), c.InvestorRef); err != nil {
		return err
	}
	if own.sessions, err = all[domain.Session](ctx, b, "sessions_by_connection", id); err != nil {
		return err
	}
	if own.challenges, err = all[domain.Challenge](ctx, b, "challenges_by_connection", id); err != nil {
		return err
	}
	if own.portfolios, err = all[domain.Portfolio](ctx, b, "portfolios_by_connection", id); err != nil {
		return err
	}
	if own.erasures, err = all[domain.Erasure](ctx, b, "erasures_by_connection", id); err != nil {
		return err
	}
	parts, err := all[domain.Part](ctx, b, "parts_by_connection", id)
	for _, p := range parts {
		own.parts[p.ID] = true
	}
	return err
}

// count counts entries of acts that took effect. An act asked for again, of which only the entry says so, did not.
func (own *books) count(fits func(*domain.Entry) bool, actions ...string) int {
	return len(own.acts(fits, actions...))
}

func (own *books) acts(fits func(*domain.Entry) bool, actions ...string) (found []domain.Entry) {
	for i := range own.entries {
		e := &own.entries[i]
		name := strings.TrimPrefix(e.Type, "sluis.")
		if slices.Contains(actions, name) && e.Data.Outcome != domain.OutcomeDenied && e.Data.Details["repeated"] == "" && (fits == nil || fits(e)) {
			found = append(found, *e)
		}
	}
	return found
}

func about(subject string) func(*domain.Entry) bool {
	return func(e *domain.Entry) bool { return e.Subject == subject }
}

func detail(name, value string) func(*domain.Entry) bool {
	return func(e *domain.Entry) bool { return e.Data.Details[name] == value }
}

// judge waits until nothing is left to be done, and compares the books.
func (l *lane) judge(ctx context.Context, r *run, walkers []*walker, since time.Time) {
	b := l.store(ctx)
	defer func() { must(l.t, b.Close()) }()
	if err := l.drain(ctx, b); err != nil {
		l.t.Errorf("run %d: %v", r.number, err)
		return
	}
	if n := l.house.Inbox.Refused(); n > 0 {
		l.t.Errorf("run %d: %d webhooks could not be verified", r.number, n)
	}
	first := &domain.Connection{ID: domain.ConnectionID(walkers[0].player.Connection())}
	must(l.t, b.Get(ctx, first))
	k, err := l.keeping(ctx, b, first.ClientID, since)
	must(l.t, err)
	for _, w := range walkers {
		own, err := l.draw(ctx, b, k, w)
		if err != nil {
			l.t.Errorf("run %d, %s: drawing the books: %v", r.number, w.journey.Name, err)
			continue
		}
		l.orphans += own.open
		for _, check := range checks {
			for _, wrong := range check.wrong(own) {
				l.t.Errorf("run %d, %s: %s: %s", r.number, w.journey.Name, check.name, wrong)
			}
		}
		if login := loginOf(w.journey); login != "" {
			l.house.Bank.EndSessions(login)
		}
	}
}

// drain waits until no event is left. What a dead process has claimed comes when its lease runs out, and what was put
// off when it is time.
func (l *lane) drain(ctx context.Context, b *home.Backend) error {
	l.later(leases)
	var pending []backend.Backlog
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; {
		var err error
		if pending, err = b.Pending(ctx); err != nil {
			return err
		}
		if len(pending) == 0 {
			return nil
		}
		if !slices.ContainsFunc(pending, func(p backend.Backlog) bool { return p.State != "delayed" }) {
			l.later(30 * time.Second)
		}
		time.Sleep(50 * time.Millisecond)
	}
	letters, err := b.DeadLetters(ctx, 10)
	return fmt.Errorf("the queue is not empty: %v, dead letters %v, %v", pending, letters, err)
}
