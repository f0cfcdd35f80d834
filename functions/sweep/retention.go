package sweep

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"sluis.internal/shared/domain"
)

// mortal lists the kinds of documents that end by themselves: how to read a page of them, and when each ends.
var mortal = map[domain.DocumentKind]pager{
	"link":        lives(func(d *domain.Link) domain.Time { return d.ExpiresAt }),
	"visit":       lives(func(d *domain.Visit) domain.Time { return d.ExpiresAt }),
	"session":     lives(func(d *domain.Session) domain.Time { return d.ExpiresAt }),
	"challenge":   lives(func(d *domain.Challenge) domain.Time { return d.ExpiresAt }),
	"notice":      lives(func(d *domain.Notice) domain.Time { return d.ExpiresAt }),
	"delivery":    lives(func(d *domain.Delivery) domain.Time { return d.ExpiresAt }),
	"bank_access": lives(func(d *domain.BankAccess) domain.Time { return d.ExpiresAt }),
	"pace":        lives(func(d *domain.Pace) domain.Time { return d.ExpiresAt }),
	"once":        lives(func(d *domain.Once) domain.Time { return d.ExpiresAt }),
}

// pager reads a page of documents.
type pager func(context.Context, domain.Store, domain.Query) (docs []life, next string, err error)

// life is a document that ends by itself.
type life struct {
	doc  domain.Document
	ends func() domain.Time // of doc as last read
}

func lives[T any, P interface {
	*T
	domain.Document
}](ends func(P) domain.Time) pager {
	return func(ctx context.Context, s domain.Store, q domain.Query) ([]life, string, error) {
		page, next, err := domain.List[T, P](ctx, s, q)
		docs := make([]life, len(page))
		for i := range page {
			doc := P(&page[i])
			docs[i] = life{doc, func() domain.Time { return ends(doc) }}
		}
		return docs, next, err
	}
}

// delete ends the lives of one kind, batch by batch. Firestore does the same by itself, within a day.
func (s *Service) delete(ctx context.Context, ix domain.Index, r *Report) error {
	read, known := mortal[ix.Of]
	if !known {
		return fmt.Errorf("ending lives of %s: sweep does not know this kind", ix.Of)
	}
	q := domain.Query{Index: ix.Name, To: s.upTo(), Limit: batchSize}
	for range maxBatches {
		page, next, err := read(ctx, s.Store, q)
		if err != nil || len(page) == 0 {
			return err
		}
		n, err := s.deleteBatch(ctx, ix, page)
		if err != nil {
			return err
		}
		if n > 0 {
			r.Deleted[ix.Of] += n
		}
		if next == "" {
			return nil
		}
		q.Cursor = next
	}
	r.More = true
	return nil
}

// deleteBatch deletes what has still ended within the transaction: a replay prolongs a delivery, for example.
func (s *Service) deleteBatch(ctx context.Context, ix domain.Index, page []life) (n int, err error) {
	err = s.Store.Commit(ctx, func(tx domain.Tx) error {
		ended, now := []domain.Document(nil), s.Env.Now()
		for _, d := range page {
			there, err := domain.Find(tx, d.doc)
			if err != nil {
				return err
			}
			if there && !now.Before(d.ends()) {
				ended = append(ended, d.doc)
			}
		}
		if n = len(ended); n == 0 {
			return errNothing
		}
		for _, doc := range ended {
			if err := tx.Delete(doc); err != nil {
				return err
			}
		}
		return tx.Record(domain.Note(s.Env, "sweep", "retention.applied", actor, "", string(ix.Of),
			map[string]string{"kind": string(ix.Of), "count": strconv.Itoa(n)}))
	})
	if errors.Is(err, errNothing) {
		return 0, nil
	}
	return n, err
}

// errNothing aborts a transaction in which nothing was to be done after all.
var errNothing = errors.New("nothing to do")
