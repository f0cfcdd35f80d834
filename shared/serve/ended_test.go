package serve

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// busyHome has something to do at the end of each request, until it is let go.
type busyHome struct{ ended, leave chan struct{} }

func (b *busyHome) Ended() { b.ended <- struct{}{}; <-b.leave }

// TestAnswerGoesFirst: whoever asked has the whole answer before the function does what it does at the end of a request.
func TestAnswerGoesFirst(t *testing.T) {
	b := &busyHome{make(chan struct{}, 1), make(chan struct{})}
	mux := func(m *http.ServeMux) {
		m.HandleFunc("GET /json", func(w http.ResponseWriter, _ *http.Request) {
			send(w, http.StatusOK, "application/json", []byte(`{"a":1}`))
		})
		m.HandleFunc("GET /none", func(w http.ResponseWriter, _ *http.Request) { send(w, http.StatusNoContent, "", nil) })
		m.HandleFunc("GET /problem", func(w http.ResponseWriter, _ *http.Request) { WriteProblem(w, domain.ErrNotFound) })
	}
	s := httptest.NewServer(http.HandlerFunc(Lazy(func(context.Context) (*busyHome, error) { return b, nil },
		func(*busyHome) (Face, error) { return (&Door{}).Mux(mux), nil })))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(b.leave) }) // or whoever still waits would do so for ever
	client := &http.Client{Timeout: 10 * time.Second}
	for path, want := range map[string]int{"/json": 200, "/none": 204, "/problem": 404, "/nowhere": 404} {
		a, err := client.Get(s.URL + path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		body, err := io.ReadAll(a.Body)
		if err != nil || a.StatusCode != want || (len(body) > 0) == (want == 204) || len(a.TransferEncoding) > 0 {
			t.Errorf("%s: %s, %q, %v", path, a.Status, body, err)
		}
		<-b.ended
		b.leave <- struct{}{}
	}
}

// TestCollectsAsBefore: a function that has opened collects garbage as it is told to, and as generously as that while it opens.
func TestCollectsAsBefore(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	now := func() int { p := debug.SetGCPercent(50); debug.SetGCPercent(p); return p }
	for _, generous := range []int{1000, -1} {
		debug.SetGCPercent(generous)
		if collectLater(); now() != generous {
			t.Errorf("%d became %d", generous, now())
		}
	}
	debug.SetGCPercent(100)
	if collectLater(); now() != 400 {
		t.Errorf("%d while it opens", now())
	}
	for end := time.Now().Add(time.Minute); now() != 100; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d afterwards", now())
		}
	}
}
