package envelope

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"
	"time"
)

// The benchmarks print how many times as long as the bare cryptography (RSA and AES-GCM, nothing checked) the gates
// take: ×bare.

func BenchmarkSeal(b *testing.B) {
	jwe := sealTest(b, map[string]string{"username": "12345678", "password": "123456"})
	s := NewSealer(newAEAD(b))
	key, nonce := gcm(b, make([]byte, 32)), make([]byte, 12)
	compare(b, func() error {
		if _, err := Inspect(jwe, credentialWant(), testNow); err != nil {
			return err
		}
		_, err := s.Seal(jwe, testBind, testAs)
		return err
	}, func() error {
		rand.Read(nonce)
		key.Seal(nil, nonce, []byte(jwe), nil)
		return nil
	})
}

func BenchmarkOpen(b *testing.B) {
	outer := newAEAD(b)
	jwe := sealTest(b, map[string]string{"username": "12345678", "password": "123456"})
	sealed := behindOuter(b, outer, jwe)
	o := NewOpener(outer, innerKeys)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &testKey().PublicKey, make([]byte, 32), nil)
	if err != nil {
		b.Fatal(err)
	}
	key, nonce := gcm(b, make([]byte, 32)), make([]byte, 12)
	closed := key.Seal(nil, nonce, []byte(jwe), nil)
	compare(b, func() error {
		_, err := o.OpenCredentials(sealed, testKid(), testBind, testAs)
		return err
	}, func() error {
		if _, err := key.Open(nil, nonce, closed, nil); err != nil {
			return err
		}
		_, err := rsa.DecryptOAEP(sha256.New(), nil, testKey(), wrapped, nil)
		return err
	})
}

// compare runs both in turn and takes the fastest of each, so that a busy machine does not speak for either.
func compare(b *testing.B, ours, bare func() error) {
	fastest := [2]time.Duration{time.Hour, time.Hour}
	for b.Loop() {
		for i, f := range []func() error{ours, bare} {
			start := time.Now()
			if err := f(); err != nil {
				b.Fatal(err)
			}
			fastest[i] = min(fastest[i], time.Since(start))
		}
	}
	b.ReportMetric(float64(fastest[0])/float64(fastest[1]), "×bare")
	b.ReportMetric(float64(fastest[0].Nanoseconds()), "ours-ns")
}
