package egress

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// answers is what the world says a name is, query after query; the last one is repeated.
type answers [][]string

// registry is the DNS of this world. Beside what the tests write into it, it reads names as careless resolvers do:
// numbers in any notation, and addresses in names (127.0.0.1.nip.example.com).
type registry struct {
	mu    sync.Mutex
	names map[string]answers
	asked map[string]int // address queries (A)
}

var dns = &registry{names: map[string]answers{}, asked: map[string]int{}}

// resolveHere has every look-up of this process answered by dns.
func resolveHere() error {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go dns.serve(c) // ends with the process
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
	return nil
}

// say has name resolve to these: addresses, or "CNAME other.name".
func (r *registry) say(name string, a ...[]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names[name], r.asked[name] = a, 0
}

func (r *registry) serve(c net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return
		}
		if answer := r.answer(buffer[:n]); answer != nil {
			_, _ = c.WriteTo(answer, from) // a resolver without an answer says so itself
		}
	}
}

const (
	typeA, typeCNAME, typeAAAA = 1, 5, 28
)

// answer answers one question (RFC 1035, section 4).
func (r *registry) answer(query []byte) []byte {
	if len(query) < 17 {
		return nil
	}
	end, labels := 12, []string(nil)
	for query[end] != 0 {
		size := int(query[end])
		if end+size+6 > len(query) {
			return nil
		}
		labels = append(labels, string(query[end+1:end+1+size]))
		end += size + 1
	}
	end += 5
	kind := binary.BigEndian.Uint16(query[end-4:])
	records, count, known := r.records(strings.ToLower(strings.Join(labels, ".")), kind)
	out := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0}, query[12:end]...)
	if !known {
		out[3] |= 3 // no such name
	}
	return append(out, records...)
}

// records are the answer section. Every name in it is written in full, and nothing may be remembered (TTL 0).
func (r *registry) records(name string, kind uint16) (out []byte, count byte, known bool) {
	for range 8 {
		found := r.look(name, kind == typeA)
		if found == nil {
			return out, count, known
		}
		known = true
		alias := ""
		for _, one := range found {
			if to, ok := strings.CutPrefix(one, "CNAME "); ok {
				alias = to
				out, count = append(out, record(name, typeCNAME, wire(to))...), count+1
				continue
			}
			a := netip.MustParseAddr(one)
			if a.Is4() && kind == typeA || a.Is6() && kind == typeAAAA {
				out, count = append(out, record(name, kind, a.AsSlice())...), count+1
			}
		}
		if name = alias; alias == "" {
			break
		}
	}
	return out, count, known
}

func record(name string, kind uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(wire(name), kind)
	b = append(b, 0, 1, 0, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func wire(name string) []byte {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// look finds what a name is at present.
func (r *registry) look(name string, counts bool) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if said, ok := r.names[name]; ok {
		n := r.asked[name]
		if counts {
			r.asked[name]++
		}
		return said[min(n, len(said)-1)]
	}
	if a, ok := careless(name); ok {
		return []string{a.String()}
	}
	return nil
}

var dashed = regexp.MustCompile(`(?:^|\.)(\d+)[-.](\d+)[-.](\d+)[-.](\d+)\.nip\.example\.com$`)

// careless reads a name as an address, as inet_aton(3) and the wildcard services do.
func careless(name string) (netip.Addr, bool) {
	if m := dashed.FindStringSubmatch(name); m != nil {
		a, err := netip.ParseAddr(strings.Join(m[1:], "."))
		return a, err == nil
	}
	parts := strings.Split(name, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var whole uint64
	for i, part := range parts {
		n, err := strconv.ParseUint(octal(part), 0, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		if last := i == len(parts)-1; last {
			whole += n
		} else {
			whole += n << (8 * (3 - i))
		}
	}
	return netip.AddrFrom4([4]byte{byte(whole >> 24), byte(whole >> 16), byte(whole >> 8), byte(whole)}), true
}

// octal writes 0177 as Go reads it.
func octal(part string) string {
	if len(part) > 1 && part[0] == '0' && part[1] >= '0' && part[1] <= '9' {
		return "0o" + part[1:]
	}
	return part
}
