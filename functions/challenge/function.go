package challenge

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/serve"
)

func init() {
	functions.HTTP("Challenge", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) {
		s := &Service{Store: c.Backend, Env: c.Env, Door: serve.NewDoor(c.Backend, c.Env, c.Held["pseudonym"], gcp.Proxies),
			Display: gcp.Opening(c.KMS, "display"), Bank: &Remote{URL: gcp.Setting("SLUIS_ANSWER_URL"), Client: c.Client}}
		return s.Door.Mux(s.Routes), nil
	}))
}
