package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"

	"sluis.internal/functions/consent"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/domain"
)

type clientCommands struct {
	Add  clientAdd  `cmd:"" help:"Add a client and issue its first key."`
	List clientList `cmd:"" help:"List clients."`
}

type clientAdd struct {
	Name    string   `arg:"" help:"Shown to investors."`
	Returns []string `name:"return-origin" help:"Origin that investors may be sent back to, for example https://app.example."`
	Saving  []string `help:"What may be kept, as product=none, product=latest or product=history:DAYS." placeholder:"PRODUCT=SCOPE"`
	Region  []string `help:"Where data may be kept; anywhere if left out."`
}

// Run adds the client and prints its first key, once.
func (c clientAdd) Run(ctx context.Context, o *options) error {
	saving, err := parseSaving(c.Saving)
	if err != nil {
		return err
	}
	return withStore(ctx, o, func(b *home.Backend) error {
		client, err := consent.AddClient(ctx, b, b.Env, c.Name, consent.Terms{Saving: saving, Regions: c.Region, ReturnOrigins: c.Returns})
		if err != nil {
			return err
		}
		fmt.Println("client", client.ID)
		return issue(ctx, b, client.ID, domain.RoleClient, "", "first key")
	})
}

var savingShape = regexp.MustCompile(`^([a-z]+)=(?:(none|latest)|(history):([1-9][0-9]{0,3}))$`)

// parseSaving reads what may be kept of each product. What it does not know, AddClient refuses.
func parseSaving(pairs []string) (map[domain.Product]domain.Saving, error) {
	out := map[domain.Product]domain.Saving{}
	for _, pair := range pairs {
		words := savingShape.FindStringSubmatch(pair)
		if words == nil {
			return nil, fmt.Errorf("--saving %s: want product=none, product=latest or product=history:DAYS", pair)
		}
		product, s := domain.Product(words[1]), domain.Saving{Scope: domain.SavingScope(words[2] + words[3])}
		if _, twice := out[product]; twice {
			return nil, fmt.Errorf("--saving %s: %s stands there already", pair, product)
		}
		if words[4] != "" {
			var err error
			if s.Days, err = strconv.Atoi(words[4]); err != nil {
				return nil, fmt.Errorf("--saving %s: %w", pair, err)
			}
		}
		out[product] = s
	}
	return out, nil
}

type clientList struct{}

func (clientList) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		clients, err := consent.ListClients(ctx, b)
		if err != nil {
			return err
		}
		return table("ID\tNAME\tSTATE\tADDED", len(clients), func(i int) string {
			c := clients[i]
			return fmt.Sprintf("%s\t%s\t%s\t%s", c.ID, c.Name, c.State, c.CreatedAt)
		})
	})
}

type keyCommands struct {
	Issue  keyIssue  `cmd:"" help:"Issue a key; its token is shown once."`
	List   keyList   `cmd:"" help:"List a client's keys."`
	Revoke keyRevoke `cmd:"" help:"Revoke a key at once."`
}

type keyIssue struct {
	Client  string `arg:"" help:"cli_…"`
	Role    string `help:"client, advisor or reviewer." default:"client" enum:"client,advisor,reviewer"`
	Advisor string `help:"adv_…, with the role advisor."`
	Label   string `help:"A note to tell keys apart."`
}

func (c keyIssue) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		return issue(ctx, b, domain.ClientID(c.Client), domain.Role(c.Role), domain.AdvisorID(c.Advisor), c.Label)
	})
}

func issue(ctx context.Context, b *home.Backend, client domain.ClientID, role domain.Role, advisor domain.AdvisorID, label string) error {
	key, token, err := consent.IssueKey(ctx, b, b.Env, client, role, advisor, label)
	if err != nil {
		return err
	}
	defer token.Wipe()
	fmt.Printf("key %s (%s)\ntoken %s\nThe token is shown this once; keep it where secrets are kept.\n", key.ID, key.Role, token.Reveal())
	return nil
}

type keyList struct {
	Client string `arg:"" help:"cli_…"`
}

func (c keyList) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		keys, err := consent.ListKeys(ctx, b, domain.ClientID(c.Client))
		if err != nil {
			return err
		}
		return table("ID\tROLE\tSTATE\tLABEL\tISSUED\tEXPIRES", len(keys), func(i int) string {
			k := keys[i]
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", k.ID, k.Role, k.State, k.Label, k.CreatedAt, k.ExpiresAt)
		})
	})
}

type keyRevoke struct {
	Key string `arg:"" help:"key_…"`
}

