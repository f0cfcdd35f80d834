// Package journey tells whole journeys and plays them: as client, as investor with a browser's part, and at the sandbox
// as the bank. A journey is a text of steps, one a line (stories/*.txt); every login of the sandbox bank tells one more.
// A player speaks HTTP with the instance it is pointed at, as the world does.
package journey

import (
	"bufio"
	"context"
	"crypto/rand"
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"

	"sluis.internal/functions/challenge"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/shared/domain"
)

// Journey is a story told in steps, one a line. The words of a step are those of [Player].
type Journey struct {
	Name  string
	Title string
	Steps []string
}

//go:embed stories/*.txt
var journeyFiles embed.FS

// All are the stories in stories/, and one for each login of the sandbox bank.
func All() ([]Journey, error) {
	all := make([]Journey, 0, 64)
	for _, l := range bank.Logins() {
		if j, ok := loginJourney(l); ok {
			all = append(all, j)
		}
	}
	files, err := fs.Glob(journeyFiles, "stories/*.txt")
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := journeyFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, parseJourney(strings.TrimSuffix(strings.TrimPrefix(name, "stories/"), ".txt"), string(text)))
	}
	return all, nil
}

// parseJourney reads a story: the first comment is its title, other comments and empty lines are passed over.
func parseJourney(name, text string) Journey {
	j := Journey{Name: name}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		title, comment := strings.CutPrefix(line, "# ")
		switch {
		case comment && j.Title == "":
			j.Title = title
		case line != "" && !comment:
			j.Steps = append(j.Steps, line)
		}
	}
	return j
}

// loginJourney is the story that the sandbox tells of one of its logins.
func loginJourney(l bank.Login) (Journey, bool) {
	if l.Name == "push never approved" {
		return Journey{}, false // ends when the challenge does, minutes later: told in the tests, by a faster clock
	}
	if l.Number == bank.Counted || l.Number == bank.Spent {
		return Journey{}, false // stories/counted.txt and spent.txt tell them
	}
	j := Journey{Name: "login-" + l.Number, Title: l.Name + ": " + l.Note, Steps: []string{"ask", "open", "grant", "login " + l.Number}}
	for i, code := range l.Answers {
		if l.Renew && i == len(l.Answers)-1 {
			j.Steps = append(j.Steps, "challenge expired", "renew")
		}
		j.Steps = append(j.Steps, "challenge "+challengeBefore(i), "code "+code)
	}
	if l.Name == "push approved by a control call" {
		j.Steps = append(j.Steps, "challenge decoupled", "approve "+l.Number)
	}
	switch {
	case l.Reason == domain.ReasonCredentialsRefused:
		j.Steps = append(j.Steps, "connect "+string(l.Reason), "webhooks consent.granted connection.awaiting_credentials")
	case l.Reason != "":
		j.Steps = append(j.Steps, "paused "+string(l.Reason), "webhooks consent.granted connection.paused")
	default:
		j.Steps = append(j.Steps, "done")
		for _, p := range []domain.Product{domain.ProductAccounts, domain.ProductCash, domain.ProductPositions, domain.ProductTransactions} {
			j.Steps = append(j.Steps, "read "+string(p)+" "+expected(l, p))
		}
		j.Steps = append(j.Steps, "webhooks consent.granted connection.active portfolio.updated")
	}
	return j, true
}

func challengeBefore(answers int) string {
	if answers == 0 {
		return "code"
	}
	return "again"
}

func expected(l bank.Login, p domain.Product) string {
	if why := l.Products[p]; why != "" {
		return "failed " + string(why)
	}
	if l.Name == "empty depot" && (p == domain.ProductPositions || p == domain.ProductTransactions) {
		return "any"
	}
	return "complete"
}

// Player plays one journey: it is client, investor and, at the sandbox, bank at once.
type Player struct {
	app      *app
	investor *investor
	before   map[string]int // refused logins at the bank when the journey began
}

// Consent, Connection and Link are what the client was given last: identifiers, and the investor's link.
func (p *Player) Consent() string    { return p.app.consent }
func (p *Player) Connection() string { return p.app.connection }
func (p *Player) Link() string       { return p.app.link }

// Cookie is that of the investor's visit, and nil before the first.
func (p *Player) Cookie() *http.Cookie { return p.investor.cookie }

// At is the same journey going on at another instance on the same data: the same client, the same browser. The two go
// their own ways from there.
func (p *Player) At(other *Place) *Player {
	a, in := *p.app, *p.investor
	a.Place, in.Place = other, other
	return &Player{app: &a, investor: &in, before: p.before}
}

// Visit asks the investor pages with the visit's cookie: a form is sent as one, anything else as JSON, and a JSON answer
// is read into out. A refusal is a *Refusal.
func (p *Player) Visit(ctx context.Context, method, path string, body, out any) error {
	return p.investor.do(ctx, method, path, body, out)
}

// Elsewhere is a player of the same consent: the client at another desk, the investor at another browser, with no visit yet.
func (p *Player) Elsewhere() *Player {
	app, investor := *p.app, *p.investor
	investor.cookie, investor.browser, investor.state = nil, nil, challenge.State{}
	return &Player{app: &app, investor: &investor}
}

// Asked is the bank's question as the page saw it last, and empty where there is none.
func (p *Player) Asked() domain.ChallengeID {
	if p.investor.state.Challenge == nil {
		return ""
	}
	return p.investor.state.Challenge.ID
}

// step is what one word does.
type step func(p *Player, ctx context.Context, args []string) error

// steps are the words that a journey may use.
var steps map[string]step

