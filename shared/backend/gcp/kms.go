package gcp

import (
	"cmp"
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
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"sync"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	gax "github.com/googleapis/gax-go/v2"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

// Bounds of a call to Cloud KMS, and of what is remembered of its answers.
const (
	kmsTime = 10 * time.Second // with all its repetitions
	keyLife = 10 * time.Minute // of a key's list of versions and their public halves
)

// KMS is Cloud KMS. It is asked with a checksum of everything sent, and its answers are believed only with theirs
// (CRC32C, as Google's guide on data integrity asks). Safe for concurrent use.
//
// What may be done with its keys are functions and not methods: so a program holds no more of them than it uses.
type KMS struct {
	client *kms.KeyManagementClient
	env    domain.Env
	names  func(string) string
}

// OpenKMS makes the client; the first call connects it. names turns the name of a key into its resource name.
func OpenKMS(ctx context.Context, env domain.Env, names func(string) string, o ...option.ClientOption) (*KMS, error) {
	c, err := kms.NewKeyManagementClient(ctx, o...)
	if err != nil {
		return nil, fmt.Errorf("opening Cloud KMS: %w", err)
	}
	return &KMS{client: c, env: env, names: names}, nil
}

// Close closes the client.
func (k *KMS) Close() error { return k.client.Close() }

// busy repeats what Cloud KMS refused for its quota or could not serve just now, with growing pauses.
func busy() gax.CallOption {
	return gax.WithRetry(func() gax.Retryer {
		return gax.OnCodes([]codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded},
			gax.Backoff{Initial: 100 * time.Millisecond, Max: 3 * time.Second, Multiplier: 2})
	})
}

// use is what a key is asked for, on behalf of whom.
type use struct {
	ctx context.Context // only its trace is used: what a bank has answered must be sealed even if nobody waits any more
	key string          // its name in pipeline.json
}

// ask calls Cloud KMS within kmsTime.
func ask[Q, A any](u use, method string, call func(context.Context, Q, ...gax.CallOption) (A, error), q Q) (A, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), kmsTime)
	defer cancel()
	ctx, span := observe.Within(ctx, observe.Asked, "kms "+method, observe.Key(u.key), observe.KMSMethod(method))
	a, err := call(ctx, q, busy())
	observe.AskedKMS(ctx, u.key, method, code(err).String())
	err = refused(err)
	span.End(err)
	return a, err
}

// refused is a failed call in our words. An operation that may succeed later must not look like a gate that stays
// shut.
func refused(err error) error {
	switch code(err) {
	case codes.OK:
		return nil
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return &domain.Error{Kind: domain.Unavailable, Code: "keys_unavailable", Message: "the keys cannot be reached; try again", Err: err}
	case codes.ResourceExhausted:
		return &domain.Error{Kind: domain.RateLimited, Code: "keys_busy", Message: "too many requests; try again", RetryAfter: 10 * time.Second, Err: err}
	}
	return fmt.Errorf("asking Cloud KMS: %w", err)
}

// code is the status of a failed call, also where it was the client that would not wait any longer.
func code(err error) codes.Code {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return codes.DeadlineExceeded
	}
	return status.Code(err)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, castagnoli)))
}

// verified says whether Cloud KMS had what we sent, and we have what it sent.
func verified(received bool, answer []byte, sum *wrapperspb.Int64Value) error {
	if !received || sum == nil || sum.GetValue() != checksum(answer).GetValue() {
		return &domain.Error{Kind: domain.Unavailable, Code: "keys_unavailable", Message: "the keys cannot be reached; try again",
			Err: errors.New("a checksum of Cloud KMS does not fit: bytes changed on the way")}
	}
	return nil
}

