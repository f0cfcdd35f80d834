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
	Add    clientAdd    `cmd:"" help:"Add a client and issue its first key."`
	Update clientUpdate `cmd:"" help:"Change a client's name or logo."`
	List   clientList   `cmd:"" help:"List clients."`
}

type clientAdd struct {
	Name    string   `arg:"" help:"The client's name, as investors see it."`
	Returns []string `name:"return-origin" help:"Where investors may be sent back to: an origin such as https://app.example. May be repeated."`
	Saving  []string `help:"What may be stored of a product: PRODUCT=none, PRODUCT=latest or PRODUCT=history:DAYS. Default: latest. May be repeated." placeholder:"PRODUCT=SCOPE"`
	Region  []string `help:"Where data may be stored, for example europe-west4. Default: anywhere. May be repeated."`
	Logo    string   `help:"A PNG or JPEG file, up to 64 kB and 512 pixels a side, that investors see beside the name." type:"existingfile"`
}

// Run adds the client and prints its first key, once.
func (c clientAdd) Run(ctx context.Context, o *options) error {
	saving, err := parseSaving(c.Saving)
	if err != nil {
		return err
	}
	logo, err := picture(c.Logo)
	if err != nil {
		return err
	}
	return using(ctx, o, home.Found, func(b *home.Backend) error {
		client, err := consent.AddClient(ctx, b, b.Env, c.Name, consent.Terms{Saving: saving, Regions: c.Region, ReturnOrigins: c.Returns, Logo: logo})
		if err != nil {
			return err
		}
		fmt.Println("client", client.ID)
		return issue(ctx, b, client.ID, consent.KeyTerms{Role: domain.RoleClient, Label: "first key", Admin: true})
	})
}

type clientUpdate struct {
	Client string `arg:"" help:"The client's identifier: cli_…"`
	Name   string `help:"The new name, as investors see it."`
	Logo   string `help:"A PNG or JPEG file, up to 64 kB and 512 pixels a side, that investors see beside the name." type:"existingfile" xor:"logo"`
	NoLogo bool   `name:"no-logo" help:"Show no logo any more." xor:"logo"`
}

func (c clientUpdate) Run(ctx context.Context, o *options) error {
	if c.Name == "" && c.Logo == "" && !c.NoLogo {
		return errors.New("say what to change: --name, --logo or --no-logo")
	}
	logo, err := picture(c.Logo)
	if err != nil {
		return err
	}
	return withStore(ctx, o, func(b *home.Backend) error {
		err := consent.ChangeClient(ctx, b, b.Env, domain.ClientID(c.Client), consent.ClientChange{Name: c.Name, Logo: logo, DropLogo: c.NoLogo})
		if err == nil {
			fmt.Println("changed", c.Client)
		}
		return err
	})
}

// picture reads the file of a logo: a little more than it may hold, so that what is too large is refused as such.
func picture(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err = errors.Join(err, f.Close()); err == nil && len(raw) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	return raw, err
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
			return nil, fmt.Errorf("--saving %s: %s is given twice", pair, product)
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
	return looking(ctx, o, func(b *home.Backend) error {
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
	Issue  keyIssue  `cmd:"" help:"Issue a key. Its token is shown only once."`
	List   keyList   `cmd:"" help:"List a client's keys."`
	Revoke keyRevoke `cmd:"" help:"Revoke a key at once."`
}

type keyIssue struct {
	Client  string `arg:"" help:"The client's identifier, cli_…"`
	Role    string `help:"What the key may do: client, advisor or reviewer." default:"client" enum:"client,advisor,reviewer"`
	Advisor string `help:"The advisor whose key it is, adv_…; only with --role advisor."`
	Label   string `help:"A note that helps you tell keys apart."`
	Admin   bool   `help:"The key may make, rotate and revoke the client's keys. A client's first key may anyway."`
	Days    int    `help:"For how many days the key is valid." default:"365"`
}

func (c keyIssue) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		return issue(ctx, b, domain.ClientID(c.Client), consent.KeyTerms{Role: domain.Role(c.Role), AdvisorID: domain.AdvisorID(c.Advisor),
			Label: c.Label, Admin: c.Admin, Days: c.Days})
	})
}

func issue(ctx context.Context, b *home.Backend, client domain.ClientID, terms consent.KeyTerms) error {
	key, token, err := consent.IssueKey(ctx, b, b.Env, client, terms)
	if err != nil {
		return err
	}
	defer token.Wipe()
	fmt.Printf("key %s (%s) until %s\ntoken %s\nThe token is shown only this once. Store it where you keep secrets.\n", key.ID, rights(key), key.ExpiresAt, token.Reveal())
	return nil
}

