package consent

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/serve"
)

func init() {
	functions.HTTP("Consent", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) {
		s := &Service{Store: c.Backend, Env: c.Env, Door: serve.NewDoor(c.Backend, c.Env, c.Held["pseudonym"], gcp.Proxies),
			Custodians: c.Custodians(), LinkKey: c.Held["link"], Inner: gcp.Public(c.KMS, "inner"), PagesURL: gcp.Setting("SLUIS_PAGES_URL"),
			Company: CompanyFrom(gcp.Setting)}
		return s.Door.Mux(s.Routes, s.Pages), s.Company.Check()
	}))
}