// What a symmetric key closes is closed by an AES-256-GCM key made for this one message, which goes along, closed by
// the key: so it may be of any size, and Cloud KMS never sees it. It begins with its form and with the version of the key
// that closed it, so that it can be told what a version is still needed for; the version is part of what is
// authenticated.
const (
	form    byte = 3
	headLen      = 1 + 4 // form, version
	lenLen       = 2     // of the closed key's length
	dataKey      = 32
)

type (
	closing struct {
		use
		k    *KMS
		name string
	}
	opening struct {
		use
		k    *KMS
		name string
	}
	renewing struct { // and neither of the two, also for a type assertion
		open  opening
		close closing
	}
)

// In is the same key, asked as a part of what ctx is about. See domain.In.
func (c closing) In(ctx context.Context) any { c.ctx = ctx; return c }

// In is the same key, asked as a part of what ctx is about. See domain.In.
func (o opening) In(ctx context.Context) any { o.ctx = ctx; return o }

// Closing is the half of a symmetric key that encrypts. Its primary version is used, so that a rotation needs nothing
// here.
func Closing(k *KMS, name string) domain.Encrypter {
	return closing{use{context.Background(), name}, k, k.names(name)}
}

// Opening is the half of a symmetric key that decrypts, whatever version encrypted.
func Opening(k *KMS, name string) domain.Decrypter {
	return opening{use{context.Background(), name}, k, k.names(name)}
}

// Renewing is both halves of a symmetric key, but only to close anew what an older version closed.
func Renewing(k *KMS, name string) domain.Rewrapper {
	u := use{context.Background(), name}
	return renewing{opening{u, k, k.names(name)}, closing{u, k, k.names(name)}}
}

// VersionOf says which version of a symmetric key closed it.
func VersionOf(sealed []byte) int {
	if len(sealed) < headLen || sealed[0] != form {
		return 0
	}
	return int(binary.BigEndian.Uint32(sealed[1:]))
}

