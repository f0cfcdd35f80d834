package gcptest

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// hsmMax is the most that a key in an HSM takes at once, associated data included, in bytes.
const hsmMax = 8 << 10

// cryptoKey is a key with its versions. One of the three is set in each version.
type cryptoKey struct {
	versions []*keyVersion
	primary  int // of a symmetric key: the number of the version that encrypts
}

type keyVersion struct {
	state     kmspb.CryptoKeyVersion_CryptoKeyVersionState
	symmetric cipher.AEAD
	decrypts  *rsa.PrivateKey
	signs     ed25519.PrivateKey
}

// AddSymmetric makes a new version of an AES-256 key, the primary one from now on, and the key if there is none.
func (v *Vault) AddSymmetric(t testing.TB, name string) {
	t.Helper()
	gcm, err := newGCM()
	if err != nil {
		t.Fatal(err)
	}
	v.add(name, &keyVersion{symmetric: gcm})
}

func newGCM() (cipher.AEAD, error) {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// AddRSA makes a new version of a key that decrypts with RSA-OAEP-256.
func (v *Vault) AddRSA(t testing.TB, name string, key *rsa.PrivateKey) {
	t.Helper()
	v.add(name, &keyVersion{decrypts: key})
}

// AddSigner makes a new version of an Ed25519 key.
func (v *Vault) AddSigner(t testing.TB, name string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v.add(name, &keyVersion{signs: key})
}

func (v *Vault) add(name string, version *keyVersion) {
	v.mu.Lock()
	defer v.mu.Unlock()
	version.state = kmspb.CryptoKeyVersion_ENABLED
	k := v.keys[name]
	if k == nil {
		k = &cryptoKey{}
		v.keys[name] = k
	}
	k.versions = append(k.versions, version)
	k.primary = len(k.versions)
}

// SetState changes the state of a key's version, counted from 1.
func (v *Vault) SetState(name string, number int, state kmspb.CryptoKeyVersion_CryptoKeyVersionState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys[name].versions[number-1].state = state
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, castagnoli)))
}

// sent refuses bytes that do not come with their checksum. Google lets a missing one pass; we never leave one out.
func sent(what string, b []byte, s *wrapperspb.Int64Value) error {
	if s == nil || s.GetValue() != sum(b).GetValue() {
		return status.Errorf(codes.InvalidArgument, "the checksum of %s is missing or does not match", what)
	}
	return nil
}

// use finds an enabled version for the caller.
func (v *Vault) use(ctx context.Context, permission, key string, number int) (*keyVersion, error) {
	if err := v.permit(ctx, permission, key); err != nil {
		return nil, err
	}
	k := v.keys[key]
	if k == nil || number < 1 || number > len(k.versions) {
		return nil, status.Errorf(codes.NotFound, "no version %d of %s", number, key)
	}
	version := k.versions[number-1]
	if version.state != kmspb.CryptoKeyVersion_ENABLED {
		return nil, status.Errorf(codes.FailedPrecondition, "%s/cryptoKeyVersions/%d is not enabled, current state is: %s", key, number, version.state)
	}
	return version, nil
}

// Encrypt implements Cloud KMS's, with the primary version.
func (v *Vault) Encrypt(ctx context.Context, q *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	number := 0
	if k := v.keys[q.Name]; k != nil {
		number = k.primary
	}
	version, err := v.use(ctx, "cloudkms.cryptoKeyVersions.useToEncrypt", q.Name, number)
	if err != nil {
		return nil, err
	}
	if err := sent("plaintext", q.Plaintext, q.PlaintextCrc32C); err != nil {
		return nil, err
	}
	if err := sent("additional authenticated data", q.AdditionalAuthenticatedData, q.AdditionalAuthenticatedDataCrc32C); err != nil {
		return nil, err
	}
	if version.symmetric == nil || len(q.Plaintext)+len(q.AdditionalAuthenticatedData) > hsmMax {
		return nil, status.Error(codes.InvalidArgument, "want a symmetric key, and no more than 8 KiB")
	}
	sealed := binary.BigEndian.AppendUint32(nil, uint32(number))
	sealed = version.symmetric.Seal(sealed, nil, q.Plaintext, q.AdditionalAuthenticatedData)
	return &kmspb.EncryptResponse{Name: fmt.Sprintf("%s/cryptoKeyVersions/%d", q.Name, number), Ciphertext: sealed, CiphertextCrc32C: sum(sealed),
		VerifiedPlaintextCrc32C: true, VerifiedAdditionalAuthenticatedDataCrc32C: true}, nil
}

