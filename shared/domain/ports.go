package domain

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// DocumentKind names a kind of document: a table, a collection.
type DocumentKind string

// Document is what a Store keeps: a pointer to a struct that marshals to a JSON object of at most 1 MiB. Fields that
// an index names must be JSON strings.
type Document interface {
	Kind() DocumentKind
	Key() string // not empty; up to 200 letters, digits and _ - .
}

// Store keeps documents. Its methods are safe for concurrent use.
type Store interface {
	// Get fills docs, which say their own kind and key, each with its last committed state; several are asked for at
	// once. It returns ErrNotFound if there is none of one: that one stays as it was, and the others are filled.
	Get(ctx context.Context, docs ...Document) error

	// List returns one page of the last committed documents of the query's index.
	List(ctx context.Context, q Query) (Page, error)

	// Commit runs fn in a serialisable transaction: all of its effects (documents, events, audit entries) happen, or
	// none. On contention fn runs again, so it must have no effect but through tx, and reads come before writes. An
	// error from fn aborts the transaction and is returned as it is. A Commit that puts, deletes or emits without a
	// Record fails. If Commit returns any other error, the effects may have happened: the caller repeats the whole
	// act, which must find its own traces.
	Commit(ctx context.Context, fn func(Tx) error) error
}

// Tx is an open transaction. It is for one goroutine, and only until fn returns.
type Tx interface {
	Get(docs ...Document) error // as Store.Get, as of this transaction
	Put(doc Document) error     // creates or replaces
	Delete(doc Document) error
	Emit(Event) error    // the outbox: delivered at least once if and only if the transaction commits
	Record(*Entry) error // the audit log
}

// Each gets docs one after the other, with the errors of Store.Get.
func Each(docs []Document, get func(Document) error) (missing error) {
	for _, doc := range docs {
		err := get(doc)
		if IgnoreNotFound(err) != nil {
			return err
		}
		missing = cmp.Or(missing, err)
	}
	return missing
}

// Find reads a document that need not be there, and says whether it is.
func Find(tx Tx, doc Document) (bool, error) {
	err := tx.Get(doc)
	if KindOf(err) == NotFound {
		return false, nil
	}
	return err == nil, err
}

// Maybe reads a document that need not be there, and returns nil if it is not.
func Maybe[T Document](tx Tx, doc T) (T, error) {
	there, err := Find(tx, doc)
	if !there {
		var none T
		return none, err
	}
	return doc, nil
}

// Query asks for documents by an index of indexes.json.
type Query struct {
	Index  string
	Match  []string // one value for each of the index's equal fields
	From   string   // with a range field: inclusive lower bound, or empty
	To     string   // with a range field: exclusive upper bound, or empty
	Cursor string   // Page.Next of the page before, or empty
	Limit  int      // 1 to 1000; 0 means 100
}

// Page is some documents in the index's order, and where the next ones begin; Next is empty on the last page.
type Page struct {
	Documents []json.RawMessage
	Next      string
}

// Index is a row of indexes.json: how documents of a kind may be listed.
type Index struct {
	Name  string       `json:"name"`
	Of    DocumentKind `json:"kind"`
	Equal []string     `json:"equal"` // top-level fields that a query fixes
	Range string       `json:"range"` // a top-level field that a query may bound and that orders the page; empty means the key
	Order string       `json:"order"` // asc or desc
	Why   string       `json:"why"`
}

// List returns one page of a query as documents of type T, and the cursor of the next page.
func List[T any, P interface {
	*T
	Document
}](ctx context.Context, s Store, q Query) ([]T, string, error) {
	page, err := s.List(ctx, q)
	if err != nil {
		return nil, "", err
	}
	docs := make([]T, len(page.Documents))
	for i, raw := range page.Documents {
		if err := json.Unmarshal(raw, &docs[i]); err != nil {
			return nil, "", fmt.Errorf("reading %s of index %s: %w", P(&docs[i]).Kind(), q.Index, err)
		}
	}
	return docs, page.Next, nil
}

// Topic names a stream of events.
type Topic string

const (
	TopicSession  Topic = "session-requested" // a session is to be run or to be looked after
	TopicNotice   Topic = "notice-raised"     // a notice is to be sent to its client's endpoints
	TopicDelivery Topic = "delivery-due"      // one delivery is to be tried
	TopicErasure  Topic = "erasure-requested" // what a connection holds is to be erased
)

// Event is a message on a topic. It carries identifiers only.
type Event struct {
	ID        EventID     `json:"id"` // filled by Emit
	Topic     Topic       `json:"topic"`
	Subject   string      `json:"subject"`             // the identifier of what it is about
	Custodian CustodianID `json:"custodian,omitempty"` // routes session-requested to the custodian's function
	Lane      string      `json:"lane,omitempty"`      // whom it is for: where few may be handled at once, lanes take turns
	NotBefore Time        `json:"not_before,omitzero"` // delivered no earlier
	Attempt   int         `json:"attempt,omitempty"`   // filled on delivery: 1 at first
}

// Handler takes one event. A nil return acknowledges it. An error has it delivered again, later each time, until it
// becomes a dead letter; an *Error with RetryAfter says when, and does not count as a failure.
type Handler func(ctx context.Context, e Event) error

