package egress

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"sluis.internal/shared/extraction"
)

// bends are ways to make something else of a declared request, by name.
var bends = merge(addressBends, pathBends, queryBends, headerBends, bodyBends, shapeBends)

func merge(all ...map[string]func(*http.Request)) map[string]func(*http.Request) {
	out := map[string]func(*http.Request){}
	for _, m := range all {
		for name, bend := range m {
			if out[name] != nil {
				panic("two bends are called " + name)
			}
			out[name] = bend
		}
	}
	return out
}

func host(h string) func(*http.Request) {
	return func(r *http.Request) { r.URL.Host, r.Host = strings.ReplaceAll(h, "HOST", r.URL.Host), "" }
}

func scheme(s string) func(*http.Request) { return func(r *http.Request) { r.URL.Scheme = s } }

var addressBends = map[string]func(*http.Request){
	"plain http":                scheme("http"),
	"scheme in capitals":        scheme("HTTPS"),
	"a WebSocket":               scheme("wss"),
	"a plain WebSocket":         scheme("ws"),
	"a file":                    scheme("file"),
	"ftp":                       scheme("ftp"),
	"gopher":                    scheme("gopher"),
	"no scheme":                 scheme(""),
	"scheme with a space":       scheme("https "),
	"another host":              host("evil.example"),
	"our host as a suffix":      host("evil-HOST"),
	"our host as a prefix":      host("HOST.evil.example"),
	"a host below ours":         host("www.HOST"),
	"a trailing dot":            host("HOST."),
	"a trailing dot and a port": host("HOST.:443"),
	"host in capitals":          func(r *http.Request) { r.URL.Host = strings.ToUpper(r.URL.Host) },
	"a Kelvin sign or long s": func(r *http.Request) {
		r.URL.Host = strings.NewReplacer("k", "\u212a", "s", "\u017f", "d", "ｄ").Replace(r.URL.Host)
	},
	"a soft hyphen in the host":  func(r *http.Request) { r.URL.Host = r.URL.Host[:2] + "\u00ad" + r.URL.Host[2:] },
	"an ideographic full stop":   func(r *http.Request) { r.URL.Host = strings.Replace(r.URL.Host, ".", "。", 1) },
	"another port":               host("HOST:444"),
	"the port of plain http":     host("HOST:80"),
	"port 0":                     host("HOST:0"),
	"an empty port":              host("HOST:"),
	"a port with a zero":         host("HOST:0443"),
	"a port out of range":        host("HOST:65979"), // 443 + 65536
	"a port by name":             host("HOST:https"),
	"two ports":                  host("HOST:443:443"),
	"host in brackets":           host("[HOST]"),
	"host in brackets and port":  host("[HOST]:443"),
	"user in the host":           host("HOST@evil.example"),
	"evil user in the host":      host("evil.example@HOST"),
	"a slash in the host":        host("HOST/evil"),
	"a space after the host":     host("HOST "),
	"a line break in the host":   host("HOST\r\nX: y"),
	"a null in the host":         host("HOST\x00.evil.example"),
	"an encoded host":            host("%HOST"),
	"two hosts":                  host("HOST,evil.example"),
	"no host":                    host(""),
	"loopback":                   host("127.0.0.1"),
	"metadata":                   host("169.254.169.254"),
	"user information":           func(r *http.Request) { r.URL.User = url.UserPassword("u", "p") },
	"empty user information":     func(r *http.Request) { r.URL.User = url.User("") },
	"a fragment":                 func(r *http.Request) { r.URL.Fragment = "x" },
	"a raw fragment":             func(r *http.Request) { r.URL.RawFragment = "x" },
	"an opaque address":          func(r *http.Request) { r.URL.Opaque = "//evil.example/orders" },
	"an absolute opaque address": func(r *http.Request) { r.URL.Opaque = "https://evil.example/orders" },
	"an authority-form address":  func(r *http.Request) { r.URL.Opaque = "evil.example:443" },
	"an asterisk-form address":   func(r *http.Request) { r.URL.Opaque = "*" },
	"another Host":               func(r *http.Request) { r.Host = "evil.example" },
	"Host with a port":           func(r *http.Request) { r.Host = r.URL.Host + ":443" },
	"Host in capitals":           func(r *http.Request) { r.Host = strings.ToUpper(r.URL.Host) },
	"Host with a line break":     func(r *http.Request) { r.Host = r.URL.Host + "\r\nX: y" },
	"no address":                 func(r *http.Request) { r.URL = nil },
	"an empty address":           func(r *http.Request) { r.URL = &url.URL{} },
}

