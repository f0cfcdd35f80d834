package domain

import (
	"regexp"
	"sync"
)

// Shape is a regular expression that is compiled when it is first asked: a function that starts has no time for those
// that it may never need. Make it with NewShape.
type Shape struct{ compiled func() *regexp.Regexp }

// NewShape makes a Shape of an expression that is right.
func NewShape(expression string) *Shape {
	return &Shape{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })}
}

// MatchString says whether text has the shape, or a part of it has where the expression has no ends.
func (s *Shape) MatchString(text string) bool { return s.compiled().MatchString(text) }
