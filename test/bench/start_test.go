package bench

import (
	"bufio"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

var listening = regexp.MustCompile(`Client API\s+(http://[0-9.:]+)`)

// start runs a program until it has answered once. What it takes is the time; its processor time is taken from the
// kernel's account of the ended process.
func start(program string, args ...string) act {
	return func() (c cost, err error) {
		p := exec.Command(program, args...)
		out, err := p.StdoutPipe()
		if err != nil {
			return c, err
		}
		begun := time.Now()
		if err := p.Start(); err != nil {
			return c, err
		}
		defer func() {
			_ = p.Process.Kill() // all is measured
			_ = p.Wait()         // "signal: killed"
			c.cpu = p.ProcessState.UserTime() + p.ProcessState.SystemTime()
		}()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if at := listening.FindStringSubmatch(lines.Text()); at != nil {
				resp, err := http.Get(at[1] + "/")
				if err != nil {
					return c, err
				}
				c.wall = time.Since(begun)
				return c, resp.Body.Close()
			}
		}
		return c, fmt.Errorf("%s said no address", filepath.Base(program))
	}
}