func path(p string) func(*http.Request) {
	return func(r *http.Request) { r.URL.Path, r.URL.RawPath = strings.ReplaceAll(p, "PATH", r.URL.Path), "" }
}

// raw sets a path as it would stand in the request line, decoded as a careless server might.
func raw(p string) func(*http.Request) {
	return func(r *http.Request) {
		r.URL.RawPath = strings.ReplaceAll(p, "PATH", r.URL.Path)
		r.URL.Path, _ = url.PathUnescape(r.URL.RawPath) // what cannot be decoded is a path as well
	}
}

// instead writes text in the place of the names in a path. Where there are none it goes on with it.
func instead(text string) func(*http.Request) {
	return func(r *http.Request) {
		if !strings.Contains(r.URL.Path, example) {
			r.URL.Path += "/" + example
		}
		r.URL.Path = strings.ReplaceAll(r.URL.Path, example, text)
	}
}

var pathBends = map[string]func(*http.Request){
	"orders":                      path("/orders"),
	"GraphQL":                     func(r *http.Request) { r.URL.Path, r.Method = "/graphql", "POST" },
	"GraphQL by GET":              func(r *http.Request) { r.URL.Path, r.URL.RawQuery = "/graphql", "query=mutation{pay}" },
	"SOAP":                        path("/services/Payments"),
	"JSON-RPC":                    path("/rpc"),
	"a longer path":               path("PATH/cancel"),
	"a trailing slash":            path("PATH/"),
	"two trailing slashes":        path("PATH//"),
	"a leading slash":             path("/PATH"),
	"a trailing dot segment":      path("PATH/."),
	"a trailing dot-dot segment":  path("PATH/.."),
	"a leading dot segment":       path("/.PATH"),
	"a dot for a name":            instead("."),
	"two dots for a name":         instead(".."),
	"a way out and back":          path("/x/..PATH"),
	"a way past the root":         path("/../..PATH"),
	"three dots":                  path("/...PATH"),
	"a relative path":             func(r *http.Request) { r.URL.Path = r.URL.Path[1:] },
	"no path":                     path(""),
	"the root":                    path("/"),
	"an asterisk":                 path("*"),
	"path in capitals":            func(r *http.Request) { r.URL.Path = strings.ToUpper(r.URL.Path) },
	"a missing segment":           func(r *http.Request) { r.URL.Path = r.URL.Path[:strings.LastIndexByte(r.URL.Path, '/')] },
	"a doubled slash":             func(r *http.Request) { r.URL.Path = strings.Replace(r.URL.Path, "/", "//", 2) },
	"a backslash":                 path("PATH\\..\\orders"),
	"a matrix parameter":          path("PATH;x=1"),
	"a question mark in the path": path("PATH?x"),
	"a hash in the path":          path("PATH#x"),
	"a per cent in the path":      path("PATH%2e"),
	"a space in the path":         path("PATH HTTP/1.1"),
	"a line break in the path":    path("PATH HTTP/1.1\r\nHost: evil.example\r\n\r\nPOST /orders"),
	"a null in the path":          path("PATH\x00"),
	"a tab in the path":           path("PATH\t"),
	"a full-width slash":          path("PATH／orders"),
	"a full-width dot":            path("PATH/．．/orders"),
	"an overlong dot":             path("PATH/\xc0\xae\xc0\xae/orders"),
	"a control character":         path("PATH\x7f"),
	"an encoded slash":            raw("PATH%2Forders"),
	"an encoded slash, small":     raw("PATH%2forders"),
	"a doubly encoded slash":      raw("PATH%252Forders"),
	"encoded dots":                raw("PATH/%2e%2e/orders"),
	"doubly encoded dots":         raw("PATH/%252e%252e/orders"),
	"an encoded letter":           func(r *http.Request) { r.URL.RawPath = "/%61" + r.URL.Path[2:] },
	"an encoded backslash":        raw("PATH%5c..%5corders"),
	"an encoded null":             raw("PATH%00"),
	"an encoded line break":       raw("PATH%0d%0aX"),
	"an encoded question mark":    raw("PATH%3fx"),
	"an encoded semicolon":        raw("PATH%3bx"),
	"half an encoding":            raw("PATH%2"),
	"an IIS encoding":             raw("PATH%u002forders"),
	"a raw path of its own":       func(r *http.Request) { r.URL.RawPath = "/orders" },
	"an endless path":             path("PATH/" + strings.Repeat("a", 4096)),
}

