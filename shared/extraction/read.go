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
	"sluis.internal/shared/envelope"
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
	staged   []*domain.Part    // waiting for the next commit
	written  []*domain.Part    // new parts that stand in the store already, without their content
	size     int               // bytes staged
	flushed  bool              // some were stored before there was a version
	clean    bool              // and before that, no other reading's were
	parts    int               // named by this version
	names    map[string]string // of accounts, from the custodian's to ours; up to maxAccounts
}

// Bounds of one commit: Firestore takes 10 MiB and 500 writes in a transaction, its emulator 4 MiB; in base64 it is a third more.
var stageBytes = 2 << 20 // smaller in tests

const stageParts = 100

// maxParts bounds the parts of one version, so that its manifest stays below 1 MiB: ten million records, or 5 GB.
const maxParts = 10_000

// read pulls every product consented to, stores it as the saving scope allows, and completes the session with one new
// portfolio version.
func (e *Engine) read(ctx context.Context, j *job, p *Portfolio) error {
	r := &reading{e: e, j: j, kept: map[string]bool{}, status: map[domain.Product]domain.ProductStatus{}, sums: newSums(),
		names: map[string]string{}}
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
	return e.ended(ctx, j, r.complete(ctx))
}

// begin finds the previous version, whose parts need not be written again if they can be read.
func (r *reading) begin(ctx context.Context) error {
	if r.j.connection.PortfolioID == "" {
		return nil
	}
	if err := r.findKey(ctx); err != nil || r.key == nil {
		return err
	}
	previous := &domain.Portfolio{ID: r.j.connection.PortfolioID}
	if err := r.e.Store.Get(ctx, previous); err != nil {
		return domain.IgnoreNotFound(err)
	}
	r.previous = previous
	for _, status := range previous.Products {
		for _, part := range status.Parts {
			r.kept[part] = true
		}
	}
	return nil
}

// product pulls one product to its end. An error of the bank, or a panic of its connector, makes the product failed,
// not the reading, unless it is passing and the reading can be begun again.
func (r *reading) product(ctx context.Context, p domain.Product, records Records) (status domain.ProductStatus, err error) {
	if !slices.Contains(r.j.consent.Products, p) {
		return domain.ProductStatus{State: domain.ProductNotConsented}, nil
	}
	status = domain.ProductStatus{State: domain.ProductEmpty, Saved: r.j.consent.SavingFor(p).Scope != domain.SaveNone}
	if records == nil {
		return status, nil
	}
	defer func() {
		if recover() != nil { // what was thrown may hold anything: it is not logged
			status, err = r.failed(ctx, p, &Failure{Reason: domain.ReasonInternal, Err: errors.New("connector panicked")})
		}
	}()
	b := &batch{}
	defer b.empty()
	for record, err := range records {
		if err == nil {
			err = r.own(record, p)
		}
		if err == nil {
			err = r.sums.add(record)
		}
		if err != nil {
			return r.failed(ctx, p, err)
		}
		status.Count++
		if !status.Saved {
			continue
		}
		line, err := b.line(record)
		if err != nil {
			return r.failed(ctx, p, err)
		}
		if b.full(line) {
			if status.Parts, err = r.stage(ctx, p, b, status.Parts); err != nil {
				return r.unstaged(ctx, p, err)
			}
		}
		b.add(line)
	}
	if err := context.Cause(ctx); err != nil {
		return status, err
	}
	if b.count > 0 {
		if status.Parts, err = r.stage(ctx, p, b, status.Parts); err != nil {
			return r.unstaged(ctx, p, err)
		}
	}
	if status.Count > 0 {
		status.State = domain.ProductComplete
	}
	return status, nil
}

// unstaged tells a product that does not fit from a store that did not take it.
func (r *reading) unstaged(ctx context.Context, p domain.Product, err error) (domain.ProductStatus, error) {
	if errors.Is(err, errTooMany) {
		return r.failed(ctx, p, err)
	}
	return domain.ProductStatus{}, err
}

// failed decides what an error within a product means: the whole session (a lost way in, a passing failure, an end of
// the consent), or this product alone, of which then nothing is kept.
func (r *reading) failed(ctx context.Context, p domain.Product, err error) (domain.ProductStatus, error) {
	status := domain.ProductStatus{State: domain.ProductFailed}
	if cause := context.Cause(ctx); cause != nil {
		return status, cause
	}
	f := failure(err)
	if r.j.again(f) || f.Reason == domain.ReasonEgressRefused {
		return status, f
	}
	r.j.log(ctx, f)
	status.Reason = f.Reason
	return status, r.drop(ctx, func(part *domain.Part) bool { return part.Product == p })
}

