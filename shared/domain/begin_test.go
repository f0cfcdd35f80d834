package domain

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// begins is one case of all that BeginSession may find.
type begins struct {
	conn       ConnectionState
	session    SessionState // "" for none
	over       bool         // its life
	credential CredentialState
	fresh      bool // with a new login
	cause      Cause
	once, read bool
}

// everyBeginning is each combination there is.
func everyBeginning(do func(begins)) {
	sessions := []SessionState{"", SessionQueued, SessionRunning, SessionSuspended, SessionComplete, SessionFailed, SessionCancelled}
	credentials := []CredentialState{"", CredentialSealed, CredentialTrying, CredentialAccepted, CredentialRefused, CredentialUnconfirmed}
	for conn := range ConnectionMoves {
		for _, session := range sessions {
			for _, credential := range credentials {
				for _, cause := range []Cause{CauseFirst, CauseReconnect, CauseRequested, CauseScheduled} {
					for bits := range 16 {
						bit := func(n int) bool { return bits>>n&1 == 1 }
						if bit(0) && !cause.Attended() {
							continue // only the investor brings a login
						}
						do(begins{conn, session, bit(1), credential, bit(0), cause, bit(2), bit(3)})
					}
				}
			}
		}
	}
}

// code is what the case is refused with, or "": the law once more, in the words of the contract.
func (b begins) code() string {
	attended := b.cause == CauseFirst || b.cause == CauseReconnect
	going := !b.over && slices.Contains([]SessionState{SessionQueued, SessionRunning, SessionSuspended}, b.session)
	switch {
	case b.conn == ConnectionPending || b.conn == ConnectionRemoved:
		return "connection_state"
	case b.once && (b.read || b.cause == CauseScheduled):
		return "consent_one_off"
	case going && !(attended && b.session == SessionSuspended):
		return "session_running"
	case b.fresh:
		return ""
	case b.credential == "" || b.conn == ConnectionAwaiting && !attended && b.credential != CredentialRefused:
		return "credentials_missing"
	case b.credential == CredentialRefused:
		return "credentials_refused"
	}
	return ""
}

// lay makes what the case finds.
func (b begins) lay() (*Consent, *Held, Beginning) {
	c := &Consent{ID: "con_1", ClientID: "cli_1", ConnectionID: "conn_1", Custodian: "bank", State: ConsentValid, Access: AccessRecurring}
	if b.once {
		c.Access = AccessOnce
	}
	h := &Held{Connection: &Connection{ID: "conn_1", ConsentID: "con_1", ClientID: "cli_1", Custodian: "bank", State: b.conn}}
	if b.read {
		h.Connection.LastRefreshedAt = noon.Add(-time.Hour)
	}
	if b.session != "" {
		h.Connection.SessionID = "ses_old"
		h.Session = &Session{ID: "ses_old", ConnectionID: "conn_1", State: b.session, ExpiresAt: noon.Add(time.Hour)}
		if b.over {
			h.Session.ExpiresAt = noon
		}
		if b.session == SessionSuspended {
			h.Session.Sealed, h.Session.ChallengeID = []byte("at the bank"), "chal_1"
			h.Challenge = &Challenge{ID: "chal_1", State: SCAIssued, Display: []byte("shown")}
		}
	}
	if b.credential != "" {
		h.Credential = &Credential{ID: "cred_old", ConnectionID: "conn_1", State: b.credential}
	}
	begin := Beginning{ID: "ses_new", Cause: b.cause}
	if b.cause.Attended() {
		begin.Visit, h.Connection.Visit = &Visit{Hash: "visit_1"}, "visit_1"
	}
	if b.fresh {
		begin.Credential = &Credential{ID: "cred_new", ConnectionID: "conn_1", State: CredentialSealed}
	}
	return c, h, begin
}

// TestBeginSession: whatever is found, a session begins or nothing changes; where one begins it is the only one, the one
// before it is tidied up, and no login is left that might be tried again by itself.
func TestBeginSession(t *testing.T) {
	n := 0
	everyBeginning(func(b begins) {
		n++
		c, h, begin := b.lay()
		tx := &ledgerTx{l: newLedger(), docs: map[string][]byte{}}
		s, err := BeginSession(still, tx, c, h, begin)
		if want := b.code(); want != "" {
			if CodeOf(err) != want || len(tx.docs)+len(tx.events) > 0 {
				t.Fatalf("%+v: %v, wrote %d documents, want %s and none", b, err, len(tx.docs), want)
			}
			return
		}
		if err != nil {
			t.Fatalf("%+v: %v", b, err)
		}
		if fault := h.began(s, tx, b); fault != "" {
			t.Fatalf("%+v: %s", b, fault)
		}
	})
	if n < 10_000 {
		t.Errorf("only %d cases", n)
	}
}

