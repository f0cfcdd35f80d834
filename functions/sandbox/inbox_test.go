package sandbox

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	testSecret  = "whsec_I0qKoA5vL+pDLXGefk/tZ6hCnB1dp+T7jqAqhsrhKIo="
	otherSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDjPZ0Y9R1cZk="
)

func notice(connection string, sequence int, kind string) string {
	return fmt.Sprintf(`{"type":"%s","timestamp":"2026-11-22T12:00:00.000Z","data":{"id":"evt_06h077t6p8qexjcvz6ads09w%02d",
		"sequence":%d,"client_id":"cli_06h071a0msp6ygmqywrayzny4r","connection_id":"%s","consent_id":"%s",
		"custodian":"sandbox-comdirect","investor_ref":"inv-1","state":"active"}}`, kind, sequence%100, sequence, connection, consID)
}

// webhook is a request as Sluis sends it.
func webhook(t *testing.T, id, body, secret string, at time.Time) *http.Request {
	t.Helper()
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signer.Sign(id, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", own+"/webhooks", strings.NewReader(body))
	r.Header.Set("webhook-id", id)
	r.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	r.Header.Set("webhook-signature", signature)
	return r
}

func deliver(in *inbox, r *http.Request) int {
	w := httptest.NewRecorder()
	in.ServeHTTP(w, r)
	return w.Code
}

func testInbox() *inbox { return newInbox(testSecret, func() time.Time { return noon }) }

// arrive delivers a good webhook for each sequence number.
func arrive(t *testing.T, in *inbox, connection string, sequences ...int) {
	t.Helper()
	for _, n := range sequences {
		r := webhook(t, fmt.Sprintf("evt_%s_%d", connection, n), notice(connection, n, "portfolio.updated"), testSecret, time.Now())
		if code := deliver(in, r); code != http.StatusNoContent {
			t.Fatalf("sequence %d: status %d", n, code)
		}
	}
}

func TestWebhookVerification(t *testing.T) {
	now := time.Now()
	body := notice(connID, 1, "consent.granted")
	if err := against("webhook.schema.json", body); err != nil {
		t.Fatal("the test's own webhook breaks the schema:", err)
	}
	tests := []struct {
		name   string
		make   func() *http.Request
		status int
	}{
		{"good", func() *http.Request { return webhook(t, "evt_1", body, testSecret, now) }, 204},
		{"good, four minutes old", func() *http.Request { return webhook(t, "evt_1", body, testSecret, now.Add(-4*time.Minute)) }, 204},
		{"during a rotation, the second signature", func() *http.Request {
			r := webhook(t, "evt_1", body, testSecret, now)
			r.Header.Set("webhook-signature", "v1,AAAA "+r.Header.Get("webhook-signature"))
			return r
		}, 204},
		{"tampered body", func() *http.Request {
			r := webhook(t, "evt_1", body, testSecret, now)
			other := httptest.NewRequest("POST", own+"/webhooks", strings.NewReader(strings.Replace(body, "granted", "revoked", 1)))
			other.Header = r.Header
			return other
		}, 401},
		{"another id", func() *http.Request {
			r := webhook(t, "evt_1", body, testSecret, now)
			r.Header.Set("webhook-id", "evt_2")
			return r
		}, 401},
		{"another timestamp", func() *http.Request {
			r := webhook(t, "evt_1", body, testSecret, now)
			r.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix()+1, 10))
			return r
		}, 401},
		{"stale", func() *http.Request { return webhook(t, "evt_1", body, testSecret, now.Add(-6*time.Minute)) }, 401},
		{"from the future", func() *http.Request { return webhook(t, "evt_1", body, testSecret, now.Add(6*time.Minute)) }, 401},
		{"wrong secret", func() *http.Request { return webhook(t, "evt_1", body, otherSecret, now) }, 401},
		{"unsigned", func() *http.Request { return httptest.NewRequest("POST", own+"/webhooks", strings.NewReader(body)) }, 401},
		{"only an unknown version of signature", func() *http.Request {
			r := webhook(t, "evt_1", body, testSecret, now)
			r.Header.Set("webhook-signature", strings.Replace(r.Header.Get("webhook-signature"), "v1,", "v9,", 1))
			return r
		}, 401},
		{"signed, but not JSON", func() *http.Request { return webhook(t, "evt_1", "hello", testSecret, now) }, 400},
		{"signed, but no notice", func() *http.Request { return webhook(t, "evt_1", `{"data":{}}`, testSecret, now) }, 400},
		{"too large", func() *http.Request {
			return webhook(t, "evt_1", `{"type":"x","pad":"`+strings.Repeat("x", maxBody)+`"}`, testSecret, now)
		}, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := testInbox()
			if code := deliver(in, tt.make()); code != tt.status {
				t.Errorf("status %d, want %d", code, tt.status)
			}
			kept, refused := len(in.recent(10)), in.refusals()
			if good := tt.status == 204; good != (kept == 1) || good != (refused == 0) {
				t.Errorf("%d kept, %d refused", kept, refused)
			}
		})
	}
}

