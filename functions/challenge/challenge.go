// Package challenge stands between the investor's page and the bank's strong customer authentication. It shows what
// the bank asks, passes the answer on still sealed, and tells the page how the session goes. It can open what a
// challenge displays, and nothing else: a code goes through its hands closed.
package challenge

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/observe"
	"sluis.internal/shared/serve"
)

// Answerer takes an answer to the extraction of a custodian, which opens it.
type Answerer interface {
	Answer(ctx context.Context, c domain.CustodianID, r domain.AnswerRequest) error
}

// Service is the function.
type Service struct {
	Store   domain.Store
	Env     domain.Env
	Door    *serve.Door
	Display domain.Decrypter
	Bank    Answerer
	Every   time.Duration // how often a watched session is looked at; 0 means half a second
	crowd   crowd
}

// Routes registers what the investor's page calls.
func (s *Service) Routes(mux *http.ServeMux) {
	s.Door.Investor(mux, "GET /challenge/state", s.state)
	s.Door.Investor(mux, "POST /challenge/answer", s.answer)
	s.Door.Stream(mux, "GET /challenge/events", s.events)
	s.Door.Stream(mux, "GET /challenge/{challenge}/image", s.image)
}

// State is all that a page needs to know.
type State struct {
	Page       string                 `json:"page"` // consent, connect, wait, sca, done, paused or ended
	Connection domain.ConnectionState `json:"connection_state"`
	Reason     domain.Reason          `json:"reason,omitempty"`
	Session    *SessionState          `json:"session,omitempty"`
	Challenge  *ChallengeState        `json:"challenge,omitempty"`
	CanRetry   bool                   `json:"can_retry"` // with the credential that is held
	Now        domain.Time            `json:"now"`
}

// SessionState is the part of a State about the visit to the bank.
type SessionState struct {
	ID      domain.SessionID    `json:"id"`
	State   domain.SessionState `json:"state"`
	Reason  domain.Reason       `json:"reason,omitempty"`
	Records int                 `json:"records"`
}

// ChallengeState is the part of a State about the bank's question.
type ChallengeState struct {
	ID          domain.ChallengeID `json:"id"`
	State       domain.SCAState    `json:"state"`
	Flow        domain.SCAFlow     `json:"flow"`
	Method      string             `json:"method"`
	Methods     []domain.SCAMethod `json:"methods"`
	Destination string             `json:"destination,omitempty"`
	Text        string             `json:"text,omitempty"`
	ImageURL    string             `json:"image_url,omitempty"`
	Digits      int                `json:"digits,omitzero"`
	TriesLeft   int                `json:"tries_left"`
	AnswerBy    domain.Time        `json:"answer_by"`
	PollSeconds int                `json:"poll_seconds,omitzero"`
}

func (s *Service) state(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	state, _, err := s.look(ctx, c.Visit)
	return serve.Answer{Body: state}, err
}

// look reads how the visit's connection stands. The challenge is nil where none is open.
func (s *Service) look(ctx context.Context, v *domain.Visit) (*State, *domain.Challenge, error) {
	conn := &domain.Connection{ID: v.ConnectionID}
	if err := s.Store.Get(ctx, conn); err != nil {
		return nil, nil, err
	}
	out := &State{Connection: conn.State, Reason: conn.Reason, Page: page(conn.State), Now: s.Env.Now()}
	if domain.ConnectionMoves.Final(conn.State) {
		return out, nil, nil // the consent is over, and what the bank said goes with it
	}
	credential := &domain.Credential{ConnectionID: conn.ID}
	if err := s.Store.Get(ctx, credential); err == nil {
		out.CanRetry = credential.State != domain.CredentialRefused && credential.State != domain.CredentialTrying
	} else if domain.KindOf(err) != domain.NotFound {
		return nil, nil, err
	}
	if conn.SessionID == "" {
		return out, nil, nil
	}
	session := &domain.Session{ID: conn.SessionID}
	if err := s.Store.Get(ctx, session); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return out, nil, nil
		}
		return nil, nil, err
	}
	out.Session = &SessionState{ID: session.ID, State: session.State, Reason: session.Reason, Records: session.Records}
	if session.ChallengeID == "" || domain.SessionMoves.Final(session.State) {
		return out, nil, nil
	}
	if shown, err := s.mayShow(ctx, v); !shown {
		return out, nil, err
	}
	challenge, err := s.show(ctx, out, session.ChallengeID)
	return out, challenge, err
}

