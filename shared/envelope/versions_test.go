package envelope

import (
	"testing"

	"sluis.internal/shared/backend/backendtest"
)

// TestKeyContract: local keys rotate as those in a KMS do.
func TestKeyContract(t *testing.T) {
	dir := keysDir(t)
	k := localKeys(t, dir)
	_, err := k.InnerKids()
	if err != nil {
		t.Fatal(err)
	}
	numbers := func(want ...int) {
		t.Helper()
		got := k.Versions(KeyPortfolio)
		if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("the versions are %v, want %v", got, want)
		}
	}
	rotate := func() {
		t.Helper()
		if err := Rotate(dir, string(KeyPortfolio)); err != nil {
			t.Fatal(err)
		}
		k.Versions(KeyPortfolio) // which reads the files again, as the next start would
	}
	backendtest.Rotation(t, backendtest.Key{Encrypter: k.Encrypter(KeyPortfolio), Decrypter: k.Decrypter(KeyPortfolio),
		Rewrapper: k.Rewrapper(KeyPortfolio), VersionOf: func(sealed []byte) int { return k.VersionOf(KeyPortfolio, sealed) }, Rotate: rotate,
		Disable: func(number int) {
			if err := Disable(dir, string(KeyPortfolio), number); err != nil {
				t.Fatal(err)
			}
			k.Versions(KeyPortfolio)
		}})
	numbers(2)
	rotate()
	numbers(2, 3)
	if err := Disable(dir, string(KeyPortfolio), 2); err != nil {
		t.Error(err)
	}
	rotate() // and not under the number of one that was disabled
	numbers(3, 4)
	if err := Disable(dir, string(KeyPortfolio), 1); err == nil {
		t.Error("a version is disabled twice")
	}
	if kids, err := k.InnerVersions(); err != nil || len(kids) != 1 {
		t.Errorf("the inner gate's versions are %v, %v", kids, err)
	}
}
