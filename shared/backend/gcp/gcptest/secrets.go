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

// MakeSecret makes a secret without a version, as Terraform does.
func (v *Vault) MakeSecret(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.secrets[name] = [][]byte{}
}

// AddSecretVersion implements Secret Manager's, of a secret that is there. A missing checksum, which Google lets pass, we
// never leave out.
func (v *Vault) AddSecretVersion(ctx context.Context, q *secretmanagerpb.AddSecretVersionRequest) (*secretmanagerpb.SecretVersion, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.permit(ctx, "secretmanager.versions.add", q.Parent); err != nil {
		return nil, err
	}
	if v.secrets[q.Parent] == nil {
		return nil, status.Errorf(codes.NotFound, "secret [%s] not found", q.Parent)
	}
	value := q.GetPayload().GetData()
	if crc := q.GetPayload().DataCrc32C; len(value) == 0 || crc == nil || *crc != sum(value).GetValue() {
		return nil, status.Error(codes.InvalidArgument, "the payload is empty, or its checksum is missing or does not match")
	}
	v.secrets[q.Parent] = append(v.secrets[q.Parent], bytes.Clone(value))
	return &secretmanagerpb.SecretVersion{Name: fmt.Sprintf("%s/versions/%d", q.Parent, len(v.secrets[q.Parent])), State: secretmanagerpb.SecretVersion_ENABLED}, nil
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
