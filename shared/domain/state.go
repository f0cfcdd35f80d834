package domain

import (
	"fmt"
	"slices"
)

// Moves is a noun's law: from each state, the states it may go to. A state with no row is final.
type Moves[S ~string] map[S][]S

// Check returns nil if the move is legal, and a Conflict that names both states if not.
func (m Moves[S]) Check(noun string, from, to S) error {
	if slices.Contains(m[from], to) {
		return nil
	}
	return &Error{Kind: Conflict, Code: noun + "_state",
		Message: fmt.Sprintf("a %s that is %s cannot become %s", noun, from, to)}
}

// Final says whether nothing follows s.
func (m Moves[S]) Final(s S) bool { return len(m[s]) == 0 }
