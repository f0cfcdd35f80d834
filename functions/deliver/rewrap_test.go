package deliver

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// older is a webhook key to which an older version closed whatever begins with these bytes.
type older struct {
	b      *bed
	closed [][]byte
	during func()
	err    error
}

func (o *older) Rewrap(sealed, label []byte) ([]byte, error) {
	if o.during != nil {
		o.during()
	}
	if o.err != nil {
		return nil, o.err
	}
	for _, old := range o.closed {
		if bytes.Equal(old, sealed) {
			plain, err := o.b.Open.Decrypt(sealed, label)
			if err != nil {
				return nil, err
			}
			return o.b.Close.Encrypt(plain, label)
		}
	}
	return nil, nil
}

// rotated is an endpoint with two secrets, closed before the webhook key was rotated.
func rotated(t *testing.T) (*bed, *domain.Endpoint, *older) {
	b := newBed(t)
	ep := b.endpoint("https://client.example/hooks")
	_, previous, err := b.newSecret(t.Context(), ep)
	if err != nil {
		t.Fatal(err)
	}
	ep.Previous, ep.PreviousEnds = previous, b.Env.Now().Add(time.Hour)
	b.store.seed(ep)
	key := &older{b: b, closed: [][]byte{ep.Secret, ep.Previous}}
	b.Renew = key
	return b, ep, key
}

func (b *bed) look(ep *domain.Endpoint) error {
	return b.Deliver(b.t.Context(), domain.Event{Topic: domain.TopicDelivery, Subject: ep.Key()})
}

// TestRewrap: both secrets are closed anew and stay the same; a second look changes nothing.
func TestRewrap(t *testing.T) {
	b, ep, _ := rotated(t)
	for range 2 {
		if err := b.look(ep); err != nil {
			t.Fatal(err)
		}
	}
	now := b.reload(ep)
	if bytes.Equal(now.Secret, ep.Secret) || bytes.Equal(now.Previous, ep.Previous) {
		t.Error("a secret is closed as before")
	}
	if b.secretOf(now, now.Secret) != b.secretOf(ep, ep.Secret) || b.secretOf(now, now.Previous) != b.secretOf(ep, ep.Previous) {
		t.Error("a secret is another one")
	}
	if n := len(b.entriesOf("endpoint.secret_rewrapped")); n != 1 {
		t.Errorf("it is told %d times", n)
	}
	if len(b.sent) > 0 {
		t.Error("something was sent")
	}
}

// TestRewrapBesides: whatever the client does to the endpoint meanwhile is what counts.
func TestRewrapBesides(t *testing.T) {
	t.Run("rotated", func(t *testing.T) {
		b, ep, key := rotated(t)
		_, third, err := b.newSecret(t.Context(), ep)
		if err != nil {
			t.Fatal(err)
		}
		change := func(now *domain.Endpoint) { now.Secret, now.Previous = third, ep.Secret }
		key.during = b.once(ep, change)
		if err := b.look(ep); err != nil {
			t.Fatal(err)
		}
		now := b.reload(ep)
		if !bytes.Equal(now.Secret, third) || bytes.Equal(now.Previous, ep.Secret) || b.secretOf(now, now.Previous) != b.secretOf(ep, ep.Secret) {
			t.Error("the new secret, or the one before it, is not as it was")
		}
	})
	t.Run("removed", func(t *testing.T) {
		b, ep, key := rotated(t)
		key.during = b.once(ep, func(now *domain.Endpoint) {
			now.Secret, now.Previous, now.State = nil, nil, domain.EndpointRemoved
		})
		if err := b.look(ep); err != nil {
			t.Fatal(err)
		}
		if now := b.reload(ep); len(now.Secret)+len(now.Previous) > 0 || len(b.entriesOf("endpoint.secret_rewrapped")) > 0 {
			t.Error("a secret that was destroyed is there again")
		}
	})
	t.Run("twice at once", func(t *testing.T) {
		b, ep, key := rotated(t)
		var first bool
		key.during = func() {
			if !first {
				first = true
				if err := b.look(ep); err != nil {
					t.Error(err)
				}
			}
		}
		if err := b.look(ep); err != nil {
			t.Fatal(err)
		}
		if n := len(b.entriesOf("endpoint.secret_rewrapped")); n != 1 {
			t.Errorf("it is told %d times", n)
		}
	})
	t.Run("gone", func(t *testing.T) {
		b, _, _ := rotated(t)
		if err := b.look(&domain.Endpoint{ID: domain.NewID[domain.EndpointID](b.Env)}); err != nil {
			t.Error(err)
		}
	})
}

// once changes the endpoint, the first time.
func (b *bed) once(ep *domain.Endpoint, change func(*domain.Endpoint)) func() {
	done := false
	return func() {
		if !done {
			done = true
			now := b.reload(ep)
			change(now)
			b.store.seed(now)
		}
	}
}

// TestRewrapFails: keys that cannot be had, and a commit that fails, leave all as it is; the event comes again.
func TestRewrapFails(t *testing.T) {
	b, ep, key := rotated(t)
	key.err = errors.New("no key")
	if err := b.look(ep); !errors.Is(err, key.err) {
		t.Errorf("it came to %v", err)
	}
	if now := b.reload(ep); !bytes.Equal(now.Secret, ep.Secret) || !bytes.Equal(now.Previous, ep.Previous) {
		t.Error("something changed")
	}
	if _, err := envelope.Open(b.Open, envelope.WebhookLabel(ep), ep.Secret); err != nil {
		t.Error(err)
	}
}
