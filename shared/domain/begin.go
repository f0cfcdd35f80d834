package domain

import "errors"

// Held is what a connection holds, as a transaction reads it before a session begins. What is not there is nil.
type Held struct {
	Connection *Connection
	Session    *Session   // the newest
	Challenge  *Challenge // of that session
	Credential *Credential
}

// ReadHeld reads what the connection holds. A connection that does not exist is ErrNotFound.
func ReadHeld(tx Tx, id ConnectionID) (*Held, error) {
	h := &Held{Connection: &Connection{ID: id}}
	if err := tx.Get(h.Connection); err != nil {
		return nil, err
	}
	var err error
	if h.Credential, err = Maybe(tx, &Credential{ConnectionID: id}); err != nil || h.Connection.SessionID == "" {
		return h, err
	}
	if h.Session, err = Maybe(tx, &Session{ID: h.Connection.SessionID}); err != nil || h.Session == nil || h.Session.ChallengeID == "" {
		return h, err
	}
	h.Challenge, err = Maybe(tx, &Challenge{ID: h.Session.ChallengeID})
	return h, err
}

// Live reports whether a session is under way: it has not ended, and its life is not over. One that nobody ended in all
// its life is left, not live.
func (s *Session) Live(now Time) bool {
	return s != nil && !SessionMoves.Final(s.State) && now.Before(s.ExpiresAt)
}

// Beginning is a session that is to begin.
type Beginning struct {
	ID         SessionID
	Cause      Cause
	Credential *Credential // a new login, which replaces the one that is held; nil to use that one
	NotBefore  Time        // when its first event is due; zero means at once
}

// Why no session begins. The messages are for whoever asked.
var (
	ErrSessionRunning    = &Error{Kind: Conflict, Code: "session_running", Message: "we are at your bank already; wait for the result"}
	ErrConsentOneOff     = &Error{Kind: Forbidden, Code: "consent_one_off", Message: "the consent allows one reading, and it was done; ask the investor for a recurring consent"}
	ErrCredentialMissing = &Error{Kind: Conflict, Code: "credentials_missing", Message: "there are no credentials; create a reconnect link and give it to the investor"}
	ErrCredentialRefused = &Error{Kind: Conflict, Code: "credentials_refused", Message: "the custodian refused the credentials, and they are not tried again; create a reconnect link and give it to the investor"}
	ErrConnectionState   = &Error{Kind: Conflict, Code: "connection_state", Message: "this connection cannot be read in its state; see its state and reason"}
)

// MayBegin says why no session with this beginning may begin for what is held, or nil. A session that is under way is in
// the way of another; but one that only waits for an answer gives way to the investor, who is back at the page.
func (h *Held) MayBegin(c *Consent, b Beginning, now Time) error {
	conn, attended := h.Connection, b.Cause.Attended()
	switch {
	case conn.ConsentID != c.ID || conn.Custodian != c.Custodian:
		return refusal("consent_custodian", "the consent does not cover this custodian")
	case conn.State == ConnectionPending || conn.State == ConnectionRemoved:
		return ErrConnectionState
	case c.Access == AccessOnce && (b.Cause == CauseScheduled || !conn.LastRefreshedAt.IsZero()):
		return ErrConsentOneOff
	case h.Session.Live(now) && !(attended && h.Session.State == SessionSuspended):
		return ErrSessionRunning
	case b.Credential != nil:
		return nil
	case h.Credential == nil:
		return ErrCredentialMissing
	case h.Credential.State == CredentialRefused:
		return ErrCredentialRefused
	case conn.State == ConnectionAwaiting && !attended:
		return ErrCredentialMissing
	}
	return nil
}

// BeginSession is the one way in which a session begins, whoever asks for it: the investor with a login, the client, or
// the clock. Within tx it checks that it may, tidies up the session before it, and puts session, connection and a new
// credential. The session's event brings it to extraction.
func BeginSession(e Env, tx Tx, c *Consent, h *Held, b Beginning) (*Session, error) {
	now, conn := e.Now(), h.Connection
	if err := h.MayBegin(c, b, now); err != nil {
		return nil, err
	}
	if b.Credential != nil {
		if err := ReplaceCredential(e, tx, h.Credential, b.Credential); err != nil {
			return nil, err
		}
		h.Credential = b.Credential
	}
	if err := h.leaveSession(tx, now); err != nil {
		return nil, err
	}
	if conn.State != ConnectionBusy && (b.Cause.Attended() || conn.State != ConnectionActive) {
		if err := conn.Move(ConnectionBusy, "", now); err != nil {
			return nil, err
		}
	}
	conn.SessionID, conn.UpdatedAt = b.ID, now
	s := &Session{ID: b.ID, ClientID: conn.ClientID, ConsentID: conn.ConsentID, ConnectionID: conn.ID, Custodian: conn.Custodian,
		Cause: b.Cause, State: SessionQueued, CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(SessionLife)}
	event := s.event()
	event.NotBefore = b.NotBefore
	return s, errors.Join(tx.Put(s), tx.Put(conn), tx.Emit(event))
}

// leaveSession is the one way to tidy up a session that another one takes the place of: one that waits for an answer, or
// one that nobody has ended in all its life. It is cancelled, what its question showed is wiped, a login whose end nobody
// knows is not tried again by itself, and extraction, which alone can, closes what is open at the bank.
func (h *Held) leaveSession(tx Tx, now Time) error {
	if h.Credential != nil && h.Credential.State == CredentialTrying {
		if err := errors.Join(h.Credential.Move(CredentialUnconfirmed, now), tx.Put(h.Credential)); err != nil {
			return err
		}
	}
	if h.Challenge != nil && !SCAMoves.Final(h.Challenge.State) {
		if err := errors.Join(h.Challenge.Move(SCAFailed, now), tx.Put(h.Challenge)); err != nil {
			return err
		}
	}
	if h.Session == nil || SessionMoves.Final(h.Session.State) {
		return nil
	}
	if err := errors.Join(h.Session.Move(SessionCancelled, ReasonInterrupted, now), tx.Put(h.Session)); err != nil || len(h.Session.Sealed) == 0 {
		return err
	}
	return tx.Emit(h.Session.event())
}

// event asks extraction to run the session, or to look after it.
func (s *Session) event() Event {
	return Event{Topic: TopicSession, Subject: s.Key(), Custodian: s.Custodian, Lane: s.Lane()}
}
