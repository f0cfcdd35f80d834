//go:build unix && !solaris && !illumos && !aix

package main

import (
	"fmt"
	"syscall"
)

// withoutCore has the system write no image of this process's memory to the disk if it dies: passwords and codes are in
// there while they are on their way.
func withoutCore() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: %w", err)
	}
	return nil
}
