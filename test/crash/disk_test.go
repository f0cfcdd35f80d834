package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/backend/sql/disk"
	"sluis.internal/test/house"
)

// Kinds of moment of a house whose disk fails on demand. What the machine's own disk holds is not touched.
const (
	power  = "the power fails"  // at the n-th request to the disk, and takes what was not synced
	broken = "the disk breaks"  // for n milliseconds, most of the time
	full   = "the disk is full" // for n milliseconds
)

// TestDisk plays journeys on a disk that breaks, fills up, and loses what was not synced when the power fails.
func TestDisk(t *testing.T) {
	troubles := 60
	if *house.Long {
		troubles = 600
	}
	t.Logf("seed %d, %d troubles", *house.Seed, troubles)
	all, err := journey.All()
	must(t, err)
	all = slices.DeleteFunc(all, func(j journey.Journey) bool {
		return j.Name == Huge || slices.Contains(slow, j.Name) || *only != "" && j.Name != *only
	})
	p := &plan{random: rand.New(rand.NewPCG(*house.Seed, 2)), journeys: all, left: troubles, pick: pickTrouble}
	failed, outages := 0, 0
	for _, l := range work(t, p, diskVariable+"=1") {
		failed, outages = failed+l.wire.failed, outages+l.outages
	}
	t.Logf("%d answers told of the disk's trouble, %d outages took what was not synced", failed, outages)
	if failed == 0 || outages == 0 {
		t.Error("the disk was no trouble")
	}
}

func pickTrouble(random *rand.Rand) moment {
	dead := []time.Duration{0, leases}[random.IntN(2)]
	switch random.IntN(5) {
	case 0:
		return moment{at: broken, n: 50 + random.IntN(1000)}
	case 1:
		return moment{at: full, n: 50 + random.IntN(1000)}
	}
	return moment{at: power, n: 1 + random.IntN(250), dead: dead}
}

// trouble has the disk fail for a while. The house must live through it.
func (l *lane) trouble(r *run, m moment, walkers []*Walker, all <-chan struct{}) (met bool, err error) {
	select {
	case <-time.After(time.Duration(r.random.IntN(1000)) * time.Millisecond):
	case <-all:
		return false, nil
	}
	if err := l.house.Tell("disk " + strings.ReplaceAll(m.at, " ", "-")); err != nil {
		return false, err
	}
	l.note(r, m.at, walkers)
	time.Sleep(time.Duration(m.n) * time.Millisecond) // the house is a process of its own
	err = l.house.Tell("disk works")
	l.state.Lock()
	defer l.state.Unlock()
	l.kills++ // what was begun meanwhile may have failed too
	return true, err
}

// outage is where a process whose power fails leaves what its disk holds then.
func outage(data string) string { return filepath.Join(data, "outage") }

// blackout puts what an outage has left in the place of what the machine's own disk holds.
func (l *lane) blackout() error {
	from := outage(l.house.Data)
	if _, err := os.Stat(filepath.Join(from, "whole")); err != nil {
		return errors.Join(ignoreMissing(err), os.RemoveAll(from)) // it was killed in another way
	}
	l.outages++
	err := os.Remove(filepath.Join(from, "whole"))
	left, failed := os.ReadDir(from)
	err = errors.Join(err, failed)
	for _, f := range left {
		err = errors.Join(err, os.Rename(filepath.Join(from, f.Name()), filepath.Join(l.house.Data, f.Name())))
	}
	shared := os.Remove(filepath.Join(l.house.Data, "sluis.db-shm")) // was memory
	return errors.Join(err, ignoreMissing(shared), os.Remove(from))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// diskVariable has a house's process reach its database by a disk that fails.
const diskVariable = "SLUIS_TEST_DISK"

// failing is what the disk in a house's process does at present.
type failing struct {
	mu     sync.Mutex
	how    string // works, or a kind of moment
	left   int    // requests until the power fails; 0 means that it does not
	disk   *disk.Disk
	data   string
	random *rand.Rand
}

// install makes the disk and the words for it.
func install(s *home.Settings) {
	f := &failing{how: "works", data: s.Data, random: rand.New(rand.NewPCG(*house.Seed, uint64(os.Getpid())))}
	d, err := disk.New("failing", f.ask)
	if err != nil {
		panic(err)
	}
	f.disk, s.Disk = d, "failing"
	house.Commands["disk"] = func(how string) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.how = strings.ReplaceAll(how, "-", " ")
		return nil
	}
	house.Commands["settle"] = func(string) error {
		d.Settle()
		return nil
	}
	house.Commands["power"] = func(n string) error {
		left, err := strconv.Atoi(n)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.left = left
		return err
	}
}

// ask decides on a request to the disk.
func (f *failing) ask(disk.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left > 0 {
		if f.left--; f.left == 0 {
			f.blackout()
		}
	}
	switch {
	case f.how == full:
		return disk.ErrFull
	case f.how == broken && f.random.IntN(4) > 0:
		return disk.ErrBroken
	}
	return nil
}

// blackout leaves what is certain and some of what is not, and dies.
func (f *failing) blackout() {
	dir := outage(f.data)
	if err := f.disk.PowerFails(dir, f.random); err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "whole"), nil, 0o600); err != nil {
		panic(err)
	}
	die()
}

// internals are what no answer may tell of.
var internals = regexp.MustCompile(`(?i)sqlite|input/output|i/o error|no space|\bdisk\b|\.db\b|-wal|goroutine|panic|\.go:|/tmp/|select |insert |constraint`)

// clean says what is wrong with an answer that tells of a failure on our side.
func clean(path, media string, body []byte) error {
	switch {
	case strings.HasPrefix(path, "/v1/") && media != "application/problem+json":
		return fmt.Errorf("%s: a failure as %s", path, media)
	case internals.Match(body):
		return fmt.Errorf("%s: a failure tells of internals: %.200s", path, internals.Find(body))
	}
	return nil
}
