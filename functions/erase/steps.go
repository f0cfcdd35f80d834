package erase

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"sluis.internal/shared/domain"
)

const (
	batchSize = 50          // documents deleted in one commit
	safetyNet = time.Minute // after which an event looks whether the erasure was finished
)

// request is one wish to erase.
type request struct {
	connection  *domain.Connection // as last seen
	scope       domain.ErasureScope
	cause       string
	actor       domain.Actor
	origin      string
	clientID    domain.ClientID     // what the consent must fit; empty for events
	investorRef string              // likewise
	hurries     bool                // an event, which comes again: it does not wait
	ends        domain.ConsentState // with EraseAll: what an open consent becomes; empty leaves it
}

func (r *request) credentials() bool { return r.scope != domain.EraseData }
func (r *request) data() bool        { return r.scope != domain.EraseCredentials }
func (r *request) all() bool         { return r.scope == domain.EraseAll }

// reason is what sessions and the connection say of it.
func (r *request) reason() domain.Reason {
	switch r.scope {
	case domain.EraseCredentials:
		return domain.ReasonCredentialsErased
	case domain.EraseData:
		return domain.ReasonDataErased
	}
	return domain.ReasonConsentEnded
}

// act begins the description of one step. Erasing only takes away, so it is allowed whatever became of the consent.
func (r *request) act(action string) domain.Act {
	return domain.Act{Action: action, Function: "erase", Actor: r.actor, Origin: r.origin,
		ConsentID: r.connection.ConsentID, ClientID: r.clientID, InvestorRef: r.investorRef,
		ConnectionID: r.connection.ID, Subject: string(r.connection.ID), States: domain.AnyConsentState, Late: true,
		Details: map[string]string{"scope": string(r.scope)}}
}

// underWay names the line that is kept while an erasure is going on: one for each connection and scope.
func underWay(id domain.ConnectionID, scope domain.ErasureScope) domain.ErasureID {
	sum := sha256.Sum256(domain.Name("sluis/erasure/v1", string(id), string(scope)))
	return domain.ErasureID("era_" + marks.EncodeToString(sum[:16]))
}

var marks = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// erase does all three steps and returns the certificate. A removed connection that was certified has nothing left
// and can get nothing more: its certificate is returned again.
func (s *Service) erase(ctx context.Context, r *request) (*domain.Erasure, error) {
	if r.all() && r.connection.State == domain.ConnectionRemoved {
		cert, err := s.newest(ctx, r)
		if err == nil || domain.KindOf(err) != domain.NotFound {
			return cert, err
		}
	}
	if err := s.begin(ctx, r); err != nil {
		return nil, err
	}
	s.forget(r.connection.ID)
	return s.await(ctx, r)
}

func (s *Service) forget(id domain.ConnectionID) {
	if s.Forget != nil {
		s.Forget(id)
	}
}

// newest finds the newest certificate of r's scope. Who asked for it must be allowed to, and that they asked is
// recorded; an event that comes twice is not.
func (s *Service) newest(ctx context.Context, r *request) (*domain.Erasure, error) {
	for cursor := ""; ; {
		found, next, err := s.certificates(ctx, r.connection.ID, cursor, batchSize)
		if err != nil {
			return nil, err
		}
		for i := range found {
			if found[i].Scope != r.scope {
				continue
			}
			if r.clientID == "" {
				return &found[i], nil
			}
			act := r.act("erasure.repeated")
			act.Subject = string(found[i].ID)
			return &found[i], domain.Perform(ctx, s.Env, s.Store, act, func(domain.Tx, *domain.Consent, *domain.Act) error { return nil })
		}
		if next == "" {
			return nil, domain.ErrNotFound
		}
		cursor = next
	}
}

// holdings is what the first commit reads before it destroys. What is not there is nil.
type holdings struct {
	line       *domain.Erasure
	connection *domain.Connection
	credential *domain.Credential
	key        *domain.DataKey
	sessions   []*domain.Session
	loose      []*domain.LooseShard // announced, but not taken: whoever wants to take one begins again
	counted    bool                 // the line counts the sessions already
}