func init() {
	steps = map[string]step{
		"ask":  func(p *Player, ctx context.Context, args []string) error { return p.app.ask(ctx, args) },
		"open": func(p *Player, ctx context.Context, _ []string) error { return p.investor.open(ctx, p.app.link) },
		"link": func(p *Player, ctx context.Context, args []string) error {
			if err := p.app.newLink(ctx, first(args)); err != nil {
				return err
			}
			return p.investor.open(ctx, p.app.link)
		},
		"grant":  func(p *Player, ctx context.Context, _ []string) error { return p.investor.grant(ctx) },
		"deny":   func(p *Player, ctx context.Context, _ []string) error { return p.investor.deny(ctx) },
		"revoke": func(p *Player, ctx context.Context, _ []string) error { return p.investor.revoke(ctx, p.app.consent) },
		"login":  (*Player).login,
		"again":  func(p *Player, ctx context.Context, _ []string) error { return p.investor.again(ctx) },
		"image":  func(p *Player, ctx context.Context, _ []string) error { return p.investor.image(ctx) },
		"code":   func(p *Player, ctx context.Context, args []string) error { return p.investor.code(ctx, first(args)) },
		"method": func(p *Player, ctx context.Context, args []string) error {
			return p.investor.answer(ctx, "select", first(args))
		},
		"renew":  func(p *Player, ctx context.Context, _ []string) error { return p.investor.answer(ctx, "renew", "") },
		"cancel": func(p *Player, ctx context.Context, _ []string) error { return p.investor.answer(ctx, "cancel", "") },
		"approve": func(p *Player, _ context.Context, args []string) error {
			if !p.app.Bank.Approve(first(args)) {
				return fmt.Errorf("no push waits at the bank")
			}
			return nil
		},
		"refresh":   func(p *Player, ctx context.Context, _ []string) error { return p.app.refresh(ctx) },
		"version":   func(p *Player, ctx context.Context, args []string) error { return p.app.awaitVersion(ctx, first(args)) },
		"read":      func(p *Player, ctx context.Context, args []string) error { return p.app.readProduct(ctx, args) },
		"webhooks":  func(p *Player, ctx context.Context, args []string) error { return p.app.awaitWebhooks(ctx, args) },
		"terminate": func(p *Player, ctx context.Context, _ []string) error { return p.app.terminate(ctx) },
		"erase":     func(p *Player, ctx context.Context, args []string) error { return p.app.erase(ctx, first(args)) },
		"refusals":  (*Player).refusals,
		"unlocked": func(p *Player, _ context.Context, args []string) error {
			if p.app.Bank.Locked(first(args)) {
				return fmt.Errorf("the bank has locked the access")
			}
			return nil
		},
		"refused": (*Player).refused,
	}
	for _, word := range []string{"challenge", "done", "ended", "paused", "connect"} {
		steps[word] = func(p *Player, ctx context.Context, args []string) error {
			return p.investor.watch(ctx, Awaited(strings.Join(append([]string{word}, args...), " ")))
		}
	}
}

// Awaited is what a step waits for that waits for the investor's page to change; nil if it is no such step.
func Awaited(line string) func(*challenge.State) bool {
	words := strings.Fields(line)
	switch words[0] {
	case "challenge":
		return asked(first(words[1:]))
	case "done", "ended", "paused", "connect":
		return atPage(words[0], first(words[1:]))
	}
	return nil
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// Play does one step of a journey.
func (p *Player) Play(ctx context.Context, line string) error {
	p.app.once = rand.Text()
	return p.Replay(ctx, line)
}

// Replay does the last step again, as a client does that had no answer to it: with the same Idempotency-Key.
func (p *Player) Replay(ctx context.Context, line string) error {
	words := strings.Fields(line)
	do := steps[words[0]]
	if do == nil {
		return fmt.Errorf("no such step; a journey knows %s", strings.Join(slices.Sorted(maps.Keys(steps)), ", "))
	}
	return do(p, ctx, words[1:])
}

// Watch follows the investor's page until the state is as wanted.
func (p *Player) Watch(ctx context.Context, wanted func(*challenge.State) bool) error {
	return p.investor.watch(ctx, wanted)
}

// Look is the state of the investor's page now.
func (p *Player) Look(ctx context.Context) (*challenge.State, error) {
	p.investor.state = challenge.State{}
	err := p.investor.do(ctx, http.MethodGet, "/challenge/state", nil, &p.investor.state)
	state := p.investor.state
	return &state, err
}

// login enters a sandbox login: its number and its right PIN, unless user= and pin= say what is typed instead.
func (p *Player) login(ctx context.Context, args []string) error {
	l, ok := bank.Find(first(args))
	if !ok {
		return fmt.Errorf("the sandbox has no login %q", first(args))
	}
	user, pin := l.Number, l.PIN
	for _, a := range args[1:] {
		if v, ok := strings.CutPrefix(a, "pin="); ok {
			pin = v
		}
		if v, ok := strings.CutPrefix(a, "user="); ok {
			user = v
		}
	}
	if p.before == nil {
		p.before = map[string]int{l.Number: p.app.Bank.Refused(l.Number)}
	}
	return p.investor.seal(ctx, map[string]string{"username": user, "password": pin})
}

// refusals checks how often the bank has refused a password since the journey's first login.
func (p *Player) refusals(_ context.Context, args []string) error {
	if got := fmt.Sprint(p.app.Bank.Refused(args[0]) - p.before[args[0]]); got != args[1] {
		return fmt.Errorf("the bank refused %s passwords, want %s", got, args[1])
	}
	return nil
}

// refused does another step, which the API must refuse.
func (p *Player) refused(ctx context.Context, args []string) error {
	err := p.Play(ctx, strings.Join(args, " "))
	if err == nil {
		return fmt.Errorf("it was allowed")
	}
	if !IsRefusal(err) {
		return err
	}
	return nil
}
