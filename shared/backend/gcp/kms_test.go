package gcp_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
)

const (
	sealing    = "seal@p.iam.gserviceaccount.com"
	extracting = "extract@p.iam.gserviceaccount.com"
	ring       = "projects/keys/locations/europe-west4/keyRings/r/cryptoKeys/"
)

func kmsOf(t *testing.T, v *gcptest.Vault, identity string, env domain.Env) *gcp.KMS {
	t.Helper()
	k, err := gcp.OpenKMS(t.Context(), env, func(name string) string { return name }, v.As(identity)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// both is the whole of a symmetric key.
type both struct {
	domain.Encrypter
	domain.Decrypter
}

func bothOf(k *gcp.KMS, name string) both { return both{gcp.Closing(k, name), gcp.Opening(k, name)} }

// TestGates: who seals cannot open, what is bound to one thing does not open for another, and what is large is closed
// under a key of its own.
func TestGates(t *testing.T) {
	v := gcptest.NewVault(t)
	outer := ring + "outer"
	v.AddSymmetric(t, outer)
	v.Grant(sealing, gcptest.Encrypter, outer)
	v.Grant(extracting, gcptest.Decrypter, outer)
	seal, extract := kmsOf(t, v, sealing, domain.Env{}), kmsOf(t, v, extracting, domain.Env{})
	for _, size := range []int{0, 1, 4 << 10, 8<<10 - 5, 8<<10 - 4, 100 << 10} {
		plain := bytes.Repeat([]byte{7}, size)
		sealed, err := gcp.Closing(seal, outer).Encrypt(plain, []byte("mine"))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if back, err := gcp.Opening(extract, outer).Decrypt(sealed, []byte("mine")); err != nil || !bytes.Equal(back, plain) {
			t.Errorf("%d bytes: got %d, %v", size, len(back), err)
		}
		if _, err := gcp.Opening(extract, outer).Decrypt(sealed, []byte("yours")); err == nil {
			t.Errorf("%d bytes: opens under another binding", size)
		}
		if _, err := gcp.Opening(seal, outer).Decrypt(sealed, []byte("mine")); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
			t.Errorf("%d bytes: whoever seals opens: %v", size, err)
		}
		if _, err := gcp.Closing(extract, outer).Encrypt(plain, []byte("mine")); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
			t.Errorf("%d bytes: whoever opens seals: %v", size, err)
		}
		for i := range min(len(sealed), 40) {
			bent := bytes.Clone(sealed)
			bent[i] ^= 1
			if back, err := gcp.Opening(extract, outer).Decrypt(bent, []byte("mine")); err == nil {
				t.Errorf("%d bytes: opens with byte %d changed, to %d bytes", size, i, len(back))
			}
		}
		for n := range min(len(sealed), 40) {
			if _, err := gcp.Opening(extract, outer).Decrypt(sealed[:n], []byte("mine")); err == nil {
				t.Errorf("opens when cut to %d bytes", n)
			}
		}
	}
}

// TestRotation: a new version closes from now on, older ones open as long as they are enabled.
func TestRotation(t *testing.T) {
	v := gcptest.NewVault(t)
	name := ring + "session"
	v.AddSymmetric(t, name)
	v.Grant(extracting, append(gcptest.Encrypter, gcptest.Decrypter...), name)
	both := bothOf(kmsOf(t, v, extracting, domain.Env{}), name)
	old, err := both.Encrypt([]byte("state"), nil)
	if err != nil {
		t.Fatal(err)
	}
	v.AddSymmetric(t, name)
	fresh, err := both.Encrypt([]byte("state"), nil)
	if err != nil {
		t.Fatal(err)
	}
	v.SetState(name, 1, kmspb.CryptoKeyVersion_DISABLED)
	if _, err := both.Decrypt(old, nil); domain.KindOf(err) != domain.Internal {
		t.Errorf("a disabled version opens, or looks as if it would later: %v", err)
	}
	if back, err := both.Decrypt(fresh, nil); err != nil || string(back) != "state" {
		t.Errorf("the new version does not open: %v", err)
	}
}

