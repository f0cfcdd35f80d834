package envelope

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"unicode/utf8"

	"sluis.internal/shared/domain"
)

// Limits of local secrets, in bytes.
const (
	MaxSecretName  = 200
	MaxSecretValue = 64 << 10
)

// LocalSecrets keeps named secrets (custodians' API credentials, certificates) in the file secrets.json beside the
// local keys: one JSON object of strings, mode 0600. It is read anew for every Secret, so that what an operator sets
// takes effect at once. It implements domain.Secrets. Safe for concurrent use.
type LocalSecrets struct {
	dir string
	mu  sync.Mutex
}

// OpenSecrets uses the secrets in dir. There need not be any yet.
func OpenSecrets(dir string) (*LocalSecrets, error) {
	if err := privateDir(dir); err != nil {
		return nil, err
	}
	return &LocalSecrets{dir: dir}, nil
}

func (s *LocalSecrets) path() string { return filepath.Join(s.dir, "secrets.json") }

// Secret returns the named secret, or domain.ErrNotFound. The caller may wipe it.
func (s *LocalSecrets) Secret(_ context.Context, name string) (domain.Secret, error) {
	all, err := s.read()
	if err != nil {
		return domain.Secret{}, err
	}
	found, ok := all[name]
	delete(all, name)
	wipeAll(all)
	if !ok {
		return domain.Secret{}, fmt.Errorf("reading secret %q: %w", name, domain.ErrNotFound)
	}
	return found, nil
}

// Set keeps value under name, in place of what was there. It is on disk when Set returns. Several processes may set
// secrets at once.
func (s *LocalSecrets) Set(name string, value domain.Secret) error {
	if name == "" || len(name) > MaxSecretName || !utf8.ValidString(name) {
		return domain.Invalidf("name", "want a name of 1 to %d characters, for example comdirect/client_id", MaxSecretName)
	}
	if value.Len() == 0 || value.Len() > MaxSecretValue || !utf8.Valid(value.Reveal()) {
		return domain.Invalidf("value", "want a secret of 1 to %d bytes of text; write binary ones as PEM or base64", MaxSecretValue)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	unlock, err := lockDir(s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := s.read()
	if err != nil {
		return err
	}
	texts := map[string]string{name: string(value.Reveal())}
	for n, v := range all {
		if n != name {
			texts[n] = string(v.Reveal())
		}
	}
	wipeAll(all)
	content, err := json.MarshalIndent(texts, "", "  ")
	if err != nil {
		return fmt.Errorf("writing secrets: %w", err)
	}
	defer clear(content)
	if len(content) >= maxKeyFile {
		return &domain.Error{Kind: domain.TooLarge, Code: "secrets_too_large", Message: "secrets.json would be larger than 1 MiB; remove some first"}
	}
	return replacePrivate(s.path(), append(content, '\n'))
}

func (s *LocalSecrets) read() (map[string]domain.Secret, error) {
	content, err := readPrivate(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]domain.Secret{}, nil
	}
	if err != nil {
		return nil, err
	}
	all, ok := readObject(content, limits{fields: 10_000, name: MaxSecretName, value: MaxSecretValue})
	if !ok {
		return nil, fmt.Errorf("reading secrets: %s is not a JSON object of names and strings; mend it or restore it from a copy", s.path())
	}
	return all, nil
}
