package envelope

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sluis.internal/shared/domain"
)

// keysDir is a directory that has an inner key already, because making one takes a second.
func keysDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	content, err := writePEM(testKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := createPrivate(numbered(dir, fileInner, 1), content); err != nil {
		t.Fatal(err)
	}
	return dir
}

func localKeys(t testing.TB, dir string) *Keys {
	t.Helper()
	k, err := LocalKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestLocalKeysPassACredential(t *testing.T) {
	dir := keysDir(t)
	k := localKeys(t, dir)
	jwk, err := k.InnerPublic()
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := jwk.SealCredential(testAs, map[string]string{"username": "1"}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := NewSealer(k.Encrypter(KeyOuter)).Seal(jwe, testBind, testAs)
	if err != nil {
		t.Fatal(err)
	}
	again := localKeys(t, dir) // after a restart
	fields, err := NewOpener(again.Decrypter(KeyOuter), again.InnerDecrypters).OpenCredentials(sealed, jwk.Kid, testBind, testAs)
	if err != nil || string(fields["username"].Reveal()) != "1" {
		t.Errorf("OpenCredentials = %v, %v", fields, err)
	}
	for _, name := range KeyNames {
		if _, err := k.Decrypter(name).Decrypt(sealed, mustLabel(t)); (err == nil) != (name == KeyOuter) {
			t.Errorf("key %s opens the outer gate: %v", name, err)
		}
	}
	if !strings.Contains(k.Banner(), "NOT FOR PRODUCTION") || !strings.Contains(k.Banner(), dir) {
		t.Errorf("banner: %s", k.Banner())
	}
}

func mustLabel(t testing.TB) []byte {
	label, err := credentialLabel(testBind, testAs)
	if err != nil {
		t.Fatal(err)
	}
	return label
}

func TestCertificateKey(t *testing.T) {
	k := localKeys(t, keysDir(t))
	signers, _ := k.CertificateSigners()
	signer, message := signers[0], []byte("erased")
	sig, err := signer.Sign(rand.Reader, message, crypto.Hash(0))
	if err != nil || !ed25519.Verify(signer.Public().(ed25519.PublicKey), message, sig) {
		t.Errorf("signature does not verify: %v", err)
	}
	want, err := (&jose.JSONWebKey{Key: signer.Public()}).Thumbprint(crypto.SHA256)
	if got, _ := decodePart(SignerID(signer)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("key id %s is not the thumbprint go-jose finds (%v)", SignerID(signer), err)
	}
	if err := Rotate(k.dir, "certificate"); err != nil {
		t.Fatal(err)
	}
	for when, k := range map[string]*Keys{"running": k, "started again": localKeys(t, k.dir)} {
		now, _ := k.CertificateSigners()
		if len(now) != 2 || SignerID(now[0]) != SignerID(signer) || SignerID(now[1]) == SignerID(signer) {
			t.Errorf("%s: after a rotation there are %d", when, len(now))
		}
	}
}

func TestKeyFilesArePrivate(t *testing.T) {
	dir := keysDir(t)
	localKeys(t, dir)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 9 {
		t.Fatalf("%d files, %v; want 9", len(entries), err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v; want 0600 (%v)", e.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v; want 0700 (%v)", info.Mode(), err)
	}
}

func TestLooseModesAreRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows keeps no modes")
	}
	dir := keysDir(t)
	localKeys(t, dir)
	for _, e := range append(keyFiles(t, dir), dir) {
		for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o610} {
			good, remedy := fs.FileMode(0o600), "chmod 600 "+e
			if e == dir {
				good, remedy, mode = 0o700, "chmod 700 "+e, mode|0o100
			}
			if err := os.Chmod(e, mode); err != nil {
				t.Fatal(err)
			}
			if _, err := LocalKeys(dir); err == nil || !strings.Contains(err.Error(), remedy) {
				t.Errorf("%s with mode %04o: %v; want the remedy %q", e, mode, err, remedy)
			}
			if err := os.Chmod(e, good); err != nil {
				t.Fatal(err)
			}
		}
	}
	localKeys(t, dir)
}