func query(q string) func(*http.Request) { return func(r *http.Request) { r.URL.RawQuery = q } }

var queryBends = map[string]func(*http.Request){
	"_method":                       query("_method=DELETE"),
	"_method, encoded":              query("%5fmethod=DELETE"),
	"_method among others":          query("a=b&_method=PUT"),
	"_method without a value":       query("_method"),
	"_METHOD":                       query("_METHOD=PUT"),
	"method":                        query("method=POST"),
	"httpMethod":                    query("httpMethod=POST"),
	"$method":                       query("$method=POST"),
	"x-http-method":                 query("x-http-method=POST"),
	"X-HTTP-Method-Override":        query("X-HTTP-Method-Override=POST"),
	"x_http_method_override":        query("x_http_method_override=POST"),
	"a query with semicolons":       query("a=1;_method=POST"),
	"half an encoding in the query": query("a=%2"),
	"a line break in the query":     query("a=b HTTP/1.1\r\nHost: evil.example\r\n\r\nPOST /orders"),
	"a space in the query":          query("a=b HTTP/1.0"),
	"a tab in the query":            query("a=b\tHTTP/1.0"),
	"a null in the query":           query("a=\x00"),
	"a delete in the query":         query("a=\x7f"),
	"bytes beyond ASCII":            query("a=\u00e4"),
	"a hash in the query":           query("a=b#c"),
	"an endless query":              query("a=" + strings.Repeat("b", 5000)),
}

func header(key string, values ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header[key] = values }
}

var headerBends = map[string]func(*http.Request){
	"method override":                    header("X-HTTP-Method-Override", "POST"),
	"method override, canonical":         header("X-Http-Method-Override", "POST"),
	"method override, small":             header("x-http-method-override", "POST"),
	"method override, underscores":       header("X_HTTP_METHOD_OVERRIDE", "POST"),
	"method override, empty":             header("X-HTTP-Method-Override"),
	"X-HTTP-Method":                      header("X-HTTP-Method", "POST"),
	"X-Method-Override":                  header("X-Method-Override", "POST"),
	"X-Method":                           header("X-Method", "POST"),
	"original URL":                       header("X-Original-URL", "/orders"),
	"original URI":                       header("X-Original-URI", "/orders"),
	"rewritten URL":                      header("X-Rewrite-URL", "/orders"),
	"forwarded":                          header("Forwarded", "host=evil.example"),
	"forwarded host":                     header("X-Forwarded-Host", "evil.example"),
	"forwarded prefix":                   header("X-Forwarded-Prefix", "/orders"),
	"forwarded scheme":                   header("X-Forwarded-Proto", "http"),
	"a Host header":                      header("Host", "evil.example"),
	"a host header, small":               header("host", "evil.example"),
	"a cookie":                           header("Cookie", "a=b"),
	"an upgrade to WebSocket":            header("Upgrade", "websocket"),
	"an upgrade to HTTP/2":               header("Upgrade", "h2c"),
	"a connection header":                header("Connection", "Upgrade, HTTP2-Settings"),
	"HTTP/2 settings":                    header("HTTP2-Settings", "AAMAAABkAAQAAP__"),
	"a chunked body by header":           header("Transfer-Encoding", "chunked"),
	"a chunked body by header, bent":     header("Transfer_Encoding", "xchunked"),
	"a length by header":                 header("Content-Length", "7"),
	"a trailer by header":                header("Trailer", "X-HTTP-Method"),
	"TE":                                 header("TE", "trailers"),
	"Expect":                             header("Expect", "100-continue"),
	"Via":                                header("Via", "1.1 evil"),
	"proxy authorisation":                header("Proxy-Authorization", "Basic x"),
	"proxy connection":                   header("Proxy-Connection", "keep-alive"),
	"a line break in a header":           header("X-A", "b\r\nX-HTTP-Method-Override: POST"),
	"a bare line feed in a header":       header("X-A", "b\nHost: evil.example"),
	"a bare carriage return in a header": header("X-A", "b\rHost: evil.example"),
	"a second request in a header":       header("X-A", "b\r\n\r\nPOST /orders HTTP/1.1\r\nHost: x\r\n"),
	"a null in a header":                 header("X-A", "b\x00"),
	"a delete in a header":               header("X-A", "b\x7f"),
	"a line break in a header's name":    header("X-A: b\r\nX-B", "c"),
	"a colon in a header's name":         header("X-A:", "b"),
	"a space in a header's name":         header("X A", "b"),
	"a header's name beyond ASCII":       header("X-Ä", "b"),
	"an empty header name":               header("", "b"),
	"a pseudo-header for the path":       header(":path", "/orders"),
	"a pseudo-header for the method":     header(":method", "POST"),
	"a pseudo-header for the authority":  header(":authority", "evil.example"),
	"a pseudo-header for the protocol":   header(":protocol", "websocket"),
	"a huge header":                      header("X-A", strings.Repeat("b", 64<<10)),
	"a header with a huge name":          header("X-"+strings.Repeat("a", 64<<10), "b"),
	"many values":                        header("X-A", make([]string, 1000)...),
	"many headers": func(r *http.Request) {
		for i := range 500 {
			r.Header["X-"+strconv.Itoa(i)] = []string{"a"}
		}
	},
}

