package domain

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"time"
)

// Sealing is one thing to seal in a browser: what the page is told together with the key, what it writes into the
// protected header of what it seals, and what door and opener hold that against. It is used once: the connection or
// challenge that it is for counts what was sealed for it, the next number alone is taken, and none comes twice. So what
// is stored is a number, and an issued nonce that nobody uses leaves nothing behind.
type Sealing struct {
	Subject    string       // the connection of a login, the challenge of a code
	Credential CredentialID // of a login; empty for a code
	Generation int64        // counts the connection's logins, or the challenge's codes, from 1
	Nonce      string       // ties it to one visit, for NonceLife: base64url of 8 bytes of its end and 24 of an HMAC-SHA256
}

// Bounds of what is sealed. What is over a bound uses no key.
const (
	NonceLife   = 5 * time.Minute
	MaxCodes    = 20 // of one challenge; a bank takes three or so, and some fail to reach it
	MaxSealings = 60 // of one visit: logins, codes, and another use of the login that is held
)

// Refusals of something sealed that was in order once, or is one too many. "sealed" stands for the member that it came
// in, whose name only its reader knows.
var (
	ErrSealingUsed = &Error{Kind: Conflict, Code: "sealing_used", Message: "what was sealed was used already, or something newer was; enter it again"}
	ErrSealingOver = &Error{Kind: Invalid, Code: "sealing_over", Field: "sealed", Message: "it was sealed for another visit, or too long ago; reload the page and enter it again"}
	ErrSealings    = &Error{Kind: RateLimited, Code: "too_many_sealings", RetryAfter: VisitLife, Message: "that was too often in one visit; open a new link"}
	ErrCodes       = &Error{Kind: RateLimited, Code: "too_many_codes", RetryAfter: VisitLife, Message: "that were too many codes for this question; cancel it and begin again"}
)

// Sealable is what something can be sealed for: a connection or a challenge.
type Sealable interface {
	Document
	take(Sealing) error
}

// NextSealing is what the connection's next login is to be sealed as, without a nonce.
func (c *Connection) NextSealing(e Env) Sealing {
	return Sealing{Subject: string(c.ID), Credential: NewID[CredentialID](e), Generation: c.Sealings + 1}
}

func (c *Connection) take(t Sealing) error {
	if t.Subject != string(c.ID) || t.Generation != c.Sealings+1 || t.Credential == "" {
		return ErrSealingUsed
	}
	c.Sealings++
	return nil
}

// NextSealing is what the challenge's next code is to be sealed as, without a nonce.
func (c *Challenge) NextSealing() Sealing {
	return Sealing{Subject: string(c.ID), Generation: c.Codes + 1}
}

// take also lets extraction have this code.
func (c *Challenge) take(t Sealing) error {
	switch {
	case t.Subject != string(c.ID) || t.Generation != c.Codes+1 || t.Credential != "":
		return ErrSealingUsed
	case c.Codes >= MaxCodes:
		return ErrCodes
	}
	c.Codes, c.Admitted = c.Codes+1, append(c.Admitted, t.Nonce)
	return nil
}

// Admit lets the code with this nonce be opened, once: whoever opens it commits that first. One that was not let in, or
// was opened before, is ErrSealingUsed.
func (c *Challenge) Admit(nonce string) error {
	i := slices.Index(c.Admitted, nonce)
	if i < 0 {
		return ErrSealingUsed
	}
	c.Admitted = slices.Delete(c.Admitted, i, i+1)
	return nil
}

// Sealing is what the credential was sealed as.
func (c *Credential) Sealing() Sealing {
	return Sealing{Subject: string(c.ConnectionID), Credential: c.ID, Generation: c.Generation, Nonce: c.Nonce}
}

// Fits reports whether the credential is the connection's newest: not one from before that was put back, and not one
// that an earlier build sealed, whose generation is 0. What does not fit is not opened; the investor enters it again.
func (c *Credential) Fits(conn *Connection) bool {
	return c.Generation > 0 && c.Generation == conn.Generation && c.ConnectionID == conn.ID
}

// Issue gives t a nonce for this visit. key is an HMAC key of 32 bytes, the same where it is taken.
func (v *Visit) Issue(key Secret, t Sealing, now Time) Sealing {
	t.Nonce = v.nonce(key, t, now.Add(NonceLife))
	return t
}

func (v *Visit) nonce(key Secret, t Sealing, until Time) string {
	out := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	mac := hmac.New(sha256.New, key.Reveal())
	mac.Write(Name("sluis/nonce/v1", v.Hash, t.Subject, string(t.Credential), strconv.FormatInt(t.Generation, 10), string(out)))
	return base64.RawURLEncoding.EncodeToString(append(out, mac.Sum(nil)[:24]...))
}

// issued says whether t has a nonce of this visit whose life is not over.
func (v *Visit) issued(key Secret, t Sealing, now Time) bool {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(t.Nonce)
	if err != nil || len(raw) != 32 {
		return false
	}
	until := At(time.Unix(int64(binary.BigEndian.Uint64(raw)), 0))
	return now.Before(until) && hmac.Equal([]byte(v.nonce(key, t, until)), []byte(t.Nonce))
}

// TakeSealing is the one way to take in what a browser sealed. It reads the visit and what t is for again, makes sure
// that t was issued to this visit and was not used, and counts it: committed before any key is used, so that what is
// played again, or too often, costs nothing.
func TakeSealing(tx Tx, key Secret, v *Visit, of Sealable, t Sealing, now Time) error {
	if !v.issued(key, t, now) {
		return ErrSealingOver
	}
	if err := tx.Get(of); err != nil {
		return err
	}
	if err := of.take(t); err != nil {
		return err
	}
	return errors.Join(SpendVisit(tx, v), tx.Put(of))
}

// SpendVisit counts one more use of keys in a visit, before it is made. Over the bound it is ErrSealings.
func SpendVisit(tx Tx, v *Visit) error {
	fresh := &Visit{Hash: v.Hash}
	if err := tx.Get(fresh); err != nil {
		return err
	}
	if fresh.Sealings >= MaxSealings {
		return ErrSealings
	}
	fresh.Sealings++
	return tx.Put(fresh)
}
