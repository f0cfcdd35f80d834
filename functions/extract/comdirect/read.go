package comdirect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

const (
	// pageSize is the most that the bank gives of an account's transactions at once.
	pageSize = 500
	// allHistory lies before any account. Without it the bank gives the last 180 days.
	allHistory = "2000-01-01"
	maxHolders = 1000      // accounts or depots of one access
	maxRecords = 2_000_000 // of one list
	maxItem    = 1 << 20   // bytes of one record
)

// reader reads an opened portfolio. Accounts and depots are asked for when first needed, and then once.
type reader struct {
	*visit
	ctx context.Context

	holders  sync.Mutex
	balances []balance
	depots   []depot
}

// portfolio is the outcome when the door is open.
func (v *visit) portfolio(ctx context.Context) (extraction.Outcome, error) {
	sealed, err := v.seal()
	if err != nil {
		return extraction.Outcome{}, err
	}
	r := &reader{visit: v, ctx: ctx}
	return extraction.Outcome{Portfolio: &extraction.Portfolio{State: sealed, Read: map[domain.Product]extraction.Records{
		domain.ProductAccounts:     r.records(r.readAccounts),
		domain.ProductCash:         r.records(r.readCash),
		domain.ProductPositions:    r.records(r.readPositions),
		domain.ProductTransactions: r.records(r.readTransactions),
		domain.ProductOrders:       r.records(r.readOrders),
	}}}, nil
}

// errStopped means that the consumer wants no more.
var errStopped = errors.New("the consumer stopped")

// give hands over one record; its error ends the reading.
type give func(domain.Record) error

