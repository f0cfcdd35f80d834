package envelope

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestPaddingHidesLengths: what is sealed has the same length whatever is in it, up to a block.
func TestPaddingHidesLengths(t *testing.T) {
	short := sealTest(t, map[string]string{"username": "1", "password": "2"})
	long := sealTest(t, map[string]string{"username": "12345678", "password": strings.Repeat("x", 200)})
	if len(short) != len(long) {
		t.Errorf("a long password makes %d characters, a short one %d", len(long), len(short))
	}
	code := func(text string) int {
		jwe, err := testJWK().SealCode(codeAs("chal_1"), text, testNow)
		if err != nil {
			t.Fatal(err)
		}
		return len(jwe)
	}
	if code("0") != code(strings.Repeat("9", BlockCode-1)) || code("0") == code(strings.Repeat("9", BlockCode)) {
		t.Error("codes are not filled up to blocks of 64")
	}
}

func TestUnpaddingIsStrict(t *testing.T) {
	for _, block := range []int{BlockCode, BlockCredential} {
		for n := range 3 * block {
			payload := make([]byte, n)
			rand.Read(payload)
			full := pad(payload, block)
			got, ok := unpad(full, block)
			if !ok || !bytes.Equal(got, payload) || len(full)%block != 0 || len(full) > n+block {
				t.Fatalf("%d bytes became %d and came back as %d, %t", n, len(full), len(got), ok)
			}
		}
	}
	zeros := make([]byte, BlockCode)
	block := func(change func([]byte)) []byte {
		b := pad([]byte("123456"), BlockCode)
		change(b)
		return b
	}
	for name, full := range map[string][]byte{
		"nothing":            {},
		"no mark":            zeros,
		"no block":           pad([]byte("123456"), BlockCode)[:BlockCode-1],
		"a byte more":        append(pad([]byte("123456"), BlockCode), 0),
		"a block more":       append(pad([]byte("123456"), BlockCode), zeros...),
		"another mark":       block(func(b []byte) { b[6] = 0x81 }),
		"something after it": block(func(b []byte) { b[63] = 1 }),
	} {
		if got, ok := unpad(full, BlockCode); ok {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestUnpaddedIsRefused: at the door by its length alone, and where it is opened by what is inside.
func TestUnpaddedIsRefused(t *testing.T) {
	bare := forgeBare(t, credentialHeader(), `{"username":"1","password":"2"}`)
	if _, err := Inspect(bare, credentialWant(), testNow); !errors.Is(err, ErrPadding) {
		t.Errorf("Inspect = %v, want %v", err, ErrPadding)
	}
	outer := newAEAD(t)
	full := `{"username":"1","password":"2"}`
	spaces := forgeBare(t, credentialHeader(), full+fmt.Sprintf("%*s", BlockCredential-len(full), ""))
	_, err := NewOpener(outer, innerKeys).OpenCredentials(behindOuter(t, outer, spaces), testKid(), testBind, testAs)
	if !errors.Is(err, ErrPayload) {
		t.Errorf("OpenCredentials = %v, want %v", err, ErrPayload)
	}
}
