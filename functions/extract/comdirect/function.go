package comdirect

import (
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/extraction"
	"sluis.internal/shared/serve"
)

func init() {
	functions.HTTP("Extract", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) { e, err := wire(c); return serve.Push(c, e.Run), err }))
	functions.HTTP("Answer", serve.Lazy(gcp.At(schemas.FS), func(c *gcp.Cloud) (serve.Face, error) { e, err := wire(c); return serve.Told(c, e.Answer), err }))
}

func wire(c *gcp.Cloud) (*extraction.Engine, error) {
	engine, err := extraction.New(c.Backend, c.Env, c.Custodian(), gcp.Keys{KMS: c.KMS}, c.Shards, c.Secrets, c.Held["pseudonym"])
	return New(engine), err
}
