package races

import (
	"sync"
	"testing"

	"sluis.internal/functions/sluis/journey"
)

// everythingAtOnce has everybody do anything to a few connections, all at the same time. Whatever is refused is refused
// with a reason, and in the end all is as after a quiet run.
func everythingAtOnce(t *testing.T, v *town) {
	for range v.times(2) {
		var group sync.WaitGroup
		for range 3 {
			p := v.manage(v.connected("chaos"))
			for _, words := range v.mob() {
				q := v.elsewhere(p)
				group.Go(func() {
					for _, w := range words {
						if err := v.do(q, w)(); err != nil && !journey.IsRefusal(err) {
							t.Errorf("%s: %v", w, err)
						}
					}
				})
			}
		}
		group.Wait()
	}
}

// mob is what a few people do, each one thing after the other.
func (v *town) mob() [][]string {
	harmless := []string{"refresh", "read positions", "read transactions", "refresh", "read accounts"}
	harsh := []string{"erase data", "erase credentials", "terminate", "revoke", "refresh", "refresh"}
	out := make([][]string, 4)
	for i := range out {
		for range 4 {
			out[i] = append(out[i], harmless[v.dice.IntN(len(harmless))])
		}
		if i == 0 {
			out[i] = append(out[i], harsh[v.dice.IntN(len(harsh))], harsh[v.dice.IntN(len(harsh))])
		}
	}
	return out
}
