package gcp_test

import (
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