// begin is the first step: one commit after which nothing that was to be erased can be read.
func (s *Service) begin(ctx context.Context, r *request) error {
	recent, err := every[domain.Session](ctx, s, "sessions_by_connection", r.connection.ID)
	if err != nil {
		return err
	}
	loose, err := every[domain.LooseShard](ctx, s, "loose_shards_by_connection", r.connection.ID)
	if err != nil {
		return err
	}
	return domain.Perform(ctx, s.Env, s.Store, r.act("erasure.begun"), func(tx domain.Tx, c *domain.Consent, a *domain.Act) error {
		h, err := s.hold(tx, r, recent)
		if err == nil {
			err = h.doom(tx, r, loose)
		}
		if err != nil {
			return err
		}
		for _, l := range h.loose {
			if err := tx.Put(l); err != nil {
				return err
			}
		}
		if err := s.destroy(tx, r, h); err != nil {
			return err
		}
		if err := s.cancel(tx, r, h); err != nil {
			return err
		}
		asked, err := s.endConsent(tx, r, c, h.connection, a)
		if err != nil {
			return err
		}
		tally(a, h.line.Erased)
		err = errors.Join(s.settle(tx, r, h.connection), tx.Put(h.connection), tx.Put(h.line))
		if err != nil || asked {
			return err
		}
		return tx.Emit(domain.Event{Topic: domain.TopicErasure, Subject: h.connection.Key(),
			Custodian: h.connection.Custodian, Lane: string(h.connection.ClientID), NotBefore: s.Env.Now().Add(safetyNet)})
	})
}

// hold reads what the connection holds. The line of an erasure that broke off is taken up again.
func (s *Service) hold(tx domain.Tx, r *request, recent []domain.Session) (h *holdings, err error) {
	id, now := r.connection.ID, s.Env.Now()
	h = &holdings{connection: &domain.Connection{ID: id}}
	if err := tx.Get(h.connection); err != nil {
		return nil, err
	}
	if h.line, err = domain.Maybe(tx, &domain.Erasure{ID: underWay(id, r.scope)}); err != nil {
		return nil, err
	}
	if h.counted = h.line != nil; h.line == nil {
		h.line = &domain.Erasure{ID: underWay(id, r.scope), ClientID: h.connection.ClientID, ConsentID: h.connection.ConsentID,
			ConnectionID: id, Scope: r.scope, Cause: r.cause, Actor: r.actor, Erased: map[string]int{}}
	}
	h.line.ErasedAt = now // until it is certified: the moment before which everything goes
	if h.credential, err = domain.Maybe(tx, &domain.Credential{ConnectionID: id}); err != nil {
		return nil, err
	}
	if h.key, err = domain.Maybe(tx, &domain.DataKey{ConnectionID: id}); err != nil {
		return nil, err
	}
	names := map[domain.SessionID]bool{h.connection.SessionID: h.connection.SessionID != ""}
	for i := range recent {
		open := !domain.SessionMoves.Final(recent[i].State) || len(recent[i].Sealed) > 0
		names[recent[i].ID] = open || names[recent[i].ID]
	}
	for name, wanted := range names {
		if !wanted {
			continue
		}
		session, err := domain.Maybe(tx, &domain.Session{ID: name})
		if err != nil {
			return nil, err
		}
		if session != nil {
			h.sessions = append(h.sessions, session)
		}
	}
	return h, nil
}

// doom reads the shards that were announced for what is erased, and has them destroyed.
func (h *holdings) doom(tx domain.Tx, r *request, loose []domain.LooseShard) error {
	for i := range loose {
		covered := r.data() && loose[i].Use == domain.ShardData || r.credentials() && loose[i].Use != domain.ShardData
		if loose[i].Doomed || !covered {
			continue
		}
		there, err := domain.Find(tx, &loose[i])
		if err != nil {
			return err
		}
		if there {
			loose[i].Doomed = true
			h.loose = append(h.loose, &loose[i])
		}
	}
	return nil
}

// endConsent ends an open consent where all is to be erased, as every other door does, and records that beside the
// erasure. It reports whether the ending has asked for the erasure, too.
func (s *Service) endConsent(tx domain.Tx, r *request, c *domain.Consent, conn *domain.Connection, a *domain.Act) (asked bool, err error) {
	if !r.all() || r.ends == "" || domain.ConsentMoves.Final(c.State) {
		return false, nil
	}
	to := r.ends
	if to == domain.ConsentRevoked {
		to = c.Withdrawn()
	}
	asked = c.State == domain.ConsentValid
	return asked, errors.Join(domain.EndConsent(s.Env, tx, c, conn, to), a.Also(s.Env, tx, c, "consent."+string(to), string(c.ID)))
}