// Decrypt implements Cloud KMS's, with the version that encrypted.
func (v *Vault) Decrypt(ctx context.Context, q *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.permit(ctx, "cloudkms.cryptoKeyVersions.useToDecrypt", q.Name); err != nil {
		return nil, err
	}
	if err := sent("ciphertext", q.Ciphertext, q.CiphertextCrc32C); err != nil {
		return nil, err
	}
	if err := sent("additional authenticated data", q.AdditionalAuthenticatedData, q.AdditionalAuthenticatedDataCrc32C); err != nil {
		return nil, err
	}
	if len(q.Ciphertext) < 4 {
		return nil, status.Error(codes.InvalidArgument, "decryption failed: the ciphertext is invalid")
	}
	version, err := v.use(ctx, "cloudkms.cryptoKeyVersions.useToDecrypt", q.Name, int(binary.BigEndian.Uint32(q.Ciphertext)))
	if err != nil {
		return nil, err
	}
	plain, err := version.symmetric.Open(nil, nil, q.Ciphertext[4:], q.AdditionalAuthenticatedData)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "decryption failed: verify that 'name' refers to the correct CryptoKey")
	}
	return &kmspb.DecryptResponse{Plaintext: plain, PlaintextCrc32C: sum(plain), UsedPrimary: version == v.keys[q.Name].versions[v.keys[q.Name].primary-1]}, nil
}

// split takes a version's resource name apart.
func split(name string) (key string, number int) {
	key, text, _ := strings.Cut(name, "/cryptoKeyVersions/")
	number, _ = strconv.Atoi(text)
	return key, number
}

// AsymmetricDecrypt implements Cloud KMS's.
func (v *Vault) AsymmetricDecrypt(ctx context.Context, q *kmspb.AsymmetricDecryptRequest) (*kmspb.AsymmetricDecryptResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, number := split(q.Name)
	version, err := v.use(ctx, "cloudkms.cryptoKeyVersions.useToDecrypt", key, number)
	if err != nil {
		return nil, err
	}
	if err := sent("ciphertext", q.Ciphertext, q.CiphertextCrc32C); err != nil {
		return nil, err
	}
	if version.decrypts == nil {
		return nil, status.Error(codes.InvalidArgument, "the key does not decrypt")
	}
	plain, err := version.decrypts.Decrypt(rand.Reader, q.Ciphertext, &rsa.OAEPOptions{Hash: crypto.SHA256})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "decryption failed: the ciphertext is invalid")
	}
	return &kmspb.AsymmetricDecryptResponse{Plaintext: plain, PlaintextCrc32C: sum(plain), VerifiedCiphertextCrc32C: true}, nil
}

// AsymmetricSign implements Cloud KMS's for Ed25519.
func (v *Vault) AsymmetricSign(ctx context.Context, q *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, number := split(q.Name)
	version, err := v.use(ctx, "cloudkms.cryptoKeyVersions.useToSign", key, number)
	if err != nil {
		return nil, err
	}
	if err := sent("data", q.Data, q.DataCrc32C); err != nil {
		return nil, err
	}
	if version.signs == nil {
		return nil, status.Error(codes.InvalidArgument, "the key does not sign")
	}
	signature := ed25519.Sign(version.signs, q.Data)
	return &kmspb.AsymmetricSignResponse{Name: q.Name, Signature: signature, SignatureCrc32C: sum(signature), VerifiedDataCrc32C: true}, nil
}

// GetPublicKey implements Cloud KMS's.
func (v *Vault) GetPublicKey(ctx context.Context, q *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, number := split(q.Name)
	version, err := v.use(ctx, "cloudkms.cryptoKeyVersions.viewPublicKey", key, number)
	if err != nil {
		return nil, err
	}
	var public crypto.PublicKey
	switch {
	case version.decrypts != nil:
		public = version.decrypts.Public()
	case version.signs != nil:
		public = version.signs.Public()
	default:
		return nil, status.Error(codes.InvalidArgument, "the key has no public half")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return &kmspb.PublicKey{Name: q.Name, Pem: string(text), PemCrc32C: sum(text)}, nil
}
