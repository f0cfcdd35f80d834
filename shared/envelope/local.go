package envelope

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/shared/domain"
)

// KeyName names one of the local AES-256 keys.
type KeyName string

const (
	KeyOuter     KeyName = "outer"     // the outer gate
	KeySession   KeyName = "session"   // sessions' state at the bank
	KeyDisplay   KeyName = "display"   // what challenges show
	KeyPortfolio KeyName = "portfolio" // wraps connections' keysets
	KeyWebhook   KeyName = "webhook"   // clients' webhook secrets
)

// KeyNames lists every KeyName.
var KeyNames = []KeyName{KeyOuter, KeySession, KeyDisplay, KeyPortfolio, KeyWebhook}

const (
	fileInner       = "inner"
	fileCertificate = "certificate"
	filePseudonym   = "pseudonym"
	fileLink        = "link"
	secretKeySize   = 32
)

// Keys are the local keys. Each accessor gives one half of one key, so that a function can be given just what it may
// hold. Safe for concurrent use.
type Keys struct {
	dir         string
	sets        map[KeyName]*keys
	pseudonym   domain.Secret
	link        domain.Secret
	certificate *ring[crypto.Signer]
	inner       func() ([]*rsa.PrivateKey, error) // oldest first; waits until there is one
}

// LocalKeys reads the keys in dir, and makes those that are missing. The directory has mode 0700 and each file 0600;
// looser ones are refused. Files are numbered: of each key the highest number closes, and all of them open. Of two
// processes that begin at once, both use what the faster one wrote; and what one closes under a key that it made later,
// the other opens too, for it looks again at the files.
//
// An RSA-4096 key takes a second to make, so the first one is made in the background: what needs it waits.
func LocalKeys(dir string) (*Keys, error) { return LocalKeysNoting(dir, noteNothing) }

// LocalKeysNoting is LocalKeys for one who writes down which versions there are: note hears of the inner gate's first
// key before anybody can use it. Of the other first ones Inventory tells when it returns, and nobody used them until then.
func LocalKeysNoting(dir string, note func(domain.KeyVersion) error) (*Keys, error) {
	if err := privateDir(dir); err != nil {
		return nil, err
	}
	dropDrafts(dir)
	k := &Keys{dir: dir, sets: map[KeyName]*keys{}}
	for _, name := range KeyNames {
		k.sets[name] = &keys{ring[tink.AEAD]{dir: dir, name: string(name), fresh: newKeysetFile, read: readKeysets}}
		if err := k.sets[name].ensure(); err != nil {
			return nil, err
		}
	}
	k.certificate = &ring[crypto.Signer]{dir: dir, name: fileCertificate, fresh: newCertificateFile, read: readCertificates}
	if err := k.certificate.ensure(); err != nil {
		return nil, err
	}
	var err error
	if k.pseudonym, err = ensureSecret(dir, filePseudonym); err != nil {
		return nil, err
	}
	if k.link, err = ensureSecret(dir, fileLink); err != nil {
		return nil, err
	}
	inner := &ring[*rsa.PrivateKey]{dir: dir, name: fileInner, read: readInner}
	inner.fresh = func() ([]byte, error) {
		content, err := newInnerFile()
		if err == nil {
			err = note(domain.KeyVersion{Name: fileInner, Number: 1, Mark: markOf(content)})
		}
		return content, err
	}
	first := sync.OnceValue(inner.ensure)
	k.inner = func() ([]*rsa.PrivateKey, error) {
		if err := first(); err != nil {
			return nil, err
		}
		return inner.now(), nil
	}
	there, err := list(dir, fileInner)
	if err != nil {
		return nil, err
	}
	if len(there) == 0 {
		go k.inner()
		return k, nil
	}
	if _, err := k.inner(); err != nil {
		return nil, err
	}
	return k, nil
}

// Banner is what a program that uses these keys prints.
func (k *Keys) Banner() string {
	return "The keys in " + k.dir + " are plain files: for practice and development, NOT FOR PRODUCTION.\n" +
		"Whoever can read that directory can open every credential. In production the keys are in a KMS."
}

// Encrypter is the closing half of a key, and not more than that.
func (k *Keys) Encrypter(name KeyName) domain.Encrypter { return closingHalf{k.sets[name]} }

// Decrypter is the opening half of a key, and not more than that.
func (k *Keys) Decrypter(name KeyName) domain.Decrypter { return openingHalf{k.sets[name]} }

// PortfolioKey is both halves of KeyPortfolio, for a Closer.
func (k *Keys) PortfolioKey() WrappingKey { return k.sets[KeyPortfolio] }

// InnerPublics are the public halves of the inner gate's keys, oldest first. It waits until there is one.
func (k *Keys) InnerPublics() ([]crypto.PublicKey, error) {
	all, err := k.inner()
	public := make([]crypto.PublicKey, len(all))
	for i, key := range all {
		public[i] = &key.PublicKey
	}
	return public, err
}

// InnerPublic describes the key that the inner gate is closed to at present. It waits until there is one.
func (k *Keys) InnerPublic() (JWK, error) { return Inner(k.InnerPublics).Public() }

// InnerKids lists the keys that the inner gate may have been closed to. It waits until there is one.
func (k *Keys) InnerKids() ([]string, error) { return Inner(k.InnerPublics).Kids() }

// InnerDecrypters are the inner gate's opening halves by kid: an InnerKeys. It waits until there is one.
func (k *Keys) InnerDecrypters() (map[string]crypto.Decrypter, error) {
	return ByKid(k.InnerPrivates)()
}

