package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
)

type serveCommand struct {
	API       string           `name:"api" help:"Where clients call." default:"127.0.0.1:8080"`
	Pages     string           `help:"Where investors come." default:"127.0.0.1:8081"`
	Bank      string           `help:"Where the sandbox bank listens." default:"127.0.0.1:8443"`
	Sample    string           `help:"Where the sample client listens." default:"127.0.0.1:8090"`
	NoSandbox bool             `help:"Without the sandbox bank and the sample client."`
	Webhooks  []netip.AddrPort `name:"allow-webhook" help:"A private address that webhooks may go to, as ADDRESS:PORT." placeholder:"ADDRESS:PORT"`
	Pace      time.Duration    `help:"Time between the beginnings of two scheduled refreshes." default:"250ms"`
	PerMinute int              `name:"per-minute" help:"Requests a minute allowed to each caller." default:"600"`
}

// Run serves until it is interrupted.
func (c serveCommand) Run(ctx context.Context, o *options) error {
	begun := time.Now()
	s := o.settings()
	s.API, s.Pages, s.Pace, s.PerMinute, s.Webhooks = c.API, c.Pages, c.Pace, c.PerMinute, c.Webhooks
	var sample net.Listener
	if !c.NoSandbox {
		var err error
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
	h.Begin(ctx)
	if sample != nil {
		if err := serveSample(ctx, h, o, sample); err != nil {
			return errors.Join(err, h.Stop())
		}
	}
	greet(h, sample, begun)
	return errors.Join(h.Wait(), h.Close())
}

// greet prints the addresses to open.
func greet(h *home.Home, sample net.Listener, begun time.Time) {
	w := os.Stdout
	fmt.Fprintf(w, "%s\n\n", h.Keys.Banner)
	if sample != nil {
		fmt.Fprintf(w, "  Sample client   http://%s   begin here\n", sample.Addr())
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
