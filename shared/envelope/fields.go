package envelope

import (
	"bytes"
	"encoding/hex"
	"unicode/utf16"
	"unicode/utf8"

	"sluis.internal/shared/domain"
)

// limits of a flat object, in members and bytes.
type limits struct{ fields, name, value int }

// takeFields reads the payload of a credential and wipes raw. Its one error says nothing of the content.
func takeFields(raw []byte) (map[string]domain.Secret, error) {
	fields, ok := readObject(raw, limits{MaxFields, MaxFieldName, MaxFieldValue})
	if !ok || len(fields) == 0 {
		return nil, ErrPayload
	}
	return fields, nil
}

// readObject reads a flat JSON object of strings and wipes raw. It is strict (no duplicate or empty names, no other
// types, nothing after the object) and, unlike encoding/json, leaves no copy of a value that nobody could wipe.
func readObject(raw []byte, max limits) (map[string]domain.Secret, bool) {
	defer clear(raw)
	s := scanner{raw}
	fields := map[string]domain.Secret{}
	if s.object(fields, max) {
		return fields, true
	}
	wipeAll(fields)
	return nil, false
}

// scanner reads JSON (RFC 8259) from the rest of a text.
type scanner struct{ rest []byte }

func (s *scanner) object(fields map[string]domain.Secret, max limits) bool {
	if !utf8.Valid(s.rest) || !s.next('{') {
		return false
	}
	if s.next('}') {
		return s.end()
	}
	for {
		name, ok := s.text(max.name)
		if !ok || len(name) == 0 || !s.next(':') {
			return false
		}
		if _, twice := fields[string(name)]; twice || len(fields) == max.fields {
			return false
		}
		value, ok := s.text(max.value)
		fields[string(name)] = domain.NewSecret(value)
		if !ok {
			return false
		}
		if s.next('}') {
			return s.end()
		}
		if !s.next(',') {
			return false
		}
	}
}

// end says whether nothing but space is left.
func (s *scanner) end() bool {
	s.space()
	return len(s.rest) == 0
}

func (s *scanner) space() { s.rest = bytes.TrimLeft(s.rest, " \t\r\n") }

// next skips space and takes c.
func (s *scanner) next(c byte) bool {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// text reads a string of at most limit bytes. The result has its full capacity from the start (no escape is shorter
// than what it stands for), so that nothing is left behind by growing.
func (s *scanner) text(limit int) ([]byte, bool) {
	if !s.next('"') {
		return nil, false
	}
	out := make([]byte, 0, min(limit, len(s.rest))+utf8.UTFMax)
	for len(s.rest) > 0 && len(out) <= limit {
		c := s.rest[0]
		s.rest = s.rest[1:]
		switch {
		case c == '"':
			return out, true
		case c < ' ':
			return out, false
		case c != '\\':
			out = append(out, c)
		default:
			r, ok := s.escape()
			if !ok {
				return out, false
			}
			out = utf8.AppendRune(out, r)
		}
	}
	return out, false
}

// escape reads what follows a backslash.
func (s *scanner) escape() (rune, bool) {
	if len(s.rest) == 0 {
		return 0, false
	}
	c := s.rest[0]
	s.rest = s.rest[1:]
	if c != 'u' {
		i := bytes.IndexByte([]byte(`"\/bfnrt`), c)
		if i < 0 {
			return 0, false
		}
		return rune("\"\\/\b\f\n\r\t"[i]), true
	}
	r, ok := s.hex()
	if !ok || !utf16.IsSurrogate(r) {
		return r, ok
	}
	if !bytes.HasPrefix(s.rest, []byte(`\u`)) {
		return 0, false
	}
	s.rest = s.rest[2:]
	low, ok := s.hex()
	r = utf16.DecodeRune(r, low)
	return r, ok && r != utf8.RuneError
}

// hex reads four hexadecimal digits.
func (s *scanner) hex() (rune, bool) {
	var b [2]byte
	if len(s.rest) < 4 {
		return 0, false
	}
	if _, err := hex.Decode(b[:], s.rest[:4]); err != nil {
		return 0, false
	}
	s.rest = s.rest[4:]
	return rune(b[0])<<8 | rune(b[1]), true
}

func wipeAll(fields map[string]domain.Secret) {
	for _, v := range fields {
		v.Wipe()
	}
}
