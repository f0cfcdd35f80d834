package challenge

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// Bounds of event streams: a page that stays open connects again, and one that reads nothing is cut off.
const (
	streamFor = 10 * time.Minute
	heartbeat = 15 * time.Second
	writeFor  = 30 * time.Second
)

// events streams the State as server-sent events whenever it changes.
func (s *Service) events(w http.ResponseWriter, r *http.Request, v *domain.Visit) error {
	leave, err := s.crowd.enter(s.shares(r, v))
	if err != nil {
		return err
	}
	defer leave()
	ctx, done := context.WithTimeout(r.Context(), streamFor)
	defer done()
	call := &serve.Call{Visit: v, Origin: s.Door.Commitment(r), Request: r}
	out := &stream{w: w, control: http.NewResponseController(w), about: func(state *State) error { return s.looked(ctx, call, state.Challenge) }}
	err = s.follow(ctx, v, out)
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case out.last == nil:
		return err
	}
	slog.WarnContext(ctx, "event stream ended", "code", domain.CodeOf(err))
	return nil
}

// follow sends what the connection's watch sees until ctx ends or the visit does: by its time, or because the investor
// left.
func (s *Service) follow(ctx context.Context, v *domain.Visit, out *stream) error {
	news, part := s.join(v)
	defer part()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case n := <-news:
			if n.err != nil || n.over {
				return n.err
			}
			if err := out.send(n.at.state(v, s.Env.Now()), s.Env.Now()); err != nil {
				return err
			}
		}
	}
}

// due says whether the bank may be asked about an approval again.
func (s *Service) due(c *domain.Challenge, polled domain.Time) bool {
	every := time.Duration(max(c.PollSeconds, 1)) * time.Second
	now := s.Env.Now()
	return c.State == domain.SCAAwaiting && now.Before(c.AnswerBy) && !now.Before(polled.Add(every)) && !now.Before(c.UpdatedAt.Add(every))
}

// turn says whether the bank may be asked about an approval now, however many pages want to: one asks at a time, and
// looks again first whether another just did. Whoever gets the turn gives it back by calling done.
func (s *Service) turn(ctx context.Context, id domain.ChallengeID) (done func(), err error) {
	if !s.crowd.ask(id) {
		return nil, nil
	}
	done = func() { s.crowd.asked(id) }
	fresh := &domain.Challenge{ID: id}
	if err = s.Store.Get(ctx, fresh); err != nil || !s.due(fresh, domain.Time{}) {
		done()
		return nil, err
	}
	return done, nil
}

// poll asks the bank once. A failure is the session's business, not the stream's: the next look shows it.
func (s *Service) poll(ctx context.Context, c *domain.Challenge) {
	done, err := s.turn(ctx, c.ID)
	if done != nil {
		defer done()
		err = s.Bank.Answer(ctx, c.Custodian, domain.AnswerRequest{SessionID: c.SessionID, ChallengeID: c.ID, Kind: domain.AnswerPoll})
	}
	if err != nil {
		level := slog.LevelWarn
		if kind := domain.KindOf(err); kind == domain.Conflict || kind == domain.NotFound { // it went on, or ended, meanwhile
			level = slog.LevelDebug
		}
		slog.Log(ctx, level, "approval not asked for", "session", c.SessionID, "custodian", c.Custodian, "code", domain.CodeOf(err))
	}
}

// stream writes server-sent events: a state when it differs from the last one, a comment when all is quiet.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	about   func(*State) error // records what is about to be shown
	last    []byte
	at      domain.Time
}

func (st *stream) send(state *State, now domain.Time) error {
	shown := *state
	shown.Now = domain.Time{}
	same, err := serve.Marshal(shown)
	if err != nil {
		return err
	}
	message := ": still here\n\n"
	if !bytes.Equal(same, st.last) {
		if err := st.about(state); err != nil {
			return err
		}
		line, err := serve.Marshal(state)
		if err != nil {
			return err
		}
		message = "event: state\ndata: " + string(line) + "\n\n"
	} else if now.Sub(st.at) < heartbeat {
		return nil
	}
	st.w.Header().Set("Content-Type", "text/event-stream")
	_ = st.control.SetWriteDeadline(time.Now().Add(writeFor)) // where the connection has none, the server's own bound holds
	if _, err := io.WriteString(st.w, message); err != nil {
		return err
	}
	st.last, st.at = same, now
	return st.control.Flush()
}