// InnerPrivates are the inner gate's opening halves, oldest first. It waits until there is one.
func (k *Keys) InnerPrivates() ([]crypto.Decrypter, error) {
	all, err := k.inner()
	open := make([]crypto.Decrypter, len(all))
	for i, key := range all {
		open[i] = innerHalf{key}
	}
	return open, err
}

// CertificateSigners sign certificates of erasure with Ed25519 (sign the message itself, with crypto.Hash(0)), oldest
// first. The error is always nil.
func (k *Keys) CertificateSigners() ([]crypto.Signer, error) { return k.certificate.now(), nil }

// SignerID names an Ed25519 key: its RFC 8037 thumbprint.
func SignerID(key crypto.Signer) string {
	public, _ := key.Public().(ed25519.PublicKey)
	x := base64.RawURLEncoding.EncodeToString(public)
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Pseudonym is the HMAC key behind account identifiers, part digests and commitments: 32 bytes. Do not wipe it.
func (k *Keys) Pseudonym() domain.Secret { return k.pseudonym }

// Link is the HMAC key behind investors' links: 32 bytes. Do not wipe it.
func (k *Keys) Link() domain.Secret { return k.link }

// Rotate makes a new key of that name in dir: a KeyName, inner or certificate. Running processes open what was closed
// under it. They close under it themselves from then on, or, under a KeyName, from their next start at the latest. What
// was closed under older keys opens, and what they signed verifies, for as long as their files are there.
func Rotate(dir, name string) error { return RotateNoting(dir, name, noteNothing) }

// RotateNoting is Rotate for one who writes down which versions there are: note hears of the new one before its file is
// there, as running processes use that at once. What was noted and has no file closed nothing.
func RotateNoting(dir, name string, note func(domain.KeyVersion) error) error {
	switch {
	case name == fileInner:
		return rotate(dir, name, newInnerFile, note)
	case name == fileCertificate:
		return rotate(dir, name, newCertificateFile, note)
	case slices.Contains(KeyNames, KeyName(name)):
		return rotate(dir, name, newKeysetFile, note)
	}
	return fmt.Errorf("rotating key: want inner, certificate or one of %q", KeyNames)
}

func noteNothing(domain.KeyVersion) error { return nil }

func rotate(dir, name string, fresh func() ([]byte, error), note func(domain.KeyVersion) error) error {
	if err := privateDir(dir); err != nil {
		return err
	}
	content, err := fresh()
	if err != nil {
		return err
	}
	defer clear(content)
	paths, err := list(dir, name)
	if err != nil {
		return err
	}
	n := 1
	if len(paths) > 0 {
		n = numberOf(paths[len(paths)-1]) + 1 // and not how many there are: older ones may have been taken away
	}
	for ; ; n++ {
		if err := note(domain.KeyVersion{Name: name, Number: n, Mark: markOf(content)}); err != nil {
			return err
		}
		if err := createPrivate(numbered(dir, name, n), content); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

func numbered(dir, name string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%04d.key", name, n))
}

var numberedShape = regexp.MustCompile(`^([a-z]+)-([0-9]{4})\.key$`)

// list finds the files of a key, oldest first.
func list(dir, name string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if m := numberedShape.FindStringSubmatch(e.Name()); m != nil && m[1] == name {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// ensure reads the files of a key, oldest first, and makes the first one where there is none.
func ensure(dir, name string, fresh func() ([]byte, error)) ([][]byte, error) {
	paths, err := list(dir, name)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		content, err := fresh()
		if err != nil {
			return nil, err
		}
		defer clear(content)
		first := numbered(dir, name, 1)
		if err := createPrivate(first, content); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		paths = []string{first}
	}
	files := [][]byte{}
	for _, p := range paths {
		content, err := readPrivate(p)
		if err != nil {
			return nil, err
		}
		files = append(files, content)
	}
	return files, syncDir(dir)
}

func newKeysetFile() ([]byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	return b.Bytes(), nil
}

func ensureSecret(dir, name string) (domain.Secret, error) {
	files, err := ensure(dir, name, func() ([]byte, error) {
		b := make([]byte, secretKeySize)
		rand.Read(b) // never fails
		return []byte(base64.StdEncoding.EncodeToString(b) + "\n"), nil
	})
	if err != nil {
		return domain.Secret{}, err
	}
	text := bytes.TrimSpace(files[len(files)-1])
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(b, text)
	if err != nil || n != secretKeySize {
		return domain.Secret{}, fmt.Errorf("reading key %s: the file is damaged; restore it from a copy", name)
	}
	return domain.NewSecret(b[:n]), nil
}

func newCertificateFile() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	return writePEM(key)
}

func newInnerFile() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, innerBits)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	return writePEM(key)
}

func writePEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// readPEM returns nil for what is no PKCS #8 key.
func readPEM(content []byte) any {
	block, _ := pem.Decode(content)
	if block == nil {
		return nil
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	return key
}

// The halves hide the other half from type assertions too.
type (
	closingHalf struct{ k *keys }
	openingHalf struct{ k *keys }
	innerHalf   struct{ key *rsa.PrivateKey }
)

func (h closingHalf) Encrypt(plain, label []byte) ([]byte, error)  { return h.k.Encrypt(plain, label) }
func (h openingHalf) Decrypt(sealed, label []byte) ([]byte, error) { return h.k.Decrypt(sealed, label) }
func (h innerHalf) Public() crypto.PublicKey                       { return h.key.Public() }
func (h innerHalf) Decrypt(r io.Reader, sealed []byte, o crypto.DecrypterOpts) ([]byte, error) {
	return h.key.Decrypt(r, sealed, o)
}
