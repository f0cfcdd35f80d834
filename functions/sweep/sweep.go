// Package sweep is the clock: what happens because time has passed, and not because somebody asked.
//
//	refreshes  connections whose next reading is due get a session, if their consent still allows it
//	expiry     consents whose time is over are ended, the client is told, and what they gave is erased
//	retention  documents whose life is over are deleted, and so are portfolio versions beyond the saving scope,
//	           with the parts that no remaining version needs
//	shards     those that nothing needs are destroyed
//	keys       what is kept for long is looked at by those who hold its key, whether an older version of it closed it
//
// One [Service.Sweep] does a bounded amount of each and says whether more is left. It holds no lock and needs none:
// everything is decided again within each transaction, so two sweeps at once, or one that died half-way, do no harm.
// An item that fails is reported and left for the next sweep; it does not hold up the others.
//
// Sessions that wait for an SCA answer are ended by extraction, by an event of its own.
package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"sluis.internal/shared/domain"
)

// Service sweeps. Store, Env and Lives must be set.
type Service struct {
	Store domain.Store
	Env   domain.Env
	Lives []domain.Index // by which documents are found whose expires_at is over
	Every time.Duration  // between two sweeps; 0 means a minute
	Pace  time.Duration  // between the beginnings of two refreshes; 0 means 250 ms
	Log   *slog.Logger   // nil means slog.Default
}

// Report says what one sweep did.
type Report struct {
	Refreshes int                         // sessions queued
	Stopped   int                         // schedules that ended, as the consent no longer allows them
	Expired   int                         // consents
	Loose     int                         // shards that nothing needs, and that are to be destroyed
	Looked    int                         // documents whose keys' versions are to be looked at
	Deleted   map[domain.DocumentKind]int // documents
	More      bool                        // a bound was reached: sweep again soon
}

// any says whether anything was done.
func (r *Report) any() bool {
	return r.Refreshes+r.Stopped+r.Expired+r.Looked+r.Loose+len(r.Deleted) > 0
}

// Bounds of one sweep.
const (
	batchSize   = 200  // documents deleted in one commit
	maxLooked   = 1000 // connections whose reading is due
	maxExpiries = 200
	maxBatches  = 20 // of each kind
	maxVersions = 200
)

// Sweep does what is due. It goes on after a failure, and returns all failures together with what was done.
func (s *Service) Sweep(ctx context.Context) (Report, error) {
	r := Report{Deleted: map[domain.DocumentKind]int{}}
	var err error
	part := func(do func(context.Context, *Report) error) {
		err = errors.Join(err, domain.Recovered(func() error { return do(ctx, &r) }))
	}
	part(s.expire)
	part(s.refresh)
	part(s.retire)
	part(s.rewrap)
	part(s.loosen)
	for _, life := range s.Lives {
		part(func(ctx context.Context, r *Report) error { return s.delete(ctx, life, r) })
	}
	if err != nil {
		err = fmt.Errorf("sweeping: %w", err)
	}
	return r, err
}

// Run sweeps about once every so often until ctx ends: with jitter, so that processes started together do not stay
// in step, and at once again while more is left than a sweep may do. Refreshes wait for their next turn.
func (s *Service) Run(ctx context.Context) {
	every := cmp.Or(s.Every, usualEvery)
	for {
		r, err := s.Sweep(ctx)
		if err != nil && ctx.Err() == nil {
			s.log().ErrorContext(ctx, "sweep failed", "error", err)
		}
		wait := every*4/5 + rand.N(every*2/5+1)
		if r.More && r.any() && err == nil {
			wait = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (s *Service) log() *slog.Logger {
	if s.Log == nil {
		return slog.Default()
	}
	return s.Log
}

var actor = domain.Actor{Kind: domain.ActorSystem, ID: "sweep"}

// act begins the description of an act on a connection.
func act(action string, client domain.ClientID, consent domain.ConsentID, conn domain.ConnectionID) domain.Act {
	return domain.Act{Action: action, Function: "sweep", Actor: actor, ClientID: client, ConsentID: consent,
		ConnectionID: conn, Subject: string(conn), Details: map[string]string{}}
}

// upTo is the exclusive bound that covers the present moment.
func (s *Service) upTo() string { return s.Env.Now().Add(time.Millisecond).String() }
