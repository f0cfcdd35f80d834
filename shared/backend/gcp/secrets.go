package gcp

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"

	"sluis.internal/shared/domain"
)

// secretLife is how long a secret that was read is used: what is rotated takes effect within this time, without
// anything being deployed.
const secretLife = 5 * time.Minute

// Secrets reads Secret Manager, and remembers what it read for secretLife. A secret of ours named
// "comdirect/client_id" is the secret "comdirect--client_id" there, where names have no slash. It implements
// domain.Secrets. Safe for concurrent use.
type Secrets struct {
	client  *secretmanager.Client
	env     domain.Env
	project string

	mu   sync.Mutex
	held map[string]*heldSecret
}

// heldSecret is one secret; whoever asks while it is being read waits for the same answer.
type heldSecret struct {
	mu    sync.Mutex
	value []byte
	until domain.Time
}

// OpenSecrets makes the client; the first call connects it.
func OpenSecrets(ctx context.Context, env domain.Env, project string, o ...option.ClientOption) (*Secrets, error) {
	c, err := secretmanager.NewClient(ctx, o...)
	if err != nil {
		return nil, fmt.Errorf("opening Secret Manager: %w", err)
	}
	return &Secrets{client: c, env: env, project: project, held: map[string]*heldSecret{}}, nil
}

// Close closes the client and wipes what is remembered.
func (s *Secrets) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.held {
		clear(h.value)
	}
	s.held = map[string]*heldSecret{}
	return s.client.Close()
}

// secretShape is one name, or two, of at most maxName characters each.
var secretShape = domain.NewShape(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)?$`)

const maxName = 100

func secretNamed(name string) bool {
	first, second, _ := strings.Cut(name, "/")
	return len(first) <= maxName && len(second) <= maxName && secretShape.MatchString(name)
}

// Secret implements domain.Secrets. If Secret Manager cannot be reached, what was read before is good a little longer.
// The caller may wipe what it gets.
func (s *Secrets) Secret(ctx context.Context, name string) (domain.Secret, error) {
	if !secretNamed(name) {
		return domain.Secret{}, fmt.Errorf("reading secret %q: %w", name, domain.ErrNotFound)
	}
	h := s.hold(name)
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.env.Now().Before(h.until) {
		return copied(h.value), nil
	}
	value, err := s.read(ctx, name)
	switch {
	case err == nil:
		clear(h.value)
		h.value, h.until = value, s.env.Now().Add(secretLife)
	case len(h.value) > 0 && domain.KindOf(err) == domain.Unavailable:
		h.until = s.env.Now().Add(secretLife / 10)
	default:
		return domain.Secret{}, err
	}
	return copied(h.value), nil
}

func copied(b []byte) domain.Secret { return domain.NewSecret(append([]byte(nil), b...)) }

func (s *Secrets) hold(name string) *heldSecret {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[name]
	if h == nil {
		h = &heldSecret{}
		s.held[name] = h
	}
	return h
}

func (s *Secrets) resource(name string) string {
	return fmt.Sprintf("projects/%s/secrets/%s", s.project, strings.ReplaceAll(name, "/", "--"))
}

// read reads the newest version, and checks its checksum.
func (s *Secrets) read(ctx context.Context, name string) ([]byte, error) {
	a, err := s.client.AccessSecretVersion(ctx, &secretmanagerpb.AccessSecretVersionRequest{Name: s.resource(name) + "/versions/latest"}, busy())
	switch code(err) {
	case codes.OK:
	case codes.NotFound:
		return nil, fmt.Errorf("reading secret %q: %w", name, domain.ErrNotFound)
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		return nil, &domain.Error{Kind: domain.Unavailable, Code: "secrets_unavailable", Message: "the secrets cannot be reached; try again", Err: err}
	default:
		return nil, fmt.Errorf("reading secret %q: %w", name, err)
	}
	value := a.GetPayload().GetData()
	if sum := a.GetPayload().DataCrc32C; sum == nil || *sum != checksum(value).GetValue() {
		return nil, &domain.Error{Kind: domain.Unavailable, Code: "secrets_unavailable", Message: "the secrets cannot be reached; try again"}
	}
	return value, nil
}
