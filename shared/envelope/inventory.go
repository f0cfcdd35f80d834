package envelope

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/shared/domain"
)

// Inventory lists the files of local keys in dir, by name and number, those that are out of use too. It makes nothing;
// of a directory that is not there the list is empty.
func Inventory(dir string) (all []domain.KeyVersion, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	for _, e := range entries {
		file, disabled := strings.CutSuffix(e.Name(), disabledMark)
		words := numberedShape.FindStringSubmatch(file)
		if words == nil {
			continue
		}
		content, err := readPrivate(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		mark := markOf(content)
		clear(content)
		if mark == "" {
			return nil, fmt.Errorf("reading key %s: the file is damaged; restore it from a backup", filepath.Join(dir, e.Name()))
		}
		all = append(all, domain.KeyVersion{Name: words[1], Number: numberOf(file), Mark: mark, Disabled: disabled})
	}
	return all, nil
}

// Marked is the mark of the local key that closed something: Tink begins with a byte that says so and the key's number.
func Marked(sealed []byte) string {
	if len(sealed) < 5 {
		return ""
	}
	return strconv.FormatUint(uint64(binary.BigEndian.Uint32(sealed[1:])), 10)
}

// markOf is what tells the key in a file from every other: of a symmetric one the number that Tink puts before whatever
// it closes, of one with a public half its thumbprint, of a secret a digest. Empty for what is no key.
func markOf(content []byte) string {
	switch key := readPEM(content).(type) {
	case *rsa.PrivateKey:
		return Thumbprint(&key.PublicKey)
	case ed25519.PrivateKey:
		return SignerID(key)
	}
	if handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content))); err == nil {
		return strconv.FormatUint(uint64(handle.KeysetInfo().GetPrimaryKeyId()), 10)
	}
	secret, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(content)))
	if err != nil || len(secret) != secretKeySize {
		return ""
	}
	defer clear(secret)
	sum := sha256.Sum256(append([]byte("sluis/key-mark/v1\n"), secret...))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// ownerFile says, in a directory that belongs to a database, to which installation.
const ownerFile = "installation"

// Owner is the installation that dir belongs to; "" where that is not written in it, or it is not there.
func Owner(dir string) (domain.InstallationID, error) {
	content, err := readPrivate(filepath.Join(dir, ownerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	id, err := domain.ParseID[domain.InstallationID](strings.TrimSpace(string(content)))
	if err != nil {
		return "", fmt.Errorf("reading %s: it names no installation; restore it from a backup", filepath.Join(dir, ownerFile))
	}
	return id, nil
}

// Claim makes dir, for its owner alone, and writes into it which installation it belongs to. One that belongs to another
// is refused.
func Claim(dir string, id domain.InstallationID) error {
	if err := privateDir(dir); err != nil {
		return err
	}
	if err := createPrivate(filepath.Join(dir, ownerFile), []byte(id+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	owner, err := Owner(dir)
	if err == nil && owner != id {
		err = Mixed(dir, owner, id)
	}
	return err
}

// Mixed is the refusal of a directory that belongs to another installation than the database does.
func Mixed(dir string, owner, database domain.InstallationID) error {
	return fmt.Errorf("%s belongs to installation %s, but the database to %s: one of them was put there from elsewhere.\n"+
		"Put back the one that belongs to the other, or restore both from one backup", dir, owner, database)
}

// ReadKeys reads the keys in dir to open with, and makes nothing: of a key without a file, nothing opens.
func ReadKeys(dir string) (*Keys, error) {
	k := &Keys{dir: dir, sets: map[KeyName]*keys{}}
	for _, name := range KeyNames {
		set := &keys{ring[tink.AEAD]{dir: dir, name: string(name), fresh: newKeysetFile, read: readKeysets}}
		if err := set.load(); err != nil {
			return nil, err
		}
		if len(set.all) > 0 {
			k.sets[name] = set
		}
	}
	return k, nil
}