// TestChecksums: a bit that flips on the way out or back is noticed, and looks like what passes.
func TestChecksums(t *testing.T) {
	v := gcptest.NewVault(t)
	name := ring + "outer"
	v.AddSymmetric(t, name)
	v.Grant(extracting, append(gcptest.Encrypter, gcptest.Decrypter...), name)
	both := bothOf(kmsOf(t, v, extracting, domain.Env{}), name)
	sealed, err := both.Encrypt([]byte("plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	bends := map[string]func(any){
		"the ciphertext":        func(a any) { a.(*kmspb.EncryptResponse).Ciphertext[9] ^= 1 },
		"no checksum":           func(a any) { a.(*kmspb.EncryptResponse).CiphertextCrc32C = nil },
		"plaintext unverified":  func(a any) { a.(*kmspb.EncryptResponse).VerifiedPlaintextCrc32C = false },
		"label unverified":      func(a any) { a.(*kmspb.EncryptResponse).VerifiedAdditionalAuthenticatedDataCrc32C = false },
		"the plaintext":         func(a any) { a.(*kmspb.DecryptResponse).Plaintext[0] ^= 1 },
		"no plaintext checksum": func(a any) { a.(*kmspb.DecryptResponse).PlaintextCrc32C = nil },
	}
	for what, bend := range bends {
		v.Bend = func(_ string, a any) {
			defer func() { _ = recover() }() // the answer of the other method
			bend(a)
		}
		_, closing := both.Encrypt([]byte("plain"), nil)
		_, opening := both.Decrypt(sealed, nil)
		if err := errors.Join(closing, opening); domain.KindOf(err) != domain.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestBusy: what Cloud KMS refuses for its quota is asked again, and in the end told as what passes.
func TestBusy(t *testing.T) {
	v := gcptest.NewVault(t)
	name := ring + "outer"
	v.AddSymmetric(t, name)
	v.Grant(sealing, gcptest.Encrypter, name)
	closing := gcp.Closing(kmsOf(t, v, sealing, domain.Env{}), name)
	left := 2
	v.Fault = func(string, string) error {
		if left--; left >= 0 {
			return status.Error(codes.ResourceExhausted, "quota")
		}
		return nil
	}
	if _, err := closing.Encrypt([]byte("x"), nil); err != nil || v.Calls("Encrypt") != 3 {
		t.Errorf("after %d calls: %v", v.Calls("Encrypt"), err)
	}
	v.Fault = func(string, string) error { return status.Error(codes.Unauthenticated, "who?") }
	if _, err := closing.Encrypt([]byte("x"), nil); domain.KindOf(err) != domain.Internal || v.Calls("Encrypt") != 4 {
		t.Errorf("what does not pass is asked %d times: %v", v.Calls("Encrypt")-3, err)
	}
}

// TestVersions: public halves are remembered for ten minutes, and a new or a disabled version is noticed then.
func TestVersions(t *testing.T) {
	v := gcptest.NewVault(t)
	inner, certificate := ring+"inner", ring+"certificate"
	v.Grant(sealing, gcptest.Public, inner)
	v.Grant(extracting, gcptest.Opener, inner)
	v.Grant(extracting, append(gcptest.Signer, gcptest.Public...), certificate)
	keys := make([]*rsa.PrivateKey, 11) // more than ten, so that versions do not sort as texts
	for i := range keys {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
		v.AddRSA(t, inner, keys[i])
	}
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	env := domain.Env{Clock: func() time.Time { return now }}
	public := gcp.Public(kmsOf(t, v, sealing, env), inner)
	private := gcp.Decrypters(kmsOf(t, v, extracting, env), inner)
	expect(t, public, keys)
	asked := v.Calls("GetPublicKey") + v.Calls("ListCryptoKeyVersions")
	v.SetState(inner, 1, kmspb.CryptoKeyVersion_DISABLED)
	expect(t, public, keys)
	if again := v.Calls("GetPublicKey") + v.Calls("ListCryptoKeyVersions"); again != asked {
		t.Errorf("asked %d times for what is known", again-asked)
	}
	now = now.Add(10 * time.Minute)
	expect(t, public, keys[1:])
	v.Fault = func(string, string) error { return status.Error(codes.Aborted, "down") }
	now = now.Add(10 * time.Minute)
	expect(t, public, keys[1:])
	v.Fault = nil

	open, err := private()
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range open {
		sealed, err := rsa.EncryptOAEP(crypto.SHA256.New(), rand.Reader, &keys[i+1].PublicKey, []byte("content key"), nil)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := d.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256})
		if err != nil || string(plain) != "content key" {
			t.Errorf("version %d: %q, %v", i+2, plain, err)
		}
		if _, err := d.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA1}); err == nil {
			t.Error("it opens with SHA-1")
		}
	}
	if stolen, err := gcp.Decrypters(kmsOf(t, v, sealing, env), inner)(); err != nil {
		t.Error(err)
	} else if _, err := stolen[0].Decrypt(nil, make([]byte, 256), &rsa.OAEPOptions{Hash: crypto.SHA256}); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
		t.Errorf("whoever shows the key opens with it: %v", err)
	}

	v.AddSigner(t, certificate)
	signers, err := gcp.Signers(kmsOf(t, v, extracting, env), certificate)()
	if err != nil || len(signers) != 1 {
		t.Fatal(len(signers), err)
	}
	signer := signers[0]
	signature, err := signer.Sign(nil, []byte("erased"), crypto.Hash(0))
	if err != nil || !ed25519.Verify(signer.Public().(ed25519.PublicKey), []byte("erased"), signature) {
		t.Errorf("the signature does not hold: %v", err)
	}
}

