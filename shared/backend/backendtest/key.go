package backendtest

import (
	"bytes"
	"testing"

	"sluis.internal/shared/domain"
)

// Key is a symmetric key with versions, as its keeper gives it out.
type Key struct {
	domain.Encrypter
	domain.Decrypter
	domain.Rewrapper
	Rotate    func()           // makes a version that closes from then on
	Disable   func(number int) // a version, counted from 1
	VersionOf func(sealed []byte) int
}

// Rotation checks what every keeper of keys promises of a key whose versions come and go.
func Rotation(t *testing.T, k Key) {
	plain, label := []byte("what is kept for long"), domain.Name("whose", "it is")
	seal := func() []byte {
		t.Helper()
		sealed, err := k.Encrypt(plain, label)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	renew := func(sealed []byte) []byte {
		t.Helper()
		fresh, err := k.Rewrap(sealed, label)
		if err != nil {
			t.Fatal(err)
		}
		return fresh
	}
	opens := func(sealed []byte, want bool) {
		t.Helper()
		back, err := k.Decrypt(sealed, label)
		if (err == nil) != want || want && !bytes.Equal(back, plain) {
			t.Errorf("opening gives %q, %v; want it to open: %t", back, err, want)
		}
	}
	version := func(sealed []byte, want int) {
		t.Helper()
		if got := k.VersionOf(sealed); got != want {
			t.Errorf("version %d closed it, want %d", got, want)
		}
	}
	old := seal()
	version(old, 1)
	if renew(old) != nil {
		t.Error("what the newest version closed is closed anew")
	}
	k.Rotate()
	fresh := renew(old)
	version(fresh, 2)
	version(seal(), 2)
	opens(old, true)
	opens(fresh, true)
	if renew(fresh) != nil {
		t.Error("it is closed anew a second time")
	}
	for what, bent := range map[string][]byte{"nothing": nil, "cut": old[:len(old)-1], "foreign": bytes.Repeat([]byte{1}, len(old)),
		"changed": append(bytes.Clone(old[:len(old)-1]), old[len(old)-1]^1)} {
		if made, err := k.Rewrap(bent, label); err == nil || made != nil {
			t.Errorf("%s: it is closed anew: %x, %v", what, made, err)
		}
	}
	if made, err := k.Rewrap(old, domain.Name("whose", "it is not")); err == nil || made != nil {
		t.Errorf("what is another's is closed anew: %x, %v", made, err)
	}
	if _, err := k.Decrypt(fresh, domain.Name("whose", "it is not")); err == nil {
		t.Error("what was closed anew opens for another")
	}
	k.Disable(1)
	opens(fresh, true)
	opens(old, false)
	if made, err := k.Rewrap(old, label); err == nil || made != nil {
		t.Errorf("what a disabled version closed is closed anew: %x, %v", made, err)
	}
}
