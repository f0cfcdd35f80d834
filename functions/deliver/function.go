package deliver

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

func init() {
	functions.HTTP("Notify", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) { return serve.Push(c, wire(c).Notify), nil }))
	functions.HTTP("Deliver", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) { return serve.Push(c, wire(c).Deliver), nil }))
	functions.HTTP("Endpoints", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) { s := wire(c); return s.Door.Mux(s.Routes), nil }))
}

func wire(c *gcp.Cloud) *Service {
	return New(c.Backend, c.Env, serve.NewDoor(c.Backend, c.Env, c.Held["pseudonym"], gcp.Proxies), gcp.Closing(c.KMS, "webhook"),
		envelope.Remembering(gcp.Opening(c.KMS, "webhook"), c.Env), gcp.Renewing(c.KMS, "webhook"), c.Webhooks)
}
