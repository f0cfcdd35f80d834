// Package backend holds the rules that every backend keeps, so that they are the same everywhere: which keys and bodies
// documents may have, what a query may ask, how a cursor looks, when a failed event comes again, and what misuses a
// transaction. The backends themselves stand in the folders below.
package backend

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sluis.internal/shared/domain"
)

// Misuse of a backend. These are programming errors, so their kind is Internal.
var (
	ErrNoRecord       = errors.New("the transaction changes something without a Record")
	ErrReadAfterWrite = errors.New("reads come before writes in a transaction")
	ErrTxDone         = errors.New("the transaction is over")
	ErrClosed         = errors.New("the backend is closed")
)

// Limits, in bytes.
const (
	MaxBody   = 1 << 20 // of a document as JSON
	MaxPage   = 8 << 20 // of a page's documents, so that a page of large ones fits in memory; one always fits
	maxKey    = 200
	maxValue  = 1000 // of a Match, From or To
	maxCursor = 4 << 10
)

var (
	nameShape = domain.NewShape(`^[a-z][a-z0-9_]{0,47}$`)
	keyShape  = domain.NewShape(`^[A-Za-z0-9_.-]+$`) // and at most maxKey: counted in the expression, it would take half a millisecond to compile
	entryKind = (*domain.Entry)(nil).Kind()
)

// CheckName refuses what is no name of a kind or of a top-level field.
func CheckName(field, name string) error {
	if !nameShape.MatchString(name) {
		return domain.Invalidf(field, "%q: want small letters, digits and _", name)
	}
	return nil
}

// CheckKey refuses what is no key: Firestore keeps ".", ".." and "__x__" for itself.
func CheckKey(field, key string) error {
	reserved := key == "." || key == ".." || len(key) >= 4 && strings.HasPrefix(key, "__") && strings.HasSuffix(key, "__")
	if len(key) > maxKey || !keyShape.MatchString(key) || reserved {
		return domain.Invalidf(field, "want 1 to 200 letters, digits and _ - .")
	}
	return nil
}

// CheckDocument refuses what cannot be read into, and what has no key.
func CheckDocument(doc domain.Document) error {
	v := reflect.ValueOf(doc)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("a document is a pointer to a struct, not %T", doc)
	}
	return CheckKey("key", doc.Key())
}

// Changeable keeps the audit log append-only.
func Changeable(doc domain.Document) error {
	if doc.Kind() == entryKind {
		return errors.New("audit entries are recorded, never changed or deleted")
	}
	return nil
}

// ErrRecorded is what recording an entry a second time gives.
func ErrRecorded(cause error) error {
	return &domain.Error{Kind: domain.Conflict, Code: "entry_exists", Message: "an audit entry is recorded once", Err: cause}
}

// ErrBusy says that the store could not be asked; cause tells the operator why.
func ErrBusy(cause error) error {
	return &domain.Error{Kind: domain.Unavailable, Code: "store_busy", Message: "the database is busy; try again", Err: cause}
}

// Encode is a document's body.
func Encode(doc domain.Document) ([]byte, error) {
	body, err := json.Marshal(doc)
	switch {
	case err != nil:
		return nil, fmt.Errorf("writing %s: %w", doc.Kind(), err)
	case body[0] != '{':
		return nil, fmt.Errorf("writing %s: a document is a JSON object", doc.Kind())
	case len(body) > MaxBody:
		return nil, &domain.Error{Kind: domain.TooLarge, Code: "document_too_large",
			Message: fmt.Sprintf("a document has at most %d bytes; split it", MaxBody)}
	}
	return body, nil
}

// ours is what bodies are: written by encoding/json, so names need not be compared twice.
var ours = jsonv2.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// Decode reads a body into doc. Nothing of what doc held before is left: Unmarshal alone would keep the fields that the
// body lacks.
func Decode(body []byte, doc domain.Document) error {
	kind := doc.Kind()
	reflect.ValueOf(doc).Elem().SetZero()
	if err := jsonv2.Unmarshal(body, doc, ours); err != nil {
		if wrong := (*jsonv2.SemanticError)(nil); errors.As(err, &wrong) { // whose text quotes the value
			err = fmt.Errorf("%s is no %s", wrong.JSONPointer, wrong.GoType)
		}
		return fmt.Errorf("reading %s: %w", kind, err)
	}
	return nil
}