// destroy deletes what opens the rest, and counts it.
func (s *Service) destroy(tx domain.Tx, r *request, h *holdings) error {
	if r.credentials() && h.credential != nil {
		if err := tx.Delete(h.credential); err != nil {
			return err
		}
		h.line.Erased[string(h.credential.Kind())]++
		b := h.credential.Binding()
		if err := errors.Join(domain.LoosenShard(s.Env, tx, b, domain.ShardCredential, h.credential.Shard, true),
			domain.LoosenShard(s.Env, tx, b, domain.ShardSession, h.credential.SessionShard, true)); err != nil {
			return err
		}
		h.credential = nil
	}
	if !r.data() {
		return nil
	}
	h.connection.PortfolioID, h.connection.Products = "", nil
	if h.key == nil {
		return nil
	}
	h.line.Erased[string(h.key.Kind())]++
	return errors.Join(tx.Delete(h.key), domain.LoosenShard(s.Env, tx, h.key.Binding(), domain.ShardData, h.key.Shard, true))
}

// cancel ends the sessions that are under way, and asks extraction to close those that a bank still has open. A login
// that this breaks off was maybe judged and maybe not: only a person's word tries it again.
func (s *Service) cancel(tx domain.Tx, r *request, h *holdings) error {
	now := s.Env.Now()
	for _, session := range h.sessions {
		if !domain.SessionMoves.Final(session.State) {
			if err := session.Move(domain.SessionCancelled, r.reason(), now); err != nil {
				return err
			}
			if err := tx.Put(session); err != nil {
				return err
			}
		} else if len(session.Sealed) == 0 {
			continue
		}
		if len(session.Sealed) > 0 && !h.counted {
			h.line.Erased[string(session.Kind())]++
		}
		if err := tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: session.Key(), Custodian: session.Custodian, Lane: session.Lane()}); err != nil {
			return err
		}
	}
	if h.credential != nil && h.credential.State == domain.CredentialTrying {
		if err := h.credential.Move(domain.CredentialUnconfirmed, now); err != nil {
			return err
		}
		return tx.Put(h.credential)
	}
	return nil
}

// settle brings the connection to the state that follows, and stops its schedule: what was erased does not come back
// by itself. It tells the client of a state that changed.
func (s *Service) settle(tx domain.Tx, r *request, conn *domain.Connection) error {
	now := s.Env.Now()
	to, notice := domain.ConnectionAwaiting, domain.NoticeConnectionAwaiting
	if r.scope == domain.EraseData {
		to, notice = domain.ConnectionPaused, domain.NoticeConnectionPaused
	}
	conn.UpdatedAt = now
	switch {
	case r.all() || conn.State == domain.ConnectionPending || conn.State == domain.ConnectionRemoved:
		return nil
	case r.scope == domain.EraseData && conn.State == domain.ConnectionAwaiting:
		return nil // it waits for credentials, as before
	case conn.State == to:
		conn.Reason = r.reason()
		return nil
	}
	if err := conn.Move(to, r.reason(), now); err != nil {
		return err
	}
	return domain.Tell(s.Env, tx, conn, notice, string(conn.SessionID))
}

// finish clears and certifies. If somebody else finishes first, it returns their certificate.
func (s *Service) finish(ctx context.Context, r *request) (*domain.Erasure, error) {
	for {
		line := &domain.Erasure{ID: underWay(r.connection.ID, r.scope)}
		err := s.Store.Get(ctx, line)
		if domain.KindOf(err) == domain.NotFound {
			return s.newest(ctx, r)
		}
		if err != nil {
			return nil, err
		}
		gone, err := s.destroyShards(ctx, r, line)
		if err != nil && !errors.Is(err, errMoved) {
			return nil, err
		}
		if gone > 0 || err != nil {
			continue
		}
		doomed, err := s.next(ctx, line)
		if err != nil {
			return nil, err
		}
		open, err := s.stillOpen(ctx, r, line)
		if err != nil {
			return nil, err
		}
		if len(doomed) > 0 {
			err = s.clear(ctx, r, line.ID, doomed)
		} else if open {
			return nil, errOpen
		} else if cert, failed := s.certify(ctx, r, line); failed == nil {
			return cert, nil
		} else {
			err = failed
		}
		if err != nil && !errors.Is(err, errMoved) {
			return nil, err
		}
	}
}

// errMoved says that another worker changed the line meanwhile.
var errMoved = errors.New("the erasure went on without us")

// doomed is a document to be deleted, and how to tell when it was made.
type doomed struct {
	doc  domain.Document
	made func() domain.Time
}

