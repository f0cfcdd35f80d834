package races

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/envelope"
)

// rotations rotates each key in mid-flight: between a question and its answer, and while a refresh is at the bank. One instance is started again, as an operator would, and closes under the new
// key; the other runs on, and opens what the first one closed. Journeys that began before go on.
func rotations(t *testing.T, v *town) {
	rotate := map[string]func() error{"inner": func() error { return envelope.Rotate(v.keys, "inner") }}
	for _, name := range envelope.KeyNames {
		rotate[string(name)] = func() error { return envelope.Rotate(v.keys, string(name)) }
	}
	read := v.connected("rotate")
	same := v.sameAccounts(read)
	names := slices.Sorted(maps.Keys(rotate))
	v.dice.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		asked := v.player("rotate-"+name, "ask", "open", "grant", "login "+coded, "challenge code")
		refresh := func() { v.play(read, "refresh") }
		if !v.inside(unattended, v.dice.IntN(4), refresh, v.over(read), func() { must(t, rotate[name]()) }) {
			t.Fatal("the bank was not asked")
		}
		must(t, v.restart(v.dice.IntN(len(v.places))))
		for _, words := range []string{"code 111111", "done", "read positions complete"} {
			asked = v.play(asked, words)
		}
		for range v.places {
			versions := v.settled(read).connection.Versions
			read = v.play(read, "refresh")
			v.await("the refresh", func() bool { return v.look(read).connection.Versions > versions })
			read = v.play(read, "read positions complete")
			v.player("rotated-"+name, "ask", "open", "grant", "login "+coded, "challenge code", "code 111111", "done", "read positions complete")
			v.turn++ // so that the next begins at the other
		}
		v.rotateWebhook()
		same()
	}
}

// rotateWebhook changes the second endpoint's secret twice at the same time, at two instances if there are two, while a
// webhook is on its way. Whichever came first, the other's secret signs too: each was told to somebody.
func (v *town) rotateWebhook() {
	v.t.Helper()
	path := "/v1/endpoints/" + string(v.second.id) + "/rotate"
	var made [2]struct {
		Secret string `json:"secret"`
	}
	reached := v.second.hold()
	before := v.player("rotate-webhook", "ask", "open", "grant")
	<-reached
	var acts []func() error
	for i := range made {
		place := v.places[i%len(v.places)]
		acts = append(acts, func() error { return place.Call(v.t.Context(), http.MethodPost, path, struct{}{}, &made[i]) })
	}
	if n := wins(v.t, together(acts...)); n != len(acts) {
		v.t.Errorf("%d of %d rotations of a webhook's secret", n, len(acts))
	}
	v.second.let()
	after := v.player("rotated-webhook", "ask", "open", "grant")
	var notice string
	for _, p := range []*journey.Player{before, after} {
		notice, _ = v.granted(p)
		v.await("the webhook", func() bool { return v.second.arrivals(notice) > 0 })
	}
	for _, m := range made {
		if err := v.second.signed(notice, m.Secret); err != nil {
			v.t.Errorf("a webhook after two rotations is not signed with what both gave: %v", err)
		}
	}
}