// Encrypt implements domain.Encrypter. The associated data goes to Cloud KMS too, which logs it: it holds identifiers
// only.
func (c closing) Encrypt(plain, label []byte) ([]byte, error) {
	key := make([]byte, dataKey)
	defer clear(key)
	rand.Read(key) // never fails
	a, err := ask(c.use, "Encrypt", c.k.client.Encrypt, &kmspb.EncryptRequest{Name: c.name, Plaintext: key, PlaintextCrc32C: checksum(key),
		AdditionalAuthenticatedData: label, AdditionalAuthenticatedDataCrc32C: checksum(label)})
	if err == nil {
		err = verified(a.VerifiedPlaintextCrc32C && a.VerifiedAdditionalAuthenticatedDataCrc32C, a.Ciphertext, a.CiphertextCrc32C)
	}
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(path.Base(a.Name), 10, 32)
	if err != nil || len(a.Ciphertext) > math.MaxUint16 {
		return nil, fmt.Errorf("asking Cloud KMS: %q closed %d bytes", a.Name, len(a.Ciphertext))
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	head := binary.BigEndian.AppendUint32([]byte{form}, uint32(n))
	out := binary.BigEndian.AppendUint16(slices.Clone(head), uint16(len(a.Ciphertext)))
	return gcm.Seal(append(out, a.Ciphertext...), nil, plain, append(head, label...)), nil
}

// newGCM uses a key once, with a random nonce that goes along.
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("using data key: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

var errSealed = errors.New("what was sealed is damaged")

// Decrypt implements domain.Decrypter.
func (o opening) Decrypt(sealed, label []byte) ([]byte, error) {
	plain, _, err := o.open(sealed, label)
	return plain, err
}

// open also says whether the primary version closed it.
func (o opening) open(sealed, label []byte) (plain []byte, primary bool, err error) {
	if VersionOf(sealed) == 0 || len(sealed) < headLen+lenLen {
		return nil, false, errSealed
	}
	rest := sealed[headLen+lenLen:]
	n := int(binary.BigEndian.Uint16(sealed[headLen:]))
	if len(rest) < n {
		return nil, false, errSealed
	}
	a, err := ask(o.use, "Decrypt", o.k.client.Decrypt, &kmspb.DecryptRequest{Name: o.name, Ciphertext: rest[:n], CiphertextCrc32C: checksum(rest[:n]),
		AdditionalAuthenticatedData: label, AdditionalAuthenticatedDataCrc32C: checksum(label)})
	if err == nil {
		defer clear(a.Plaintext)
		err = verified(true, a.Plaintext, a.PlaintextCrc32C)
	}
	if err != nil {
		return nil, false, err
	}
	gcm, err := newGCM(a.Plaintext)
	if err != nil {
		return nil, false, err
	}
	plain, err = gcm.Open(nil, nil, rest[n:], slices.Concat(sealed[:headLen], label))
	return plain, a.UsedPrimary, err
}

// Rewrap implements domain.Rewrapper.
func (r renewing) Rewrap(sealed, label []byte) ([]byte, error) {
	plain, primary, err := r.open.open(sealed, label)
	defer clear(plain)
	if err != nil || primary {
		return nil, err
	}
	return r.close.Encrypt(plain, label)
}

// version is one version of an asymmetric key: its public half, and where the private half is.
type version struct {
	use
	k      *KMS
	name   string
	public crypto.PublicKey
}

// Public implements crypto.Decrypter and crypto.Signer.
func (v *version) Public() crypto.PublicKey { return v.public }

func (v *version) in(ctx context.Context) *version {
	same := *v
	same.ctx = ctx
	return &same
}

// number is the version's place among its key's: Cloud KMS counts them from 1.
func (v *version) number() int {
	n, _ := strconv.Atoi(path.Base(v.name))
	return n
}

// decrypter is a version of an RSA key. That it is a type of its own keeps a program that only reads public keys free of
// the code that opens.
type decrypter struct{ *version }

// In is the same key, asked as a part of what ctx is about. See domain.In.
func (v decrypter) In(ctx context.Context) any { return decrypter{v.version.in(ctx)} }

// Decrypt implements crypto.Decrypter for RSA-OAEP with SHA-256 and no label, and nothing else.
func (v decrypter) Decrypt(_ io.Reader, sealed []byte, o crypto.DecrypterOpts) ([]byte, error) {
	oaep, ok := o.(*rsa.OAEPOptions)
	if _, isRSA := v.public.(*rsa.PublicKey); !isRSA || !ok || oaep.Hash != crypto.SHA256 || len(oaep.Label) > 0 {
		return nil, errors.New("opening inner gate: want RSA-OAEP with SHA-256")
	}
	a, err := ask(v.use, "AsymmetricDecrypt", v.k.client.AsymmetricDecrypt, &kmspb.AsymmetricDecryptRequest{Name: v.name, Ciphertext: sealed, CiphertextCrc32C: checksum(sealed)})
	if err != nil {
		return nil, err
	}
	return a.Plaintext, verified(a.VerifiedCiphertextCrc32C, a.Plaintext, a.PlaintextCrc32C)
}

// signer is a version of an Ed25519 key.
type signer struct{ *version }

// In is the same key, asked as a part of what ctx is about. See domain.In.
func (v signer) In(ctx context.Context) any { return signer{v.version.in(ctx)} }

// Sign implements crypto.Signer for Ed25519: message is the message itself, and o.HashFunc() is 0.
func (v signer) Sign(_ io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	if _, isEd := v.public.(ed25519.PublicKey); !isEd || o.HashFunc() != 0 {
		return nil, errors.New("signing: want Ed25519 over the message itself")
	}
	a, err := ask(v.use, "AsymmetricSign", v.k.client.AsymmetricSign, &kmspb.AsymmetricSignRequest{Name: v.name, Data: message, DataCrc32C: checksum(message)})
	if err != nil {
		return nil, err
	}
	return a.Signature, verified(a.VerifiedDataCrc32C && a.Name == v.name, a.Signature, a.SignatureCrc32C)
}

// versions keeps the enabled versions of an asymmetric key, oldest first, for keyLife: a new version is used, and a
// disabled one given up, within that time.
type versions struct {
	use
	k    *KMS
	name string

	mu    sync.Mutex
	until domain.Time
	held  []*version
}

// Public lists the public halves of an asymmetric key, oldest first.
func Public(k *KMS, name string) func() ([]crypto.PublicKey, error) {
	return halves(k, name, func(v *version) crypto.PublicKey { return v.public })
}

// Decrypters lists the opening halves of an RSA key, oldest first (RSA-OAEP-256).
func Decrypters(k *KMS, name string) func() ([]crypto.Decrypter, error) {
	return halves(k, name, func(v *version) crypto.Decrypter { return decrypter{v} })
}

// Signers lists the signing halves of an Ed25519 key, oldest first.
func Signers(k *KMS, name string) func() ([]crypto.Signer, error) {
	return halves(k, name, func(v *version) crypto.Signer { return signer{v} })
}

func halves[T any](k *KMS, name string, half func(*version) T) func() ([]T, error) {
	vs := &versions{use: use{context.Background(), name}, k: k, name: k.names(name)}
	return func() (all []T, err error) {
		enabled, err := vs.all()
		for _, v := range enabled {
			all = append(all, half(v))
		}
		return all, err
	}
}

// all returns the enabled versions, oldest first; there is at least one. If Cloud KMS cannot be asked, the versions
// known so far are good a little longer.
func (vs *versions) all() ([]*version, error) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	now := vs.k.env.Now()
	if now.Before(vs.until) {
		return vs.held, nil
	}
	fresh, err := vs.list()
	if err != nil {
		if len(vs.held) > 0 && domain.KindOf(err) == domain.Unavailable {
			vs.until = now.Add(keyLife / 10)
			return vs.held, nil
		}
		return nil, err
	}
	vs.held, vs.until = fresh, now.Add(keyLife)
	return fresh, nil
}

func (vs *versions) list() ([]*version, error) {
	known := map[string]*version{}
	for _, v := range vs.held {
		known[v.name] = v
	}
	names, err := vs.enabled()
	observe.AskedKMS(context.Background(), vs.key, "ListCryptoKeyVersions", code(err).String())
	if err != nil {
		return nil, refused(err)
	}
	var all []*version
	for _, name := range names {
		v := known[name]
		if v == nil {
			if v, err = vs.version(name); err != nil {
				return nil, err
			}
		}
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b *version) int { return cmp.Compare(a.number(), b.number()) })
	if len(all) == 0 {
		return nil, &domain.Error{Kind: domain.Unavailable, Code: "keys_unavailable", Message: "no version of the key is enabled"}
	}
	return all, nil
}

// enabled names the versions that are.
func (vs *versions) enabled() (names []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), kmsTime)
	defer cancel()
	it := vs.k.client.ListCryptoKeyVersions(ctx, &kmspb.ListCryptoKeyVersionsRequest{Parent: vs.name, Filter: "state=ENABLED"}, busy())
	for {
		listed, err := it.Next()
		if errors.Is(err, iterator.Done) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		names = append(names, listed.Name)
	}
}

// version reads a version's public half, which never changes.
func (vs *versions) version(name string) (*version, error) {
	a, err := ask(vs.use, "GetPublicKey", vs.k.client.GetPublicKey, &kmspb.GetPublicKeyRequest{Name: name})
	if err != nil {
		return nil, err
	}
	if err := verified(a.Name == name, []byte(a.Pem), a.PemCrc32C); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(a.Pem))
	if block == nil {
		return nil, fmt.Errorf("reading public key %s: no PEM", name)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading public key %s: %w", name, err)
	}
	return &version{use: vs.use, k: vs.k, name: name, public: public}, nil
}
