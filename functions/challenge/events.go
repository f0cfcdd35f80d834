package challenge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"sluis.internal/shared/domain"
)

// Bounds of one event stream: a page that stays open connects again.
const (
	streamFor = 10 * time.Minute
	heartbeat = 15 * time.Second
)

// events streams the State as server-sent events whenever it changes. While the page is open and the bank waits for
// an approval elsewhere, it asks the bank at the bank's own interval whether that has come.
func (s *Service) events(w http.ResponseWriter, r *http.Request, v *domain.Visit) error {
	w.Header().Set("Content-Type", "text/event-stream")
	ctx, done := context.WithTimeout(r.Context(), streamFor)
	defer done()
	out := &stream{w: w, flush: http.NewResponseController(w).Flush}
	if err := s.watch(ctx, v, out); err != nil && ctx.Err() == nil {
		slog.WarnContext(ctx, "event stream ended", "code", domain.CodeOf(err))
	}
	return nil
}

// watch looks at the session again and again until ctx ends or the visit does.
func (s *Service) watch(ctx context.Context, v *domain.Visit, out *stream) error {
	every := s.Every
	if every == 0 {
		every = 500 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var polled domain.Time
	for {
		state, challenge, err := s.look(ctx, v)
		if err != nil {
			return err
		}
		if err := out.send(state, s.Env.Now()); err != nil {
			return err
		}
		if challenge != nil && s.due(challenge, polled) {
			polled = s.Env.Now()
			s.poll(ctx, challenge)
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !s.Env.Now().Before(v.ExpiresAt) {
			return nil
		}
	}
}

// due says whether the bank may be asked about an approval again.
func (s *Service) due(c *domain.Challenge, polled domain.Time) bool {
	every := time.Duration(max(c.PollSeconds, 1)) * time.Second
	now := s.Env.Now()
	return c.State == domain.SCAAwaiting && now.Before(c.AnswerBy) && !now.Before(polled.Add(every)) && !now.Before(c.UpdatedAt.Add(every))
}

// poll asks the bank once. A failure is the session's business, not the stream's: the next look shows it.
func (s *Service) poll(ctx context.Context, c *domain.Challenge) {
	err := s.Bank.Answer(ctx, c.Custodian, domain.AnswerRequest{SessionID: c.SessionID, ChallengeID: c.ID, Kind: domain.AnswerPoll})
	if err != nil {
		slog.DebugContext(ctx, "approval not asked for", "session", c.SessionID, "code", domain.CodeOf(err))
	}
}

// stream writes server-sent events: a state when it differs from the last one, a comment when all is quiet.
type stream struct {
	w     http.ResponseWriter
	flush func() error
	last  []byte
	at    domain.Time
}

func (st *stream) send(state *State, now domain.Time) error {
	shown := *state
	shown.Now = domain.Time{}
	same, err := json.Marshal(shown)
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(same, st.last):
		line, err := json.Marshal(state)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(st.w, "event: state\ndata: %s\n\n", line); err != nil {
			return err
		}
		st.last = same
	case now.Sub(st.at) >= heartbeat:
		if _, err := fmt.Fprint(st.w, ": still here\n\n"); err != nil {
			return err
		}
	default:
		return nil
	}
	st.at = now
	return st.flush()
}
