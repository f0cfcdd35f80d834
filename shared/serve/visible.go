package serve

import (
	"context"

	"sluis.internal/shared/domain"
)

// Bounds of looking for what an advisor may see: so many documents in one query, so many in one call.
const (
	scanBatch = 200
	maxScan   = 1000
)

// Visible lists a page of q for a principal. An advisor gets only what sees lets through, and the page shows nothing of
// the rest: it is full as long as there is enough, and its cursor stands at a document that is on it, and only if there
// is another one that may be seen. Where more than maxScan documents in a row have to be looked through, a page may be
// short, or even empty, although more follows.
func Visible[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, s domain.Store, q domain.Query, p domain.Principal, sees func(*T) (bool, error)) (page []T, next string, err error) {
	if p.Role != domain.RoleAdvisor {
		return domain.List[T, P](ctx, s, q)
	}
	limit, full := q.Limit, domain.Query{} // full is the query that ends with the page's last document
	for scanned := 0; scanned < maxScan; {
		q.Limit = scanBatch
		found, next, err := domain.List[T, P](ctx, s, q)
		if err != nil {
			return nil, "", err
		}
		for i := range found {
			switch seen, err := sees(&found[i]); {
			case err != nil:
				return nil, "", err
			case !seen:
				continue
			case len(page) == limit:
				return cursorAt[T, P](ctx, s, full, page)
			}
			if page = append(page, found[i]); len(page) == limit {
				full = q
				full.Limit = i + 1
			}
		}
		if next == "" {
			return page, "", nil
		}
		scanned += len(found)
		q.Cursor = next
	}
	if len(page) == limit {
		return cursorAt[T, P](ctx, s, full, page)
	}
	return page, q.Cursor, nil
}

// cursorAt is page with the cursor that q ends with.
func cursorAt[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, s domain.Store, q domain.Query, page []T) ([]T, string, error) {
	_, next, err := domain.List[T, P](ctx, s, q)
	return page, next, err
}