// mayShow says whether the consent still allows to show what the bank asks: it may have ended without anybody having
// looked after the connection yet.
func (s *Service) mayShow(ctx context.Context, v *domain.Visit) (bool, error) {
	_, err := domain.Allowed(ctx, s.Env, s.Store, domain.Act{ConsentID: v.ConsentID, ClientID: v.ClientID,
		InvestorRef: v.InvestorRef, ConnectionID: v.ConnectionID})
	if kind := domain.KindOf(err); kind == domain.Forbidden || kind == domain.NotFound {
		return false, nil
	}
	return err == nil, err
}

// page is where the investor should be.
func page(state domain.ConnectionState) string {
	return map[domain.ConnectionState]string{
		domain.ConnectionPending:  "consent",
		domain.ConnectionAwaiting: "connect",
		domain.ConnectionBusy:     "wait",
		domain.ConnectionSCA:      "sca",
		domain.ConnectionActive:   "done",
		domain.ConnectionPaused:   "paused",
		domain.ConnectionRemoved:  "ended",
	}[state]
}

// show opens what the challenge displays and adds it to the state.
func (s *Service) show(ctx context.Context, out *State, id domain.ChallengeID) (*domain.Challenge, error) {
	c := &domain.Challenge{ID: id}
	if err := s.Store.Get(ctx, c); err != nil {
		if domain.KindOf(err) == domain.NotFound {
			return nil, nil
		}
		return nil, err
	}
	if domain.SCAMoves.Final(c.State) {
		return nil, nil
	}
	display, err := s.open(ctx, c)
	if err != nil {
		return nil, err
	}
	out.Challenge = &ChallengeState{ID: c.ID, State: c.State, Flow: c.Flow, Method: c.Method, Methods: c.Methods,
		Destination: display.Destination, Text: display.Text, Digits: display.Digits, TriesLeft: c.TriesLeft,
		AnswerBy: c.AnswerBy, PollSeconds: c.PollSeconds}
	if len(display.Image) > 0 {
		// Named by its content, so that the page loads it again only when it is another.
		sum := sha256.Sum256(display.Image)
		out.Challenge.ImageURL = fmt.Sprintf("/challenge/%s/image?v=%x", c.ID, sum[:8])
	}
	return c, nil
}

func (s *Service) open(ctx context.Context, c *domain.Challenge) (domain.Display, error) {
	var display domain.Display
	if len(c.Display) == 0 {
		return display, nil
	}
	plain, err := envelope.Open(domain.In(ctx, s.Display), envelope.DisplayLabel(c), c.Display)
	if err != nil {
		return display, err
	}
	defer plain.Wipe()
	err = json.Unmarshal(plain.Reveal(), &display)
	return display, err
}

// answer passes the investor's answer on, under the consent, and returns how things stand after it.
func (s *Service) answer(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	var in struct {
		ChallengeID domain.ChallengeID `json:"challenge_id"`
		Kind        domain.AnswerKind  `json:"kind"`
		Method      string             `json:"method"`
		SealedCode  string             `json:"sealed_code"`
	}
	if err := c.Decode(&in); err != nil {
		return serve.Answer{}, err
	}
	challenge, err := s.mine(ctx, c, in.ChallengeID)
	if err != nil {
		return serve.Answer{}, err
	}
	r := domain.AnswerRequest{SessionID: challenge.SessionID, ChallengeID: challenge.ID, Kind: in.Kind, Method: in.Method, SealedCode: in.SealedCode}
	if err := check(r, challenge); err != nil {
		return serve.Answer{}, err
	}
	if in.Kind == domain.AnswerPoll { // the bank says how often it may be asked, not the page
		done, err := s.turn(ctx, challenge.ID)
		if err != nil {
			return serve.Answer{}, err
		}
		if done == nil {
			return s.state(ctx, c)
		}
		defer done()
	}
	if err := s.authorise(ctx, c, challenge, in.Kind); err != nil {
		return serve.Answer{}, err
	}
	asked, span := observe.Begin(ctx, observe.Asked, "call answer", observe.Custodian(challenge.Custodian), observe.Answer(r.Kind))
	err = s.Bank.Answer(asked, challenge.Custodian, r)
	span.End(err)
	if err != nil {
		return serve.Answer{}, envelope.At("/sealed_code", err)
	}
	return s.state(ctx, c)
}

