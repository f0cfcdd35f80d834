package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"sluis.internal/functions/sluis/home"
)

type statusCommand struct{}

// Run says how much lies in the database and what waits, without a look at any of it.
func (statusCommand) Run(ctx context.Context, o *options) error {
	return looking(ctx, o, func(b *home.Backend) error {
		stocks, err := b.Stocks(ctx)
		if err != nil {
			return err
		}
		waiting, err := b.Pending(ctx)
		if err != nil {
			return err
		}
		return errors.Join(table("KIND\tDOCUMENTS\tBYTES", len(stocks), func(i int) string {
			bytes := "-" // not counted where documents would have to be read for it
			if stocks[i].Bytes >= 0 {
				bytes = strconv.FormatInt(stocks[i].Bytes, 10)
			}
			return fmt.Sprintf("%s\t%d\t%s", stocks[i].Of, stocks[i].Count, bytes)
		}), table("\nTOPIC\tEVENTS\tSTATE\tOLDEST", len(waiting), func(i int) string {
			w := waiting[i]
			return fmt.Sprintf("%s\t%d\t%s\t%s", w.Topic, w.Count, w.State, w.Oldest.Round(time.Second))
		}))
	})
}