// CheckEvent refuses an event that carries anything but names.
func CheckEvent(e domain.Event) error {
	err := CheckKey("topic", string(e.Topic))
	if err == nil {
		err = CheckKey("subject", e.Subject)
	}
	if err == nil && e.Custodian != "" {
		err = CheckKey("custodian", string(e.Custodian))
	}
	if err == nil && e.Lane != "" {
		err = CheckKey("lane", e.Lane)
	}
	if err != nil {
		return fmt.Errorf("emitting: %w", err)
	}
	return nil
}

// Delays of failed events.
const (
	firstDelay  = time.Second
	longestWait = 10 * time.Minute
)

// Delay until a failed event comes again: what its handler's error asks for, or twice as long each time, with jitter.
func Delay(failures int, err error) time.Duration {
	var e *domain.Error
	if errors.As(err, &e) && e.RetryAfter > 0 { // Waits
		return e.RetryAfter
	}
	d := min(firstDelay<<min(failures-1, 20), longestWait)
	return d + rand.N(d/4)
}

// Waits says whether a handler's error only asks that the event come again at a certain time. That is no failure: an event
// whose session a dead process still holds, for example, may have to ask after every death.
func Waits(err error) bool {
	var e *domain.Error
	return errors.As(err, &e) && e.RetryAfter > 0
}

// CheckIndex refuses an index that no backend could keep.
func CheckIndex(ix domain.Index) error {
	if ix.Order != "asc" && ix.Order != "desc" {
		return domain.Invalidf("indexes", "index %s: order is asc or desc", ix.Name)
	}
	fields := append(slices.Clone(ix.Equal), ix.Name)
	if ix.Range != "" {
		fields = append(fields, ix.Range)
	}
	for _, f := range fields {
		if !nameShape.MatchString(f) {
			return domain.Invalidf("indexes", "index %s: %q is no name of a top-level field", ix.Name, f)
		}
	}
	return nil
}

// CheckQuery refuses a query that does not fit the index, and fills in its default limit.
func CheckQuery(ix domain.Index, q *domain.Query) error {
	switch {
	case len(q.Match) != len(ix.Equal):
		return domain.Invalidf("match", "index %s wants %d values to match, not %d", ix.Name, len(ix.Equal), len(q.Match))
	case ix.Range == "" && (q.From != "" || q.To != ""):
		return domain.Invalidf("from", "index %s has no range", ix.Name)
	case q.Limit < 0 || q.Limit > 1000:
		return domain.Invalidf("limit", "want 1 to 1000")
	}
	for _, v := range append(slices.Clone(q.Match), q.From, q.To) {
		if len(v) > maxValue {
			return domain.Invalidf("match", "want values of at most %d bytes", maxValue)
		}
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	return nil
}

// Position is where a page ended: the range field's value, if the index has one, and the key.
type Position struct{ Order, Key string }

const digestLen = 8

// Cursor is a position as text: base64url of a digest and the position as JSON. The digest ties it to the query's
// index and values, so that a cursor that was cut, changed or taken from elsewhere is noticed. It is no secret and
// gives no right: a query shows nothing but its own documents wherever it begins.
func Cursor(q domain.Query, at Position) string {
	body, err := json.Marshal([]string{at.Order, at.Key})
	if err != nil {
		panic("a list of strings is JSON: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(append(cursorDigest(q, body), body...))
}

func cursorDigest(q domain.Query, body []byte) []byte {
	sum := sha256.Sum256(append(domain.Name(append([]string{q.Index}, q.Match...)...), body...))
	return sum[:digestLen]
}

// Begin reads the query's cursor; nil if it has none.
func Begin(q domain.Query) (*Position, error) {
	if q.Cursor == "" {
		return nil, nil
	}
	bad := domain.Invalidf("cursor", "take the cursor of the page before, unchanged, with the same query")
	if len(q.Cursor) > maxCursor {
		return nil, bad
	}
	raw, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	if err != nil || len(raw) < digestLen || base64.RawURLEncoding.EncodeToString(raw) != q.Cursor {
		return nil, bad
	}
	var at []string
	body := raw[digestLen:]
	if !bytes.Equal(raw[:digestLen], cursorDigest(q, body)) || json.Unmarshal(body, &at) != nil || len(at) != 2 {
		return nil, bad
	}
	return &Position{Order: at[0], Key: at[1]}, nil
}
