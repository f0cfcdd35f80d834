package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// heartbeat keeps a quiet stream open through whatever lies between.
const heartbeat = 15 * time.Second

// events tells an open page that a webhook came, as server-sent events. It says no more than that: the page then asks
// for itself anew, so that there is one way to draw it.
func (a *app) events(w http.ResponseWriter, r *http.Request) error {
	came, stop := a.inbox.watch()
	if came == nil {
		return &problem{Status: http.StatusServiceUnavailable, Code: "too_many_pages", Detail: "Too many pages are open. Close some."}
	}
	defer stop()
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	if _, err := fmt.Fprint(w, "retry: 2000\n\n"); err != nil {
		return nil // the page is gone; nobody is left to be told
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for control.Flush() == nil {
		text := ": still here\n\n"
		select {
		case <-r.Context().Done():
			return nil
		case <-beat.C:
		case m := <-came: // only what never changes of it is read here
			data, err := json.Marshal(map[string]string{"type": m.Type, "connection": m.Data.ConnectionID, "investor": m.Data.InvestorRef})
			if err != nil {
				return nil
			}
			text = "event: webhook\ndata: " + string(data) + "\n\n"
		}
		_ = control.SetWriteDeadline(time.Now().Add(2 * heartbeat)) // in place of the server's bound on a whole answer
		if _, err := fmt.Fprint(w, text); err != nil {
			return nil
		}
	}
	return nil
}
