package deliver

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluis.internal/shared/domain"
)

// Bounds of what goes out to addresses that nobody has shown yet to want it, over all clients and processes: attempts a
// minute at one host, so that many clients together cannot flood it, and of one client, so that many names of one host
// help nobody either. And how long there is between two tests that a client asks for.
const (
	maxOfHost   = 10
	maxOfClient = 30
	testEvery   = 10 * time.Second
)

// lookAfter has what waits for an endpoint begun, or ended, and its secrets looked after.
func lookAfter(tx domain.Tx, ep *domain.Endpoint) error {
	return tx.Emit(domain.Event{Topic: domain.TopicDelivery, Subject: ep.Key(), Lane: string(ep.ClientID)})
}

// ask raises a test of an endpoint whose address is to be verified. The caller puts the endpoint.
func (s *Service) ask(tx domain.Tx, ep *domain.Endpoint) (domain.NoticeID, error) {
	ep.TestedAt = s.Env.Now()
	n := s.endpointNotice(ep, domain.NoticeEndpointTest)
	return n.ID, n.Raise(tx)
}

// probe counts an attempt at an address that is not verified, before it is made. Where there were too many within the
// minute, it says until when to wait and counts nothing.
func (s *Service) probe(ctx context.Context, t *trip) (until domain.Time, err error) {
	u, err := url.Parse(t.endpoint.URL)
	if err != nil {
		return domain.Time{}, err
	}
	err = s.Store.Commit(ctx, func(tx domain.Tx) error {
		now := s.Env.Now()
		minute := now.Truncate(time.Minute)
		host := pace("host", strings.ToLower(u.Hostname()), minute)
		client := pace("client", string(t.endpoint.ClientID), minute)
		until = domain.Time{}
		if err := domain.IgnoreNotFound(tx.Get(host, client)); err != nil {
			return err
		}
		if host.Count >= maxOfHost || client.Count >= maxOfClient {
			until = domain.At(minute.Add(time.Minute))
			return nil
		}
		for _, p := range []*domain.Pace{host, client} {
			p.Count++
			p.ExpiresAt = now.Add(time.Hour)
			if err := tx.Put(p); err != nil {
				return err
			}
		}
		return tx.Record(s.note("endpoint.probed", system, &t.notice, t.endpoint.Key(), map[string]string{"notice_id": t.notice.Key(), "try": strconv.Itoa(t.delivery.Tries + 1)}))
	})
	return until, err
}

func pace(what, which string, minute time.Time) *domain.Pace {
	sum := sha256.Sum256(domain.Name("sluis/pace/v1", what, which, minute.UTC().Format(time.RFC3339)))
	return &domain.Pace{ID: base64.RawURLEncoding.EncodeToString(sum[:16])}
}

// wait lets a delivery wait until the endpoint's address is verified.
func (s *Service) wait(ctx context.Context, t *trip) error {
	return s.pending(ctx, t, "delivery.postponed", "endpoint_unverified", func(tx domain.Tx, d *domain.Delivery) error {
		ep := &domain.Endpoint{ID: d.EndpointID}
		if err := tx.Get(ep); err != nil || !ep.Unverified {
			return errors.Join(err, schedule(tx, d)) // it was verified just now
		}
		d.NextAt = domain.Time{}
		if err := d.Move(domain.DeliveryWaiting, s.Env.Now()); err != nil {
			return err
		}
		return tx.Put(d)
	})
}

// later lets an attempt at an address that is not verified wait for its turn.
func (s *Service) later(ctx context.Context, t *trip, until domain.Time) error {
	if until.IsZero() {
		return nil
	}
	return s.pending(ctx, t, "delivery.postponed", "address_paced", func(tx domain.Tx, d *domain.Delivery) error {
		d.NextAt, d.UpdatedAt = until, s.Env.Now()
		return schedule(tx, d)
	})
}

// releaseBatch is how many waiting deliveries begin in one transaction.
const releaseBatch = 100

// release has every delivery that waits for the endpoint begin, once its address is verified; where the endpoint was
// removed they are cancelled. Broken off, it goes on where it was.
func (s *Service) release(ctx context.Context, id domain.EndpointID) error {
	for {
		waiting, next, err := domain.List[domain.Delivery](ctx, s.Store, domain.Query{Index: "deliveries_by_endpoint_state",
			Match: []string{string(id), string(domain.DeliveryWaiting)}, Limit: releaseBatch})
		if err != nil || len(waiting) == 0 {
			return err
		}
		moved := 0
		err = s.Store.Commit(ctx, func(tx domain.Tx) (err error) {
			moved, err = s.releaseSome(tx, id, waiting)
			return err
		})
		if err != nil || moved == 0 || next == "" {
			return err
		}
	}
}

func (s *Service) releaseSome(tx domain.Tx, id domain.EndpointID, waiting []domain.Delivery) (moved int, err error) {
	ep, now := &domain.Endpoint{ID: id}, s.Env.Now()
	if err := tx.Get(ep); err != nil {
		return 0, domain.IgnoreNotFound(err)
	}
	removed := ep.State == domain.EndpointRemoved
	if !removed && (ep.Unverified || ep.State != domain.EndpointEnabled) {
		return 0, nil
	}
	var due []*domain.Delivery
	for i := range waiting {
		d := &domain.Delivery{ID: waiting[i].ID}
		if err := domain.IgnoreNotFound(tx.Get(d)); err != nil {
			return 0, err
		}
		if d.State == domain.DeliveryWaiting {
			due = append(due, d)
		}
	}
	to, action := domain.DeliveryPending, "deliveries.released"
	if removed {
		to, action = domain.DeliveryCancelled, "deliveries.cancelled"
	}
	for _, d := range due {
		if err := d.Move(to, now); err != nil {
			return 0, err
		}
		if d.NextAt = now; removed {
			d.NextAt, d.Reason = domain.Time{}, "endpoint_removed"
		}
	}
	if len(due) == 0 {
		return 0, nil
	}
	if removed {
		err = putAll(tx, due)
	} else {
		err = dispatch(tx, due)
	}
	entry := domain.Note(s.Env, function, action, system, ep.ClientID, ep.Key(), map[string]string{"deliveries": strconv.Itoa(len(due))})
	return len(due), errors.Join(err, tx.Record(entry))
}

func putAll(tx domain.Tx, due []*domain.Delivery) error {
	for _, d := range due {
		if err := tx.Put(d); err != nil {
			return err
		}
	}
	return nil
}
