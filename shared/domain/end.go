package domain

import "errors"

// endings are the ways in which a consent ends, and what the client is told of each.
var endings = map[ConsentState]NoticeType{
	ConsentRejected:   NoticeConsentRejected,
	ConsentExpired:    NoticeConsentExpired,
	ConsentRevoked:    NoticeConsentRevoked,
	ConsentTerminated: NoticeConsentTerminated,
}

// EndConsent is the one way in which a consent ends, whoever ends it and by whichever door. Within tx it brings the
// consent to the final state and its connection to removed, tells the client, and asks for the erasure of what may be
// held. Only a granted consent can have left anything: what ends before the grant is followed by no erasure. The caller
// has read both documents in tx; they are put here. A move that the consent's law does not know is a Conflict.
func EndConsent(e Env, tx Tx, c *Consent, conn *Connection, to ConsentState) error {
	now, granted := e.Now(), c.State == ConsentValid
	if endings[to] == "" {
		return &Error{Kind: Conflict, Code: "consent_state", Message: "a consent does not end by becoming " + string(to)}
	}
	if err := c.Move(to, now); err != nil {
		return err
	}
	if conn.State != ConnectionRemoved {
		if err := conn.Move(ConnectionRemoved, ReasonConsentEnded, now); err != nil {
			return err
		}
	}
	if err := errors.Join(Tell(e, tx, conn, endings[to], string(c.ID)), tx.Put(c), tx.Put(conn)); err != nil || !granted {
		return err
	}
	return tx.Emit(Event{Topic: TopicErasure, Subject: conn.Key(), Custodian: conn.Custodian, Lane: string(conn.ClientID)})
}

// Withdrawn is what becomes of an open consent on the investor's word: one that was never granted is rejected.
func (c *Consent) Withdrawn() ConsentState {
	if c.State == ConsentReceived {
		return ConsentRejected
	}
	return ConsentRevoked
}
