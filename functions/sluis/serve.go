package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"sluis.internal/functions/consent"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
)

type serveCommand struct {
	API       string           `name:"api" help:"Address of the client API." default:"127.0.0.1:8080"`
	Pages     string           `help:"Address of the investor pages." default:"127.0.0.1:8081"`
	Bank      string           `help:"Address of the sandbox bank." default:"127.0.0.1:8443"`
	Sample    string           `help:"Address of the sample client." default:"127.0.0.1:8090"`
	NoSandbox bool             `help:"Run without the sandbox bank and the sample client. Then the --operator flags are required."`
	Webhooks  []netip.AddrPort `name:"allow-webhook" help:"A private address that webhooks may be sent to. May be repeated." placeholder:"ADDRESS:PORT"`
	Pace      time.Duration    `help:"Time between the starts of two scheduled refreshes." default:"250ms"`
	Operator  companyFlags     `embed:"" prefix:"operator-"`
	PerMinute int              `name:"per-minute" help:"How many requests each caller may make per minute." default:"600"`
}

// companyFlags say who runs this, to investors. With the sandbox it is practice and they may be missing.
type companyFlags struct {
	Name      string `help:"Your company's name, as investors read it; required with --no-sandbox, like the four that follow." env:"SLUIS_OPERATOR_NAME"`
	Authority string `help:"The authority that supervises your company." env:"SLUIS_OPERATOR_AUTHORITY"`
	Licence   string `help:"Your company's number with that authority." env:"SLUIS_OPERATOR_LICENCE"`
	Privacy   string `help:"The https address of your privacy notice." env:"SLUIS_OPERATOR_PRIVACY"`
	Contact   string `help:"The e-mail address, or the https address of the page, where investors reach you." env:"SLUIS_OPERATOR_CONTACT"`
}

// company is who runs this. Without the sandbox, nothing starts before investors can know it.
func (c serveCommand) company() (consent.Company, error) {
	company := consent.Company(c.Operator)
	if c.NoSandbox || company != (consent.Company{}) {
		return company, company.Check()
	}
	return company, nil
}

// Validate refuses what would stop everything, or bound nothing.
func (c serveCommand) Validate() error {
	switch {
	case c.Pace <= 0:
		return errors.New("--pace: want more than no time, for example 250ms")
	case c.PerMinute < 1:
		return errors.New("--per-minute: want 1 or more")
	}
	return nil
}

// Run serves until it is interrupted.
func (c serveCommand) Run(ctx context.Context, o *options) error {
	begun := time.Now()
	company, err := c.company()
	if err != nil {
		return err
	}
	s := home.Settings{Company: company, Data: o.data(), Backend: o.Backend, Shards: o.Shards, API: c.API, Pages: c.Pages, Pace: c.Pace, PerMinute: c.PerMinute, Webhooks: c.Webhooks}
	fmt.Fprint(os.Stderr, warnOpen(exposed(c.addresses()...)))
	var sample net.Listener
	if !c.NoSandbox {
		if sample, err = net.Listen("tcp", c.Sample); err != nil {
			return home.Listening("sample client", "--sample", err)
		}
		receiver, err := netip.ParseAddrPort(sample.Addr().String())
		if err != nil {
			return err
		}
		s.Bank, s.Webhooks = c.Bank, append(s.Webhooks, receiver)
	}
	h, err := home.Open(ctx, s)
	if err != nil {
		return err
	}
	announce(h.Backend, o.data())
	h.Begin(ctx)
	if sample != nil {
		if err := serveSample(ctx, h, o, sample); err != nil {
			return errors.Join(err, h.Stop())
		}
	}
	greet(h, sample, begun)
	return errors.Join(h.Wait(), h.Close())
}

// addresses are those that something will listen on.
func (c serveCommand) addresses() []string {
	if c.NoSandbox {
		return []string{c.API, c.Pages}
	}
	return []string{c.API, c.Pages, c.Bank, c.Sample}
}

// greet prints the addresses to open.
func greet(h *home.Home, sample net.Listener, begun time.Time) {
	w := os.Stdout
	fmt.Fprintf(w, "%s\n\n", h.Keys.Banner)
	if sample != nil {
		fmt.Fprintf(w, "  Sample client   http://%s   start here\n", sample.Addr())
	}
	fmt.Fprintf(w, "  Investor pages  %s\n", h.PagesURL())
	fmt.Fprintf(w, "  Client API      %s/v1   described in schemas/openapi.yaml\n", h.APIURL())
	if h.Bank != nil {
		fmt.Fprintf(w, "  Sandbox bank    %s   PIN %s; some of its logins:\n", h.BankURL(), bank.PIN)
		for _, l := range bank.Logins()[:5] {
			fmt.Fprintf(w, "                  %s  %s: %s\n", l.Number, l.Name, l.Note)
		}
	}
	fmt.Fprintf(w, "\nReady in %d ms. Stop with Ctrl-C.\n", time.Since(begun).Milliseconds())
}
