package gcptest

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Role is one of Google's predefined roles: what it permits, by the name of the permission.
type Role []string

// The roles that our service accounts have, or lack.
var (
	Encrypter       = Role{"cloudkms.cryptoKeyVersions.useToEncrypt"}                                                                                                                                                              // roles/cloudkms.cryptoKeyEncrypter
	Decrypter       = Role{"cloudkms.cryptoKeyVersions.useToDecrypt"}                                                                                                                                                              // roles/cloudkms.cryptoKeyDecrypter
	Signer          = Role{"cloudkms.cryptoKeyVersions.useToSign"}                                                                                                                                                                 // roles/cloudkms.signer
	PublicKeyViewer = Role{"cloudkms.cryptoKeyVersions.viewPublicKey"}                                                                                                                                                             // roles/cloudkms.publicKeyViewer
	Viewer          = Role{"cloudkms.cryptoKeyVersions.list"}                                                                                                                                                                      // part of roles/cloudkms.viewer
	Accessor        = Role{"secretmanager.versions.access"}                                                                                                                                                                        // roles/secretmanager.secretAccessor
	Adder           = Role{"secretmanager.versions.add"}                                                                                                                                                                           // roles/secretmanager.secretVersionAdder
	Admin           = Role{"cloudkms.cryptoKeyVersions.create", "cloudkms.cryptoKeyVersions.get", "cloudkms.cryptoKeyVersions.list", "cloudkms.cryptoKeyVersions.update", "cloudkms.cryptoKeys.get", "cloudkms.cryptoKeys.update"} // part of roles/cloudkms.admin
	Public          = append(append(Role{}, PublicKeyViewer...), Viewer...)                                                                                                                                                        // what a function needs to show the inner gate's key
	Opener          = append(append(Role{"cloudkms.cryptoKeyVersions.useToDecrypt"}, PublicKeyViewer...), Viewer...)                                                                                                               // what it needs to open it
)

// Vault stands in for Cloud KMS and Secret Manager: the few calls that we make, and nothing more. It is strict where
// Google's services are: associated data must be the same, checksums must be there and right, a version that is not
// enabled does nothing, and an identity does only what a role permits it on that very key or secret.
type Vault struct {
	kmspb.UnimplementedKeyManagementServiceServer
	secretmanagerpb.UnimplementedSecretManagerServiceServer

	Host string // where it listens

	// Fault, if set, is asked before each call; what it returns is the call's answer.
	Fault func(identity, method string) error
	// Bend, if set, may spoil an answer on its way: a proxy that flips a bit.
	Bend func(method string, answer any)
	// Hear, if set, hears what was asked and, where the call did not fail, what was answered.
	Hear func(identity, method string, asked, answer proto.Message)

	mu      sync.Mutex
	keys    map[string]*cryptoKey
	secrets map[string][][]byte
	granted map[string]map[string]bool // identity and resource, to permissions
	calls   map[string]int             // by method
}

// NewVault serves an empty vault until the test ends.
func NewVault(t testing.TB) *Vault {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &Vault{Host: l.Addr().String(), keys: map[string]*cryptoKey{}, secrets: map[string][][]byte{},
		granted: map[string]map[string]bool{}, calls: map[string]int{}}
	server := grpc.NewServer(grpc.UnaryInterceptor(v.intercept))
	kmspb.RegisterKeyManagementServiceServer(server, v)
	secretmanagerpb.RegisterSecretManagerServiceServer(server, v)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return v
}

// Grant gives an identity a role on a key or a secret.
func (v *Vault) Grant(identity string, role Role, resource string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := v.granted[identity+" "+resource]
	if held == nil {
		held = map[string]bool{}
		v.granted[identity+" "+resource] = held
	}
	for _, permission := range role {
		held[permission] = true
	}
}

// Calls counts the calls of a method, such as "Decrypt".
func (v *Vault) Calls(method string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.calls[method]
}

// TakeCalls is Calls since it was called last. Of(identity, method) is one identity's.
func (v *Vault) TakeCalls(method string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.calls[method]
	delete(v.calls, method)
	return n
}

func (v *Vault) intercept(ctx context.Context, q any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	v.mu.Lock()
	v.calls[method]++
	v.calls[Of(identity(ctx), method)]++
	fault, bend, hear := v.Fault, v.Bend, v.Hear
	v.mu.Unlock()
	if fault != nil {
		if err := fault(identity(ctx), method); err != nil {
			return nil, err
		}
	}
	answer, err := handle(ctx, q)
	if err == nil && bend != nil {
		bend(method, answer)
	}
	if hear != nil {
		told, _ := answer.(proto.Message) // none of a call that failed
		hear(identity(ctx), method, q.(proto.Message), told)
	}
	return answer, err
}

// As is how the client of an identity reaches the vault.
func (v *Vault) As(identity string) []option.ClientOption {
	return []option.ClientOption{option.WithEndpoint(v.Host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		option.WithGRPCDialOption(grpc.WithUnaryInterceptor(func(ctx context.Context, method string, q, a any, c *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption) error {
			return call(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+identity), method, q, a, c, o...)
		}))}
}

// identity is the service account that calls. Where Google looks at a signed token, this looks at a name.
func identity(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, value := range md.Get("authorization") {
		if name, ok := strings.CutPrefix(value, "Bearer "); ok {
			return name
		}
	}
	return ""
}

// permit refuses what no role of the caller permits on the resource, as Google words it.
func (v *Vault) permit(ctx context.Context, permission, resource string) error {
	who := identity(ctx)
	if who == "" {
		return status.Error(codes.Unauthenticated, "request is missing required authentication credential")
	}
	if !v.granted[who+" "+resource][permission] {
		return status.Errorf(codes.PermissionDenied, "permission %q denied on resource %q (or it may not exist)", permission, resource)
	}
	return nil
}
