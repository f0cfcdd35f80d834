package seal

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

func init() {
	functions.HTTP("Seal", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) {
		inner, sealer := envelope.Inner(gcp.Public(c.KMS, "inner")), envelope.NewSealer(gcp.Closing(c.KMS, "outer"))
		s := &Service{Store: c.Backend, Env: c.Env, Door: serve.NewDoor(c.Backend, c.Env, c.Held["pseudonym"], gcp.Proxies),
			Sealer: sealer, Shards: c.Shards, Public: inner.Public, Kids: inner.Kids}
		return serve.Mux(s.Routes), nil
	}))
}
