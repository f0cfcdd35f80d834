// Package challenge stands between the investor's page and the bank's strong customer authentication. It shows what
// the bank asks, passes the answer on still sealed, and tells the page how the session goes. It can open what a
// challenge displays, and nothing else: a code goes through its hands closed.
package challenge

import (
	"bytes"
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
	s.Door.Stream(mux, "GET /challenge/{challenge}/image", s.image, serve.Text("v", "use the address as the state gives it", 64))
}

// State is all that a page needs to know.
type State struct {
	Page       string                 `json:"page"` // consent, connect, wait, sca, done, paused or ended
	Connection domain.ConnectionState `json:"connection_state"`
	Reason     domain.Reason          `json:"reason,omitempty"`
	Session    *SessionState          `json:"session,omitempty"`
	Challenge  *ChallengeState        `json:"challenge,omitempty"`
	Elsewhere  bool                   `json:"elsewhere,omitempty"` // another visit is at it, and what the bank asks is its to answer
	CanRetry   bool                   `json:"can_retry"`           // with the credential that is held
	Now        domain.Time            `json:"now"`
}

// SessionState is the part of a State about the visit to the bank.
type SessionState struct {
	ID      domain.SessionID    `json:"id"`
	State   domain.SessionState `json:"state"`
	Reason  domain.Reason       `json:"reason,omitempty"`
	Records int                 `json:"records"`
	Cleared bool                `json:"cleared,omitzero"` // the bank has taken the confirmation: what comes is the reading
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
	at, err := s.look(ctx, c.Visit.ConnectionID, nil)
	if err != nil {
		return serve.Answer{}, err
	}
	state := at.state(c.Visit, s.Env.Now())
	if err := s.looked(ctx, c, state.Challenge); err != nil {
		return serve.Answer{}, err
	}
	return serve.Answer{Body: state}, nil
}

// function is this function's name in the audit log.
const function = "challenge"

// looked records that the visit is shown what the bank asks, if it asks: at most once a minute, however often it looks.
func (s *Service) looked(ctx context.Context, c *serve.Call, shown *ChallengeState) error {
	if shown == nil {
		return nil
	}
	return s.Door.Look(ctx, c, function, "challenge", string(shown.ID))
}

// standing is how a connection stands, and what the bank asks where that is open and may be shown.
type standing struct {
	connection domain.Connection
	canRetry   bool
	session    *domain.Session   // nil where there is none, or the consent is over
	cleared    bool              // the bank has taken the confirmation
	challenge  *domain.Challenge // nil where none is open
	display    domain.Display    // of the challenge
}

// look reads how the connection stands, and beside it, with the first reading, what need not be there. A display that was
// opened before is not opened again.
func (s *Service) look(ctx context.Context, id domain.ConnectionID, before *standing, beside ...domain.Document) (*standing, error) {
	out := &standing{connection: domain.Connection{ID: id}}
	credential := &domain.Credential{ConnectionID: id}
	conn := &out.connection
	if err := domain.IgnoreNotFound(s.Store.Get(ctx, append(beside, conn, credential)...)); err != nil {
		return nil, err
	}
	switch {
	case conn.State == "":
		return nil, domain.ErrNotFound
	case domain.ConnectionMoves.Final(conn.State):
		return out, nil // the consent is over, and what the bank said goes with it
	}
	out.canRetry = credential.Fits(conn) && credential.State != domain.CredentialRefused && credential.State != domain.CredentialTrying
	if conn.SessionID == "" {
		return out, nil
	}
	session := &domain.Session{ID: conn.SessionID}
	if err := s.Store.Get(ctx, session); err != nil {
		return out.orNothing(err)
	}
	out.session = session
	if session.ChallengeID == "" || domain.SessionMoves.Final(session.State) {
		return out, nil
	}
	challenge := &domain.Challenge{ID: session.ChallengeID}
	switch shown, err := s.mayShow(ctx, conn, challenge); {
	case err != nil:
		return nil, err
	case !shown || challenge.State == "":
		return out, nil
	case domain.SCAMoves.Final(challenge.State):
		out.cleared = challenge.State == domain.SCAVerified || challenge.State == domain.SCAExempt
		return out, nil
	}
	out.challenge = challenge
	if before != nil && before.challenge != nil && before.challenge.ID == challenge.ID && bytes.Equal(before.challenge.Display, challenge.Display) {
		out.display = before.display
		return out, nil
	}
	var err error
	if out.display, err = s.open(ctx, challenge); err != nil {
		return nil, err
	}
	return out, nil
}

// orNothing is how things stand where err says that there is no more to see.
func (at *standing) orNothing(err error) (*standing, error) {
	if err = domain.IgnoreNotFound(err); err != nil {
		return nil, err
	}
	return at, nil
}

// mayShow says whether the consent still allows to show what the bank asks: it may have ended without anybody having
// looked after the connection yet. What lies beside is read with it.
func (s *Service) mayShow(ctx context.Context, conn *domain.Connection, beside ...domain.Document) (bool, error) {
	_, err := domain.Allowed(ctx, s.Env, s.Store, domain.Act{ConsentID: conn.ConsentID, ClientID: conn.ClientID,
		InvestorRef: conn.InvestorRef, ConnectionID: conn.ID}, beside...)
	if kind := domain.KindOf(err); kind == domain.Forbidden || kind == domain.NotFound {
		return false, nil
	}
	return err == nil, err
}

