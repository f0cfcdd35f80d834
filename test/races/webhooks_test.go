package races

import (
	"net/http"
	"testing"
	"time"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// granted is the notice of a journey's grant, and its delivery to the second endpoint.
func (v *town) granted(p *journey.Player) (notice string, delivery domain.DeliveryID) {
	v.t.Helper()
	v.await("the notice", func() bool {
		for _, w := range v.inbox.Webhooks(p.Connection()) {
			if w.Type == string(domain.NoticeConsentGranted) {
				notice = w.ID
			}
		}
		return notice != ""
	})
	v.await("the delivery", func() bool {
		for _, d := range list[domain.Delivery](v, "deliveries_by_notice", notice) {
			if d.EndpointID == v.second.id {
				delivery = d.ID
			}
		}
		return delivery != ""
	})
	return notice, delivery
}

// replay asks for a delivery again, at some instance.
func (v *town) replay(body map[string]any) func() error {
	v.turn++
	place := v.places[v.turn%len(v.places)]
	return func() error { return place.Call(v.t.Context(), http.MethodPost, "/v1/replays", body, nil) }
}

// replayAgainstRetry replays a delivery while it is tried, while it waits for its next try, and all of that at once.
func replayAgainstRetry(t *testing.T, v *town) {
	defer v.second.answer(http.StatusNoContent)
	for _, status := range []int{http.StatusNoContent, http.StatusInternalServerError} {
		v.second.answer(status)
		reached, from := v.second.hold(), domain.At(v.clock())
		p := v.player("replay", "ask", "open", "grant")
		<-reached
		notice, delivery := v.granted(p)
		bodies := []map[string]any{{"delivery_id": delivery}, {"notice_id": notice},
			{"endpoint_id": v.second.id, "from": from, "to": from.Add(time.Minute)}}
		var acts []func() error
		for i := range 6 {
			acts = append(acts, v.replay(bodies[i%len(bodies)]))
		}
		if n := wins(t, together(acts...)); n != len(acts) {
			t.Errorf("%d of %d replays", n, len(acts))
		}
		v.second.let()
		v.second.answer(http.StatusNoContent)
		tries := 1 // a replay of what is on its way changes nothing
		if status != http.StatusNoContent {
			tries = 2
		}
		v.await("the delivery", func() bool { return v.delivery(delivery).State == domain.DeliveryDelivered })
		v.await("quiet", func() bool { return v.waiting() == 0 })
		if n := v.second.arrivals(notice); n != tries {
			t.Errorf("it came %d times beside replays, want %d", n, tries)
		}
		if wins(t, together(v.replay(bodies[0]), v.replay(bodies[0]), v.replay(bodies[1]))) != 3 {
			t.Error("a replay is refused")
		}
		v.await("quiet", func() bool { return v.waiting() == 0 })
		v.delivered(notice, delivery, tries+3)
		v.play(p, "terminate")
	}
	v.replayBesideRetry()
}

// replayBesideRetry has one delivery on its way twice: by a replay, which the endpoint holds, and by the retry that was
// planned before. Both arrive, both are kept, and the one that comes back late spoils nothing.
func (v *town) replayBesideRetry() {
	v.t.Helper()
	v.second.answer(http.StatusInternalServerError)
	p := v.player("replay-retry", "ask", "open", "grant")
	notice, delivery := v.granted(p)
	v.await("the first try", func() bool { return v.delivery(delivery).Tries == 1 })
	v.second.answer(http.StatusNoContent)
	reached := v.second.hold()
	must(v.t, v.replay(map[string]any{"delivery_id": delivery})())
	<-reached
	v.await("the retry", func() bool { return v.delivery(delivery).State == domain.DeliveryDelivered })
	v.second.let()
	v.await("quiet", func() bool { return v.waiting() == 0 })
	if n := v.second.arrivals(notice); n != 3 {
		v.t.Errorf("it came %d times by a try, a replay and a retry", n)
	}
	v.delivered(notice, delivery, 3)
	v.play(p, "terminate")
}

func (v *town) delivery(id domain.DeliveryID) *domain.Delivery {
	v.t.Helper()
	d := &domain.Delivery{ID: id}
	must(v.t, v.store.Get(v.t.Context(), d))
	return d
}

// delivered wants a delivery that came to its end, whose attempts are those that arrived, and not more than most.
func (v *town) delivered(notice string, id domain.DeliveryID, most int) {
	v.t.Helper()
	d := v.delivery(id)
	if came := v.second.arrivals(notice); came != len(d.Attempts) || d.State != domain.DeliveryDelivered {
		v.t.Errorf("%s: %d arrivals, %d attempts: %+v", d.State, came, len(d.Attempts), d.Attempts)
	}
	if came := v.second.arrivals(notice); came > most {
		v.t.Errorf("it came %d times", came)
	}
}
