package domain

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Identifiers are a type, a prefix and 26 characters of Crockford's base 32 (the layout of a ULID: 48 bits of Unix
// milliseconds, then 80 random bits), so that they sort by the time of their making.
type (
	ClientID     string // cli_…
	AdvisorID    string // adv_…
	KeyID        string // key_…
	ConsentID    string // con_…
	ConnectionID string // conn_…
	CredentialID string // cred_…
	SessionID    string // ses_…
	ChallengeID  string // chal_…
	PortfolioID  string // pf_…
	NoticeID     string // evt_…
	EndpointID   string // ep_…
	DeliveryID   string // dlv_…
	EntryID      string // aud_…
	ErasureID    string // era_…
	EventID      string // msg_…
	ShardID      string // shr_…
)

// CustodianID names a row of custodians.json, for example "comdirect".
type CustodianID string

func (ClientID) prefix() string     { return "cli" }
func (AdvisorID) prefix() string    { return "adv" }
func (KeyID) prefix() string        { return "key" }
func (ConsentID) prefix() string    { return "con" }
func (ConnectionID) prefix() string { return "conn" }
func (CredentialID) prefix() string { return "cred" }
func (SessionID) prefix() string    { return "ses" }
func (ChallengeID) prefix() string  { return "chal" }
func (PortfolioID) prefix() string  { return "pf" }
func (NoticeID) prefix() string     { return "evt" }
func (EndpointID) prefix() string   { return "ep" }
func (DeliveryID) prefix() string   { return "dlv" }
func (EntryID) prefix() string      { return "aud" }
func (ErasureID) prefix() string    { return "era" }
func (EventID) prefix() string      { return "msg" }
func (ShardID) prefix() string      { return "shr" }

// identifier is any of the identifier types above.
type identifier interface {
	~string
	prefix() string
}

var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID makes a fresh identifier. It panics if randomness fails, as nothing safe can follow.
func NewID[T identifier](e Env) T {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(e.Now().UnixMilli())<<16)
	copy(raw[6:], e.Random(10))
	var id T
	return T(id.prefix() + "_" + crockford.EncodeToString(raw[:]))
}

// ParseID checks that s has the shape of a T.
func ParseID[T identifier](s string) (T, error) {
	var id T
	body, ok := strings.CutPrefix(s, id.prefix()+"_")
	if !ok || len(body) != 26 || strings.Trim(body, "0123456789abcdefghjkmnpqrstvwxyz") != "" {
		return "", &Error{Kind: Invalid, Code: "invalid_identifier",
			Message: fmt.Sprintf("want an identifier that begins with %s_ and has 26 more characters", id.prefix())}
	}
	return T(s), nil
}

// Random returns n random bytes. It panics if randomness fails, as nothing safe can follow.
func (e Env) Random(n int) []byte {
	source := e.Rand
	if source == nil {
		source = rand.Reader
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(source, b); err != nil {
		panic("reading randomness: " + err.Error())
	}
	return b
}
