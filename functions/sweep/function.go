package sweep

import (
	"context"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/serve"
)

func init() {
	functions.HTTP("Sweep", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) {
		s := &Service{Store: c.Backend, Env: c.Env, Lives: c.Contracts.Overdue()}
		return serve.Told(c, func(ctx context.Context, _ struct{}) error { return c.Minute(ctx, s.Run) }), nil
	}))
}
