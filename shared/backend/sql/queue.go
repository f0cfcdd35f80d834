package sql

import (
	"context"
	"fmt"
	"time"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// Times are milliseconds since 1970. due is when an event may be claimed, or, once claimed, when its lease ends.
// failures counts what handlers reported, attempts every delivery, also those that a crash broke off or that ended with a
// wish to wait. The index of
// turns finds the lanes that wait, and of each the event that is due first, however long they are.
func outboxSchema(text string) []string {
	return []string{
		`CREATE TABLE IF NOT EXISTS outbox (id ` + text + ` PRIMARY KEY NOT NULL, topic ` + text + ` NOT NULL,
			subject ` + text + ` NOT NULL, custodian ` + text + ` NOT NULL, not_before ` + text + ` NOT NULL,
			created BIGINT NOT NULL, due BIGINT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
			failures INTEGER NOT NULL DEFAULT 0, owner ` + text + ` NOT NULL DEFAULT '', reason ` + text + ` NOT NULL DEFAULT '',
			dead BIGINT, lane ` + text + ` NOT NULL DEFAULT '', trace ` + text + ` NOT NULL DEFAULT '')`,
		`CREATE INDEX IF NOT EXISTS outbox_turns ON outbox (topic, lane, due) WHERE dead IS NULL`,
		`CREATE INDEX IF NOT EXISTS outbox_dead ON outbox (dead, id) WHERE dead IS NOT NULL`,
	}
}

const (
	insertEvent = `INSERT INTO outbox (id, topic, subject, custodian, lane, not_before, created, due, trace) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`
	// Steps from lane to lane by the index, without looking at the events between.
	nextDue = `WITH RECURSIVE lanes (topic, lane) AS (
			SELECT * FROM (SELECT topic, lane FROM outbox WHERE topic = ? AND dead IS NULL ORDER BY lane LIMIT 1) first
			UNION ALL
			SELECT topic, (SELECT o.lane FROM outbox o WHERE o.topic = lanes.topic AND o.dead IS NULL AND o.lane > lanes.lane
				ORDER BY o.lane LIMIT 1) FROM lanes WHERE lane IS NOT NULL)
		SELECT lane, (SELECT o.due FROM outbox o WHERE o.topic = lanes.topic AND o.dead IS NULL AND o.lane = lanes.lane
			ORDER BY o.due LIMIT 1) FROM lanes WHERE lane IS NOT NULL`
	claimEvents = `UPDATE outbox SET owner = ?, due = ?, attempts = attempts + 1 WHERE id IN
		(SELECT id FROM outbox WHERE topic = ? AND lane = ? AND dead IS NULL AND due <= ? ORDER BY due LIMIT ?%s)
		RETURNING id, topic, subject, custodian, lane, not_before, attempts, failures, trace`
	renewLease = `UPDATE outbox SET due = ? WHERE id = ? AND owner = ?`
	ackEvent   = `DELETE FROM outbox WHERE id = ? AND owner = ?`
	retryEvent = `UPDATE outbox SET due = ?, failures = ?, reason = ?, owner = '' WHERE id = ? AND owner = ?`
	freeEvent  = `UPDATE outbox SET due = ?, owner = '' WHERE id = ? AND owner = ?`
	buryEvent  = `UPDATE outbox SET dead = ?, failures = failures + 1, reason = ?, owner = '' WHERE id = ? AND owner = ?`
	deadEvents = `SELECT id, topic, subject, custodian, lane, not_before, attempts, reason, dead FROM outbox
		WHERE dead IS NOT NULL ORDER BY dead DESC, id DESC LIMIT ?`
	redriveEvent = `UPDATE outbox SET dead = NULL, due = ?, attempts = 0, failures = 0, reason = ''
		WHERE id = ? AND dead IS NOT NULL`
	countEvents = `SELECT topic, CASE WHEN dead IS NOT NULL THEN 'dead' WHEN owner <> '' AND due > ? THEN 'leased'
		WHEN due > ? THEN 'delayed' ELSE 'due' END AS state, COUNT(*), MIN(created) FROM outbox
		GROUP BY topic, state ORDER BY topic, state`
)

// event reads the columns of an event.
func event(scan func(...any) error, e *domain.Event, more ...any) error {
	var notBefore string
	err := scan(append([]any{&e.ID, &e.Topic, &e.Subject, &e.Custodian, &e.Lane, &notBefore, &e.Attempt}, more...)...)
	if err != nil {
		return err
	}
	return e.NotBefore.UnmarshalText([]byte(notBefore))
}

// DeadLetters implements domain.Queue: up to limit of them, 1 to 1000; 0 means 100.
func (b *Backend) DeadLetters(ctx context.Context, limit int) ([]domain.DeadLetter, error) {
	if limit < 0 || limit > 1000 {
		return nil, domain.Invalidf("limit", "want 1 to 1000")
	}
	if limit == 0 {
		limit = 100
	}
	var letters []domain.DeadLetter
	err := b.reading(ctx, func(s *statements) error {
		return s.rows(ctx, deadEvents, []any{limit}, func(scan func(...any) error) (bool, error) {
			var l domain.DeadLetter
			var at int64
			err := event(scan, &l.Event, &l.Reason, &at)
			l.At = domain.At(time.UnixMilli(at))
			letters = append(letters, l)
			return true, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listing dead letters: %w", err)
	}
	return letters, nil
}

// Redrive implements domain.Queue, and records that an operator did it. The event has all its attempts again.
func (b *Backend) Redrive(ctx context.Context, id domain.EventID) error {
	if _, err := domain.ParseID[domain.EventID](string(id)); err != nil {
		return err
	}
	return b.Commit(ctx, func(tx domain.Tx) error {
		t := tx.(*transaction)
		n, err := t.write("redriving", redriveEvent, b.env.Now().UnixMilli(), string(id))
		if err != nil {
			return err
		}
		if n == 0 {
			return domain.ErrNotFound
		}
		t.emitted = true
		operator := domain.Actor{Kind: domain.ActorOperator, ID: "operator"}
		return tx.Record(domain.Note(b.env, "sluis", "event.redriven", operator, "", string(id), nil))
	})
}

// Pending counts all events by topic and state. It reads the whole outbox.
func (b *Backend) Pending(ctx context.Context) ([]backend.Backlog, error) {
	now := b.env.Now()
	var all []backend.Backlog
	err := b.reading(ctx, func(s *statements) error {
		all = nil
		args := []any{now.UnixMilli(), now.UnixMilli()}
		return s.rows(ctx, countEvents, args, func(scan func(...any) error) (bool, error) {
			var line backend.Backlog
			var created int64
			err := scan(&line.Topic, &line.State, &line.Count, &created)
			line.Oldest = now.Sub(domain.At(time.UnixMilli(created)))
			all = append(all, line)
			return true, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("counting events: %w", err)
	}
	return all, nil
}

// subscribe gives a channel that is signalled after every Commit of this Backend that emitted.
func (b *Backend) subscribe() (chan struct{}, func()) {
	c := make(chan struct{}, 1)
	b.wakeMu.Lock()
	defer b.wakeMu.Unlock()
	b.wakes[c] = struct{}{}
	return c, func() {
		b.wakeMu.Lock()
		defer b.wakeMu.Unlock()
		delete(b.wakes, c)
	}
}

func (b *Backend) wake() {
	b.wakeMu.Lock()
	defer b.wakeMu.Unlock()
	for c := range b.wakes {
		select {
		case c <- struct{}{}:
		default: // it is signalled already
		}
	}
}
