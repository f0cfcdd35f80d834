package main

import (
	"fmt"
	"testing"

	"sluis.internal/shared/domain"
)

// FuzzSaving: what is taken of --saving says just what was written, once for each product.
func FuzzSaving(f *testing.F) {
	for _, s := range []string{"cash=none", "cash=latest", "cash=history:30", "cash=history:30x", "cash=history:0x1e", "cash=history: 3", "cash=",
		"=none", "cash", "cash=history", "cash=history:", "cash=history:99999999999999999999", "cash=history:-1", "cash=history:03",
		"cash=history:3:4", "cash=none:3", "cash=none=x", "CASH=none", "cash=none\n"} {
		f.Add(s, "orders=latest")
	}
	f.Add("cash=none", "cash=latest")
	f.Fuzz(func(t *testing.T, first, second string) {
		got, err := parseSaving([]string{first, second})
		if err != nil {
			return
		}
		written := map[string]bool{}
		for product, s := range got {
			text := string(product) + "=" + string(s.Scope)
			if s.Scope == domain.SaveHistory {
				text += fmt.Sprintf(":%d", s.Days)
			}
			written[text] = true
		}
		if len(got) != 2 || !written[first] || !written[second] {
			t.Errorf("%q and %q became %v", first, second, got)
		}
	})
}
