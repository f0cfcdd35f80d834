package serve

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/netip"
	"strings"

	"sluis.internal/shared/domain"
)

// address is the caller's network address: the connection's, or what the outermost trusted proxy says of it. What
// stands before that in X-Forwarded-For anybody may have written.
func (d *Door) address(r *http.Request) string {
	peer := r.RemoteAddr
	if a, ok := parseAddress(peer); ok {
		peer = a.String()
	}
	if d.Proxies == 0 {
		return peer
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if i := len(hops) - d.Proxies; i >= 0 {
		if a, ok := parseAddress(strings.TrimSpace(hops[i])); ok {
			return a.String()
		}
	}
	return peer
}

// parseAddress reads an address with or without a port, in its one spelling.
func parseAddress(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(s)
		a = withPort.Addr()
	}
	return a.Unmap().WithZone(""), err == nil
}

// Network is who is counted for a caller's address: an IPv6 caller has a whole /64 to choose from (RFC 6177), so all of it
// counts as one.
func (d *Door) Network(r *http.Request) string {
	address := d.address(r)
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return address
}

// Commitment hides the caller's network address in an HMAC-SHA256 that only the holder of the salt can check.
func (d *Door) Commitment(r *http.Request) string {
	mac := hmac.New(sha256.New, d.Salt.Reveal())
	mac.Write([]byte("origin\n" + d.address(r)))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// Pseudonym is the investor that a client calls ref, as the audit log names them under a consent: the first 128 bits of an
// HMAC-SHA256 that only the holder of the salt can make. Under another consent they have another one.
func (d *Door) Pseudonym(client domain.ClientID, consent domain.ConsentID, ref string) domain.Pseudonym {
	mac := hmac.New(sha256.New, d.Salt.Reveal())
	mac.Write(domain.Name("sluis/investor/v1", string(client), string(consent), ref))
	return domain.Pseudonym("inv_" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16]))
}

// lookUp runs look, which looks for the key or the visit that the caller presents. A guess, that is one that is not
// there, counts against the caller's network address; who has guessed too often is refused before the next look.
func (d *Door) lookUp(r *http.Request, look func() error) error {
	who := "guess:" + d.Network(r)
	if err := d.Limits.spent(who, d.Env.Now()); err != nil {
		return err
	}
	err := look()
	if domain.KindOf(err) == domain.Unauthenticated {
		d.Limits.count(who, d.Env.Now())
	}
	return err
}