// records makes a lazy sequence of a function that gives records until it fails or has no more.
func (r *reader) records(read func(give) error) extraction.Records {
	return func(yield func(domain.Record, error) bool) {
		err := read(func(record domain.Record) error {
			if err := r.ctx.Err(); err != nil {
				return unanswered(r.ctx, err, &reach{})
			}
			if !yield(record, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, failed(err))
		}
	}
}

// list is one of the bank's lists, with what to ask for and what to do with each item.
type list struct {
	path  string
	query url.Values
	// extra are parameters that the bank takes but does not document; without them it gives less. A bank that
	// refuses them is asked again without.
	extra url.Values
	// more are parameters of every page but the first.
	more       url.Values
	item       func(jsontext.Value) error
	aggregated any // decoded into, if not nil
}

// page is what came of one request for a list.
type page struct {
	paging struct {
		Index   *int `json:"index"`
		Matches *int `json:"matches"`
	}
	first  int // asked for
	count  int
	digest [sha256.Size]byte
}

// misplaced says that the bank names another place than the one asked for.
func (p *page) misplaced() bool { return p.paging.Index != nil && *p.paging.Index != p.first }

func misplaced() error {
	return misunderstood(errors.New("it gives another page than the one asked for"))
}

// each reads a list to its end. The bank must page as asked: an index of its own, a page twice, an end before the
// stated number, or a number that changes on the way would lose or double records, and is an error.
func (r *reader) each(l list) error {
	first, matches := 0, -1
	var before [sha256.Size]byte
	for {
		p, err := r.page(&l, first)
		if err != nil {
			return err
		}
		stated := first + p.count
		if p.paging.Matches != nil {
			stated = *p.paging.Matches
		}
		switch {
		case p.misplaced():
			return misplaced()
		case matches >= 0 && stated != matches:
			f := misunderstood(errors.New("the list changed while it was read"))
			f.Retry = true
			return f
		case p.count > 0 && first > 0 && p.digest == before:
			return misunderstood(errors.New("it gives the same page twice"))
		case p.count == 0 && first < stated:
			return misunderstood(fmt.Errorf("the list ends after %d of %d records", first, stated))
		case first+p.count > stated:
			return misunderstood(fmt.Errorf("the list has more than the %d records stated", stated))
		case stated > maxRecords || first+p.count > maxRecords:
			return misunderstood(fmt.Errorf("the list has more than %d records", maxRecords))
		}
		matches, before = stated, p.digest
		if first += p.count; first >= matches {
			return nil
		}
	}
}

// page reads one page, and repeats that while nothing of it was given on.
func (r *reader) page(l *list, first int) (p page, err error) {
	ask := func() error {
		p = page{first: first}
		resp, err := r.send(r.ctx, call{method: http.MethodGet, path: l.path, query: l.parameters(first), bearer: r.st.Access})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		err = p.decode(r.ctx, resp.Body, l)
		if p.count > 0 && err != nil {
			return &begun{err}
		}
		return err
	}
	err = patient(r.ctx, ask)
	var refused *refusal
	if first == 0 && len(l.extra) > 0 && errors.As(err, &refused) &&
		(refused.status == http.StatusUnprocessableEntity || refused.status == http.StatusBadRequest) {
		l.extra = nil
		err = patient(r.ctx, ask)
	}
	var g *begun
	if errors.As(err, &g) {
		return p, g.err
	}
	return p, err
}

// begun is an error after records were given on: repeating the request would give them twice.
type begun struct{ err error }

func (g *begun) Error() string { return g.err.Error() }

func (l *list) parameters(first int) url.Values {
	q := url.Values{}
	add := func(more url.Values) {
		for k, v := range more {
			q[k] = v
		}
	}
	add(l.query)
	add(l.extra)
	if first > 0 {
		add(l.more)
		q.Set("paging-first", strconv.Itoa(first))
	}
	return q
}

// watched tells a connection that broke from an answer that is wrong.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// decode walks through a list's JSON, holding one item at a time.
func (p *page) decode(ctx context.Context, body io.Reader, l *list) error {
	w := &watched{r: body}
	dec := jsontext.NewDecoder(w, lenient)
	err := p.walk(dec, l)
	if err == nil {
		if _, end := dec.ReadToken(); end != io.EOF {
			err = misunderstood(errors.New("more follows the list"))
		}
	}
	if w.err != nil {
		return unanswered(ctx, w.err, &reach{})
	}
	return err
}

// lenient takes what may be odd about a bank's JSON without being ambiguous to us.
var lenient = jsonv2.JoinOptions(jsonv2.MatchCaseInsensitiveNames(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

func (p *page) walk(dec *jsontext.Decoder, l *list) error {
	if err := delim(dec, '{'); err != nil {
		return err
	}
	found := false
	for dec.PeekKind() == '"' {
		token, err := dec.ReadToken()
		if err != nil {
			return misunderstood(err)
		}
		switch key := token.String(); {
		case key == "values" && p.misplaced():
			return misplaced()
		case key == "values":
			found = true
			err = p.values(dec, l)
		case key == "paging":
			err = into(dec, &p.paging)
		case key == "aggregated" && l.aggregated != nil:
			err = into(dec, l.aggregated)
		default:
			if err = dec.SkipValue(); err != nil {
				err = misunderstood(err)
			}
		}
		if err != nil {
			return err
		}
	}
	if err := delim(dec, '}'); err != nil {
		return err
	}
	if !found && l.aggregated == nil {
		return misunderstood(errors.New("it holds no list"))
	}
	return nil
}

func (p *page) values(dec *jsontext.Decoder, l *list) error {
	token, err := dec.ReadToken()
	if err != nil {
		return misunderstood(err)
	}
	switch token.Kind() {
	case 'n': // null: an empty list
		return nil
	case '[':
	default:
		return misunderstood(errors.New("values is no list"))
	}
	digest := sha256.New()
	for dec.PeekKind() != ']' {
		item, err := dec.ReadValue() // good until the next
		if err != nil {
			return misunderstood(err)
		}
		if len(item) > maxItem {
			return misunderstood(errors.New("a record is too long"))
		}
		digest.Write(item)
		if l.item != nil {
			p.count++
			if err := l.item(item); err != nil {
				return err
			}
		}
	}
	digest.Sum(p.digest[:0])
	return delim(dec, ']')
}

func delim(dec *jsontext.Decoder, want jsontext.Kind) error {
	token, err := dec.ReadToken()
	if err != nil {
		return misunderstood(err)
	}
	if token.Kind() != want {
		return misunderstood(fmt.Errorf("want %s", want))
	}
	return nil
}

func into(dec *jsontext.Decoder, out any) error {
	if err := jsonv2.UnmarshalDecode(dec, out); err != nil {
		return misunderstood(err)
	}
	return nil
}

// record decodes one item of a list.
func record[T any](raw jsontext.Value) (T, error) {
	var t T
	if err := jsonv2.Unmarshal(raw, &t, lenient); err != nil {
		return t, misunderstood(err)
	}
	return t, nil
}

// identifiers are those that a list has given so far, each as a number of 64 bits, whatever its length.
type identifiers map[uint64]struct{}

var identifierSeed = maphash.MakeSeed()

// errTwice: where the bank's pages do not fit together, one record comes twice and another not at all, and the count is
// right all the same.
var errTwice = errors.New("it lists the same thing twice")

// once notes an identifier, and is false if it was given before.
func (known identifiers) once(id string) bool {
	sum := maphash.String(identifierSeed, id)
	_, again := known[sum]
	known[sum] = struct{}{}
	return !again
}

// collect reads a short list whole.
func collect[T any](r *reader, path string) ([]T, error) {
	var all []T
	err := r.each(list{path: path, item: func(raw jsontext.Value) error {
		t, err := record[T](raw)
		if all = append(all, t); err == nil && len(all) > maxHolders {
			err = misunderstood(fmt.Errorf("it lists more than %d accounts", maxHolders))
		}
		return err
	}})
	return all, err
}

func (r *reader) allBalances() ([]balance, error) {
	r.holders.Lock()
	defer r.holders.Unlock()
	if r.balances != nil {
		return r.balances, nil
	}
	all, err := collect[balance](r, pathBalances)
	known := identifiers{}
	for i := range all {
		if err == nil && !plainID.MatchString(all[i].id()) {
			err = misunderstood(errors.New("an account has no usable identifier"))
		}
		if err == nil && !known.once(all[i].id()) {
			err = misunderstood(errTwice)
		}
	}
	if err != nil {
		return nil, err
	}
	r.balances = append([]balance{}, all...)
	return r.balances, nil
}

func (r *reader) allDepots() ([]depot, error) {
	r.holders.Lock()
	defer r.holders.Unlock()
	if r.depots != nil {
		return r.depots, nil
	}
	all, err := collect[depot](r, pathDepots)
	known := identifiers{}
	for i := range all {
		if err == nil && !plainID.MatchString(all[i].ID) {
			err = misunderstood(errors.New("a depot has no usable identifier"))
		}
		if err == nil && !known.once(all[i].ID) {
			err = misunderstood(errTwice)
		}
	}
	if err != nil {
		return nil, err
	}
	r.depots = append([]depot{}, all...)
	return r.depots, nil
}