// mine finds a challenge of the visit's own connection. Asking for another's is recorded, and so is asking for what nobody
// has: both look alike and cost the same.
func (s *Service) mine(ctx context.Context, c *serve.Call, id domain.ChallengeID) (*domain.Challenge, error) {
	if _, err := domain.ParseID[domain.ChallengeID](string(id)); err != nil {
		return nil, domain.Invalidf("/challenge_id", "send the identifier of the challenge that is shown")
	}
	found := &domain.Challenge{ID: id}
	if err := s.Store.Get(ctx, found); err != nil && domain.KindOf(err) != domain.NotFound {
		return nil, err
	}
	if found.ConnectionID != c.Visit.ConnectionID {
		return nil, s.Door.Refuse(c, string(id), domain.ErrNotFound)
	}
	return found, nil
}

func check(r domain.AnswerRequest, c *domain.Challenge) error {
	if len(r.SealedCode) > envelope.MaxCodeJWE {
		return domain.Invalidf("/sealed_code", "want at most %d characters", envelope.MaxCodeJWE)
	}
	switch r.Kind {
	case domain.AnswerCode:
		if r.SealedCode == "" {
			return domain.Invalidf("/sealed_code", "send the code as the page seals it")
		}
	case domain.AnswerSelect:
		if !slices.ContainsFunc(c.Methods, func(m domain.SCAMethod) bool { return m.ID == r.Method }) {
			return domain.Invalidf("/method", "choose one of the methods offered")
		}
	case domain.AnswerPoll, domain.AnswerRenew, domain.AnswerCancel:
	default:
		return domain.Invalidf("/kind", "want code, poll, select, renew or cancel")
	}
	return nil
}

// authorise checks the consent and records that the investor answered: which kind, never what.
func (s *Service) authorise(ctx context.Context, c *serve.Call, challenge *domain.Challenge, kind domain.AnswerKind) error {
	v := c.Visit
	act := domain.Act{Action: "challenge.answered", Function: "challenge", Actor: v.Actor(), Origin: c.Origin,
		ConsentID: v.ConsentID, ClientID: v.ClientID, InvestorRef: v.InvestorRef, ConnectionID: v.ConnectionID,
		Custodian: challenge.Custodian, Subject: string(challenge.ID), Details: map[string]string{"kind": string(kind)}}
	return domain.Perform(ctx, s.Env, s.Store, act, func(domain.Tx, *domain.Consent, *domain.Act) error { return nil })
}

// image serves a challenge's picture to the investor it is for.
func (s *Service) image(w http.ResponseWriter, r *http.Request, v *domain.Visit) error {
	display, err := s.picture(r, v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Content-Type", display.MediaType)
	_, _ = w.Write(display.Image) // the browser is gone if this fails
	return nil
}

// pictures are the media types a bank's picture may have: none that runs.
var pictures = map[string]bool{"image/png": true, "image/jpeg": true, "image/gif": true}

func (s *Service) picture(r *http.Request, v *domain.Visit) (domain.Display, error) {
	call := &serve.Call{Visit: v, Origin: s.Door.Commitment(r), Request: r}
	c, err := s.mine(r.Context(), call, domain.ChallengeID(r.PathValue("challenge")))
	if err != nil {
		return domain.Display{}, err
	}
	conn := &domain.Connection{ID: v.ConnectionID}
	if err := s.Store.Get(r.Context(), conn); err != nil {
		return domain.Display{}, err
	}
	shown, err := s.mayShow(r.Context(), v)
	if err == nil && (!shown || domain.ConnectionMoves.Final(conn.State)) {
		err = domain.ErrNotFound
	}
	if err != nil {
		return domain.Display{}, err
	}
	display, err := s.open(r.Context(), c)
	if err == nil && (len(display.Image) == 0 || !pictures[display.MediaType]) {
		err = domain.ErrNotFound
	}
	return display, err
}
