// Package deliver tells clients what happened, by signed webhooks.
//
// A fact becomes a notice in the transaction that makes the fact (domain.Tell). From there:
//
//	Notify   makes one delivery for each endpoint of the client that wants the notice
//	Deliver  tries one delivery: signs, sends, notes how it went, and asks to be called again if it must be
//	Routes   the client's own hands: endpoints, their secrets, deliveries and replays
//
// The promise is at least once. A process that dies after sending and before noting it sends again; so do two that take
// the same event at once, which a queue's lease makes rare, and a sender whose kept connection broke. Every attempt of a
// notice carries the same webhook-id, by which the client drops what it has seen. No order is promised; the sequence in
// the body gives it.
//
// A pending delivery always has an event on its way, no earlier than its NextAt: both are written in one transaction.
// So an event that comes while NextAt lies ahead is an old one come again, and is dropped. A waiting one has none: it is
// for an address that nobody has shown yet to want it, and the test that shows it has all that waits begin.
//
// Notices are about consents that may have ended, and some must still be told. So these acts are not done under a consent;
// they hold identifiers and states only, and what a client then reads is checked where it reads. What may not be told after
// the end (domain.Notice.Withheld) is looked at again at each attempt, and cancelled.
package deliver

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
	"sluis.internal/shared/webhook"
)

// Service is the ports of this function. The three deployables that come from it each hold only what they need: Notify
// the Store, Deliver also Open, Renew and Sender, the endpoints also Door, Rules and Close. Whoever takes a secret in cannot
// read it again.
type Service struct {
	Store  domain.Store
	Env    domain.Env
	Door   *serve.Door
	Rules  webhook.Rules    // where clients may have webhooks sent
	Close  domain.Encrypter // the webhook key, to keep an endpoint's secret
	Open   domain.Decrypter // the webhook key, to sign
	Renew  domain.Rewrapper // the webhook key, after its rotation
	Sender Sender
}

// New makes the service. allow are the private addresses that webhooks may go to.
func New(store domain.Store, env domain.Env, door *serve.Door, closing domain.Encrypter, opening domain.Decrypter, renewing domain.Rewrapper, allow []netip.AddrPort) *Service {
	rules := webhook.Rules{Allow: allow}
	return &Service{Store: store, Env: env, Door: door, Rules: rules, Close: closing, Open: opening, Renew: renewing, Sender: webhook.NewSender(env, webhook.Options{Rules: rules})}
}

// Sender makes one attempt; *webhook.Sender does. An error means that nothing can be said of the endpoint.
type Sender interface {
	Send(ctx context.Context, m webhook.Message) (webhook.Result, error)
}

// function names this package in the audit log.
const function = "deliver"

var system = domain.Actor{Kind: domain.ActorSystem, ID: function}

// Notify makes the deliveries of a notice: one for each endpoint that wants it. A second call makes none twice, as a
// delivery's identifier follows from the notice and the endpoint. A client that is suspended is told nothing; later it
// may replay what it missed.
func (s *Service) Notify(ctx context.Context, e domain.Event) error {
	id, err := domain.ParseID[domain.NoticeID](e.Subject)
	if err != nil {
		return err
	}
	n := &domain.Notice{ID: id}
	if err := s.Store.Get(ctx, n); err != nil {
		return domain.IgnoreNotFound(err)
	}
	endpoints, err := s.endpoints(ctx, n.ClientID)
	if err != nil {
		return err
	}
	return s.Store.Commit(ctx, func(tx domain.Tx) error {
		client := &domain.Client{ID: n.ClientID}
		if err := tx.Get(client); err != nil {
			return err
		}
		if client.State != domain.ClientActive {
			return nil
		}
		due, err := s.plan(tx, []*domain.Notice{n}, endpoints, freshOnly)
		if err != nil || len(due) == 0 {
			return err
		}
		if err := dispatch(tx, due); err != nil {
			return err
		}
		return tx.Record(s.note("deliveries.made", system, n, n.Key(), map[string]string{"type": string(n.Type), "deliveries": strconv.Itoa(len(due))}))
	})
}

// endpoints are all that the client ever had and not more than everMade, the oldest first.
func (s *Service) endpoints(ctx context.Context, client domain.ClientID) ([]domain.Endpoint, error) {
	all, _, err := domain.List[domain.Endpoint](ctx, s.Store, domain.Query{Index: "endpoints_by_client", Match: []string{string(client)}, Limit: everMade})
	return all, err
}

// selection is which deliveries of notices are meant: those that were never made, with them those that failed or were
// cancelled, or all.
type selection string

const (
	freshOnly   selection = "fresh"
	undelivered selection = "undelivered"
	everything  selection = "all"
)