// TestWebhookSecret: without a secret nothing is taken, as anybody could sign with the empty one.
func TestWebhookSecret(t *testing.T) {
	for _, secret := range []string{"", "whsec_", "whsec_AAAA", "I0qKoA5vL+pDLXGefk/tZ6hCnB1dp+T7jqAqhsrhKIo=", "whsec_%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%"} {
		in := newInbox(secret, time.Now)
		if code := deliver(in, webhook(t, "evt_1", notice(connID, 1, "consent.granted"), "", time.Now())); code != http.StatusServiceUnavailable {
			t.Errorf("secret %q: status %d, want 503", secret, code)
		}
	}
}

func TestWebhookRepeated(t *testing.T) {
	in := testInbox()
	arrive(t, in, connID, 1, 1, 1, 2)
	lines := in.of(connID)
	if len(lines) != 2 || lines[1].Copies != 3 || lines[0].Copies != 1 {
		t.Fatalf("%d messages, want 2, the first of them 3 times", len(lines))
	}
}

// TestWebhookOrder: no order of arrival is promised; the sequence tells the order and the gaps.
func TestWebhookOrder(t *testing.T) {
	tests := []struct {
		name    string
		older   bool // the connection is older than the app
		known   int  // the API's sequence when it was asked, after arrivals before it
		before  []int
		after   []int
		numbers []int // as listed
		gaps    int
	}{
		{"in order", false, 0, nil, []int{1, 2, 3}, []int{3, 2, 1}, 0},
		{"out of order", false, 0, nil, []int{3, 1, 2}, []int{3, 2, 1}, 0},
		{"one missing", false, 0, nil, []int{1, 3}, []int{3, 2, 1}, 1},
		{"the first missing", false, 0, nil, []int{2}, []int{2, 1}, 1},
		{"arrived before the app knew", false, 2, []int{2, 1}, nil, []int{2, 1}, 0},
		{"the API knows of more", false, 3, []int{1}, nil, []int{3, 2, 1}, 2},
		{"older than the app", true, 7, nil, []int{8, 9}, []int{9, 8}, 0},
		{"older than the app, one missing", true, 7, nil, []int{9}, []int{9, 8}, 1},
		{"older than the app, asked late", true, 9, []int{8, 9}, nil, []int{9, 8}, 0},
		{"older than the app, asked late, one missing", true, 10, []int{8, 10}, nil, []int{10, 9, 8}, 1},
		{"a replay of what was before", true, 7, nil, []int{8, 3, 4}, []int{8, 4, 3}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := testInbox()
			arrive(t, in, connID, tt.before...)
			in.know(&connection{ID: connID, Sequence: int64(tt.known)}, tt.older)
			arrive(t, in, connID, tt.after...)
			var numbers []int
			for _, l := range in.of(connID) {
				numbers = append(numbers, int(l.number()))
			}
			if fmt.Sprint(numbers) != fmt.Sprint(tt.numbers) || in.gaps(connID) != tt.gaps {
				t.Errorf("listed %v with %d gaps, want %v with %d", numbers, in.gaps(connID), tt.numbers, tt.gaps)
			}
		})
	}
}

// TestWebhookBounds: whatever comes, memory stays bounded, and what is no longer shown is still known as a repetition.
func TestWebhookBounds(t *testing.T) {
	in := testInbox()
	take := func(n int) { in.take(&message{ID: "evt_" + strconv.Itoa(n), Type: "portfolio.updated"}) }
	for n := range maxIDs + 50 {
		take(n)
	}
	if len(in.messages) != maxMessages || len(in.byID) != maxIDs || len(in.ids) != maxIDs {
		t.Errorf("%d messages, %d identifiers", len(in.messages), len(in.byID))
	}
	take(60)
	if len(in.messages) != maxMessages || in.messages[maxMessages-1].ID == "evt_60" {
		t.Error("a repetition of what is no longer shown was taken for new")
	}
	r := &run{}
	for n := int64(2); n < 3*maxAhead; n += 2 {
		r.add(n)
	}
	if len(r.ahead) > maxAhead || len(r.missing()) > 20 {
		t.Errorf("%d ahead, %d missing", len(r.ahead), len(r.missing()))
	}
}

func TestWatchers(t *testing.T) {
	in := testInbox()
	var stops []func()
	for range maxWatchers {
		_, stop := in.watch()
		stops = append(stops, stop)
	}
	if came, _ := in.watch(); came != nil {
		t.Error("more watchers than allowed")
	}
	for n := range 20 { // nobody reads: the inbox must not wait
		arrive(t, in, connID, n+1)
	}
	stops[0]()
	if came, _ := in.watch(); came == nil {
		t.Error("a place that was given up is not given on")
	}
}

// FuzzWebhook: no request makes the inbox fail, or gets in without a signature.
func FuzzWebhook(f *testing.F) {
	f.Add([]byte(`{"type":"x","data":{"sequence":1}}`), "evt_1", "1", "v1,AAAA")
	f.Fuzz(func(t *testing.T, body []byte, id, at, signature string) {
		in := testInbox()
		r := httptest.NewRequest("POST", own+"/webhooks", bytes.NewReader(body))
		r.Header["Webhook-Id"], r.Header["Webhook-Timestamp"], r.Header["Webhook-Signature"] = []string{id}, []string{at}, []string{signature}
		if code := deliver(in, r); code < 400 || len(in.recent(1)) > 0 {
			t.Errorf("status %d", code)
		}
	})
}
