package main

import (
	"context"
	"fmt"
	"strings"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/domain"
)

type accessCommands struct {
	List    accessList    `cmd:"" help:"List the logins at one custodian at which something stands."`
	Release accessRelease `cmd:"" help:"Let a login be tried again, once the investor has mended it at the bank."`
}

type accessList struct {
	Custodian string `arg:"" help:"As custodians.json names it."`
}

// Run lists the accesses that rest, wait, or have tries standing.
func (c accessList) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		var standing []domain.BankAccess
		q := domain.Query{Index: "bank_accesses", Match: []string{c.Custodian}, Limit: 1000}
		for {
			page, next, err := domain.List[domain.BankAccess](ctx, b, q)
			if err != nil {
				return err
			}
			for i := range page {
				if a := &page[i]; a.Resting(&a.Rules, b.Env.Now()) || len(a.Tries) > 0 || a.Person != "" || a.Failures > 0 {
					standing = append(standing, *a)
				}
			}
			if q.Cursor = next; next == "" {
				break
			}
		}
		return table("ACCESS\tRESTS\tLOGINS\tCODES\tCHALLENGES\tWANTS\tNOT BEFORE", len(standing), func(i int) string {
			a := &standing[i]
			return fmt.Sprintf("%s\t%v\t%d\t%d\t%d\t%s\t%s", a.ID, a.Resting(&a.Rules, b.Env.Now()), a.Count(domain.CountLogin),
				a.Count(domain.CountCode), a.Count(domain.CountChallenge), a.Person, a.NextAt)
		})
	})
}

type accessRelease struct {
	Of  string `arg:"" help:"acs_…, or the conn_… that used it."`
	Why string `required:"" help:"What the investor did at the bank; stands in the log."`
}

// Run forgets what stands at the access, and records who said so and why.
func (c accessRelease) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		key, err := accessOf(ctx, b, c.Of)
		if err != nil {
			return err
		}
		a := &domain.BankAccess{ID: key}
		err = b.Commit(ctx, func(tx domain.Tx) error {
			if err := tx.Get(a); err != nil {
				return err
			}
			entry := domain.Note(b.Env, "sluis", "access.released", domain.Actor{Kind: domain.ActorOperator, ID: "cli"}, "", string(key),
				map[string]string{"why": c.Why, "logins": a.Standing(domain.CountLogin), "codes": a.Standing(domain.CountCode),
					"challenges": a.Standing(domain.CountChallenge)})
			entry.Data.Custodian = a.Custodian
			a.Release(b.Env.Now())
			if err := tx.Put(a); err != nil {
				return err
			}
			return tx.Record(entry)
		})
		if err != nil {
			return fmt.Errorf("releasing %s: %w", c.Of, err)
		}
		fmt.Println("released", key)
		return nil
	})
}

// accessOf is the access that is meant.
func accessOf(ctx context.Context, b *home.Backend, of string) (domain.AccessKey, error) {
	if strings.HasPrefix(of, "acs_") {
		return domain.AccessKey(of), nil
	}
	id, err := domain.ParseID[domain.ConnectionID](of)
	if err != nil {
		return "", err
	}
	conn := &domain.Connection{ID: id}
	if err := b.Get(ctx, conn); err != nil {
		return "", fmt.Errorf("reading %s: %w", of, err)
	}
	if conn.AccessKey == "" {
		return "", fmt.Errorf("%s has not logged in yet: nothing stands at its access", of)
	}
	return conn.AccessKey, nil
}
