package consent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sluis.internal/shared/domain"
)

// Terms are what a client's contract says.
type Terms struct {
	Saving        map[domain.Product]domain.Saving // what may be kept, per product; missing means latest
	Regions       []string                         // where data may be kept; empty means anywhere
	ReturnOrigins []string                         // scheme://host[:port]; http only for this machine
	Logo          []byte                           // PNG or JPEG, up to 64 kB and 512 pixels a side; empty for none
}

// operatorNote begins the audit entry of an operator's command.
func operatorNote(env domain.Env, action string, client domain.ClientID, subject string) *domain.Entry {
	return domain.Note(env, "sluis", action, domain.Actor{Kind: domain.ActorOperator, ID: "operator"}, client, subject, map[string]string{})
}

// AddClient adds a client. It fails with Invalid, whose Field names the term at fault.
func AddClient(ctx context.Context, store domain.Store, env domain.Env, name string, terms Terms) (*domain.Client, error) {
	if err := checkName("/name", name); err != nil {
		return nil, err
	}
	if err := terms.validate(); err != nil {
		return nil, err
	}
	var logo *domain.Logo
	var picture domain.Picture
	if len(terms.Logo) > 0 {
		var err error
		if logo, picture, err = drawLogo(terms.Logo); err != nil {
			return nil, err
		}
	}
	now := env.Now()
	c := &domain.Client{ID: domain.NewID[domain.ClientID](env), Name: name, State: domain.ClientActive,
		Saving: terms.Saving, Regions: terms.Regions, ReturnOrigins: terms.ReturnOrigins, CreatedAt: now, UpdatedAt: now}
	if c.Saving == nil {
		c.Saving = map[domain.Product]domain.Saving{}
	}
	err := settle(ctx, env, store, operatorNote(env, "client.created", c.ID, c.Key()), func(tx domain.Tx) error {
		return errors.Join(putLogo(tx, c, logo, picture, false, now), tx.Put(c))
	})
	if err != nil {
		return nil, fmt.Errorf("adding client: %w", err)
	}
	return c, nil
}

func (t *Terms) validate() error {
	for p, saving := range t.Saving {
		if !slices.Contains(domain.Products, p) {
			return domain.Invalidf("/saving", "want products of %q", domain.Products)
		}
		if err := saving.Validate("/saving/" + string(p)); err != nil {
			return err
		}
	}
	for i, region := range t.Regions {
		if region == "" || len(region) > 40 || strings.Trim(region, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return domain.Invalidf("/regions/"+strconv.Itoa(i), "want a region such as europe-west4, or local")
		}
	}
	for i, origin := range t.ReturnOrigins {
		if !webOrigin(origin) {
			return domain.Invalidf("/return_origins/"+strconv.Itoa(i), "want https://host or https://host:port and nothing after it; http only for this machine")
		}
	}
	return nil
}

// webOrigin says whether text is a web origin as browsers write it (RFC 6454, section 6.2), over https or on this
// machine.
func webOrigin(text string) bool {
	u, err := url.Parse(text)
	if err != nil || len(text) > 300 || u.Host == "" || text != strings.ToLower(u.Scheme+"://"+u.Host) {
		return false
	}
	local := u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && local
}

// IssueKey makes a key for a client, and the token to show once. A client's first key of the role client may administer
// keys, whatever the terms say: somebody has to.
func IssueKey(ctx context.Context, store domain.Store, env domain.Env, client domain.ClientID, terms KeyTerms) (*domain.APIKey, domain.Secret, error) {
	var faults domain.Faults
	if terms.validate(&faults); faults.Len() > 0 {
		return nil, domain.Secret{}, faults.Err()
	}
	all, err := ListKeys(ctx, store, client)
	if err != nil {
		return nil, domain.Secret{}, err
	}
	first := !slices.ContainsFunc(all, func(k domain.APIKey) bool { return k.Role == domain.RoleClient })
	terms.Admin = terms.Admin || first && terms.Role == domain.RoleClient
	k, token := terms.make(env, client)
	e := operatorNote(env, "key.created", client, k.Key())
	describeKey(e.Data.Details, k)
	err = settle(ctx, env, store, e, func(tx domain.Tx) error {
		c := &domain.Client{ID: client}
		if err := tx.Get(c); err != nil {
			return err
		}
		if c.State == domain.ClientClosed {
			return &domain.Error{Kind: domain.Conflict, Code: "client_closed", Message: "this client is closed; it gets no keys"}
		}
		if err := room(all, env.Now(), false); err != nil {
			return err
		}
		return addKey(tx, k)
	})
	if err != nil {
		token.Wipe()
		return nil, domain.Secret{}, fmt.Errorf("issuing key: %w", err)
	}
	return k, token, nil
}

// RevokeKey ends a key of whichever client, and with line every key of its line. Revoking again changes nothing.
func RevokeKey(ctx context.Context, store domain.Store, env domain.Env, id domain.KeyID, line bool) error {
	e := operatorNote(env, "key.revoked", "", string(id))
	err := settle(ctx, env, store, e, func(tx domain.Tx) error { return endKey(tx, e, id, "", line, env.Now()) })
	if err != nil {
		return fmt.Errorf("revoking key: %w", err)
	}
	return nil
}

// ListClients lists every client, oldest first.
func ListClients(ctx context.Context, store domain.Store) ([]domain.Client, error) {
	return every[domain.Client](ctx, store, "clients")
}

// ListKeys lists a client's keys, oldest first, revoked ones too.
func ListKeys(ctx context.Context, store domain.Store, client domain.ClientID) ([]domain.APIKey, error) {
	return every[domain.APIKey](ctx, store, "keys_by_client", string(client))
}

// every reads all pages of an index.
func every[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, store domain.Store, index string, match ...string) ([]T, error) {
	all, q := []T{}, domain.Query{Index: index, Match: match, Limit: 1000}
	for {
		docs, next, err := domain.List[T, P](ctx, store, q)
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", index, err)
		}
		all = append(all, docs...)
		if next == "" {
			return all, nil
		}
		q.Cursor = next
	}
}
