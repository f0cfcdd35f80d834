package home

import (
	"encoding/json"
	"fmt"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
)

// read reads one of the contracts in schemas.
func read[T any](name string) (T, error) {
	var v T
	raw, err := schemas.FS.ReadFile(name)
	if err != nil {
		return v, fmt.Errorf("reading %s: %w", name, err)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("reading %s: %w", name, err)
	}
	return v, nil
}

// ReadPipeline reads schemas/pipeline.json.
func ReadPipeline() (Pipeline, error) { return read[Pipeline]("pipeline.json") }

// Pipeline is pipeline.json.
type Pipeline struct {
	Topics    map[domain.Topic]Topic `json:"topics"`
	Keys      map[string]KeyUse      `json:"keys"`
	Functions []Function             `json:"functions"`
}

// Topic is one of the pipeline's topics.
type Topic struct {
	Filter string `json:"filter"`
	Why    string `json:"why"`
}

// KeyUse is what a key is for.
type KeyUse struct {
	Use string `json:"use"`
	Why string `json:"why"`
}

// Function is one deployable of the pipeline.
type Function struct {
	Name       string         `json:"name"`
	EntryPoint string         `json:"entry_point"`
	Why        string         `json:"why"`
	Source     string         `json:"source"`  // the folder, where it is not the name
	Per        string         `json:"per"`     // "custodian": one deployment each
	Trigger    domain.Topic   `json:"trigger"` // a topic, for functions that take events
	Schedule   string         `json:"schedule"`
	Routes     []Route        `json:"routes"`
	Emits      []domain.Topic `json:"emits"`
	Calls      []string       `json:"calls"`
	Close      []string       `json:"close"`  // keys it may encrypt with
	Open       []string       `json:"open"`   // keys it may decrypt with
	Shows      []string       `json:"shows"`  // keys whose public half it may read
	Shards     []string       `json:"shards"` // what it may do with shards: make, read, destroy
	Holds      []string       `json:"holds"`  // other secrets
}

// Route is a path that a function answers, on one of the hosts.
type Route struct {
	Host   string `json:"host"` // api, pages or internal
	Method string `json:"method"`
	Path   string `json:"path"`
}
