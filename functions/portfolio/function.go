package portfolio

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

func init() {
	functions.HTTP("Portfolio", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) {
		s := &Service{Store: c.Backend, Env: c.Env, Door: serve.NewDoor(c.Backend, c.Env, c.Held["pseudonym"], gcp.Proxies),
			Opener: envelope.NewReader(gcp.Opening(c.KMS, "portfolio"), c.Shards, c.Env), Interval: c.Interval}
		return serve.Mux(s.Routes), nil
	}))
}
