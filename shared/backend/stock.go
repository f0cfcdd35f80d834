package backend

import (
	"time"

	"sluis.internal/shared/domain"
)

// Stock is how much a backend holds of a kind.
type Stock struct {
	Of    domain.DocumentKind `json:"kind"`
	Count int                 `json:"count"`
	Bytes int64               `json:"bytes"` // of the documents as JSON, without keys and indexes; -1 where nobody counts them
}

// Backlog is how many events of a topic are in a state: due, delayed, leased (being handled) or dead.
type Backlog struct {
	Topic  domain.Topic
	State  string
	Count  int
	Oldest time.Duration // since the oldest of them was emitted
}