// state is what the page of a visit may be told of it: what the bank asks only where that visit began the session.
func (at *standing) state(v *domain.Visit, now domain.Time) *State {
	conn, challenge, display := &at.connection, at.challenge, &at.display
	out := &State{Connection: conn.State, Reason: conn.Reason, Page: page(conn.State), Now: now}
	out.CanRetry = at.canRetry && v.May(domain.MayConnect, v.ConsentID)
	begun := false
	if session := at.session; session != nil {
		out.Session = &SessionState{ID: session.ID, State: session.State, Reason: session.Reason, Records: session.Records, Cleared: at.cleared}
		begun = session.BegunBy(v)
		out.Elsewhere = !begun && session.Visit != "" && !domain.SessionMoves.Final(session.State)
	}
	if challenge == nil || !begun || !v.May(domain.MayAnswer, v.ConsentID) {
		return out
	}
	out.Challenge = &ChallengeState{ID: challenge.ID, State: challenge.State, Flow: challenge.Flow, Method: challenge.Method,
		Methods: challenge.Methods, Destination: display.Destination, Text: display.Text, Digits: display.Digits,
		TriesLeft: challenge.TriesLeft, AnswerBy: challenge.AnswerBy, PollSeconds: challenge.PollSeconds}
	if len(display.Image) > 0 {
		// Named by its content, so that the page loads it again only when it is another.
		sum := sha256.Sum256(display.Image)
		out.Challenge.ImageURL = fmt.Sprintf("/challenge/%s/image?v=%x", challenge.ID, sum[:8])
	}
	return out
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
	t, err := check(r, challenge, s.Env.Now())
	if err != nil {
		return serve.Answer{}, envelope.At("/sealed_code", err)
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
	if err := s.authorise(ctx, c, challenge, in.Kind, t); err != nil {
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

// mine finds a challenge of a session that this visit began. Asking for one of another connection is recorded, and so is
// asking for what nobody has: both look alike and cost the same. One of its own connection that another visit has is
// refused by name: whoever has a link to manage, or a newer one, neither sees it nor burns its tries.
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
	session := &domain.Session{ID: found.SessionID}
	if err := s.Store.Get(ctx, session); domain.IgnoreNotFound(err) != nil {
		return nil, err
	}
	if !session.BegunBy(c.Visit) {
		return nil, s.Door.Refuse(c, string(id), errElsewhere)
	}
	return found, nil
}

var errElsewhere = &domain.Error{Kind: domain.Forbidden, Code: "challenge_elsewhere",
	Message: "another visit is at the bank, and what the bank asks is for it; go on there"}

// check looks at an answer as far as that goes without a key. Of a code it gives what it was sealed as.
func check(r domain.AnswerRequest, c *domain.Challenge, now domain.Time) (t domain.Sealing, err error) {
	switch r.Kind {
	case domain.AnswerCode:
		if r.SealedCode == "" {
			return t, domain.Invalidf("/sealed_code", "send the code as the page seals it")
		}
		if len(r.SealedCode) > envelope.MaxCodeJWE {
			return t, domain.Invalidf("/sealed_code", "want at most %d characters", envelope.MaxCodeJWE)
		}
		told, err := envelope.Inspect(r.SealedCode, envelope.Expect{Typ: envelope.TypCode, Subject: string(c.ID), AnyKid: true}, now)
		return told.Sealing, err
	case domain.AnswerSelect:
		if !slices.ContainsFunc(c.Methods, func(m domain.SCAMethod) bool { return m.ID == r.Method }) {
			return t, domain.Invalidf("/method", "choose one of the methods offered")
		}
	case domain.AnswerPoll, domain.AnswerRenew, domain.AnswerCancel:
	default:
		return t, domain.Invalidf("/kind", "want code, poll, select, renew or cancel")
	}
	return t, nil
}

// authorise checks the consent and records that the investor answered: which kind, never what. A code is counted here,
// before extraction uses a key for it, and let in once.
func (s *Service) authorise(ctx context.Context, c *serve.Call, challenge *domain.Challenge, kind domain.AnswerKind, t domain.Sealing) error {
	v := c.Visit
	act := v.Act("challenge", "challenge.answered", domain.MayAnswer, v.ConsentID, c.Origin)
	act.Custodian, act.Subject, act.Details["kind"] = challenge.Custodian, string(challenge.ID), string(kind)
	return domain.Perform(ctx, s.Env, s.Store, act, func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		if kind != domain.AnswerCode {
			return nil
		}
		return domain.TakeSealing(tx, s.Door.Salt, v, &domain.Challenge{ID: challenge.ID}, t, s.Env.Now())
	})
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
	shown, err := s.mayShow(r.Context(), conn)
	if err == nil && (!shown || !v.May(domain.MayAnswer, v.ConsentID) || domain.ConnectionMoves.Final(conn.State)) {
		err = domain.ErrNotFound
	}
	if err != nil {
		return domain.Display{}, err
	}
	display, err := s.open(r.Context(), c)
	if err == nil && (len(display.Image) == 0 || !pictures[display.MediaType]) {
		err = domain.ErrNotFound
	}
	if err == nil {
		err = s.Door.Look(r.Context(), call, function, "picture", string(c.ID))
	}
	return display, err
}