// next finds up to batchSize documents that must go. For credentials and data, only what is as old as the erasure.
func (s *Service) next(ctx context.Context, line *domain.Erasure) ([]doomed, error) {
	found, err := sift(ctx, s, line, "challenges_by_connection", func(c *domain.Challenge) domain.Time { return c.CreatedAt })
	if err != nil || len(found) > 0 || line.Scope == domain.EraseCredentials {
		return found, err
	}
	found, err = sift(ctx, s, line, "portfolios_by_connection", func(p *domain.Portfolio) domain.Time { return p.RetrievedAt })
	if err != nil || len(found) > 0 {
		return found, err
	}
	return sift(ctx, s, line, "parts_by_connection", func(p *domain.Part) domain.Time { return p.CreatedAt })
}

// sift goes through one index until it has found documents that must go.
func sift[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, s *Service, line *domain.Erasure, index string, made func(P) domain.Time) ([]doomed, error) {
	q := domain.Query{Index: index, Match: []string{string(line.ConnectionID)}, Limit: batchSize}
	for {
		page, next, err := domain.List[T, P](ctx, s.Store, q)
		if err != nil {
			return nil, err
		}
		var out []doomed
		for i := range page {
			doc := P(&page[i])
			if goes(line, made(doc)) {
				out = append(out, doomed{doc, func() domain.Time { return made(doc) }})
			}
		}
		if len(out) > 0 || next == "" {
			return out, nil
		}
		q.Cursor = next
	}
}

// goes says whether line covers a document of this age.
func goes(line *domain.Erasure, made domain.Time) bool {
	return line.Scope == domain.EraseAll || !made.After(line.ErasedAt)
}

// clear deletes one batch and counts it. Each document is read again: it may be gone, or written anew.
func (s *Service) clear(ctx context.Context, r *request, name domain.ErasureID, batch []doomed) error {
	return domain.Perform(ctx, s.Env, s.Store, r.act("erasure.continued"), func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		line := &domain.Erasure{ID: name}
		there, err := domain.Find(tx, line)
		if err != nil {
			return err
		}
		if !there {
			return errMoved
		}
		var now []domain.Document
		for _, d := range batch {
			there, err := domain.Find(tx, d.doc)
			if err != nil {
				return err
			}
			if there && goes(line, d.made()) {
				now = append(now, d.doc)
			}
		}
		counts := map[string]int{}
		for _, doc := range now {
			if err := tx.Delete(doc); err != nil {
				return err
			}
			counts[string(doc.Kind())]++
			line.Erased[string(doc.Kind())]++
		}
		tally(a, counts)
		return tx.Put(line)
	})
}

// certify replaces the line by the certificate and tells the client. The signature is made before the transaction,
// so the line must be as it was seen.
func (s *Service) certify(ctx context.Context, r *request, line *domain.Erasure) (*domain.Erasure, error) {
	cert := *line
	cert.ID, cert.ErasedAt = domain.NewID[domain.ErasureID](s.Env), s.Env.Now()
	if s.Copies.Backups > 0 {
		cert.BackupsUntil = cert.ErasedAt.Add(s.Copies.Backups)
	}
	if readable := max(s.Copies.Shards, s.Copies.Memory); readable > 0 {
		cert.ReadableUntil = cert.ErasedAt.Add(readable)
	}
	if err := s.sign(ctx, &cert); err != nil {
		return nil, err
	}
	act := r.act("erasure.completed")
	act.Subject = string(cert.ID)
	err := domain.Perform(ctx, s.Env, s.Store, act, func(tx domain.Tx, _ *domain.Consent, a *domain.Act) error {
		fresh := &domain.Erasure{ID: line.ID}
		there, err := domain.Find(tx, fresh)
		if err != nil {
			return err
		}
		conn := &domain.Connection{ID: r.connection.ID}
		if err := tx.Get(conn); err != nil {
			return err
		}
		if !there || !fresh.ErasedAt.Equal(line.ErasedAt.Time) || !maps.Equal(fresh.Erased, line.Erased) {
			return errMoved
		}
		tally(a, cert.Erased)
		conn.UpdatedAt = s.Env.Now()
		return errors.Join(tx.Delete(fresh), tx.Put(&cert),
			domain.Tell(s.Env, tx, conn, domain.NoticeErasureCompleted, string(cert.ID)), tx.Put(conn))
	})
	if err != nil {
		return nil, fmt.Errorf("certifying erasure: %w", err)
	}
	return &cert, nil
}

// tally writes counts into the audit entry.
func tally(a *domain.Act, counts map[string]int) {
	for kind, n := range counts {
		a.Details["erased_"+kind] = strconv.Itoa(n)
	}
}