// rights is a key's role, and whether it may administer keys.
func rights(k *domain.APIKey) string {
	if k.Administers() {
		return string(k.Role) + ", admin"
	}
	return string(k.Role)
}

type keyList struct {
	Client string `arg:"" help:"The client's identifier, cli_…"`
}

func (c keyList) Run(ctx context.Context, o *options) error {
	return looking(ctx, o, func(b *home.Backend) error {
		if err := b.Get(ctx, &domain.Client{ID: domain.ClientID(c.Client)}); err != nil {
			return fmt.Errorf("listing keys of %s (client list shows all clients): %w", c.Client, err)
		}
		keys, err := consent.ListKeys(ctx, b, domain.ClientID(c.Client))
		if err != nil {
			return err
		}
		return table("ID\tLINE\tROLE\tSTATE\tLABEL\tISSUED\tEXPIRES", len(keys), func(i int) string {
			k := &keys[i]
			state := string(k.State)
			if k.State == domain.KeyActive && k.Replaced() {
				state = "reads only"
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", k.ID, k.First(), rights(k), state, k.Label, k.CreatedAt, k.ExpiresAt)
		})
	})
}

type keyRevoke struct {
	Key  string `arg:"" help:"The key's identifier, key_…"`
	Line bool   `help:"Also revoke every key of its line: those it came from and those that replaced it."`
}

func (c keyRevoke) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		return consent.RevokeKey(ctx, b, b.Env, domain.KeyID(c.Key), c.Line)
	})
}

type deadLetterCommands struct {
	List    deadLetterList    `cmd:"" help:"List events that were given up, newest first."`
	Redrive deadLetterRedrive `cmd:"" help:"Handle given-up events once more."`
}

type deadLetterList struct {
	Limit int  `help:"Show at most this many." default:"100"`
	JSON  bool `name:"json" help:"Print one JSON object per line."`
}

// Validate bounds the list as the store does.
func (c deadLetterList) Validate() error {
	if c.Limit < 1 || c.Limit > 1000 {
		return errors.New("--limit: want 1 to 1000")
	}
	return nil
}

// Run lists what was given up.
func (c deadLetterList) Run(ctx context.Context, o *options) error {
	return looking(ctx, o, func(b *home.Backend) error {
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
	Events []string `arg:"" optional:"" help:"Identifiers of events, msg_…"`
	All    bool     `help:"All events that were given up."`
}

func (c deadLetterRedrive) Run(ctx context.Context, o *options) error {
	if c.All == (len(c.Events) > 0) {
		return errors.New("name the events, or say --all")
	}
	return withStore(ctx, o, func(b *home.Backend) error {
		ids := c.Events
		for some := false; c.All; some = true {
			letters, err := b.DeadLetters(ctx, 100)
			if err == nil && len(letters) == 0 && !some {
				return errors.New("there is no dead letter to put back")
			}
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
	From string `help:"Only entries from this time on, for example 2026-05-01T00:00:00Z."`
	To   string `help:"Only entries before this time."`
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
	return looking(ctx, o, func(b *home.Backend) error {
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
	Set secretSet `cmd:"" help:"Set a secret. Its value is read from standard input."`
}

type secretSet struct {
	Name string `arg:"" help:"The secret's name in custodians.json, for example comdirect/client_id."`
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
	Key string `arg:"" enum:"inner,outer,session,display,portfolio,webhook,certificate" help:"Which key: inner, outer, session, display, portfolio, webhook or certificate."`
}

func (c rotateCommand) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		made, err := b.Rotate(ctx, c.Key)
		if err == nil {
			fmt.Println("a new version is used from now on:", made)
		}
		return err
	})
}

// looking opens the backend for a command that only reads.
func looking(ctx context.Context, o *options, fn func(*home.Backend) error) error {
	return using(ctx, o, home.Look, fn)
}

// withStore opens it for a command that changes something in an installation that is there.
func withStore(ctx context.Context, o *options, fn func(*home.Backend) error) error {
	return using(ctx, o, home.Work, fn)
}

func using(ctx context.Context, o *options, use home.Use, fn func(*home.Backend) error) error {
	b, err := home.OpenBackend(ctx, home.Settings{Data: o.data(), Backend: o.Backend, Shards: o.Shards, Use: use})
	if err != nil {
		return err
	}
	announce(b, o.data())
	return errors.Join(fn(b), b.Close())
}

// announce says that an installation was founded, for whoever mistyped its directory.
func announce(b *home.Backend, data string) {
	if b.Founded {
		fmt.Fprintf(os.Stderr, "sluis: there was no installation in %s; a new one is founded there.\n", data)
	}
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
