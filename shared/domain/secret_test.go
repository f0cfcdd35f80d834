package domain

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Wherever a secret might be printed, logged or marshalled, by itself or within something, its bytes do not show: not
// as text, hex, decimal numbers or base64.
func TestSecretsRedactThemselves(t *testing.T) {
	const canary = "hunter2-canary"
	s := NewSecret([]byte(canary))
	type login struct {
		Name   string
		PIN    Secret
		Ref    *Secret
		hidden Secret // of such fields package fmt asks no methods
	}
	holder := login{"ada", s, &s, s}
	shown := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%08b", "%20v", "%o", "%U", "%p"} {
		for name, value := range map[string]any{"secret": s, "pointer": &s, "struct": holder, "pointer to struct": &holder,
			"slice": []Secret{s}, "map": map[string]Secret{"pin": s}, "interface": any(s), "nested": struct{ L login }{holder}} {
			shown["fmt "+verb+" of "+name] = fmt.Sprintf(verb, value)
		}
	}
	shown["Sprint"] = fmt.Sprint(s, &s, holder)
	shown["error"] = fmt.Errorf("login with %v: %w", s, errors.New("refused")).Error()
	for name, value := range map[string]any{"secret": s, "pointer": &s, "struct": holder, "map": map[string]any{"pin": s}, "slice": []Secret{s}} {
		raw, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		shown["json of "+name] = string(raw)
		for format, handler := range map[string]func(*bytes.Buffer) slog.Handler{
			"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var out bytes.Buffer
			slog.New(handler(&out)).With("bound", value).Info("x", "pin", value, slog.Group("g", "pin", value))
			shown["slog "+format+" of "+name] = out.String()
		}
	}
	if raw, err := xml.Marshal(struct{ PIN Secret }{s}); err == nil {
		shown["xml"] = string(raw)
	}
	text, err := s.MarshalText()
	shown["text"] = fmt.Sprint(string(text), err)
	forms := []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprintf("%d", []byte(canary)[:4]),
		"aHVudGVyMi1jYW5hcnk", "104, 117, 110", "104 117 110", "0x68, 0x75", "[150 165", "01101000 01110101", "U+0068"}
	for where, out := range shown {
		for _, form := range forms {
			if strings.Contains(out, strings.Trim(form, "[]")) {
				t.Errorf("%s shows it: %s", where, out)
			}
		}
	}
	for _, where := range []string{"fmt %v of secret", "fmt %+v of struct", "fmt %#v of struct", "json of struct", "slog text of secret", "slog json of struct", "text"} {
		if !strings.Contains(shown[where], redacted) {
			t.Errorf("%s: %s", where, shown[where])
		}
	}
}

func TestSecretsAreWiped(t *testing.T) {
	b := []byte("hunter2")
	s := NewSecret(b)
	copied := s // shares the bytes
	if string(s.Reveal()) != "hunter2" || s.Len() != 7 {
		t.Error("it is not what it was made of")
	}
	s.Wipe()
	if !bytes.Equal(b, make([]byte, 7)) || !bytes.Equal(copied.Reveal(), make([]byte, 7)) {
		t.Errorf("left %q", b)
	}
	var zero Secret
	zero.Wipe()
	if zero.Len() != 0 || zero.Reveal() != nil {
		t.Error("the zero secret is not empty")
	}
}

func TestErrorsSayTheirKind(t *testing.T) {
	cause := errors.New("disk full")
	e := &Error{Kind: Conflict, Code: "busy", Field: "/x", Message: "wait", Err: cause}
	wrapped := fmt.Errorf("sealing credential: %w", e)
	if KindOf(wrapped) != Conflict || CodeOf(wrapped) != "busy" || !errors.Is(wrapped, cause) || !errors.Is(wrapped, &Error{Kind: Conflict, Code: "busy"}) {
		t.Errorf("wrapped: %v", wrapped)
	}
	if errors.Is(wrapped, &Error{Kind: Gone, Code: "busy"}) || errors.Is(wrapped, &Error{Kind: Conflict, Code: "other"}) {
		t.Error("errors of another kind or code are taken for the same")
	}
	if KindOf(cause) != Internal || CodeOf(cause) != "internal" {
		t.Error("an error that is not ours is not internal")
	}
	if got := e.Error(); got != "busy (/x): wait: disk full" {
		t.Errorf("text %q", got)
	}
	if KindOf(fmt.Errorf("reading: %w", ErrNotFound)) != NotFound {
		t.Error("ErrNotFound is not found")
	}
	seen := map[Kind]bool{}
	for _, k := range Kinds {
		if seen[k] {
			t.Errorf("%s stands twice", k)
		}
		seen[k] = true
	}
	wantField(t, Invalidf("/x", "want %d", 1), "/x")
}