func keyFiles(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestDamagedFilesAreRefused(t *testing.T) {
	dir := keysDir(t)
	localKeys(t, dir)
	for _, path := range keyFiles(t, dir) {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, bad := range map[string][]byte{"empty": {}, "cut": good[:len(good)/2], "other": []byte(canary), "huge": make([]byte, maxKeyFile+1)} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LocalKeys(dir); err == nil || !strings.Contains(err.Error(), "restore it from a copy") || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s %s: %v", name, filepath.Base(path), err)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	localKeys(t, dir)
}

// TestInnerKeyIsMadeInTheBackground makes a real one: everything else is there at once, and nothing blocks but what
// needs it.
func TestInnerKeyIsMadeInTheBackground(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "keys")
	k := localKeys(t, dir)
	if _, err := k.Encrypter(KeyOuter).Encrypt([]byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	jwk, err := k.InnerPublic()
	if err != nil {
		t.Fatal(err)
	}
	if kids, err := localKeys(t, dir).InnerKids(); err != nil || len(kids) != 1 || kids[0] != jwk.Kid {
		t.Errorf("after a restart the keys are %v, %v; want %s", kids, err, jwk.Kid)
	}
}

func TestBackgroundFailureIsTold(t *testing.T) {
	dir := keysDir(t)
	if err := os.Remove(numbered(dir, fileInner, 1)); err != nil {
		t.Fatal(err)
	}
	// A directory in the way of the draft's final name makes the link fail, and reading it too.
	if err := os.Mkdir(numbered(dir, fileInner, 1), 0o700); err != nil {
		t.Fatal(err)
	}
	if k, err := LocalKeys(dir); err == nil || k != nil {
		t.Errorf("LocalKeys = %v, %v; want an error", k, err)
	}
}

// fingerprint tells two sets of keys apart without showing them.
func fingerprint(k *Keys) (string, error) {
	kids, err := k.InnerKids()
	if err != nil {
		return "", err
	}
	signers, err := k.CertificateSigners()
	if err != nil || len(signers) != 1 {
		return "", fmt.Errorf("%d keys of certificates: %w", len(signers), err)
	}
	return fmt.Sprint(kids, SignerID(signers[0]), hex.EncodeToString(k.Pseudonym().Reveal()[:4]), hex.EncodeToString(k.Link().Reveal()[:4])), nil
}

// TestManyBeginAtOnce starts this test again as two processes that make the keys in one empty directory, each twice at
// once, and lets each open what the other sealed.
func TestManyBeginAtOnce(t *testing.T) {
	if dir := os.Getenv("SLUIS_ENVELOPE_CHILD"); dir != "" {
		child(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "keys")
	var all sync.WaitGroup
	var out [2]bytes.Buffer
	for i := range out {
		all.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestManyBeginAtOnce$", "-test.count=1")
			cmd.Env = append(os.Environ(), "SLUIS_ENVELOPE_CHILD="+dir)
			cmd.Stdout = &out[i]
			if err := cmd.Run(); err != nil {
				t.Errorf("process %d: %v\n%s", i, err, out[i].String())
			}
		})
	}
	all.Wait()
	k := localKeys(t, dir)
	want, err := fingerprint(k)
	if err != nil {
		t.Fatal(err)
	}
	opened := 0
	for i := range out {
		for line := range strings.Lines(out[i].String()) {
			if print, ok := strings.CutPrefix(line, "print "); ok && strings.TrimSpace(print) != want {
				t.Errorf("process %d has other keys: %s; want %s", i, print, want)
			}
			if text, ok := strings.CutPrefix(line, "sealed "); ok {
				name, sealed, _ := strings.Cut(strings.TrimSpace(text), " ")
				raw, _ := hex.DecodeString(sealed)
				if _, err := k.Decrypter(KeyName(name)).Decrypt(raw, nil); err != nil {
					t.Errorf("process %d sealed with another key %s: %v", i, name, err)
				}
				opened++
			}
		}
	}
	if opened != 4*len(KeyNames) {
		t.Errorf("%d keys compared; want %d", opened, 4*len(KeyNames))
	}
	if drafts, _ := filepath.Glob(filepath.Join(dir, draftMark+"*")); len(drafts) != 0 {
		t.Errorf("drafts were left: %v", drafts)
	}
}

func child(t *testing.T, dir string) {
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			k, err := LocalKeys(dir)
			if err != nil {
				t.Error(err)
				return
			}
			print, err := fingerprint(k)
			if err != nil {
				t.Error(err)
			}
			fmt.Printf("print %s\n", print)
			for _, name := range KeyNames {
				sealed, err := k.Encrypter(name).Encrypt([]byte("x"), nil)
				if err != nil {
					t.Error(err)
				}
				fmt.Printf("sealed %s %x\n", name, sealed)
			}
		})
	}
	all.Wait()
}