// drop takes back the new parts that match: no version will name them.
func (r *reading) drop(ctx context.Context, match func(*domain.Part) bool) error {
	r.staged = slices.DeleteFunc(r.staged, match)
	r.size = 0
	for _, part := range r.staged {
		r.size += len(part.Sealed)
	}
	var loose []*domain.Part
	for _, part := range r.written {
		if match(part) {
			loose = append(loose, part)
		}
	}
	r.written = slices.DeleteFunc(r.written, match)
	for chunk := range slices.Chunk(loose, stageParts) {
		err := r.e.perform(ctx, r.j, r.e.act(r.j.session, "portfolio.parts_dropped"), func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
			if _, err := mine(tx, r.j.session); err != nil {
				return err
			}
			a.Details["parts"] = strconv.Itoa(len(chunk))
			for _, part := range chunk {
				if err := tx.Delete(part); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// abandon ends a reading that cannot go on. Its new parts are dropped, unless it begins again soon.
func (r *reading) abandon(ctx context.Context, cause error) error {
	var f *Failure
	if !errors.As(cause, &f) {
		return r.e.stopped(ctx, r.j, cause)
	}
	if !r.j.again(f) {
		if err := r.drop(ctx, func(*domain.Part) bool { return true }); err != nil {
			return r.e.stopped(ctx, r.j, err)
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
	ours, c := r.names[theirs], r.j.connection
	if ours == "" {
		ours = "acc_" + r.mark("account", string(c.ClientID), c.InvestorRef, string(c.Custodian), theirs)
	}
	if len(r.names) < maxAccounts {
		r.names[theirs] = ours
	}
	return ours
}

var marks = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// mark is a keyed digest of parts: 26 characters.
func (r *reading) mark(parts ...string) string { return r.markOf(nil, parts...) }

// markOf is mark with content as one more part. The content of a part is half a megabyte: it is digested where it lies.
func (r *reading) markOf(content []byte, parts ...string) string {
	mac := hmac.New(sha256.New, r.e.Pseudonym.Reveal())
	mac.Write(domain.Name(parts...))
	if content != nil { // as domain.Name has it
		mac.Write(append(strconv.AppendInt(nil, int64(len(content)), 10), ':'))
		mac.Write(content)
		mac.Write([]byte{','})
	}
	return marks.EncodeToString(mac.Sum(nil)[:16])
}

// batch is the part being filled.
type batch struct {
	lines bytes.Buffer
	count int
}

// line is a record as a line.
func (b *batch) line(record domain.Record) ([]byte, error) {
	line, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("writing record: %w", err)
	}
	if len(line) >= domain.MaxPartBytes {
		return nil, &Failure{Reason: domain.ReasonBankAnswer, Err: errors.New("one record is larger than a part")}
	}
	return append(line, '\n'), nil
}

// full says whether line no longer fits.
func (b *batch) full(line []byte) bool {
	return b.count >= domain.MaxPartRecords || b.lines.Len()+len(line) > domain.MaxPartBytes
}

func (b *batch) add(line []byte) {
	b.lines.Write(line)
	b.count++
}

func (b *batch) empty() {
	clear(b.lines.Bytes())
	b.lines.Reset()
	b.count = 0
}

var errTooMany = &Failure{Reason: domain.ReasonBankAnswer, Err: errors.New("more records than a version holds")}

// stage closes the batch as a part, unless the previous version has the very same, and commits the staged parts once
// there are many. It returns parts with the new name, and empties the batch.
func (r *reading) stage(ctx context.Context, p domain.Product, b *batch, parts []string) ([]string, error) {
	defer b.empty()
	if r.parts++; r.parts > maxParts {
		return nil, errTooMany
	}
	c := r.j.connection
	id := "part_" + r.markOf(b.lines.Bytes(), "part", string(c.ID), string(p), strconv.Itoa(len(parts)))
	parts = append(parts, id)
	if r.kept[id] {
		return parts, nil
	}
	if err := r.dataKey(ctx); err != nil {
		return nil, err
	}
	sealed, err := r.e.Portfolio.In(ctx).Close(r.key, string(p), id, b.lines.Bytes())
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
	if err := r.findKey(ctx); err != nil || r.key != nil {
		return err
	}
	return r.newDataKey(ctx)
}

// flush commits the staged parts, under the consent and the lease. No reader sees them until a version names them, and
// until then the connection says that there may be some that none ever will.
func (r *reading) flush(ctx context.Context) error {
	var fresh []*domain.Part
	err := r.e.perform(ctx, r.j, r.e.act(r.j.session, "portfolio.parts_stored"), func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		s, err := mine(tx, r.j.session)
		if err != nil {
			return err
		}
		if fresh, err = r.fresh(tx); err != nil {
			return err
		}
		if err := r.stores(tx); err != nil {
			return err
		}
		s.LeaseUntil, s.Records = r.e.Env.Now().Add(r.e.lease()), r.sums.records
		a.Details["parts"] = strconv.Itoa(len(fresh))
		return errors.Join(tx.Put(s), put(tx, fresh))
	})
	if err != nil {
		return err
	}
	for _, part := range fresh {
		r.written = append(r.written, &domain.Part{ID: part.ID, Product: part.Product})
	}
	r.staged, r.size, r.flushed = nil, 0, true
	return nil
}

// stores notes, once a reading, that parts are stored which no version names yet.
func (r *reading) stores(tx domain.Tx) error {
	if r.flushed {
		return nil
	}
	c := &domain.Connection{ID: r.j.connection.ID}
	if err := tx.Get(c); err != nil {
		return err
	}
	r.clean, c.Staged = !c.Staged, true
	return tx.Put(c)
}

// fresh are the staged parts that are not in the store already: older versions may name those, so they are neither
// written twice nor, later, dropped. The key must not have been erased meanwhile; a part that is older than it is a
// leftover that nobody can read.
func (r *reading) fresh(tx domain.Tx) ([]*domain.Part, error) {
	if r.key == nil {
		return nil, nil
	}
	key := &domain.DataKey{ConnectionID: r.key.ConnectionID}
	there := make([]domain.Part, len(r.staged))
	docs := []domain.Document{key}
	for i, part := range r.staged {
		there[i].ID = part.ID
		docs = append(docs, &there[i])
	}
	if err := domain.IgnoreNotFound(tx.Get(docs...)); err != nil {
		return nil, err
	}
	if !envelope.SameKeyset(key, r.key) {
		return nil, &domain.Error{Kind: domain.Unavailable, Code: "data_erased", Message: "the data was erased while it was read"}
	}
	var fresh []*domain.Part
	for i, part := range r.staged {
		if there[i].CreatedAt.IsZero() || there[i].CreatedAt.Before(key.CreatedAt) { // it is not there, or left over
			fresh = append(fresh, part)
		}
	}
	return fresh, nil
}

func put(tx domain.Tx, parts []*domain.Part) error {
	for _, part := range parts {
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
	return e.settle(ctx, r.j, e.act(r.j.session, "portfolio.stored"), func(tx domain.Tx, c *domain.Consent, t *settled, a *domain.Act) error {
		now := e.Env.Now()
		previous, err := r.reread(tx)
		if err != nil {
			return err
		}
		fresh, err := r.fresh(tx)
		if err != nil {
			return err
		}
		t.connection.Versions++
		t.connection.Staged = t.connection.Staged && !r.clean // all that this reading stored, the version names
		version.Number, version.RetrievedAt = t.connection.Versions, now
		a.Details["portfolio"], a.Details["records"] = string(version.ID), strconv.Itoa(r.sums.records)
		t.session.PortfolioID, t.session.Records = version.ID, r.sums.records
		if err := t.session.Move(domain.SessionComplete, "", now); err != nil {
			return err
		}
		if previous != nil {
			retire(previous, version, c, now)
			if err := tx.Put(previous); err != nil {
				return err
			}
		}
		return errors.Join(put(tx, fresh), tx.Put(version), r.activate(tx, c, t, version, now))
	})
}

// reread reads what the version builds on within the transaction: it must not have been erased meanwhile.
func (r *reading) reread(tx domain.Tx) (*domain.Portfolio, error) {
	if r.previous == nil {
		return nil, nil
	}
	previous, err := domain.Maybe(tx, &domain.Portfolio{ID: r.previous.ID})
	if err == nil && previous == nil {
		err = &domain.Error{Kind: domain.Unavailable, Code: "data_erased", Message: "the data was erased while it was read"}
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
	v.Summary, err = r.e.Portfolio.In(ctx).Close(r.key, "summary", v.SummaryMark, summary)
	return v, err
}

// activate brings the connection to its new version and tells the client.
func (r *reading) activate(tx domain.Tx, consent *domain.Consent, t *settled, v *domain.Portfolio, now domain.Time) error {
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
	if consent.Access == domain.AccessRecurring && r.e.Custodian.RefreshHour > 0 {
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
// kept, its parts are let go, and sweep deletes them; the version itself ends with the longest history that remains.
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
			old.LetGo = append(old.LetGo, status.Parts...)
			status.Parts, status.Saved = nil, false
			old.Products[p] = status
		}
		if end.After(until) {
			until = end
		}
	}
	old.ExpiresAt, old.SweepAt = until, until
	if len(old.LetGo) > 0 {
		old.SweepAt = now
	}
}
