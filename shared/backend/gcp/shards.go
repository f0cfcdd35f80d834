package gcp

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluis.internal/shared/domain"
)

// ShardsDatabase is Firestore's database of shards where nothing else is said: without point-in-time recovery, without
// backups, and protected from deletion (terraform/shards.tf).
const ShardsDatabase = "shards"

// Shards keeps shards in a Firestore database of their own. To make one takes the right to create documents there, to get
// one the right to get, to destroy one the right to delete: no function has all three.
type Shards struct{ store *firestore.Client }

// OpenShards makes the client; the first request connects it. Close it after use.
func OpenShards(ctx context.Context, project, database string, o ...option.ClientOption) (*Shards, error) {
	c, err := firestore.NewClientWithDatabase(ctx, project, database, o...)
	if err != nil {
		return nil, fmt.Errorf("opening the database of shards: %w", err)
	}
	return &Shards{c}, nil
}

// Close closes the client.
func (s *Shards) Close() error { return s.store.Close() }

type shardDocument struct {
	Bits []byte `firestore:"bits"`
}

func (s *Shards) at(id domain.ShardID) (*firestore.DocumentRef, error) {
	if _, err := domain.ParseID[domain.ShardID](string(id)); err != nil {
		return nil, fmt.Errorf("naming shard: %w", err)
	}
	return s.store.Collection("shard").Doc(string(id)), nil
}

// Make implements domain.ShardMaker.
func (s *Shards) Make(ctx context.Context, id domain.ShardID) (domain.Secret, error) {
	ref, err := s.at(id)
	if err != nil {
		return domain.Secret{}, err
	}
	bits := make([]byte, domain.ShardSize)
	rand.Read(bits) // never fails
	_, err = ref.Create(ctx, shardDocument{bytes.Clone(bits)})
	if status.Code(err) == codes.AlreadyExists {
		return domain.Secret{}, &domain.Error{Kind: domain.Conflict, Code: "shard_exists", Message: "there is such a shard"}
	}
	return domain.NewSecret(bits), fault(ctx, "making shard", err)
}

// Get implements domain.ShardReader.
func (s *Shards) Get(ctx context.Context, id domain.ShardID) (domain.Secret, error) {
	ref, err := s.at(id)
	if err != nil {
		return domain.Secret{}, err
	}
	found, err := ref.Get(ctx)
	if status.Code(err) == codes.NotFound {
		return domain.Secret{}, domain.ErrShardGone
	}
	var d shardDocument
	if err == nil {
		err = found.DataTo(&d)
	}
	if err == nil && len(d.Bits) != domain.ShardSize {
		return domain.Secret{}, domain.ErrShardGone
	}
	return domain.NewSecret(d.Bits), fault(ctx, "getting shard", err)
}

// Destroy implements domain.ShardDestroyer.
func (s *Shards) Destroy(ctx context.Context, id domain.ShardID) error {
	ref, err := s.at(id)
	if err == nil {
		_, err = ref.Delete(ctx)
		err = fault(ctx, "destroying shard", err)
	}
	return err
}
