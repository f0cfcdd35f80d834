package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"

	"sluis.internal/shared/domain"
)

// MaxURL is the longest address taken, in characters.
const MaxURL = 2000

// Rules says where webhooks may go: to https on port 443 or any port from 1024, at public addresses; and to what the
// operator allows besides.
type Rules struct {
	// Allow names single addresses with their port that are allowed although they are private, and to which plain http
	// is allowed too: the sample client on loopback, or a client inside the same house.
	Allow []netip.AddrPort
}

// ErrRefusedAddress says that an address may not be dialled.
var ErrRefusedAddress = errors.New("webhook address refused")

// platform is where Azure answers the machines it runs: metadata and more, at what looks like a public address.
var platform = netip.MustParsePrefix("168.63.129.16/32")

// guardian refuses what is not a public unicast address by IANA's special-purpose registries. Ports are ours to judge.
var guardian = ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(platform))

func (r Rules) allows(a netip.AddrPort) bool {
	return slices.Contains(r.Allow, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
}

func portAllowed(port uint16) bool { return port == 443 || port >= 1024 }

// check judges one address. The name behind it may have resolved to anything.
func (r Rules) check(a netip.AddrPort) error {
	if r.allows(a) {
		return nil
	}
	if !portAllowed(a.Port()) {
		return fmt.Errorf("%w: port", ErrRefusedAddress)
	}
	if err := guardian.SafeAddrPort(a); err != nil {
		return fmt.Errorf("%w: %w", ErrRefusedAddress, err)
	}
	return nil
}

// control is a net.Dialer's Control: it runs for each address after resolution and before the connection is made, so
// that a name cannot show one address to a check and another to the dialler.
func (r Rules) control(network, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%w: not a TCP address", ErrRefusedAddress)
	}
	return r.check(a)
}

// Validate checks an address that a client gives for its webhooks. The error is about the field /url and says what to
// change. A name is not resolved here: what it resolves to is judged at every connection.
func (r Rules) Validate(raw string) error {
	if len(raw) == 0 || len(raw) > MaxURL {
		return domain.Invalidf("/url", "want an https address of at most %d characters", MaxURL)
	}
	// Whoever reads it differently from us (a resolver that folds letters, a server that ends the line at a space) must
	// find nothing to read differently.
	if strings.ContainsFunc(raw, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return domain.Invalidf("/url", "want ASCII without spaces: write other scripts in a host in their xn-- form, and anything else as %%XX")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "":
		return domain.Invalidf("/url", "want an absolute address, for example https://example.com/webhooks")
	case u.Scheme != "https" && u.Scheme != "http":
		return domain.Invalidf("/url", "want https")
	case u.User != nil:
		return domain.Invalidf("/url", "leave out the user name and password; webhooks are signed")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return domain.Invalidf("/url", "leave out the part after #; it is never sent")
	}
	port, err := portOf(u)
	if err != nil {
		return err
	}
	return r.validateHost(u, port)
}

// portOf is the address's port, or its scheme's.
func portOf(u *url.URL) (uint16, error) {
	text := u.Port()
	switch {
	case text == "" && !strings.HasSuffix(u.Host, ":") && u.Scheme == "https":
		return 443, nil
	case text == "" && !strings.HasSuffix(u.Host, ":"):
		return 80, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != text {
		return 0, domain.Invalidf("/url", "want a port from 1 to 65535, or none")
	}
	return uint16(port), nil
}

func (r Rules) validateHost(u *url.URL, port uint16) error {
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		return r.validateAddress(u.Scheme, netip.AddrPortFrom(a, port))
	}
	labels := strings.Split(strings.TrimSuffix(strings.ToLower(host), "."), ".")
	last := labels[len(labels)-1]
	switch {
	case len(host) > 253 || !slices.Equal(labels, slices.DeleteFunc(slices.Clone(labels), badLabel)):
		return domain.Invalidf("/url", "want a host of letters, digits, hyphens and dots; write other scripts in their xn-- form")
	// As in the URL Standard, a last label that is a number makes the host an IPv4 address: 127.1, 0x7f.1, 2130706433.
	case strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x"):
		return domain.Invalidf("/url", "write an IPv4 address as four decimal numbers without leading zeros")
	case len(labels) == 1 || last == "localhost":
		return domain.Invalidf("/url", "want a full public host name, for example hooks.example.com")
	case u.Scheme != "https":
		return domain.Invalidf("/url", "want https; plain http is only for addresses that the operator allows")
	case !portAllowed(port) && !slices.ContainsFunc(r.Allow, func(a netip.AddrPort) bool { return a.Port() == port }):
		return domain.Invalidf("/url", "want port 443, or one from 1024")
	}
	return nil
}

func (r Rules) validateAddress(scheme string, a netip.AddrPort) error {
	switch {
	case a.Addr().Zone() != "":
		return domain.Invalidf("/url", "want an address without a zone")
	case r.allows(a):
		return nil
	case scheme != "https":
		return domain.Invalidf("/url", "want https; plain http is only for addresses that the operator allows")
	case !portAllowed(a.Port()):
		return domain.Invalidf("/url", "want port 443, or one from 1024")
	case r.check(a) != nil:
		return domain.Invalidf("/url", "want a public address; this one is private, reserved or local")
	}
	return nil
}

// badLabel says whether a host name's label is not one of RFC 1123 (underscores are met in practice, and harmless).
func badLabel(label string) bool {
	if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return true
	}
	return strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
}