func (c keyRevoke) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		return consent.RevokeKey(ctx, b, b.Env, domain.KeyID(c.Key))
	})
}

type deadLetterCommands struct {
	List    deadLetterList    `cmd:"" help:"List them, newest first."`
	Redrive deadLetterRedrive `cmd:"" help:"Put them back on their topics."`
}

type deadLetterList struct {
	Limit int  `help:"At most so many." default:"100"`
	JSON  bool `name:"json" help:"One JSON object a line."`
}

func (c deadLetterList) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		letters, err := b.DeadLetters(ctx, c.Limit)
		if err != nil {
			return err
		}
		if c.JSON {
			return jsonLines(os.Stdout, letters)
		}
		return table("EVENT\tTOPIC\tSUBJECT\tREASON\tGIVEN UP", len(letters), func(i int) string {
			l := letters[i]
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", l.Event.ID, l.Event.Topic, l.Event.Subject, l.Reason, l.At)
		})
	})
}

type deadLetterRedrive struct {
	Events []string `arg:"" optional:"" help:"msg_…; --all for every one."`
	All    bool     `help:"Every dead letter."`
}

func (c deadLetterRedrive) Run(ctx context.Context, o *options) error {
	if c.All == (len(c.Events) > 0) {
		return errors.New("name the events, or say --all")
	}
	return withStore(ctx, o, func(b *home.Backend) error {
		ids := c.Events
		for c.All {
			letters, err := b.DeadLetters(ctx, 100)
			if err != nil || len(letters) == 0 {
				return err
			}
			for _, l := range letters {
				if err := redrive(ctx, b, l.Event.ID); err != nil {
					return err
				}
			}
		}
		for _, id := range ids {
			if err := redrive(ctx, b, domain.EventID(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

func redrive(ctx context.Context, b *home.Backend, id domain.EventID) error {
	if err := b.Redrive(ctx, id); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	fmt.Println("put back", id)
	return nil
}

type auditCommand struct {
	From string `help:"Entries from this time on, RFC 3339."`
	To   string `help:"Entries before this time, RFC 3339."`
}

// Run writes the entries to standard output, oldest first.
func (c auditCommand) Run(ctx context.Context, o *options) error {
	q := domain.Query{Index: "entries_by_time", Limit: 1000}
	for flag, bound := range map[string]struct {
		text string
		to   *string
	}{"--from": {c.From, &q.From}, "--to": {c.To, &q.To}} {
		var t domain.Time
		if err := t.UnmarshalText([]byte(bound.text)); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		*bound.to = t.String()
	}
	return withStore(ctx, o, func(b *home.Backend) error {
		for {
			entries, next, err := domain.List[domain.Entry](ctx, b, q)
			if err != nil {
				return err
			}
			if err := jsonLines(os.Stdout, entries); err != nil || next == "" {
				return err
			}
			q.Cursor = next
		}
	})
}

type secretCommands struct {
	Set secretSet `cmd:"" help:"Set a secret, read from standard input: for example comdirect/client_id."`
}

type secretSet struct {
	Name string `arg:"" help:"As custodians.json names it."`
}

// Run reads the value from standard input, so that it stands in no process list and no shell history.
func (c secretSet) Run(ctx context.Context, o *options) error {
	raw, err := io.ReadAll(io.LimitReader(os.Stdin, 64<<10))
	if err != nil {
		return err
	}
	value := domain.NewSecret([]byte(strings.TrimRight(string(raw), "\r\n")))
	return withStore(ctx, o, func(b *home.Backend) error { return b.SetSecret(ctx, c.Name, value) })
}

type rotateCommand struct {
	Key string `arg:"" enum:"inner,outer,session,display,portfolio,webhook,certificate" help:"inner, outer, session, display, portfolio, webhook or certificate."`
}

func (c rotateCommand) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		made, err := b.Rotate(ctx, c.Key)
		if err == nil {
			fmt.Println("a new version is used from now on, and lies in", made)
		}
		return err
	})
}

// withStore opens the backend for one command.
func withStore(ctx context.Context, o *options, fn func(*home.Backend) error) error {
	b, err := home.OpenBackend(ctx, o.settings())
	if err != nil {
		return err
	}
	return errors.Join(fn(b), b.Close())
}

func table(head string, n int, line func(int) string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for i := range n {
		fmt.Fprintln(w, line(i))
	}
	return w.Flush()
}

func jsonLines[T any](w io.Writer, rows []T) error {
	e := json.NewEncoder(w)
	for _, row := range rows {
		if err := e.Encode(row); err != nil {
			return err
		}
	}
	return nil
}
