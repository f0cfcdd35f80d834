package extraction

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"sluis.internal/shared/domain"
)

// reading is one portfolio on its way from the bank into encrypted parts. Nothing in it grows with the portfolio but
// the lists of part names: records are pulled one at a time, and parts leave as they fill.
type reading struct {
	e        *Engine
	j        *job
	key      *domain.DataKey
	previous *domain.Portfolio
	kept     map[string]bool // part names that the previous version has: written already
	status   map[domain.Product]domain.ProductStatus
	sums     *sums
	staged   []*domain.Part // waiting for the next commit
	written  []string       // new parts that stand in the store already
	size     int            // bytes staged
}

// Bounds of one commit: Firestore takes 10 MiB and 500 writes in a transaction.
const (
	stageBytes = 4 << 20
	stageParts = 100
)

// read pulls every product consented to, stores it as the saving scope allows, and completes the session with one new
// portfolio version.
func (e *Engine) read(ctx context.Context, j *job, p *Portfolio) error {
	r := &reading{e: e, j: j, kept: map[string]bool{}, status: map[domain.Product]domain.ProductStatus{}, sums: newSums()}
	if err := r.begin(ctx); err != nil {
		return e.stopped(ctx, j, err)
	}
	for _, product := range domain.Products {
		status, err := r.product(ctx, product, p.Read[product])
		if err != nil {
			return r.abandon(ctx, err)
		}
		r.status[product] = status
	}
	if err := r.complete(ctx); err != nil {
		return e.stopped(ctx, j, err)
	}
	return e.closeAfter(ctx, j.session)
}

// begin finds the previous version, whose parts need not be written again.
func (r *reading) begin(ctx context.Context) error {
	if r.j.connection.PortfolioID == "" {
		return nil
	}
	previous := &domain.Portfolio{ID: r.j.connection.PortfolioID}
	if err := r.e.Store.Get(ctx, previous); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil
		}
		return err
	}
	r.previous = previous
	for _, status := range previous.Products {
		for _, part := range status.Parts {
			r.kept[part] = true
		}
	}
	return nil
}

// product pulls one product to its end. An error of the bank makes the product failed, not the reading, unless it is
// passing and the reading can be begun again.
func (r *reading) product(ctx context.Context, p domain.Product, records Records) (domain.ProductStatus, error) {
	if !slices.Contains(r.j.consent.Products, p) {
		return domain.ProductStatus{State: domain.ProductNotConsented}, nil
	}
	saved := r.j.consent.SavingFor(p).Scope != domain.SaveNone
	status := domain.ProductStatus{State: domain.ProductEmpty, Saved: saved}
	if records == nil {
		return status, nil
	}
	b := &batch{}
	for record, err := range records {
		if err == nil {
			err = r.own(record, p)
		}
		if err != nil {
			return r.failed(ctx, status, err)
		}
		r.sums.add(record)
		status.Count++
		if !saved {
			continue
		}
		if err := b.add(record); err != nil {
			return r.failed(ctx, status, err)
		}
		if b.full() {
			if status.Parts, err = r.stage(ctx, p, b, status.Parts); err != nil {
				return status, err
			}
		}
	}
	if err := context.Cause(ctx); err != nil {
		return status, err
	}
	var err error
	if b.count > 0 {
		status.Parts, err = r.stage(ctx, p, b, status.Parts)
	}
	if status.Count > 0 {
		status.State = domain.ProductComplete
	}
	return status, err
}

// failed decides what an error within a product means: the whole session (a lost way in, a passing failure, an end of
// the consent), or this product alone.
func (r *reading) failed(ctx context.Context, status domain.ProductStatus, err error) (domain.ProductStatus, error) {
	if cause := context.Cause(ctx); cause != nil {
		return status, cause
	}
	var f *Failure
	if !errors.As(err, &f) {
		f = &Failure{Reason: domain.ReasonInternal, Err: err}
	}
	if f.Retry && r.j.session.Retries < maxRetries || f.Reason == domain.ReasonEgressRefused {
		return status, f
	}
	return domain.ProductStatus{State: domain.ProductFailed, Reason: f.Reason}, nil
}