// Queue delivers events to handlers, at least once, in no promised order. Lanes take turns: where a queue bounds how
// many events of a topic are handled at once, the thousands of one lane do not hold up the one of another.
type Queue interface {
	// Run delivers until ctx ends, then lets handlers finish for a bounded time.
	Run(ctx context.Context, handlers map[Topic]Handler) error
	// DeadLetters lists events that were given up, newest first.
	DeadLetters(ctx context.Context, limit int) ([]DeadLetter, error)
	// Redrive puts a dead letter back on its topic.
	Redrive(ctx context.Context, id EventID) error
}

// DeadLetter is an event that was given up.
type DeadLetter struct {
	Event  Event  `json:"event"`
	Reason string `json:"reason"` // the code of the last error
	At     Time   `json:"at"`
}

// Encrypter closes a gate: authenticated encryption bound to associated data. tink.AEAD has this method.
type Encrypter interface {
	Encrypt(plaintext, associatedData []byte) ([]byte, error)
}

// Decrypter opens a gate. tink.AEAD has this method.
type Decrypter interface {
	Decrypt(ciphertext, associatedData []byte) ([]byte, error)
}

// Rewrapper closes anew, under the newest version of its key, what an older version closed, so that the older one may
// be disabled. It gives nil for what the newest closed already. What is inside, the caller does not see.
type Rewrapper interface {
	Rewrap(ciphertext, associatedData []byte) ([]byte, error)
}

// RewrapEvery is how often it is looked whether what is kept for long was closed by an older version of its key.
// Credentials are left alone: whoever could close them anew could both open and close them, and a consent ends within
// MaxConsent.
const RewrapEvery = 30 * 24 * time.Hour

// Aging is a document with something closed that is kept for long.
type Aging interface {
	Document
	// Look says whether the time to look at what closed it lies before until, and gives the event that has it looked at;
	// the document then notes the next time.
	Look(until, next Time) (due bool, e Event)
}

// In gives a key for the calls of one act. A key that is kept elsewhere tells its keeper which act it is asked for, by ctx;
// one at hand is given back as it is. That nobody waits any more does not reach it: what a bank has said must be sealed
// all the same.
func In[K any](ctx context.Context, key K) K {
	if far, ok := any(key).(interface{ In(context.Context) any }); ok {
		return far.In(ctx).(K)
	}
	return key
}

// Secrets reads named secrets: custodians' API credentials, certificates. It returns ErrNotFound for an unknown name.
type Secrets interface {
	Secret(ctx context.Context, name string) (Secret, error)
}

// Lives of documents that end by themselves; retention.json states and justifies them.
const (
	NoticeLife  = 30 * 24 * time.Hour
	SessionLife = 24 * time.Hour
	OnceLife    = 24 * time.Hour
)

// Once remembers the answer to an Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): which resource a
// request made, so that the same request again makes no second one.
type Once struct {
	ID        string   `json:"id"`
	ClientID  ClientID `json:"client_id"`
	Request   string   `json:"request"`  // digest of method, path and body
	Resource  string   `json:"resource"` // what it made
	CreatedAt Time     `json:"created_at"`
	ExpiresAt Time     `json:"expires_at"`
}

func (*Once) Kind() DocumentKind { return "once" }
func (o *Once) Key() string      { return o.ID }

// Idempotent is the Idempotency-Key of a request. The zero value means that the caller sent none.
type Idempotent struct {
	Key     string // as sent
	Request []byte // method, path and body
}

// Before looks within tx whether this client's request was made before, and returns what it made then, or "". The
// same key on another request is a Conflict.
func (i Idempotent) Before(tx Tx, client ClientID) (string, error) {
	if i.Key == "" {
		return "", nil
	}
	o := i.once(client)
	want := o.Request
	if err := tx.Get(o); err != nil {
		if KindOf(err) == NotFound {
			return "", nil
		}
		return "", err
	}
	if o.Request != want {
		return "", &Error{Kind: Conflict, Code: "idempotency_key_reused", Field: "Idempotency-Key",
			Message: "this key was used for another request; take a new one"}
	}
	return o.Resource, nil
}

// Remember notes within tx what the request made.
func (i Idempotent) Remember(e Env, tx Tx, client ClientID, resource string) error {
	if i.Key == "" {
		return nil
	}
	o := i.once(client)
	o.Resource, o.CreatedAt, o.ExpiresAt = resource, e.Now(), e.Now().Add(OnceLife)
	return tx.Put(o)
}

func (i Idempotent) once(client ClientID) *Once {
	request := sha256.Sum256(i.Request)
	id := sha256.Sum256([]byte(string(client) + "\n" + i.Key))
	return &Once{ID: base64.RawURLEncoding.EncodeToString(id[:]), ClientID: client,
		Request: base64.RawURLEncoding.EncodeToString(request[:])}
}

// Name makes a label from parts for associated data: each part with its length, so that no two lists look alike.
func Name(parts ...string) []byte {
	var b []byte
	for _, p := range parts {
		b = append(strconv.AppendInt(b, int64(len(p)), 10), ':')
		b = append(append(b, p...), ',')
	}
	return b
}
