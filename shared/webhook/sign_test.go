package webhook

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

func secretOf(bytes int) domain.Secret {
	return domain.NewSecret([]byte("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, bytes))))
}

// The worked example that the Standard Webhooks libraries share.
func TestSignGivesTheKnownAnswer(t *testing.T) {
	got, err := Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", domain.At(time.Unix(1614265330, 0)), []byte(`{"test": 2432232314}`),
		domain.NewSecret([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")))
	if err != nil {
		t.Fatal(err)
	}
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature is %s, want %s", got, want)
	}
}

func TestSignDependsOnEverything(t *testing.T) {
	at := domain.At(time.Unix(1700000000, 0))
	one, two := NewSecret(domain.Env{}), NewSecret(domain.Env{})
	sign := func(id domain.NoticeID, at domain.Time, body string, secrets ...domain.Secret) string {
		t.Helper()
		s, err := Sign(id, at, []byte(body), secrets...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	base := sign("evt_1", at, "{}", one)
	for name, other := range map[string]string{
		"another id":     sign("evt_2", at, "{}", one),
		"another second": sign("evt_1", at.Add(time.Second), "{}", one),
		"another body":   sign("evt_1", at, "{ }", one),
		"another secret": sign("evt_1", at, "{}", two),
	} {
		if other == base {
			t.Errorf("%s gives the same signature", name)
		}
	}
	if same := sign("evt_1", at.Add(time.Millisecond), "{}", one); same != base {
		t.Error("parts of a second change the signature, though the timestamp does not show them")
	}
	both := strings.Fields(sign("evt_1", at, "{}", two, one))
	if len(both) != 2 || both[1] != base || both[0] != sign("evt_1", at, "{}", two) {
		t.Errorf("during a rotation: got %q, want one signature for each secret", both)
	}
}

func TestSignRefusesWhatIsNoSecret(t *testing.T) {
	for name, secret := range map[string]domain.Secret{
		"empty":         {},
		"no prefix":     domain.NewSecret([]byte(strings.Repeat("A", 44))),
		"not base64":    domain.NewSecret([]byte("whsec_!!!!" + strings.Repeat("A", 40))),
		"base64url":     domain.NewSecret([]byte("whsec_" + strings.Repeat("_", 44))),
		"too short":     secretOf(23),
		"too long":      secretOf(65),
		"trailing bits": domain.NewSecret([]byte("whsec_" + strings.Repeat("A", 42) + "B=")),
	} {
		if _, err := Sign("evt_1", domain.Time{}, nil, secret); err != ErrSecret {
			t.Errorf("%s: got %v, want ErrSecret", name, err)
		}
	}
	if _, err := Sign("evt_1", domain.Time{}, nil); err != ErrSecret {
		t.Error("signing with no secret at all must fail")
	}
	for _, size := range []int{24, 32, 64} {
		if _, err := Sign("evt_1", domain.Time{}, nil, secretOf(size)); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestNewSecret(t *testing.T) {
	s := NewSecret(domain.Env{Rand: bytes.NewReader(bytes.Repeat([]byte{7}, 32))})
	if want := "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)); string(s.Reveal()) != want {
		t.Errorf("secret is %s, want %s", s.Reveal(), want)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", s, s, s, s); strings.Contains(text, "whsec_") {
		t.Errorf("a printed secret shows itself: %s", text)
	}
}

func TestRender(t *testing.T) {
	n := &domain.Notice{ID: "evt_1", ClientID: "cli_1", ConsentID: "con_1", ConnectionID: "conn_1", Custodian: "comdirect",
		InvestorRef: "inv<1>", Type: domain.NoticeConnectionPaused, Sequence: 3, State: "paused",
		Reason: domain.ReasonSCARequired, Subject: "pf_1", CreatedAt: domain.At(time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC))}
	want := `{"type":"connection.paused","timestamp":"2026-01-02T03:04:05.006Z","data":{"id":"evt_1","sequence":3,` +
		`"client_id":"cli_1","connection_id":"conn_1","consent_id":"con_1","custodian":"comdirect",` +
		`"investor_ref":"inv\u003c1\u003e","state":"paused","reason":"sca_required","subject":"pf_1"}}`
	for range 2 {
		got, err := Render(n)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("body is\n%s, want\n%s", got, want)
		}
	}
	got, err := Render(&domain.Notice{ID: "evt_2", ClientID: "cli_1", Type: domain.NoticeEndpointTest, Subject: "ep_1"})
	if err != nil || strings.Contains(string(got), "sequence") || strings.Contains(string(got), "consent_id") {
		t.Errorf("a notice about an endpoint: %s, %v", got, err)
	}
	n.Subject = strings.Repeat("x", MaxBody)
	if _, err := Render(n); domain.KindOf(err) != domain.TooLarge {
		t.Errorf("a body above the limit: %v", err)
	}
}
