//go:build race

package size

func init() { raced = true }
