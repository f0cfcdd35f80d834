package races

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

// patience is how long anything may take on a slow machine.
const patience = 90 * time.Second

// town is one or two instances on the same data, with a bank, a client and its inbox.
type town struct {
	t      *testing.T // of the scenario that runs
	dice   *rand.Rand
	places []*journey.Place
	bank   *bank.Bank
	inbox  *journey.Inbox
	store  *home.Backend // beside the instances, as an operator's command has it
	keys   string        // directory
	second *receiver     // another endpoint of the client, which fails when told to

	shift    func(time.Duration) error // sets every clock so far from the machine's
	restart  func(i int) error         // one instance, gracefully
	journeys int
	turn     int
	played   []*journey.Player // in this scenario
	ahead    *atomic.Int64     // of the store's clock

	mu   sync.Mutex
	held *held
}

// held is the request that the bank is to hold.
type held struct {
	login   string
	left    int // requests until then
	reached chan struct{}
	release chan struct{}
}

// hook stands in the bank.
func (v *town) hook(login, _, _ string) {
	v.mu.Lock()
	h := v.held
	if h == nil || h.login != login || h.left < 0 {
		v.mu.Unlock()
		return
	}
	h.left--
	here := h.left < 0
	v.mu.Unlock()
	if here {
		close(h.reached)
		<-h.release
	}
}

// hold has the bank hold the n-th request of a login from now on, counted from 0.
func (v *town) hold(login string, n int) *held {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.held = &held{login: login, left: n, reached: make(chan struct{}), release: make(chan struct{})}
	return v.held
}

// let lets the bank go on.
func (v *town) let() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.held != nil {
		close(v.held.release)
		v.held = nil
	}
}

// inside does act, holds it at the n-th request to the bank, does rival meanwhile, and lets act go on. It says whether
// there was an n-th request before over says that the act is over.
func (v *town) inside(login string, n int, act func(), over func() bool, rival func()) bool {
	v.t.Helper()
	h := v.hold(login, n)
	defer v.let()
	act()
	end := time.After(patience)
	for {
		select {
		case <-h.reached:
			rival()
			return true
		case <-end:
			v.t.Fatalf("waited too long for request %d at the bank", n)
		case <-time.After(poll):
			if over() {
				return false
			}
		}
	}
}

// await waits until done says so.
func (v *town) await(what string, done func() bool) {
	v.t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(poll) {
		if time.Now().After(end) {
			v.t.Fatalf("waited too long for %s", what)
		}
	}
}

// refusal is the code of a refusal: a page's refusal has its status for a code. Anything else is no refusal.
func refusal(err error) string {
	var r *journey.Refusal
	switch {
	case !errors.As(err, &r) || r.Status >= 500:
		return fmt.Sprint("no refusal: ", err)
	case r.Code == "":
		return fmt.Sprint(r.Status)
	}
	return r.Code
}

const (
	quick = 200 * time.Millisecond // between two rounds of an instance's clock
	poll  = 20 * time.Millisecond  // between two looks at what a real process is waited for to do
)

// outside are a bank and what follows from it for settings.
func outside(t *testing.T, keys string) (*town, *bank.Server) {
	t.Helper()
	v := &town{t: t}
	v.bank = bank.New(bank.Options{OnRequest: v.hook, Slow: 50 * time.Millisecond})
	server, err := bank.ServeTLS(v.bank, "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() {
		v.let()
		ctx, done := context.WithTimeout(context.Background(), 30*time.Second)
		defer done()
		must(t, server.Close(ctx))
	})
	v.second = newReceiver(t)
	return v, server
}

func oneInstance(t *testing.T, keys string) *town  { return instances(t, keys, 1) }
func twoInstances(t *testing.T, keys string) *town { return instances(t, keys, 2) }

// instances are homes in this process.
func instances(t *testing.T, keys string, n int) *town {
	t.Helper()
	v, server := outside(t, keys)
	v.ahead = &atomic.Int64{}
	v.shift = func(time.Duration) error { return nil } // they share the store's clock
	dir := data(t, keys)
	v.keys = home.KeysIn(dir)
	set := home.Settings{Data: dir, Sweep: quick, Pace: time.Millisecond, Rules: &domain.BankRules{}, // everybody has the same few logins
		Env:      domain.Env{Clock: v.clock},
		BankAt:   &home.BankAddress{Address: server.Address(), CA: server.CA()},
		Webhooks: []netip.AddrPort{v.second.address}}
	first, err := journey.OpenStage(context.Background(), set, nil)
	must(t, err)
	first.Bank = v.bank
	stages := []*journey.Stage{first}
	for len(stages) < n {
		s := &journey.Stage{Place: journey.Place{Inbox: first.Inbox, Token: first.Token, Bank: v.bank}}
		must(t, s.Start(context.Background(), set))
		stages = append(stages, s)
	}
	for _, s := range stages {
		v.places = append(v.places, &s.Place)
	}
	v.inbox = first.Inbox
	v.restart = func(i int) error { return errors.Join(stages[i].Stop(), stages[i].Start(context.Background(), set)) }
	t.Cleanup(func() {
		v.let()
		for _, s := range stages[1:] {
			must(t, s.Stop())
		}
		must(t, first.Close())
	})
	v.settle(t, set)
	return v
}

// twoProcesses are two processes.
func twoProcesses(t *testing.T, keys string) *town {
	t.Helper()
	v := &town{t: t, second: newReceiver(t), ahead: &atomic.Int64{}}
	h := house.Open(t, house.Options{Sweep: quick, Pace: time.Millisecond, Keys: keys, Webhooks: []netip.AddrPort{v.second.address},
		BankOptions: bank.Options{OnRequest: v.hook, Slow: 50 * time.Millisecond}})
	processes := []*house.House{h, h.Beside(t)}
	t.Cleanup(v.let)
	v.bank, v.inbox, v.keys = h.Bank, h.Inbox, home.KeysIn(h.Data)
	for _, p := range processes {
		v.places = append(v.places, &p.Place)
	}
	v.restart = func(i int) error { return errors.Join(processes[i].Stop(), processes[i].Start()) }
	var now time.Duration
	v.shift = func(d time.Duration) (err error) {
		for _, p := range processes {
			err = errors.Join(err, p.Later(d-now))
		}
		now = d
		return err
	}
	v.settle(t, home.Settings{Data: h.Data, Env: domain.Env{Clock: v.clock}})
	return v
}

// clock is the town's.
func (v *town) clock() time.Time { return time.Now().Add(time.Duration(v.ahead.Load())) }

// settle opens the data, and gives the client its second endpoint.
func (v *town) settle(t *testing.T, set home.Settings) {
	t.Helper()
	v.inbox.AnyTime()
	b, err := home.OpenBackend(context.Background(), home.Settings{Data: set.Data, Env: set.Env})
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	v.store = b
	v.second.register(t, v.places[0])
}
