package erase

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/serve"
)

func init() {
	at := gcp.At(schemas.FS)
	functions.HTTP("Erase", serve.Lazy(at, func(c *gcp.Cloud) (serve.Face, error) { return serve.Mux(wire(c).Routes), nil }))
	functions.HTTP("Erasure", serve.Lazy(at, func(c *gcp.Cloud) (serve.Face, error) { return serve.Push(c, wire(c).Erasure), nil }))
}

func wire(c *gcp.Cloud) *Service {
	door := serve.NewDoor(c.Backend, c.Env, c.Held["pseudonym"], gcp.Proxies)
	return &Service{Store: c.Backend, Env: c.Env, Door: door, Signers: gcp.Signers(c.KMS, "certificate"),
		Shards: c.Shards, Copies: Copies{Backups: gcp.Backups, Shards: gcp.ShardVersions, Memory: gcp.Memory}}
}