// plan reads within tx which of the selected deliveries the notices need: new ones, and those that ended or wait for a
// later try. It writes nothing, as reads come before writes.
func (s *Service) plan(tx domain.Tx, notices []*domain.Notice, endpoints []domain.Endpoint, which selection) ([]*domain.Delivery, error) {
	var due []*domain.Delivery
	for i := range endpoints {
		ep := &domain.Endpoint{ID: endpoints[i].ID}
		if endpoints[i].State == domain.EndpointRemoved {
			continue
		}
		if err := tx.Get(ep); err != nil {
			return nil, err
		}
		for _, n := range notices {
			if !wants(ep, n) {
				continue
			}
			d, err := s.planOne(tx, n, ep, which)
			if err != nil {
				return nil, err
			}
			if d != nil {
				due = append(due, d)
			}
		}
	}
	return due, nil
}

func (s *Service) planOne(tx domain.Tx, n *domain.Notice, ep *domain.Endpoint, which selection) (*domain.Delivery, error) {
	now := s.Env.Now()
	d := &domain.Delivery{ID: deliveryID(n.ID, ep.ID)}
	err := tx.Get(d)
	switch {
	case domain.KindOf(err) == domain.NotFound:
		made := &domain.Delivery{ID: d.ID, NoticeID: n.ID, EndpointID: ep.ID, ClientID: n.ClientID, ConsentID: n.ConsentID, Type: n.Type,
			State: domain.DeliveryPending, NextAt: now, CreatedAt: now, UpdatedAt: now, ExpiresAt: n.ExpiresAt}
		if waits(ep, n.Type) {
			made.State, made.NextAt = domain.DeliveryWaiting, domain.Time{}
		}
		return made, nil
	case err != nil:
		return nil, err
	case which == freshOnly, which == undelivered && d.State != domain.DeliveryFailed && d.State != domain.DeliveryCancelled,
		waits(ep, n.Type), d.State == domain.DeliveryPending && !now.Before(d.NextAt):
		return nil, nil // it was made before, and its event is on its way, or it came, or has to wait
	}
	if d.State != domain.DeliveryPending {
		if err := d.Move(domain.DeliveryPending, now); err != nil {
			return nil, err
		}
	}
	d.Tries, d.NextAt, d.UpdatedAt = 0, now, now
	return d, nil
}

// waits says whether what is of that type has to wait until the endpoint's address is verified.
func waits(ep *domain.Endpoint, t domain.NoticeType) bool {
	return ep.Unverified && t != domain.NoticeEndpointTest
}

// dispatch puts the deliveries and asks for each that need not wait to be tried.
func dispatch(tx domain.Tx, due []*domain.Delivery) error {
	for _, d := range due {
		if err := schedule(tx, d); err != nil {
			return err
		}
	}
	return nil
}

// schedule puts one delivery and its event, which belong together.
func schedule(tx domain.Tx, d *domain.Delivery) error {
	if err := tx.Put(d); err != nil || d.State == domain.DeliveryWaiting {
		return err
	}
	return tx.Emit(domain.Event{Topic: domain.TopicDelivery, Subject: d.Key(), Lane: string(d.ClientID), NotBefore: d.NextAt})
}

// wants says whether the endpoint is to be told. A test is for the one endpoint it is about, whatever that listens to.
func wants(ep *domain.Endpoint, n *domain.Notice) bool {
	switch {
	case ep.ClientID != n.ClientID || ep.State != domain.EndpointEnabled:
		return false
	case n.Type == domain.NoticeEndpointTest:
		return n.Subject == ep.Key()
	}
	return len(ep.Types) == 0 || slices.Contains(ep.Types, n.Type)
}

// crockford is the alphabet of identifiers.
var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// deliveryID follows from the notice and the endpoint, so that making a delivery twice makes the same. It begins with
// the notice's own time, so that deliveries sort by it; the rest is from SHA-256.
func deliveryID(n domain.NoticeID, ep domain.EndpointID) domain.DeliveryID {
	var raw [16]byte
	if made, err := crockford.DecodeString(strings.TrimPrefix(string(n), "evt_")); err == nil {
		copy(raw[:6], made)
	}
	sum := sha256.Sum256(domain.Name("sluis/delivery/v1", string(n), string(ep)))
	copy(raw[6:], sum[:])
	return domain.DeliveryID("dlv_" + crockford.EncodeToString(raw[:]))
}

// note is an audit entry about a notice.
func (s *Service) note(action string, actor domain.Actor, n *domain.Notice, subject string, details map[string]string) *domain.Entry {
	entry := domain.Note(s.Env, function, action, actor, n.ClientID, subject, details)
	entry.Data.ConsentID, entry.Data.ConnectionID, entry.Data.Custodian = n.ConsentID, n.ConnectionID, n.Custodian
	return entry
}