func expect(t *testing.T, list func() ([]crypto.PublicKey, error), keys []*rsa.PrivateKey) {
	t.Helper()
	public, err := list()
	if err != nil || len(public) != len(keys) {
		t.Fatalf("%d versions, want %d: %v", len(public), len(keys), err)
	}
	for i, p := range public {
		if !keys[i].PublicKey.Equal(p) {
			t.Errorf("version %d is another key", i)
		}
	}
}

// TestSecrets: a secret is read once in five minutes, newer versions are found without a deployment, and strangers
// are refused.
func TestSecrets(t *testing.T) {
	v := gcptest.NewVault(t)
	name := "projects/p/secrets/comdirect--client_id"
	v.AddSecret(name, []byte("one"))
	v.Grant(extracting, gcptest.Accessor, name)
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	env := domain.Env{Clock: func() time.Time { return now }}
	s, err := gcp.OpenSecrets(t.Context(), env, "p", v.As(extracting)...)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := func(value string, calls int) {
		t.Helper()
		got, err := s.Secret(t.Context(), "comdirect/client_id")
		if err != nil || string(got.Reveal()) != value || v.Calls("AccessSecretVersion") != calls {
			t.Errorf("%q after %d calls, %v; want %q after %d", got.Reveal(), v.Calls("AccessSecretVersion"), err, value, calls)
		}
		got.Wipe()
	}
	want("one", 1)
	v.AddSecret(name, []byte("two"))
	want("one", 1)
	now = now.Add(5 * time.Minute)
	want("two", 2)
	v.Fault = func(string, string) error { return status.Error(codes.Internal, "down") }
	now = now.Add(5 * time.Minute)
	if _, err := s.Secret(t.Context(), "comdirect/client_id"); err == nil {
		t.Error("an unknown failure passes")
	}
	v.Fault = nil
	v.Bend = func(_ string, a any) { a.(*secretmanagerpb.AccessSecretVersionResponse).Payload.Data[0] ^= 1 }
	want("two", 4) // bent, so the one known so far
	v.Bend = nil
	for _, stranger := range []string{"", sealing} {
		other, err := gcp.OpenSecrets(t.Context(), env, "p", v.As(stranger)...)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := other.Secret(t.Context(), "comdirect/client_id"); err == nil {
			t.Errorf("%q reads %q", stranger, got.Reveal())
		}
		other.Close()
	}
	for _, wrong := range []string{"", "a/b/c", "../x", "a b", "a/versions/1"} {
		if _, err := s.Secret(t.Context(), wrong); domain.KindOf(err) != domain.NotFound {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, err := s.Secret(t.Context(), "unknown"); err == nil {
		t.Error(fmt.Errorf("what is not there is read"))
	}
}
