package deliver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/observe"
	"sluis.internal/shared/webhook"
)

// commitTime bounds noting how an attempt went, which is done even while the process stops: what was sent was sent.
const commitTime = 10 * time.Second

// trip is one delivery with everything it needs, as read before sending.
type trip struct {
	delivery domain.Delivery
	notice   domain.Notice
	endpoint domain.Endpoint
	client   domain.Client
	consent  domain.Consent // zero where the notice is about none
}

// Deliver tries one delivery that is due. The attempt, the delivery's new state, what it says of the endpoint, the
// next event and the audit entry are one transaction. If that fails, the event comes again, and with it the attempt. An
// event that names an endpoint has what waits for it begun, and its secrets looked after.
func (s *Service) Deliver(ctx context.Context, e domain.Event) error {
	if id, err := domain.ParseID[domain.EndpointID](e.Subject); err == nil {
		return errors.Join(s.release(ctx, id), s.rewrap(ctx, id))
	}
	id, err := domain.ParseID[domain.DeliveryID](e.Subject)
	if err != nil {
		return err
	}
	t, err := s.load(ctx, id)
	if err != nil {
		return domain.IgnoreNotFound(err)
	}
	now := s.Env.Now()
	if t.delivery.State != domain.DeliveryPending || now.Before(t.delivery.NextAt) && e.NotBefore.Before(t.delivery.NextAt) {
		return nil // an old event come again; a pending delivery has another one on its way
	}
	if why := t.hindrance(now); why != "" {
		return s.cancel(ctx, t, why)
	}
	if waits(&t.endpoint, t.notice.Type) { // its address was changed since
		return s.wait(ctx, t)
	}
	// Somebody waits for a test, and it is how a client shows that its endpoint is back: it passes an open breaker.
	if until := webhook.AfterBreaker(s.Env, &t.endpoint); !until.IsZero() && t.notice.Type != domain.NoticeEndpointTest {
		return s.postpone(ctx, t, until)
	}
	if t.endpoint.Unverified {
		if until, err := s.probe(ctx, t); err != nil || !until.IsZero() {
			return errors.Join(err, s.later(ctx, t, until))
		}
	}
	m, err := s.message(ctx, t)
	if err != nil {
		return err
	}
	defer wipe(m.Secrets)
	result, err := s.Sender.Send(ctx, m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	if err := s.Store.Commit(ctx, func(tx domain.Tx) error { return s.conclude(tx, t, result) }); err != nil {
		return err
	}
	t.tell(ctx, result)
	return nil
}

// tell measures an attempt. A replay says nothing of how late we are: it is as old as its client likes.
func (t *trip) tell(ctx context.Context, r webhook.Result) {
	if len(t.delivery.Attempts) != t.delivery.Tries {
		return
	}
	observe.Tried(ctx, r.Attempt.At.Sub(t.delivery.CreatedAt))
	if r.Delivered() {
		observe.Delivered(ctx, r.Attempt.At.Sub(t.notice.CreatedAt)+time.Duration(r.Attempt.Duration)*time.Millisecond)
	}
}

func (s *Service) load(ctx context.Context, id domain.DeliveryID) (*trip, error) {
	t := &trip{delivery: domain.Delivery{ID: id}}
	if err := s.Store.Get(ctx, &t.delivery); err != nil {
		return nil, err
	}
	t.notice.ID, t.endpoint.ID, t.client.ID = t.delivery.NoticeID, t.delivery.EndpointID, t.delivery.ClientID
	t.consent.ID = t.delivery.ConsentID
	docs := []domain.Document{&t.notice, &t.endpoint, &t.client, &t.consent}
	if t.consent.ID == "" {
		docs = docs[:3]
	}
	err := s.Store.Get(ctx, docs...)
	if complete := t.notice.Type != "" && t.endpoint.State != "" && t.client.State != ""; err != nil && (!complete || domain.KindOf(err) != domain.NotFound) {
		return nil, fmt.Errorf("loading delivery: %w", err)
	}
	if t.consent.ID != t.notice.ConsentID { // a delivery of before it named the consent
		t.consent.ID = t.notice.ConsentID
		if err := domain.IgnoreNotFound(s.Store.Get(ctx, &t.consent)); err != nil {
			return nil, fmt.Errorf("loading delivery: %w", err)
		}
	}
	return t, nil
}

// hindrance is why a delivery must not be sent, or "".
func (t *trip) hindrance(now domain.Time) string {
	switch {
	case t.client.State != domain.ClientActive:
		return "client_" + string(t.client.State)
	case t.endpoint.State != domain.EndpointEnabled:
		return "endpoint_" + string(t.endpoint.State)
	case t.endpoint.ClientID != t.delivery.ClientID || t.notice.ClientID != t.delivery.ClientID:
		return "not_yours"
	}
	return t.notice.Withheld(&t.consent, now)
}

// message opens the secrets and renders the body. During a rotation the old secret signs beside the new one.
func (s *Service) message(ctx context.Context, t *trip) (webhook.Message, error) {
	body, err := webhook.Render(&t.notice)
	if err != nil {
		return webhook.Message{}, err
	}
	m := webhook.Message{ID: t.notice.ID, URL: t.endpoint.URL, Body: body}
	sealed := [][]byte{t.endpoint.Secret}
	if len(t.endpoint.Previous) > 0 && s.Env.Now().Before(t.endpoint.PreviousEnds) {
		sealed = append(sealed, t.endpoint.Previous)
	}
	for _, closed := range sealed {
		secret, err := envelope.Open(domain.In(ctx, s.Open), envelope.WebhookLabel(&t.endpoint), closed)
		if err != nil {
			wipe(m.Secrets)
			return webhook.Message{}, fmt.Errorf("opening webhook secret: %w", err)
		}
		m.Secrets = append(m.Secrets, secret)
	}
	return m, nil
}

func wipe(secrets []domain.Secret) {
	for _, secret := range secrets {
		secret.Wipe()
	}
}

// conclude notes within tx how the attempt went.
func (s *Service) conclude(tx domain.Tx, t *trip, r webhook.Result) error {
	d, ep := &domain.Delivery{ID: t.delivery.ID}, &domain.Endpoint{ID: t.endpoint.ID}
	if err := tx.Get(d); err != nil {
		return domain.IgnoreNotFound(err)
	}
	if err := tx.Get(ep); err != nil {
		return err
	}
	// Somebody else moved it meanwhile: a second event, or a replay. Then only they plan what comes next.
	ours := d.State == domain.DeliveryPending && d.Tries == t.delivery.Tries && d.NextAt.Time.Equal(t.delivery.NextAt.Time)
	d.Attempts = append(d.Attempts, r.Attempt)
	d.Attempts = d.Attempts[max(0, len(d.Attempts)-domain.MaxAttemptsKept):]
	d.UpdatedAt = s.Env.Now()
	if err := s.verified(tx, t, ep, r); err != nil {
		return err
	}
	disabled, err := s.judge(tx, ep, r)
	if err != nil {
		return err
	}
	if err := s.settle(tx, d, ep, r, ours); err != nil {
		return err
	}
	entry := s.note("webhook.sent", system, &t.notice, d.Key(), map[string]string{"notice_id": t.notice.Key(),
		"endpoint_id": ep.Key(), "state": string(d.State), "attempt": strconv.Itoa(d.Tries)})
	if r.Attempt.Status != 0 {
		entry.Data.Details["status"] = strconv.Itoa(r.Attempt.Status)
	}
	if !r.Delivered() {
		entry.Data.Outcome, entry.Data.Reason = domain.OutcomeFailed, r.Attempt.Failure
	}
	if err := tx.Record(entry); err != nil || !disabled {
		return err
	}
	return s.tellDisabled(tx, ep)
}

// verified notes that the endpoint's address has answered its test, and has what waited for that begin. An answer from an
// address that the client has changed since shows nothing.
func (s *Service) verified(tx domain.Tx, t *trip, ep *domain.Endpoint, r webhook.Result) error {
	if !r.Delivered() || !ep.Unverified || t.notice.Type != domain.NoticeEndpointTest || t.endpoint.URL != ep.URL || ep.State == domain.EndpointRemoved {
		return nil
	}
	now := s.Env.Now()
	ep.Unverified, ep.VerifiedAt, ep.UpdatedAt = false, now, now
	webhook.Succeeded(ep)
	entry := s.note("endpoint.verified", system, &t.notice, ep.Key(), map[string]string{"notice_id": t.notice.Key()})
	return errors.Join(tx.Put(ep), lookAfter(tx, ep), tx.Record(entry))
}

// judge counts the attempt for or against the endpoint, and disables one that is gone or failed for too long.
func (s *Service) judge(tx domain.Tx, ep *domain.Endpoint, r webhook.Result) (disabled bool, err error) {
	now := s.Env.Now()
	if ep.State == domain.EndpointRemoved || r.Delivered() && ep.Failures == 0 && ep.OpenAfter.IsZero() && ep.FailingSince.IsZero() {
		return false, nil
	}
	if r.Delivered() {
		webhook.Succeeded(ep)
	} else {
		webhook.Failed(ep, r, now)
		if why := webhook.GivenUp(ep, now); ep.State == domain.EndpointEnabled && why != "" {
			disabled = true
			if err := ep.Move(domain.EndpointDisabled, now); err != nil {
				return false, err
			}
			ep.Disabled = why
		}
	}
	if len(ep.Previous) > 0 && !now.Before(ep.PreviousEnds) {
		ep.Previous, ep.PreviousEnds = nil, domain.Time{}
	}
	ep.UpdatedAt = now
	return disabled, tx.Put(ep)
}

// settle gives the delivery its new state and puts it, with the event of the next try if there is one.
func (s *Service) settle(tx domain.Tx, d *domain.Delivery, ep *domain.Endpoint, r webhook.Result, ours bool) error {
	now := s.Env.Now()
	if !ours && !(r.Delivered() && d.State == domain.DeliveryPending) {
		return tx.Put(d)
	}
	d.Tries++
	next, more := webhook.Delay(s.Env, d.Tries, r.RetryAfter)
	to := domain.DeliveryFailed
	switch {
	case r.Delivered():
		to = domain.DeliveryDelivered
	case ep.State != domain.EndpointEnabled:
		to = domain.DeliveryCancelled
	case more && waits(ep, d.Type):
		to = domain.DeliveryWaiting
	case more:
		d.NextAt = now.Add(next)
		if until := webhook.AfterBreaker(s.Env, ep); until.After(d.NextAt) {
			d.NextAt = until
		}
		return schedule(tx, d)
	}
	d.NextAt = domain.Time{}
	if err := d.Move(to, now); err != nil {
		return err
	}
	if to == domain.DeliveryCancelled {
		d.Reason = "endpoint_" + string(ep.State)
	}
	return tx.Put(d)
}

// tellDisabled raises a notice for the client's other endpoints. It belongs to no connection, so it has no sequence.
func (s *Service) tellDisabled(tx domain.Tx, ep *domain.Endpoint) error {
	n := s.endpointNotice(ep, domain.NoticeEndpointDisabled)
	if err := n.Raise(tx); err != nil {
		return err
	}
	return tx.Record(s.note("endpoint.disabled", system, n, ep.Key(), map[string]string{"cause": string(ep.Disabled), "notice_id": n.Key()}))
}

// endpointNotice is a notice about an endpoint.
func (s *Service) endpointNotice(ep *domain.Endpoint, t domain.NoticeType) *domain.Notice {
	return domain.NewNotice(s.Env, ep.ClientID, t, ep.Key(), string(ep.State))
}

// cancel ends a delivery that must not be sent.
func (s *Service) cancel(ctx context.Context, t *trip, why string) error {
	return s.pending(ctx, t, "delivery.cancelled", why, func(tx domain.Tx, d *domain.Delivery) error {
		d.NextAt = domain.Time{}
		if err := d.Move(domain.DeliveryCancelled, s.Env.Now()); err != nil {
			return err
		}
		d.Reason = why
		return tx.Put(d)
	})
}

// postpone lets a delivery wait until the endpoint's breaker closes. It does not count as a try.
func (s *Service) postpone(ctx context.Context, t *trip, until domain.Time) error {
	return s.pending(ctx, t, "delivery.postponed", "breaker_open", func(tx domain.Tx, d *domain.Delivery) error {
		d.NextAt, d.UpdatedAt = until, s.Env.Now()
		return schedule(tx, d)
	})
}

// pending changes the delivery if it still is as it was read, and records it.
func (s *Service) pending(ctx context.Context, t *trip, action, why string, change func(domain.Tx, *domain.Delivery) error) error {
	return s.Store.Commit(ctx, func(tx domain.Tx) error {
		d := &domain.Delivery{ID: t.delivery.ID}
		if err := tx.Get(d); err != nil {
			return domain.IgnoreNotFound(err)
		}
		if d.State != domain.DeliveryPending || !d.NextAt.Time.Equal(t.delivery.NextAt.Time) {
			return nil
		}
		if err := change(tx, d); err != nil {
			return err
		}
		entry := s.note(action, system, &t.notice, d.Key(), map[string]string{"endpoint_id": t.endpoint.Key(), "state": string(d.State)})
		entry.Data.Reason = why
		return tx.Record(entry)
	})
}