// began says what is wrong with what BeginSession left, or "".
func (h *Held) began(s *Session, tx *ledgerTx, b begins) string {
	subjects := []string{}
	for _, e := range tx.events {
		subjects = append(subjects, e.Subject)
	}
	events := []string{"ses_new"}
	if b.session == SessionSuspended { // open at the bank
		events = []string{"ses_old", "ses_new"}
	}
	to := ConnectionBusy
	if b.conn == ConnectionActive && !b.cause.Attended() {
		to = ConnectionActive
	}
	switch {
	case !s.Live(noon) || s.State != SessionQueued || h.Connection.SessionID != "ses_new" || s.Cause != b.cause:
		return fmt.Sprintf("the session is %+v", s)
	case s.BegunBy(&Visit{Hash: "visit_1"}) != b.cause.Attended() || s.BegunBy(&Visit{}):
		return "the session was begun by " + s.Visit
	case h.Connection.State != to:
		return "the connection is " + string(h.Connection.State)
	case !slices.Equal(subjects, events):
		return fmt.Sprintf("events for %q", subjects)
	case h.Session != nil && !SessionMoves.Final(h.Session.State):
		return "the session before is " + string(h.Session.State)
	case h.Challenge != nil && (!SCAMoves.Final(h.Challenge.State) || h.Challenge.Display != nil):
		return "its question is " + string(h.Challenge.State)
	case h.Credential.State == CredentialTrying:
		return "a login is still being tried"
	case b.fresh != (h.Credential.ID == "cred_new"):
		return "the login is " + string(h.Credential.ID)
	}
	return ""
}

// TestBeginSessionElsewhere: another consent's connection, or another custodian's, begins nothing.
func TestBeginSessionElsewhere(t *testing.T) {
	for name, wrong := range map[string]func(*Connection){
		"consent":   func(c *Connection) { c.ConsentID = "con_2" },
		"custodian": func(c *Connection) { c.Custodian = "other" },
	} {
		c, h, begin := begins{conn: ConnectionActive, credential: CredentialAccepted, cause: CauseRequested}.lay()
		wrong(h.Connection)
		tx := &ledgerTx{l: newLedger(), docs: map[string][]byte{}}
		if _, err := BeginSession(still, tx, c, h, begin); CodeOf(err) != "consent_custodian" || len(tx.docs) > 0 {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// TestEndConsent: from each state to each other, a legal end has one notice that names the consent, and an erasure only where
// something may be held; any other move changes nothing.
func TestEndConsent(t *testing.T) {
	for _, from := range AnyConsentState {
		for _, to := range AnyConsentState {
			c := &Consent{ID: "con_1", ClientID: "cli_1", ConnectionID: "conn_1", State: from}
			conn := &Connection{ID: "conn_1", ConsentID: "con_1", ClientID: "cli_1", State: ConnectionActive}
			tx := &ledgerTx{l: newLedger(), docs: map[string][]byte{}}
			err := EndConsent(still, tx, c, conn, to)
			if !slices.Contains(ConsentMoves[from], to) || !ConsentMoves.Final(to) {
				if KindOf(err) != Conflict || len(tx.docs)+len(tx.events) > 0 {
					t.Errorf("%s to %s: %v, %d documents", from, to, err, len(tx.docs))
				}
				continue
			}
			topics := []Topic{TopicNotice}
			if from == ConsentValid {
				topics = append(topics, TopicErasure)
			}
			var have []Topic
			for _, e := range tx.events {
				have = append(have, e.Topic)
			}
			if told := "\"subject\":\"con_1\""; !tx.holds("notice", told) {
				t.Errorf("%s to %s: the notice does not name the consent", from, to)
			}
			if err != nil || !slices.Equal(have, topics) || conn.State != ConnectionRemoved || c.State != to || conn.Sequence != 1 {
				t.Errorf("%s to %s: %v, events %q, connection %s", from, to, err, have, conn.State)
			}
		}
	}
}

// holds says whether some document of a kind, as JSON, has text in it.
func (tx *ledgerTx) holds(kind DocumentKind, text string) bool {
	for at, body := range tx.docs {
		if strings.HasPrefix(at, string(kind)+"/") && strings.Contains(string(body), text) {
			return true
		}
	}
	return false
}
