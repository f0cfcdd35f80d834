package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluis.internal/functions/sluis/journey"
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

func keepingOf(ctx context.Context, b domain.Store, client domain.ClientID, since time.Time) (k keeping, err error) {
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
func draw(ctx context.Context, b domain.Store, k keeping, w *Walker) (*books, error) {
	own := &books{connection: domain.Connection{ID: domain.ConnectionID(w.player.Connection())}, parts: map[string]bool{},
		deliveries: map[domain.NoticeID][]domain.Delivery{}, received: w.place.Inbox.Webhooks(w.player.Connection()), kills: w.kills()}
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
	if login := LoginOf(w.Journey); login != "" {
		own.attempts, own.visits, own.refused, own.open = w.bank.Attempts(login), w.bank.Visits(login), w.bank.Refused(login), w.bank.OpenSessions(login)
	}
	return own, nil
}

// list reads what indexes find by the connection.
func (own *books) list(ctx context.Context, b domain.Store) (err error) {
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

// Compare draws the books of walkers who are home and says what is wrong in them, and how many sessions still stand open
// at the bank. since is when the first of them set out.
func Compare(ctx context.Context, s domain.Store, since time.Time, walkers []*Walker) (wrong []string, open int, err error) {
	first := &domain.Connection{ID: domain.ConnectionID(walkers[0].player.Connection())}
	if err := s.Get(ctx, first); err != nil {
		return nil, 0, err
	}
	k, err := keepingOf(ctx, s, first.ClientID, since)
	if err != nil {
		return nil, 0, err
	}
	for _, w := range walkers {
		own, err := draw(ctx, s, k, w)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: drawing the books: %v", w.Journey.Name, err))
			continue
		}
		open += own.open
		for _, check := range checks {
			for _, what := range check.wrong(own) {
				wrong = append(wrong, fmt.Sprintf("%s: %s: %s", w.Journey.Name, check.name, what))
			}
		}
		if login := LoginOf(w.Journey); login != "" {
			w.bank.EndSessions(login)
		}
	}
	return wrong, open, nil
}
