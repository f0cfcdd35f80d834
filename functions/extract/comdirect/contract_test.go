package comdirect

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"sluis.internal/shared/extraction"
	"sluis.internal/shared/extraction/extractiontest"
)

// TestContract runs the connectors' contract over TLS.
func TestContract(t *testing.T) {
	custodian := catalogue(t)
	extractiontest.Run(t, extractiontest.Setup{
		Connector: func() extraction.Connector { return Connector{} },
		Custodian: custodian,
		Open: func(t *testing.T, play extractiontest.Play) extractiontest.Bank {
			b := newBank(t)
			prepare(b, play)
			server := httptest.NewTLSServer(b)
			t.Cleanup(server.Close)
			at, _ := url.Parse(server.URL)
			network := extraction.Transport(extraction.TransportOptions{DialTo: map[string]string{"api.comdirect.de": at.Host}})
			// The test server's certificate is not made out to the bank's name.
			network.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			network.TLSClientConfig.ServerName = "example.com"
			t.Cleanup(network.CloseIdleConnections)
			return extractiontest.Bank{Network: network,
				Secrets:     secrets{"comdirect/client_id": "client", "comdirect/client_secret": clientKey},
				Credentials: map[string]string{"username": username, "password": password},
				Code:        rightTAN, Wrong: wrongTAN, Pause: 42 * time.Second,
				Approve: func() { b.mu.Lock(); b.status = "AUTHENTICATED"; b.mu.Unlock() },
				Seen: func() extractiontest.Seen {
					b.mu.Lock()
					logins := b.passwords
					b.mu.Unlock()
					return extractiontest.Seen{Logins: logins, Challenges: b.seen("POST " + pathSessions),
						Reads: b.seen("GET /api/b"), Ends: b.seen("DELETE " + pathRevoke)}
				}}
		},
	})
}

func prepare(b *testBank, play extractiontest.Play) {
	malformed := func(w http.ResponseWriter, _ *http.Request) { say(w, 200, `{"values":[{"accountId`) }
	switch play {
	case extractiontest.PlayExpired:
		b.answers["PATCH "+pathSessions+"/"+bankID] = func(w http.ResponseWriter, _ *http.Request) { say(w, 422, `{"code":"expired"}`) }
	case extractiontest.PlayPush:
		b.method = "P_TAN_PUSH"
	case extractiontest.PlayExempt:
		b.exempt = true
	case extractiontest.PlayRefused:
		b.answers["POST "+pathToken] = func(w http.ResponseWriter, _ *http.Request) { say(w, 401, `{"error":"invalid_grant"}`) }
	case extractiontest.PlayBusy:
		b.answers["POST "+pathToken] = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "42")
			say(w, 429, "")
		}
	case extractiontest.PlayMalformedLogin:
		b.answers["POST "+pathToken] = malformed
	case extractiontest.PlayMalformedRead:
		b.exempt = true
		b.answers["GET "+pathBalances], b.answers["GET "+pathDepots] = malformed, malformed
	}
}
