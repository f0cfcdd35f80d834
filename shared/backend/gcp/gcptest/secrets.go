package gcptest

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// AddSecret makes a new version of a secret, named as in "projects/p/secrets/s".
func (v *Vault) AddSecret(name string, value []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.secrets[name] = append(v.secrets[name], bytes.Clone(value))
}

// AccessSecretVersion implements Secret Manager's, of the latest version.
func (v *Vault) AccessSecretVersion(ctx context.Context, q *secretmanagerpb.AccessSecretVersionRequest) (*secretmanagerpb.AccessSecretVersionResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	name, latest := strings.CutSuffix(q.Name, "/versions/latest")
	if !latest {
		return nil, status.Errorf(codes.Unimplemented, "a version other than the latest: %s", q.Name)
	}
	if err := v.permit(ctx, "secretmanager.versions.access", name); err != nil {
		return nil, err
	}
	all := v.secrets[name]
	if len(all) == 0 {
		return nil, status.Errorf(codes.NotFound, "secret [%s] not found or has no versions", name)
	}
	value := all[len(all)-1]
	crc := sum(value).GetValue()
	return &secretmanagerpb.AccessSecretVersionResponse{Name: fmt.Sprintf("%s/versions/%d", name, len(all)),
		Payload: &secretmanagerpb.SecretPayload{Data: bytes.Clone(value), DataCrc32C: &crc}}, nil
}
