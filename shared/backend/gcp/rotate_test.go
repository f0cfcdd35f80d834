package gcp_test

import (
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluis.internal/shared/backend/backendtest"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
)

const administrating = "operator@p.iam.gserviceaccount.com"

// TestRotate: a new version of a symmetric key is the primary one, one of an RSA key is shown to browsers once it was
// made, and only who administers a key may do that.
func TestRotate(t *testing.T) {
	v := gcptest.NewVault(t)
	outer, inner := ring+"outer", ring+"inner"
	v.AddSymmetric(t, outer)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	v.AddRSA(t, inner, key)
	for _, name := range []string{outer, inner} {
		v.Grant(administrating, gcptest.Admin, name)
		v.Grant(extracting, append(gcptest.Opener, gcptest.Encrypter...), name)
	}
	admin, extract := kmsOf(t, v, administrating, domain.Env{}), kmsOf(t, v, extracting, domain.Env{})
	if _, err := gcp.Rotate(t.Context(), extract, outer); status.Code(err) != codes.PermissionDenied {
		t.Errorf("whoever uses a key makes a version of it: %v", err)
	}
	for _, name := range []string{outer, inner} {
		if made, err := gcp.Rotate(t.Context(), admin, name); err != nil || made != name+"/cryptoKeyVersions/2" {
			t.Errorf("%s: %q, %v", name, made, err)
		}
	}
	v.SetState(outer, 1, kmspb.CryptoKeyVersion_DISABLED)
	both := bothOf(extract, outer)
	sealed, err := both.Encrypt([]byte("plain"), nil)
	if err != nil {
		t.Fatalf("the new version does not close: %v", err)
	}
	if back, err := both.Decrypt(sealed, nil); err != nil || string(back) != "plain" {
		t.Errorf("%q, %v", back, err)
	}
	if shown, err := gcp.Public(extract, inner)(); err != nil || len(shown) != 2 || !key.PublicKey.Equal(shown[0]) {
		t.Errorf("%d keys are shown, %v", len(shown), err)
	}
	v.Fault = func(_, method string) error {
		if method == "UpdateCryptoKeyPrimaryVersion" {
			return status.Error(codes.FailedPrecondition, "no")
		}
		return nil
	}
	if _, err := gcp.Rotate(t.Context(), admin, outer); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("half a rotation looks like a whole one: %v", err)
	}
}

// TestRewrap: see the contract; a function that may only open, or only close, can do neither for it.
func TestRewrap(t *testing.T) {
	v := gcptest.NewVault(t)
	name := ring + "portfolio"
	v.AddSymmetric(t, name)
	v.Grant(extracting, append(gcptest.Encrypter, gcptest.Decrypter...), name)
	v.Grant(sealing, gcptest.Encrypter, name)
	v.Grant("reader", gcptest.Decrypter, name)
	v.Grant(administrating, gcptest.Admin, name)
	admin, k := kmsOf(t, v, administrating, domain.Env{}), kmsOf(t, v, extracting, domain.Env{})
	rotate := func(name string) {
		t.Helper()
		if _, err := gcp.Rotate(t.Context(), admin, name); err != nil {
			t.Fatal(err)
		}
	}
	old, err := gcp.Closing(k, name).Encrypt([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	rotate(name)
	for _, half := range []string{sealing, "reader"} {
		if made, err := gcp.Renewing(kmsOf(t, v, half, domain.Env{}), name).Rewrap(old, nil); status.Code(err) != codes.PermissionDenied || made != nil {
			t.Errorf("%s closes it anew: %v", half, err)
		}
	}
	other := ring + "webhook"
	v.AddSymmetric(t, other)
	v.Grant(extracting, append(gcptest.Encrypter, gcptest.Decrypter...), other)
	v.Grant(administrating, gcptest.Admin, other)
	backendtest.Rotation(t, backendtest.Key{Encrypter: gcp.Closing(k, other), Decrypter: gcp.Opening(k, other), Rewrapper: gcp.Renewing(k, other), VersionOf: gcp.VersionOf,
		Rotate: func() { rotate(other) },
		Disable: func(number int) {
			if err := gcp.Disable(t.Context(), admin, other, number); err != nil {
				t.Fatal(err)
			}
		}})
	shown, err := gcp.Versions(t.Context(), admin, other)
	if err != nil || len(shown) != 2 || shown[0].State != "DISABLED" || shown[0].Closes || shown[1].State != "ENABLED" || !shown[1].Closes {
		t.Errorf("the versions are %+v, %v", shown, err)
	}
	if err := gcp.Disable(t.Context(), k, other, 2); status.Code(err) != codes.PermissionDenied {
		t.Errorf("whoever uses a key disables its versions: %v", err)
	}
}
