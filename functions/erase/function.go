package erase

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/serve"
)

func init() {
	at := gcp.At(schemas.FS)
	functions.HTTP("Erase", serve.Lazy(at, func(c *gcp.Cloud) (serve.Face, error) { s, err := wire(c); return serve.Mux(s.Routes), err }))
	functions.HTTP("Erasure", serve.Lazy(at, func(c *gcp.Cloud) (serve.Face, error) { s, err := wire(c); return serve.Push(c, s.Erasure), err }))
}

func wire(c *gcp.Cloud) (*Service, error) {
	door := serve.NewDoor(c.Backend, c.Env, c.Held["pseudonym"], gcp.Proxies)
	return New(c.Backend, c.Env, door, gcp.Signer(c.KMS, "certificate"), gcp.Backups)
}