func TestRotation(t *testing.T) {
	dir := keysDir(t)
	before := localKeys(t, dir)
	old, err := before.Encrypter(KeySession).Encrypt([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Rotate(dir, "inner"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if err := Rotate(dir, string(KeySession)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	after := localKeys(t, dir)
	if n := len(after.sets[KeySession].known()); n != 4 {
		t.Errorf("%d session keys after three rotations; want 4", n)
	}
	if _, err := after.Decrypter(KeySession).Decrypt(old, nil); err != nil {
		t.Errorf("the old key does not open any more: %v", err)
	}
	fresh, err := after.Encrypter(KeySession).Encrypt([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(before.sets[KeySession].known(), fresh, nil); err == nil {
		t.Error("the old key still closes")
	}
	if plain, err := before.Decrypter(KeySession).Decrypt(fresh, nil); err != nil || string(plain) != "x" {
		t.Errorf("a process that runs on does not open what another one closed: %v", err)
	}
	fresh, err = before.Encrypter(KeySession).Encrypt([]byte("y"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(after.sets[KeySession].known()[3:], fresh, nil); err != nil {
		t.Errorf("a process that knows the new key does not close under it: %v", err)
	}
	if was, err := before.InnerKids(); err != nil || len(was) != 2 {
		t.Errorf("a process that runs on knows inner keys %v, %v", was, err)
	}
	kids, err := after.InnerKids()
	jwk, err2 := after.InnerPublic()
	if err != nil || err2 != nil || len(kids) != 2 || kids[0] != testKid() || jwk.Kid != kids[1] {
		t.Errorf("inner keys %v, sealing to %s (%v, %v); want the old one, and the new one sealing", kids, jwk.Kid, err, err2)
	}
	if err := Rotate(dir, "nothing"); err == nil {
		t.Error("rotated a key that there is not")
	}
	// The old inner key is retired: only the second file is left, and the next rotation does not collide with it.
	if err := os.Remove(numbered(dir, fileInner, 1)); err != nil {
		t.Fatal(err)
	}
	if kids, err := localKeys(t, dir).InnerKids(); err != nil || len(kids) != 1 || kids[0] != jwk.Kid {
		t.Errorf("after retiring: %v, %v", kids, err)
	}
}

// TestDeathWhileWriting finds drafts as a process leaves them that dies before its key is in place.
func TestDeathWhileWriting(t *testing.T) {
	dir := keysDir(t)
	old, young := filepath.Join(dir, draftMark+"old"), filepath.Join(dir, draftMark+"young")
	for _, p := range []string{old, young} {
		if err := os.WriteFile(p, []byte("half a k"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * draftLife)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	localKeys(t, dir)
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the old draft is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("a draft that another process may be writing is gone")
	}
}

func TestLocalSecrets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	s, err := OpenSecrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := s.Secret(ctx, "bank/id"); domain.KindOf(err) != domain.NotFound {
		t.Errorf("without a file: %v; want not found", err)
	}
	for name, value := range map[string]string{"bank/id": "1", "bank/key": "-----BEGIN\nX\n\"<é>", "bank/id2": canary} {
		if err := s.Set(name, domain.NewSecret([]byte(value))); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Secret(ctx, name); err != nil || string(got.Reveal()) != value {
			t.Errorf("%s = %q, %v; want %q", name, got.Reveal(), err, value)
		}
	}
	if err := s.Set("bank/id", domain.NewSecret([]byte("2"))); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Secret(ctx, "bank/id"); err != nil || string(got.Reveal()) != "2" {
		t.Errorf("replaced: %q, %v", got.Reveal(), err)
	}
	if _, err := s.Secret(ctx, "bank"); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("unknown name: %v", err)
	}
	if info, err := os.Stat(s.path()); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	for name, value := range map[string]string{"": "x", strings.Repeat("x", MaxSecretName+1): "x", "a": "", "b": strings.Repeat("x", MaxSecretValue+1), "c": "\xff", "\xff": "x"} {
		if err := s.Set(name, domain.NewSecret([]byte(value))); domain.KindOf(err) != domain.Invalid {
			t.Errorf("Set of %d, %d bytes = %v; want invalid", len(name), len(value), err)
		}
	}
}

func TestLocalSecretsRefuse(t *testing.T) {
	for name, spoil := range map[string]struct {
		content string
		mode    fs.FileMode
		want    string
	}{
		"loose mode": {`{}`, 0o644, "chmod 600"},
		"no JSON":    {canary, 0o600, "mend it"},
		"a number":   {`{"a":1}`, 0o600, "mend it"},
		"twice":      {`{"a":"1","a":"2"}`, 0o600, "mend it"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := OpenSecrets(filepath.Join(t.TempDir(), "keys"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.path(), []byte(spoil.content), spoil.mode); err != nil {
				t.Fatal(err)
			}
			_, err = s.Secret(context.Background(), "a")
			if err == nil || !strings.Contains(err.Error(), spoil.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("Secret = %v; want %q", err, spoil.want)
			}
			if err := s.Set("b", domain.NewSecret([]byte("x"))); err == nil {
				t.Error("Set wrote over what it could not read")
			}
		})
	}
}

// TestLocalSecretsAtOnce sets from several handles, as several processes have them: nothing gets lost.
func TestLocalSecretsAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			s, err := OpenSecrets(dir)
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 4 {
				if err := s.Set(fmt.Sprintf("s%d/%d", i, j), domain.NewSecret([]byte("x"))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	s, err := OpenSecrets(dir)
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.read()
	if err != nil || len(found) != 32 {
		t.Errorf("%d secrets, %v; want 32", len(found), err)
	}
}
