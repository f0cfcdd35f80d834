package comdirect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestServeTLS checks under which names the bank can be reached, and that its authority can vouch for no others.
func TestServeTLS(t *testing.T) {
	s, err := ServeTLS(New(Options{}), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	block, _ := pem.Decode(s.CertPEM())
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !ca.IsCA || !ca.MaxPathLenZero {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{HostName: true, "localhost": true, "127.0.0.1": true, "api.comdirect.de": false} {
		c := s.Client()
		tr := c.Transport.(*http.Transport)
		tr.TLSClientConfig.ServerName = name
		tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Address())
		}
		res, err := c.Get("https://" + name + "/api/x")
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = res.Body.Close()
		}
	}
	if _, err := tls.Dial("tcp", s.Address(), &tls.Config{ServerName: HostName}); err == nil {
		t.Error("a program that does not know the authority trusts it")
	}
}

// TestNameConstraints has the authority sign for a foreign name: nobody may believe it.
func TestNameConstraints(t *testing.T) {
	now := time.Now()
	root := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: permittedNames, PermittedIPRanges: permittedAddresses}
	ca, key, err := sign(root, nil, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	for _, tt := range []struct {
		leaf x509.Certificate
		name string
		good bool
	}{
		{x509.Certificate{DNSNames: []string{HostName}}, HostName, true},
		{x509.Certificate{DNSNames: []string{"api.comdirect.de"}}, "api.comdirect.de", false},
		{x509.Certificate{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, "10.0.0.1", false},
	} {
		leaf, _, err := sign(&tt.leaf, ca, key, now)
		if err != nil {
			t.Fatal(err)
		}
		_, err = leaf.Verify(x509.VerifyOptions{DNSName: tt.name, Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if (err == nil) != tt.good {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestLoopbackOnly checks that the bank does not listen where others could reach it.
func TestLoopbackOnly(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "nowhere"} {
		if s, err := ServeTLS(New(Options{}), address); err == nil {
			_ = s.Close(context.Background())
			t.Errorf("listens on %s", address)
		} else if !strings.Contains(err.Error(), "sandbox bank") {
			t.Errorf("error %v does not name the act", err)
		}
	}
}