func body(r *http.Request, content io.Reader, length int64) {
	r.Body, r.ContentLength = io.NopCloser(content), length
}

var bodyBends = map[string]func(*http.Request){
	"GET with a body":        func(r *http.Request) { r.Method = "GET"; body(r, strings.NewReader("x"), 1) },
	"no method and a body":   func(r *http.Request) { r.Method = ""; body(r, strings.NewReader("x"), 1) },
	"a body of no length":    func(r *http.Request) { body(r, strings.NewReader("x"), -1) },
	"a body of length 0":     func(r *http.Request) { body(r, strings.NewReader("x"), 0) },
	"a body over the limit":  func(r *http.Request) { body(r, strings.NewReader("x"), extraction.MaxRequestBody+1) },
	"an endless body":        func(r *http.Request) { body(r, endless{}, -1) },
	"transfer encoding":      func(r *http.Request) { r.TransferEncoding = []string{"chunked"} },
	"transfer encoding, odd": func(r *http.Request) { r.TransferEncoding = []string{"identity", "chunked"} },
	"a trailer":              func(r *http.Request) { r.Trailer = http.Header{"X-Http-Method": nil} },
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// shapeBends change several things at once, as real attacks do.
var shapeBends = map[string]func(*http.Request){
	"a WebSocket handshake": func(r *http.Request) {
		r.Method = "GET"
		r.Header = http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Version": {"13"}}
	},
	"a tunnel": func(r *http.Request) {
		r.Method, r.URL.Host, r.URL.Path, r.URL.Opaque = "CONNECT", "evil.example:443", "", "evil.example:443"
	},
	"an extended CONNECT": func(r *http.Request) { r.Method = "CONNECT"; r.Header[":protocol"] = []string{"websocket"} },
	"a GraphQL mutation": func(r *http.Request) {
		r.Method, r.URL.Path = "POST", "/graphql"
		body(r, strings.NewReader(`{"query":"mutation{pay}"}`), 25)
	},
	"an order": func(r *http.Request) {
		r.Method, r.URL.Path = "POST", "/api/brokerage/v3/orders"
		body(r, strings.NewReader("{}"), 2)
	},
	"an order's cancellation": func(r *http.Request) { r.Method, r.URL.Path = "DELETE", "/api/brokerage/v3/orders/A1" },
}
