package memory_test

import (
	"testing"

	"sluis.internal/shared/backend/backendtest"
	"sluis.internal/shared/backend/memory"
	"sluis.internal/shared/domain"
)

func TestShards(t *testing.T) {
	backendtest.Shards(t, true, func(*testing.T, string) domain.Shards { return &memory.Shards{} })
}
