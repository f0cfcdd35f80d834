//go:build unix && !solaris && !illumos && !aix

package envelope

import (
	"fmt"
	"os"
	"syscall"
)

// lockDir makes the other processes that lock dir wait. The lock ends with the process, however it ends.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("locking keys directory: %w", err)
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("locking keys directory: %w", err)
	}
	return func() { d.Close() }, nil
}
