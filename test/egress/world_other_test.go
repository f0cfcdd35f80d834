//go:build !linux

package egress

import "testing"

// sealed says that this process lives in a world of its own, which only Linux can give.
const sealed = false

func inWorld() (code int, done bool) { return 0, false }

func begun(*testing.T) int { return 0 }
