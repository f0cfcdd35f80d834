package envelope

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
)

// TestSharedAsksSeldom counts what a key is asked while states are closed and opened: nothing but once in KeysetLife.
func TestSharedAsksSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kek := &counted{AEAD: newAEAD(t)}
		s := NewShared(kek, domain.Env{}, "session")
		state := func(label string) []byte {
			t.Helper()
			sealed, err := s.Encrypt([]byte("token of "+label), []byte(label))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := s.Decrypt(sealed, []byte(label))
			if err != nil || string(plain) != "token of "+label {
				t.Fatalf("opened %q, %v", plain, err)
			}
			return sealed
		}
		first, second := state("one"), state("two")
		if wrapped := kek.closed.Load(); wrapped != 1 || kek.asked.Load() != 0 {
			t.Errorf("the key wrapped %d and unwrapped %d data keys; want 1 and none", wrapped, kek.asked.Load())
		}
		time.Sleep(KeysetLife)
		synctest.Wait()
		if n := len(s.ring.held); n != 0 {
			t.Errorf("%d data keys are in memory after %v", n, KeysetLife)
		}
		third := state("three")
		if kek.closed.Load() != 2 || bytes.Equal(first[:64], third[:64]) {
			t.Error("the old data key closes still")
		}
		for label, sealed := range map[string][]byte{"one": first, "two": second} {
			if _, err := s.Decrypt(sealed, []byte(label)); err != nil {
				t.Errorf("what the old data key closed stays shut: %v", err)
			}
		}
		if n := kek.asked.Load(); n != 1 {
			t.Errorf("one old data key was unwrapped %d times", n)
		}
		time.Sleep(KeysetLife)
	})
}

// slow is a key that closes when it is let.
type slow struct {
	counted
	calls atomic.Int64
	let   chan struct{}
}

func (s *slow) Encrypt(plain, label []byte) ([]byte, error) {
	s.calls.Add(1)
	<-s.let
	return s.counted.Encrypt(plain, label)
}

// TestSharedAtOnce closes many states at the same moment while the data key is due to change: one key is made, and all
// open; where it cannot be made all learn it at once, and not one after the other.
func TestSharedAtOnce(t *testing.T) {
	kek := &slow{counted: counted{AEAD: newAEAD(t)}}
	var looked atomic.Int64 // at the clock: whoever has done so waits for the key
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	s := NewShared(kek, domain.Env{Clock: func() time.Time { looked.Add(1); return now }}, "session")
	round := func() (sealed [8][]byte, errs [8]error) {
		now = now.Add(KeysetLife)
		kek.let = make(chan struct{})
		looked.Store(0)
		var all sync.WaitGroup
		for i := range sealed {
			all.Go(func() { sealed[i], errs[i] = s.Encrypt([]byte{byte(i)}, []byte("mine")) })
		}
		for looked.Load() < int64(len(sealed)) {
			runtime.Gosched()
		}
		close(kek.let)
		all.Wait()
		return sealed, errs
	}
	for life := range int64(3) {
		sealed, _ := round()
		for i := range sealed {
			if plain, err := s.Decrypt(sealed[i], []byte("mine")); err != nil || !bytes.Equal(plain, []byte{byte(i)}) {
				t.Errorf("what was closed beside others opens as %q, %v", plain, err)
			}
		}
		if n := kek.calls.Load(); n != life+1 {
			t.Errorf("%d data keys were made in %d lives", n, life+1)
		}
	}
	kek.fail.Store(&domain.Error{Kind: domain.Unavailable, Code: "keys_unavailable"})
	_, errs := round()
	for _, err := range errs {
		if domain.KindOf(err) != domain.Unavailable {
			t.Errorf("without the key there is %v", err)
		}
	}
	if n := kek.calls.Load(); n != 4 {
		t.Errorf("the key was asked %d times", n)
	}
	kek.fail.Store(nil)
	if _, err := s.Encrypt(nil, nil); err != nil {
		t.Errorf("the failure is remembered: %v", err)
	}
}

// TestSharedStaysShut has what one label closed presented for another use, under another label, cut and altered, and
// while the key cannot be reached.
func TestSharedStaysShut(t *testing.T) {
	kek := &counted{AEAD: newAEAD(t)}
	s := NewShared(kek, domain.Env{}, "session")
	sealed, err := s.Encrypt([]byte("token"), []byte("mine"))
	if err != nil {
		t.Fatal(err)
	}
	for at := range sealed {
		bent := bytes.Clone(sealed)
		bent[at] ^= 1
		if plain, err := s.Decrypt(bent, []byte("mine")); err == nil {
			t.Errorf("altered at %d, it opens: %q", at, plain)
		}
		if _, err := s.Decrypt(sealed[:at], []byte("mine")); err == nil {
			t.Errorf("cut to %d, it opens", at)
		}
	}
	if _, err := s.Decrypt(sealed, []byte("yours")); err == nil {
		t.Error("it opens under another label")
	}
	if _, err := NewShared(kek, domain.Env{}, "display").Decrypt(sealed, []byte("mine")); err == nil {
		t.Error("it opens for another use")
	}
	kek.fail.Store(&domain.Error{Kind: domain.Unavailable, Code: "keys_unavailable"})
	elsewhere := NewShared(kek, domain.Env{}, "session")
	if _, err := elsewhere.Decrypt(sealed, []byte("mine")); domain.KindOf(err) != domain.Unavailable {
		t.Errorf("while the key cannot be reached: %v", err)
	}
	if _, err := elsewhere.Encrypt([]byte("token"), []byte("mine")); domain.KindOf(err) != domain.Unavailable {
		t.Errorf("closing while the key cannot be reached: %v", err)
	}
	kek.fail.Store(nil)
	if _, err := elsewhere.Decrypt(sealed, []byte("mine")); err != nil {
		t.Errorf("a failure is remembered: %v", err)
	}
}

// TestRemembering opens what was opened before without the key, hands out copies, and forgets in time.
func TestRemembering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kek := &counted{AEAD: newAEAD(t)}
		sealed, err := kek.Encrypt([]byte("whsec"), []byte("endpoint"))
		if err != nil {
			t.Fatal(err)
		}
		d := Remembering(kek, domain.Env{})
		for range 3 {
			plain, err := d.Decrypt(sealed, []byte("endpoint"))
			if err != nil || string(plain) != "whsec" {
				t.Fatalf("opened %q, %v", plain, err)
			}
			clear(plain) // as its user does
		}
		if n := kek.asked.Load(); n != 1 {
			t.Errorf("the key was asked %d times; want once", n)
		}
		if _, err := d.Decrypt(sealed, []byte("another")); err == nil {
			t.Error("it opens for another endpoint")
		}
		time.Sleep(KeysetLife)
		synctest.Wait()
		if _, err := d.Decrypt(sealed, []byte("endpoint")); err != nil || kek.asked.Load() != 3 {
			t.Errorf("after %v the key was asked %d times, %v; want thrice", KeysetLife, kek.asked.Load(), err)
		}
		time.Sleep(KeysetLife)
	})
}
