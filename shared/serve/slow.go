package serve

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"sluis.internal/shared/domain"
)

// The pace of a request's body: so long for its beginning, and after that so many bytes a second on the whole. A fixed
// bound would let a thousand bodies that drip hold a thousand connections, or cut off an honest one on a bad line.
const (
	bodyGrace = 5 * time.Second
	bodyRate  = 1000
)

// errSlow is what is read of a body that comes too slowly.
var errSlow = &domain.Error{Kind: domain.Invalid, Code: "body_too_slow", Message: "the body came too slowly; send at least 1 kB a second"}

// paced moves the bound on reading a request on with its body. Where the connection has no such bound, as behind a front
// door that reads whole bodies first, that one's own holds.
func paced(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			h.ServeHTTP(w, r)
			return
		}
		body := &pacedBody{ReadCloser: r.Body, control: http.NewResponseController(w)}
		r.Body = body
		body.soon() // the server reads what nobody reads, to be able to answer
		h.ServeHTTP(w, r)
		if !body.ended {
			body.soon()
		}
	})
}

// pacedBody is a body with a bound on each reading.
type pacedBody struct {
	io.ReadCloser
	control *http.ResponseController
	until   time.Time // zero before the first reading
	ended   bool      // well or badly: net/http watches the connection now, with no bound
}

// soon bounds what is read by others than Read.
func (b *pacedBody) soon() { _ = b.control.SetReadDeadline(time.Now().Add(bodyGrace)) }

func (b *pacedBody) Read(p []byte) (int, error) {
	if b.ended {
		return b.ReadCloser.Read(p)
	}
	if b.until.IsZero() {
		b.until = time.Now().Add(bodyGrace)
	}
	_ = b.control.SetReadDeadline(b.until)
	n, err := b.ReadCloser.Read(p)
	b.until = b.until.Add(time.Duration(n) * time.Second / bodyRate)
	b.ended = err != nil
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errSlow
	}
	return n, err
}