// abandon ends a reading that cannot go on. New parts of it are deleted: no version will name them.
func (r *reading) abandon(ctx context.Context, cause error) error {
	var f *Failure
	if !errors.As(cause, &f) {
		return r.e.stopped(ctx, r.j, cause)
	}
	if !f.Retry {
		for chunk := range slices.Chunk(r.written, stageParts) {
			err := domain.Perform(ctx, r.e.Env, r.e.Store, r.e.late(r.j.session, "portfolio.parts_dropped"), func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
				a.Details["parts"] = strconv.Itoa(len(chunk))
				for _, id := range chunk {
					if err := tx.Delete(&domain.Part{ID: id}); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return r.e.fail(ctx, r.j, f)
}

// own fills in what the connector leaves to us and replaces the custodian's account names by ours.
func (r *reading) own(record domain.Record, p domain.Product) error {
	if record == nil || record.Product() != p {
		return &Failure{Reason: domain.ReasonInternal, Err: fmt.Errorf("connector gave a foreign record among %s", p)}
	}
	record.Origin().Source = r.j.session.Custodian
	switch v := record.(type) {
	case *domain.Account:
		v.ID = r.account(v.ID)
	case *domain.CashBalance:
		v.AccountID = r.account(v.AccountID)
	case *domain.Position:
		v.AccountID = r.account(v.AccountID)
	case *domain.Transaction:
		v.AccountID = r.account(v.AccountID)
	case *domain.Order:
		v.AccountID = r.account(v.AccountID)
	case *domain.Liability:
		v.AccountID = r.account(v.AccountID)
	}
	return nil
}

// account is our name of an account: the same for the same investor of the same client after every reconnect, and
// meaningless to everybody else.
func (r *reading) account(theirs string) string {
	c := r.j.connection
	return "acc_" + r.mark("account", string(c.ClientID), c.InvestorRef, string(c.Custodian), theirs)
}

var marks = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// mark is a keyed digest of parts: 26 characters.
func (r *reading) mark(parts ...string) string {
	mac := hmac.New(sha256.New, r.e.Pseudonym.Reveal())
	mac.Write(domain.Name(parts...))
	return marks.EncodeToString(mac.Sum(nil)[:16])
}

// batch is the part being filled.
type batch struct {
	lines bytes.Buffer
	count int
}

func (b *batch) add(record domain.Record) error {
	line, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	if len(line) > domain.MaxPartBytes {
		return &Failure{Reason: domain.ReasonBankAnswer, Err: errors.New("one record is larger than a part")}
	}
	b.lines.Write(line)
	b.lines.WriteByte('\n')
	b.count++
	return nil
}

func (b *batch) full() bool {
	return b.count >= domain.MaxPartRecords || b.lines.Len() >= domain.MaxPartBytes
}

// stage closes the batch as a part, unless the previous version has the very same, and commits the staged parts once
// there are many. It returns parts with the new name, and empties the batch.
func (r *reading) stage(ctx context.Context, p domain.Product, b *batch, parts []string) ([]string, error) {
	defer func() { clear(b.lines.Bytes()); b.lines.Reset(); b.count = 0 }()
	c := r.j.connection
	id := "part_" + r.mark("part", string(c.ID), string(p), strconv.Itoa(len(parts)), b.lines.String())
	parts = append(parts, id)
	if r.kept[id] {
		return parts, nil
	}
	if err := r.dataKey(ctx); err != nil {
		return nil, err
	}
	sealed, err := r.e.Portfolio.Close(r.key, string(p), id, b.lines.Bytes())
	if err != nil {
		return nil, err
	}
	r.staged = append(r.staged, &domain.Part{ID: id, ClientID: c.ClientID, ConsentID: c.ConsentID, ConnectionID: c.ID,
		Product: p, Count: b.count, Sealed: sealed, CreatedAt: r.e.Env.Now()})
	r.size += len(sealed)
	if r.size >= stageBytes || len(r.staged) >= stageParts {
		return parts, r.flush(ctx)
	}
	return parts, nil
}

// dataKey finds the connection's keyset, or makes it.
func (r *reading) dataKey(ctx context.Context) error {
	if r.key != nil {
		return nil
	}
	key := &domain.DataKey{ConnectionID: r.j.connection.ID}
	err := r.e.Store.Get(ctx, key)
	if domain.KindOf(err) == domain.NotFound {
		return r.newDataKey(ctx)
	}
	if err != nil {
		return err
	}
	r.key = key
	return nil
}

func (r *reading) newDataKey(ctx context.Context) error {
	fresh, err := r.e.Portfolio.NewDataKey(r.j.connection.Binding())
	if err != nil {
		return err
	}
	err = domain.Perform(ctx, r.e.Env, r.e.Store, r.e.act(r.j.session, "data_key.created"), func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		if _, err := r.e.mine(tx, r.j.session); err != nil {
			return err
		}
		return tx.Put(fresh)
	})
	if err == nil {
		r.key = fresh
	}
	return err
}

// flush commits the staged parts, under the consent and the lease. No reader sees them until a version names them.
func (r *reading) flush(ctx context.Context) error {
	err := domain.Perform(ctx, r.e.Env, r.e.Store, r.e.act(r.j.session, "portfolio.parts_stored"), func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		s, err := r.e.mine(tx, r.j.session)
		if err != nil {
			return err
		}
		key := &domain.DataKey{ConnectionID: s.ConnectionID}
		if err := tx.Get(key); err != nil {
			return err
		}
		s.LeaseUntil, s.Records = r.e.Env.Now().Add(r.e.lease()), r.sums.records
		a.Details["parts"] = strconv.Itoa(len(r.staged))
		return errors.Join(tx.Put(s), r.put(tx))
	})
	if err != nil {
		return err
	}
	for _, part := range r.staged {
		r.written = append(r.written, part.ID)
	}
	r.staged, r.size = nil, 0
	return nil
}

func (r *reading) put(tx domain.Tx) error {
	for _, part := range r.staged {
		if err := tx.Put(part); err != nil {
			return err
		}
	}
	return nil
}

// complete makes the new version, in one commit with everything that follows from it.
func (r *reading) complete(ctx context.Context) error {
	e := r.e
	version, err := r.version(ctx)
	if err != nil {
		return err
	}
	return e.settle(ctx, r.j.session, e.act(r.j.session, "portfolio.stored"), func(tx domain.Tx, t *settled, a *domain.Act) error {
		now := e.Env.Now()
		previous, err := r.reread(tx, t)
		if err != nil {
			return err
		}
		t.connection.Versions++
		version.Number, version.RetrievedAt = t.connection.Versions, now
		a.Details["portfolio"], a.Details["records"] = string(version.ID), strconv.Itoa(r.sums.records)
		t.session.PortfolioID, t.session.Records = version.ID, r.sums.records
		if err := t.session.Move(domain.SessionComplete, "", now); err != nil {
			return err
		}
		if previous != nil {
			retire(previous, version, t.consent, now)
			if err := tx.Put(previous); err != nil {
				return err
			}
		}
		return errors.Join(r.put(tx), tx.Put(version), r.activate(tx, t, version, now))
	})
}

// reread reads what the version builds on within the transaction: it must not have been erased meanwhile.
func (r *reading) reread(tx domain.Tx, t *settled) (*domain.Portfolio, error) {
	if r.key != nil {
		if err := tx.Get(&domain.DataKey{ConnectionID: t.connection.ID}); err != nil {
			if domain.KindOf(err) == domain.NotFound {
				return nil, errTaken
			}
			return nil, err
		}
	}
	if r.previous == nil {
		return nil, nil
	}
	previous, err := maybe(tx, &domain.Portfolio{ID: r.previous.ID})
	if err == nil && previous == nil {
		err = errTaken
	}
	return previous, err
}

// version is the manifest of what was read. Its name comes from the session, so that one session makes one version.
func (r *reading) version(ctx context.Context) (*domain.Portfolio, error) {
	s := r.j.session
	v := &domain.Portfolio{ID: domain.PortfolioID("pf_" + string(s.ID)[len("ses_"):]), ClientID: s.ClientID, ConsentID: s.ConsentID,
		ConnectionID: s.ConnectionID, SessionID: s.ID, Custodian: s.Custodian, Products: r.status}
	summary, err := json.Marshal(r.sums.reconcile(r.status))
	if err != nil {
		return nil, err
	}
	v.SummaryMark = r.mark("summary", string(s.ConnectionID), string(summary))
	if r.previous != nil && r.previous.SummaryMark == v.SummaryMark {
		v.Summary = r.previous.Summary
		return v, nil
	}
	if err := r.dataKey(ctx); err != nil {
		return nil, err
	}
	v.Summary, err = r.e.Portfolio.Close(r.key, "summary", v.SummaryMark, summary)
	return v, err
}

// activate brings the connection to its new version and tells the client.
func (r *reading) activate(tx domain.Tx, t *settled, v *domain.Portfolio, now domain.Time) error {
	c := t.connection
	first := c.State != domain.ConnectionActive
	if c.State == domain.ConnectionPaused || c.State == domain.ConnectionAwaiting {
		if err := c.Move(domain.ConnectionBusy, "", now); err != nil {
			return err
		}
	}
	if first {
		if err := c.Move(domain.ConnectionActive, "", now); err != nil {
			return err
		}
	}
	c.Reason, c.PortfolioID, c.LastRefreshedAt, c.UpdatedAt = "", v.ID, now, now
	c.Products = make(map[domain.Product]domain.ProductStatus, len(v.Products))
	for p, status := range v.Products {
		status.Parts = nil
		c.Products[p] = status
	}
	c.NextRefreshAt = domain.Time{}
	if t.consent.Access == domain.AccessRecurring && r.e.Custodian.RefreshHour > 0 {
		c.NextRefreshAt = now.Add(time.Duration(r.e.Custodian.RefreshHour) * time.Hour)
	}
	if first {
		if err := domain.Tell(r.e.Env, tx, c, domain.NoticeConnectionActive, string(t.session.ID)); err != nil {
			return err
		}
	}
	return domain.Tell(r.e.Env, tx, c, domain.NoticePortfolioUpdated, string(v.ID))
}

// keepFailed bounds how long an older version is kept because a newer reading of one of its products failed.
const keepFailed = 30 * 24 * time.Hour

// retire applies the saving scope to the version before the newest: of a product whose latest reading alone may be
// kept, its parts are let go; the version itself ends with the longest history that remains.
func retire(old, newest *domain.Portfolio, c *domain.Consent, now domain.Time) {
	var until domain.Time
	for p, status := range old.Products {
		saving, end := c.SavingFor(p), now
		switch {
		case saving.Scope == domain.SaveHistory:
			end = old.RetrievedAt.Add(time.Duration(saving.Days) * 24 * time.Hour)
		case newest.Products[p].State == domain.ProductFailed && len(status.Parts) > 0:
			end = now.Add(keepFailed)
		default:
			status.Parts, status.Saved = nil, false
			old.Products[p] = status
		}
		if end.After(until) {
			until = end
		}
	}
	old.ExpiresAt = until
}
