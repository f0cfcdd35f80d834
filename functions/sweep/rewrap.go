package sweep

import (
	"context"
	"errors"
	"strconv"

	"sluis.internal/shared/domain"
)

// renewBatch is how many documents are looked at in one commit.
const renewBatch = 100

// rewrap asks those who hold the keys to look after what is kept for long: what an older version of a key closed, they
// close anew, so that the older one can be disabled. Whether there is anything to do, only they can see.
func (s *Service) rewrap(ctx context.Context, r *Report) error {
	n, err := s.Rewrap(ctx, s.Env.Now())
	r.Looked += n
	r.More = r.More || n >= renewBatch*maxBatches
	return err
}

// Rewrap is this part of a sweep, for all that is to be looked at before a certain time, and says how much that was. An
// operator who cannot wait calls it with a time to come.
func (s *Service) Rewrap(ctx context.Context, until domain.Time) (int, error) {
	keys, err := look[domain.DataKey](ctx, s, "data_keys_due", until)
	endpoints, other := look[domain.Endpoint](ctx, s, "endpoints_due", until)
	return keys + endpoints, errors.Join(err, other)
}

// look asks for the documents of an index. That it was asked, and the event, are one commit.
func look[T any, P interface {
	*T
	domain.Aging
}](ctx context.Context, s *Service, index string, until domain.Time) (n int, err error) {
	for range maxBatches {
		found, next, err := domain.List[T, P](ctx, s.Store, domain.Query{Index: index, To: until.String(), Limit: renewBatch})
		if err != nil || len(found) == 0 {
			return n, err
		}
		asked := 0
		err = s.Store.Commit(ctx, func(tx domain.Tx) error {
			var due []P
			var events []domain.Event
			for i := range found {
				doc := P(&found[i])
				there, err := domain.Find(tx, doc)
				if err != nil {
					return err
				}
				if is, e := doc.Look(until, s.Env.Now().Add(domain.RewrapEvery)); there && is {
					due, events = append(due, doc), append(events, e)
				}
			}
			if asked = len(due); asked == 0 {
				return nil
			}
			for i, doc := range due {
				if err := errors.Join(tx.Put(doc), tx.Emit(events[i])); err != nil {
					return err
				}
			}
			return tx.Record(domain.Note(s.Env, "sweep", "rewrap.asked", actor, "", string(due[0].Kind()), map[string]string{"count": strconv.Itoa(asked)}))
		})
		if n += asked; err != nil || next == "" || asked == 0 {
			return n, err
		}
	}
	return n, nil
}
