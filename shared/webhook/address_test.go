package webhook

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

var sandbox = Rules{Allow: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8090"), netip.MustParseAddrPort("10.1.2.3:80")}}

func TestValidateTakes(t *testing.T) {
	for _, raw := range []string{
		"https://example.com", "https://hooks.example.com/a/b?token=x&y=%20", "https://example.com:443/", "https://example.com:8443/",
		"https://example.com:1024", "https://EXAMPLE.com./x", "https://xn--bcher-kva.example/", "https://my_hooks.example.com/",
		"https://8.8.8.8/x", "https://[2606:4700:4700::1111]:9000/", "http://127.0.0.1:8090/webhooks", "https://127.0.0.1:8090/",
		"http://10.1.2.3/x", "http://[::ffff:127.0.0.1]:8090/", "https://example.com/" + strings.Repeat("a", MaxURL-20),
	} {
		if err := sandbox.Validate(raw); err != nil {
			t.Errorf("%.60s: %v", raw, err)
		}
	}
}

var refusedURLs = map[string]string{
	"empty":                    "",
	"relative":                 "/webhooks",
	"no host":                  "https:///x",
	"opaque":                   "https:example.com",
	"backslashes":              `https:\\example.com\x`,
	"backslash before at":      `https://example.com\@127.0.0.1/`,
	"too long":                 "https://example.com/" + strings.Repeat("a", MaxURL),
	"plain http":               "http://example.com/",
	"http to a public address": "http://8.8.8.8:8090/",
	"http to another port":     "http://127.0.0.1:8091/",
	"http by a name":           "http://localhost:8090/",
	"ftp":                      "ftp://example.com/",
	"file":                     "file:///etc/passwd",
	"gopher":                   "gopher://example.com:6379/_x",
	"javascript":               "javascript:alert(1)",
	"user":                     "https://user@example.com/",
	"user and password":        "https://user:word@example.com/",
	"empty user":               "https://@example.com/",
	"looks like another host":  "https://example.com@127.0.0.1/",
	"fragment":                 "https://example.com/#x",
	"empty fragment":           "https://example.com/#",
	"control character":        "https://example.com/\nx",
	"space in the host":        "https://exa mple.com/",
	"percent in the host":      "https://127%2e0%2e0%2e1/",
	"other script":             "https://bücher.example/",
	"circled digits":           "https://①②⑦.⓪.⓪.①/",
	"full-width dot":           "https://127。0。0。1/",
	"Kelvin sign":              "https://hoo\u212as.example.com/",
	"other script in the path": "https://example.com/ü",
	"space in the query":       "https://example.com/?a b",
	"empty label":              "https://example..com/",
	"hyphen first":             "https://-example.com/",
	"long label":               "https://" + strings.Repeat("a", 64) + ".com/",
	"long name":                "https://" + strings.Repeat("a.", 130) + "com/",
	"single label":             "https://metadata/",
	"localhost":                "https://localhost/",
	"localhost on a port":      "https://localhost:8090/",
	"below localhost":          "https://app.localhost/",
	"localhost with a dot":     "https://localhost./",
	"port 0":                   "https://example.com:0/",
	"port 22":                  "https://example.com:22/",
	"port 25":                  "https://example.com:25/",
	"port 1023":                "https://example.com:1023/",
	"port 65536":               "https://example.com:65536/",
	"port with zeros":          "https://example.com:00443/",
	"empty port":               "https://example.com:/",
	"address on port 22":       "https://8.8.8.8:22/",
	"loopback":                 "https://127.0.0.1/",
	"all of loopback":          "https://127.8.9.10/",
	"this network":             "https://0.0.0.0/",
	"this network, another":    "https://0.1.2.3/",
	"private 10":               "https://10.0.0.1/",
	"private 172":              "https://172.16.0.1/",
	"private 192":              "https://192.168.1.1/",
	"shared":                   "https://100.64.0.1/",
	"link-local":               "https://169.254.1.1/",
	"metadata":                 "https://169.254.169.254/computeMetadata/v1/",
	"Azure's platform":         "https://168.63.129.16:32526/vmSettings",
	"benchmarking":             "https://198.18.0.1/",
	"documentation":            "https://203.0.113.1/",
	"multicast":                "https://224.0.0.1/",
	"reserved":                 "https://240.0.0.1/",
	"broadcast":                "https://255.255.255.255/",
	"IPv6 loopback":            "https://[::1]/",
	"IPv6 unspecified":         "https://[::]/",
	"IPv6 unique local":        "https://[fd00::1]/",
	"IPv6 link-local":          "https://[fe80::1]/",
	"IPv6 zone":                "https://[fe80::1%25eth0]/",
	"IPv6 site-local":          "https://[fec0::1]/",
	"IPv6 multicast":           "https://[ff02::1]/",
	"IPv6 documentation":       "https://[2001:db8::1]/",
	"IPv6 metadata":            "https://[fd00:ec2::254]/",
	"IPv4 mapped":              "https://[::ffff:127.0.0.1]/",
	"IPv4 mapped, in hex":      "https://[::ffff:7f00:1]/",
	"IPv4 mapped metadata":     "https://[::ffff:169.254.169.254]/",
	"IPv4 compatible":          "https://[::127.0.0.1]/",
	"NAT64":                    "https://[64:ff9b::7f00:1]/",
	"NAT64 local":              "https://[64:ff9b:1::7f00:1]/",
	"6to4":                     "https://[2002:7f00:1::]/",
	"Teredo":                   "https://[2001:0:7f00:1::]/",
	"octal":                    "https://0177.0.0.1/",
	"octal, whole":             "https://017700000001/",
	"hex":                      "https://0x7f.0.0.1/",
	"hex, whole":               "https://0x7f000001/",
	"hex, empty":               "https://0x/",
	"decimal":                  "https://2130706433/",
	"short":                    "https://127.1/",
	"short with a dot":         "https://127.1./",
	"hex last":                 "https://127.0.0.0x1/",
	"number last":              "https://example.1/",
	"leading zeros":            "https://127.000.000.001/",
	"too large for a byte":     "https://256.1.1.1/",
	"dotted decimal and a dot": "https://127.0.0.1./",
	"five numbers":             "https://127.0.0.1.1/",
}

func TestValidateRefuses(t *testing.T) {
	for name, raw := range refusedURLs {
		err := sandbox.Validate(raw)
		var e *domain.Error
		if !errors.As(err, &e) || e.Kind != domain.Invalid || e.Field != "/url" || e.Message == "" {
			t.Errorf("%s (%.60q): got %v, want an error about /url", name, raw, err)
		}
	}
}

// What a name resolves to, or an address that slipped past Validate, is judged here.
func TestControl(t *testing.T) {
	for address, allowed := range map[string]bool{
		"8.8.8.8:443": true, "8.8.8.8:8443": true, "[2606:4700:4700::1111]:443": true,
		"127.0.0.1:8090": true, "10.1.2.3:80": true, // by configuration
		"127.0.0.1:8091": false, "127.0.0.2:8090": false, "10.1.2.3:443": false, "8.8.8.8:80": false, "8.8.8.8:25": false,
		"127.0.0.1:443": false, "0.0.0.0:443": false, "169.254.169.254:443": false, "192.168.0.1:443": false,
		"[::1]:443": false, "[::]:443": false, "[::ffff:10.0.0.1]:443": false, "[64:ff9b::a00:1]:443": false,
		"[fe80::1%eth0]:443": false, "[fd00::1]:443": false, "not an address": false,
	} {
		err := sandbox.control("tcp4", address, nil)
		if (err == nil) != allowed || err != nil && !errors.Is(err, ErrRefusedAddress) {
			t.Errorf("%s: %v, want allowed %v", address, err, allowed)
		}
	}
	if sandbox.control("udp4", "8.8.8.8:443", nil) == nil {
		t.Error("UDP was allowed")
	}
	if (Rules{}).control("tcp4", "127.0.0.1:8090", nil) == nil {
		t.Error("with no configuration, loopback was allowed")
	}
}

func FuzzValidate(f *testing.F) {
	for _, raw := range refusedURLs {
		f.Add(raw)
	}
	f.Add("https://example.com/")
	f.Fuzz(func(t *testing.T, raw string) {
		var e *domain.Error
		if err := (Rules{}).Validate(raw); err != nil && (!errors.As(err, &e) || strings.Contains(err.Error(), raw) && len(raw) > 12) {
			t.Errorf("an error of another kind, or one that repeats the address: %v", err)
		} else if err == nil && !strings.EqualFold(raw[:8], "https://") {
			t.Errorf("%q was taken", raw)
		}
	})
}
