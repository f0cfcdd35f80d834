package extraction

import "testing"

// StageEach has every part committed by itself until the test ends, so that small portfolios take many commits.
func StageEach(t testing.TB) {
	before := stageBytes
	stageBytes = 1
	t.Cleanup(func() { stageBytes = before })
}
