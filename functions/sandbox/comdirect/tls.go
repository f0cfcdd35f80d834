package comdirect

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"time"
)

// HostName is the bank's name in its certificate, beside localhost and 127.0.0.1.
const HostName = "bank.sandbox.invalid"

// Server is a bank that listens.
type Server struct {
	listener net.Listener
	server   *http.Server
	ca       *x509.Certificate
}

// ServeTLS puts a bank on a loopback address, for example 127.0.0.1:0, and returns once it listens. The certificate
// authority behind it is made here, lives in memory, and can vouch for the bank's own names only. The caller closes the
// server.
func ServeTLS(b *Bank, address string) (*Server, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("reading the sandbox bank's address: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("serving the sandbox bank: %s is not a loopback address", host)
	}
	ca, leaf, err := certify(time.Now()) // the peers' clock, not the bank's
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serving the sandbox bank: %w", err)
	}
	s := &Server{listener: listener, ca: ca, server: &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: log.New(discard{}, "", 0)}}
	secured := tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{leaf}, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}})
	go func() {
		if err := s.server.Serve(secured); !errors.Is(err, http.ErrServerClosed) {
			b.opts.Log.Error("serving the sandbox bank", slog.Any("error", err))
		}
	}()
	return s, nil
}

// discard swallows net/http's own log, which tells of every reader that hangs up.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// URL is where the bank listens, for example https://127.0.0.1:43210.
func (s *Server) URL() string { return "https://" + s.Address() }

// Address is host and port.
func (s *Server) Address() string { return s.listener.Addr().String() }

// CA returns a pool with the bank's certificate authority, for tls.Config.RootCAs.
func (s *Server) CA() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca)
	return pool
}

// CertPEM is the certificate authority as PEM, for programs that read files.
func (s *Server) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.ca.Raw})
}

// Client returns a client that trusts this bank and nobody else.
func (s *Server) Client() *http.Client {
	config := &tls.Config{RootCAs: s.CA(), MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
}

// Close stops listening and waits for open requests until ctx ends; then it breaks them off.
func (s *Server) Close(ctx context.Context) error {
	if err := s.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("closing the sandbox bank: %w", err), s.server.Close())
	}
	return nil
}

// life is that of both certificates: longer than any practice, shorter than forever.
const life = 90 * 24 * time.Hour

var (
	loopback           = net.IPv4(127, 0, 0, 1).To4()
	permittedNames     = []string{HostName, "localhost"}
	permittedAddresses = []*net.IPNet{{IP: loopback, Mask: net.CIDRMask(32, 32)}}
)

// certify makes an authority and a certificate under it. The authority's name constraints (RFC 5280, 4.2.1.10) keep a
// machine that trusts it from trusting it for anything else.
func certify(now time.Time) (*x509.Certificate, tls.Certificate, error) {
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "Sluis sandbox bank authority"}, IsCA: true,
		BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: permittedNames, PermittedIPRanges: permittedAddresses}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: HostName}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: permittedNames,
		IPAddresses: []net.IP{loopback}}
	ca, caKey, err := sign(root, nil, nil, now)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	cert, key, err := sign(leaf, ca, caKey, now)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	return ca, tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// sign makes a key and its certificate under a parent, or under itself where parent is nil.
func sign(template, parent *x509.Certificate, parentKey crypto.Signer, now time.Time) (
	*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the sandbox bank's key: %w", err)
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, fmt.Errorf("making the sandbox bank's certificate: %w", err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = serial, now.Add(-time.Hour), now.Add(life)
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, fmt.Errorf("making the sandbox bank's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("making the sandbox bank's certificate: %w", err)
	}
	return cert, key, nil
}
