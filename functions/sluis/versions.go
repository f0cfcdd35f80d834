package main

import (
	"context"
	"fmt"

	"sluis.internal/functions/sluis/home"
)

type versionCommands struct {
	List    versionList    `cmd:"" help:"List the versions of keys, and how many documents still need each. This reads all documents."`
	Rewrap  versionRewrap  `cmd:"" help:"Encrypt again with the newest version now, instead of within a month: portfolio keys and webhook secrets."`
	Disable versionDisable `cmd:"" help:"Disable a version, unless it is the newest or something still needs it."`
}

type versionList struct {
	Keys []string `arg:"" optional:"" help:"Which keys: inner, outer, session, display, portfolio or webhook. Default: all."`
}

func (c versionList) Run(ctx context.Context, o *options) error {
	return looking(ctx, o, func(b *home.Backend) error {
		all, err := b.Versions(ctx, c.Keys...)
		if err != nil {
			return err
		}
		return table("KEY\tVERSION\tSTATE\tCLOSES\tNEEDED BY", len(all), func(i int) string {
			v := all[i]
			closes := ""
			if v.Closes {
				closes = "yes"
			}
			return fmt.Sprintf("%s\t%d\t%s\t%s\t%d", v.Key, v.Number, v.State, closes, v.Needed)
		})
	})
}

type versionRewrap struct{}

func (versionRewrap) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error {
		n, err := b.Rewrap(ctx)
		fmt.Printf("%d documents are being looked at; versions list shows how far it is\n", n)
		return err
	})
}

type versionDisable struct {
	Key    string `arg:"" enum:"inner,outer,session,display,portfolio,webhook" help:"Which key: inner, outer, session, display, portfolio or webhook."`
	Number int    `arg:"" help:"The version's number, as versions list shows it."`
}

func (c versionDisable) Run(ctx context.Context, o *options) error {
	return withStore(ctx, o, func(b *home.Backend) error { return b.Disable(ctx, c.Key, c.Number) })
}
