package portfolio

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// maxParts bounds how many parts one page opens, and so its memory. A page that would need more is short.
const maxParts = 8

// recordPage is a page of one product's records. An empty list never hides a failure: Status says what it means.
type recordPage struct {
	Version versionView     `json:"version"`
	Status  productView     `json:"status"`
	Data    []domain.Record `json:"data"`
	Next    string          `json:"next,omitempty"`
}

// position is where a page begins: within one version's parts of one product.
type position struct {
	portfolio    domain.PortfolioID
	part, offset int
}

// cursor is the position as clients carry it from page to page.
func (p position) cursor(product domain.Product) string {
	text := fmt.Sprintf("%s|%s|%d|%d", product, p.portfolio, p.part, p.offset)
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

var errCursor = &domain.Error{Kind: domain.Invalid, Code: "invalid_field", Field: "cursor",
	Message: "use the cursor of the page before, unchanged, with the same connection and product"}

func parseCursor(cursor string, product domain.Product) (position, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	fields := strings.Split(string(raw), "|")
	if err != nil || len(fields) != 4 || fields[0] != string(product) {
		return position{}, errCursor
	}
	id, err := domain.ParseID[domain.PortfolioID](fields[1])
	if err != nil {
		return position{}, errCursor
	}
	part, err1 := strconv.Atoi(fields[2])
	offset, err2 := strconv.Atoi(fields[3])
	if err1 != nil || err2 != nil || part < 0 || offset < 0 {
		return position{}, errCursor
	}
	return position{id, part, offset}, nil
}

// wanted reads the parameters of a page: product, and where to begin.
func (s *Service) wanted(ctx context.Context, c *serve.Call, conn *domain.Connection) (domain.Product, position, int, error) {
	product := domain.Product(c.Request.PathValue("product"))
	if !slices.Contains(domain.Products, product) {
		return "", position{}, 0, domain.Invalidf("product", "want one of %q", domain.Products)
	}
	limit, cursor := c.Paging()
	name := c.Param("version")
	if cursor == "" {
		id, err := s.pick(ctx, conn, name)
		return product, position{portfolio: id}, limit, err
	}
	if name != "" {
		return "", position{}, 0, domain.Invalidf("version", "a cursor names its version already; leave this out")
	}
	at, err := parseCursor(cursor, product)
	return product, at, limit, err
}

// getRecords gives a page of one product's records.
func (s *Service) getRecords(ctx context.Context, c *serve.Call) (serve.Answer, error) {
	conn, err := s.Door.Connection(ctx, c)
	if err != nil {
		return serve.Answer{}, err
	}
	product, at, limit, err := s.wanted(ctx, c, conn)
	if err != nil {
		return serve.Answer{}, err
	}
	act := s.act(c, conn, "portfolio.read")
	act.Product = product
	act.Details["product"] = string(product)
	var v version
	var slices []slice
	var next position
	err = s.perform(ctx, c, act, func(tx domain.Tx, _ *domain.Consent, a *domain.Act) (err error) {
		if v, err = s.load(tx, conn.ID, at.portfolio, a); err != nil {
			return err
		}
		from := position{v.portfolio.ID, at.part, at.offset}
		slices, next, err = cut(tx, v.portfolio.Products[product].Parts, from, limit)
		a.Details["count"] = strconv.Itoa(count(slices))
		return err
	})
	if err != nil {
		return serve.Answer{}, err
	}
	page := recordPage{Version: viewVersion(v.portfolio), Status: statusOf(v.portfolio, product)}
	if page.Data, err = s.open(ctx, &v, product, slices); err != nil {
		return serve.Answer{}, err
	}
	if next.portfolio != "" {
		page.Next = next.cursor(product)
	}
	return serve.Answer{Body: page, Tagged: true}, nil
}

// statusOf is the product's state in this version. One that the custodian has not, or that was consented to after
// the reading, has no line in the manifest: nothing was read of it.
func statusOf(p *domain.Portfolio, product domain.Product) productView {
	if status, ok := p.Products[product]; ok {
		return viewProduct(status)
	}
	return productView{State: domain.ProductEmpty, Saved: true}
}

// slice is a run of records of one part.
type slice struct {
	part     *domain.Part
	from, to int
}

func count(slices []slice) (n int) {
	for _, s := range slices {
		n += s.to - s.from
	}
	return n
}

// cut finds the up to limit records that begin at from, and where the page after begins; its portfolio is empty at
// the end.
func cut(tx domain.Tx, parts []string, from position, limit int) (out []slice, next position, err error) {
	if from.part > 0 && len(parts) == 0 {
		return nil, position{}, errGone // let go since the page before
	}
	if from.part > len(parts) || from.part == len(parts) && from.offset > 0 {
		return nil, position{}, errCursor
	}
	at := from
	for at.part < len(parts) && limit > 0 && len(out) < maxParts {
		part := &domain.Part{ID: parts[at.part]}
		there, err := domain.Find(tx, part)
		if err != nil {
			return nil, position{}, err
		}
		if !there {
			return nil, position{}, errGone
		}
		if at.offset > part.Count {
			return nil, position{}, errCursor
		}
		to := min(part.Count, at.offset+limit)
		out = append(out, slice{part, at.offset, to})
		limit -= to - at.offset
		at.offset = to
		if to == part.Count {
			at.part, at.offset = at.part+1, 0
		}
	}
	if at.part == len(parts) {
		return out, position{}, nil
	}
	return out, at, nil
}

// open decrypts the slices and reads their records, with their provenance filled in.
func (s *Service) open(ctx context.Context, v *version, product domain.Product, slices []slice) ([]domain.Record, error) {
	records := make([]domain.Record, 0, count(slices))
	for _, sl := range slices {
		plain, err := domain.In(ctx, s.Opener).Open(v.key, string(product), sl.part.ID, sl.part.Sealed)
		if err != nil {
			return nil, err
		}
		records, err = decode(records, plain, product, sl)
		clear(plain)
		if err != nil {
			return nil, err
		}
	}
	for _, r := range records {
		origin := r.Origin()
		origin.Source, origin.RetrievedAt, origin.ConsentID = v.portfolio.Custodian, v.portfolio.RetrievedAt, v.portfolio.ConsentID
	}
	return records, nil
}

// decode appends those lines of plain that sl wants.
func decode(records []domain.Record, plain []byte, product domain.Product, sl slice) ([]domain.Record, error) {
	line := 0
	for text := range bytes.Lines(plain) {
		if line >= sl.from && line < sl.to {
			r := newRecord(product)
			if err := json.Unmarshal(text, r); err != nil {
				return nil, fmt.Errorf("reading record %d of a part of %s: %w", line, product, err)
			}
			records = append(records, r)
		}
		line++
	}
	if line != sl.part.Count {
		return nil, fmt.Errorf("reading part of %s: it has %d records instead of %d", product, line, sl.part.Count)
	}
	return records, nil
}

func newRecord(product domain.Product) domain.Record {
	switch product {
	case domain.ProductAccounts:
		return &domain.Account{}
	case domain.ProductCash:
		return &domain.CashBalance{}
	case domain.ProductPositions:
		return &domain.Position{}
	case domain.ProductTransactions:
		return &domain.Transaction{}
	case domain.ProductOrders:
		return &domain.Order{}
	default:
		return &domain.Liability{}
	}
}
