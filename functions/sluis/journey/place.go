package journey

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"sluis.internal/functions/consent"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/domain"
)

// Bank is what a player needs of the sandbox bank beside what the functions ask of it. A functions/sandbox/comdirect.Bank has it.
type Bank interface {
	Approve(number string) bool
	Refused(number string) int
	Locked(number string) bool
}

// Place is where journeys are played: a running instance, and a client of it whose webhooks go to an inbox. An
// instance that comes back at another address after a restart is entered here anew, and its players go on.
type Place struct {
	API, Pages string // addresses without a path
	Token      string // the client's key
	Inbox      *Inbox
	Bank       Bank
	Record     *Recorder         // may be nil
	Transport  http.RoundTripper // of client and investors; nil means http.DefaultTransport
}

// Player returns a player of one journey. The name is the investor's reference.
func (p *Place) Player(name string) *Player {
	stay := &http.Client{Transport: p.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Player{app: &app{Place: p, name: name}, investor: &investor{Place: p, http: stay, custodian: "sandbox-comdirect"}}
}

// Join adds a client with an API key at the store, and its endpoint by the API, which must be served.
func (p *Place) Join(ctx context.Context, s domain.Store, env domain.Env, terms consent.Terms) error {
	c, err := consent.AddClient(ctx, s, env, "Demo Wealth", terms)
	if err != nil {
		return err
	}
	_, token, err := consent.IssueKey(ctx, s, env, c.ID, consent.KeyTerms{Role: domain.RoleClient, Label: "demo"})
	if err != nil {
		return err
	}
	p.Token = string(token.Reveal())
	var made struct {
		Secret string `json:"secret"`
	}
	if err := p.Call(ctx, http.MethodPost, "/v1/endpoints", map[string]string{"url": p.Inbox.URL()}, &made); err != nil {
		return err
	}
	return p.Inbox.Trust(made.Secret)
}

// Stage is a place of its own: a home in this process on free ports.
type Stage struct {
	Place
	Home *home.Home
}

// OpenStage starts a home on the data directory of s, adds a client, and has its webhooks sent to an inbox. What s
// leaves open of addresses and limits is set as journeys need it.
func OpenStage(ctx context.Context, s home.Settings, record *Recorder) (*Stage, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	stage := &Stage{Place: Place{Inbox: NewInbox(l, record), Record: record}}
	go func() { _ = stage.Inbox.Serve() }() // ends with its listener
	if err := stage.Start(ctx, s); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := stage.Join(ctx, stage.Home, stage.Home.Env, consent.Terms{}); err != nil {
		return nil, errors.Join(err, stage.Close())
	}
	return stage, nil
}

// Start runs a home until Stop or Close. It may follow a Stop.
func (s *Stage) Start(ctx context.Context, set home.Settings) error {
	receiver, err := netip.ParseAddrPort(s.Inbox.listener.Addr().String())
	if err != nil {
		return err
	}
	free := "127.0.0.1:0"
	set.API, set.Pages, set.PerMinute, set.Webhooks = free, free, 100_000, append(set.Webhooks, receiver)
	if set.BankAt == nil {
		set.Bank = free
	}
	orElse(&set.Interval, time.Millisecond)
	orElse(&set.BankOptions.Slow, 200*time.Millisecond)
	orElse(&set.BankOptions.RetryAfter, time.Second)
	if s.Home, err = home.Open(ctx, set); err != nil {
		return err
	}
	s.API, s.Pages = s.Home.APIURL(), s.Home.PagesURL()
	if s.Home.Bank != nil {
		s.Bank = s.Home.Bank
	}
	if s.Record != nil {
		s.Record.Events(s.Home.Handlers)
	}
	s.Home.Begin(ctx)
	return nil
}

func orElse(field *time.Duration, value time.Duration) {
	if *field == 0 {
		*field = value
	}
}

// Stop ends the home as an interrupt does; Start may follow.
func (s *Stage) Stop() error { return s.Home.Stop() }

// Close ends the home and the inbox.
func (s *Stage) Close() error { return errors.Join(s.Stop(), s.Inbox.listener.Close()) }

// stepTime bounds one step; the largest portfolio takes a good part of it on a slow machine.
const stepTime = 3 * time.Minute

// Line is one step that was played.
type Line struct {
	Journey      string `json:"journey"`
	Step         string `json:"step"`
	OK           bool   `json:"ok"`
	Milliseconds int64  `json:"ms"`
	Records      int    `json:"records,omitzero"` // read so far, of a step that is still going on
	Error        string `json:"error,omitempty"`
}

// Perform plays a journey until its end or its first failure, and says whether it came to its end. say hears of every
// step, and of the progress of long ones.
func (p *Place) Perform(ctx context.Context, j Journey, say func(Line)) bool {
	player := p.Player("demo-" + j.Name)
	player.investor.progress = func(records int) { say(Line{Journey: j.Name, Step: "reading", OK: true, Records: records}) }
	for _, words := range j.Steps {
		begun := time.Now()
		limited, done := context.WithTimeout(ctx, stepTime)
		err := player.Play(limited, words)
		done()
		l := Line{Journey: j.Name, Step: words, OK: err == nil, Milliseconds: time.Since(begun).Milliseconds()}
		if err != nil {
			l.Error = err.Error()
		}
		say(l)
		if err != nil {
			return false
		}
	}
	return true
}
