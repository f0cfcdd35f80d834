package envelope

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/shared/domain"
)

// counted is a portfolio key that counts how often it is asked to unwrap, may be held back, and may fail.
type counted struct {
	tink.AEAD
	asked  atomic.Int64 // to unwrap
	closed atomic.Int64
	hold   chan struct{}
	fail   atomic.Pointer[domain.Error]
}

func (c *counted) Decrypt(sealed, label []byte) ([]byte, error) {
	c.asked.Add(1)
	if c.hold != nil {
		<-c.hold
	}
	if err := c.fail.Load(); err != nil {
		return nil, err
	}
	return c.AEAD.Decrypt(sealed, label)
}

func (c *counted) Encrypt(plain, label []byte) ([]byte, error) {
	if err := c.fail.Load(); err != nil {
		return nil, err
	}
	c.closed.Add(1)
	return c.AEAD.Encrypt(plain, label)
}

func newDataKey(t testing.TB, c *Closer, connection domain.ConnectionID) *domain.DataKey {
	t.Helper()
	b := testBind
	b.ConnectionID = connection
	id, shard := newShard(t)
	k, err := c.NewDataKey(b, id, shard)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func closePart(t testing.TB, c *Closer, k *domain.DataKey, plain []byte) []byte {
	t.Helper()
	sealed, err := c.Close(k, "positions", "part1", plain)
	if err != nil {
		t.Error(err)
	}
	return sealed
}

func TestPartsCloseAndOpen(t *testing.T) {
	kek := newAEAD(t)
	c, r := NewCloser(kek, &shardKeeper, domain.Env{}), NewReader(kek, &shardKeeper, domain.Env{})
	k := newDataKey(t, c, "conn_1")
	lines := bytes.Repeat([]byte(`{"isin":"DE0001"}`+"\n"), 10_000)
	for _, plain := range [][]byte{{}, []byte("x"), lines, make([]byte, MaxPlain)} {
		sealed := closePart(t, c, k, plain)
		if len(plain) > 1000 && len(sealed) > len(plain)/10 {
			t.Errorf("%d bytes became %d: not compressed", len(plain), len(sealed))
		}
		got, err := r.Open(k, "positions", "part1", sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("Open = %d bytes, %v; want %d", len(got), err, len(plain))
		}
	}
	if _, err := c.Close(k, "positions", "part1", make([]byte, MaxPlain+1)); !errors.Is(err, ErrPartTooLarge) {
		t.Errorf("Close of too much = %v; want %v", err, ErrPartTooLarge)
	}
}

func TestPartsAreBound(t *testing.T) {
	kek := newAEAD(t)
	c, r := NewCloser(kek, &shardKeeper, domain.Env{}), NewReader(kek, &shardKeeper, domain.Env{})
	k, other := newDataKey(t, c, "conn_1"), newDataKey(t, c, "conn_2")
	sealed := closePart(t, c, k, []byte("x"))
	if _, err := r.Open(k, "positions", "part1", sealed); err != nil {
		t.Fatal(err)
	}
	moved := func(move func(*domain.DataKey)) *domain.DataKey {
		m := *k
		move(&m)
		return &m
	}
	spoiled := bytes.Clone(sealed)
	spoiled[len(spoiled)/2] ^= 1
	for _, c := range []struct {
		name     string
		k        *domain.DataKey
		what, id string
		sealed   []byte
	}{
		{"another product", k, "orders", "part1", sealed},
		{"another part", k, "positions", "part2", sealed},
		{"another connection's keyset", other, "positions", "part1", sealed},
		{"keyset of another client", moved(func(m *domain.DataKey) { m.ClientID = "cli_2" }), "positions", "part1", sealed},
		{"keyset of another consent", moved(func(m *domain.DataKey) { m.ConsentID = "con_2" }), "positions", "part1", sealed},
		{"keyset of another connection", moved(func(m *domain.DataKey) { m.ConnectionID = "conn_2" }), "positions", "part1", sealed},
		{"spoiled keyset", moved(func(m *domain.DataKey) { m.Wrapped = append([]byte{1}, m.Wrapped...) }), "positions", "part1", sealed},
		{"erased keyset", moved(func(m *domain.DataKey) { m.Wrapped = nil }), "positions", "part1", sealed},
		{"spoiled part", k, "positions", "part1", spoiled},
		{"empty part", k, "positions", "part1", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := r.Open(c.k, c.what, c.id, c.sealed); !errors.Is(err, ErrSealed) || got != nil {
				t.Errorf("Open = %q, %v; want %v", got, err, ErrSealed)
			}
		})
	}
	if _, err := NewReader(newAEAD(t), &shardKeeper, domain.Env{}).Open(k, "positions", "part1", sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("under another portfolio key: %v; want %v", err, ErrSealed)
	}
	id, shard := newShard(t)
	if _, err := c.NewDataKey(domain.Binding{ClientID: "cli_1", ConsentID: "con_1"}, id, shard); err == nil {
		t.Error("made a data key without a connection")
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	pack := func(sizes ...int) []byte {
		var b bytes.Buffer
		for _, n := range sizes {
			z := gzip.NewWriter(&b)
			z.Write(make([]byte, n))
			z.Close()
		}
		return b.Bytes()
	}
	whole := pack(1000)
	for _, c := range []struct {
		name   string
		packed []byte
		want   error
	}{
		{"largest", pack(MaxPlain), nil},
		{"a bomb", pack(64 << 20), ErrPartTooLarge},
		{"two streams", pack(10, 10), ErrSealed},
		{"cut short", whole[:len(whole)-1], ErrSealed},
		{"no gzip", []byte("plain"), ErrSealed},
		{"something after it", append(bytes.Clone(whole), 0), ErrSealed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := unpack(c.packed); !errors.Is(err, c.want) {
				t.Errorf("unpack = %v; want %v", err, c.want)
			}
		})
	}
}

func TestKeysetsAreKeptTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kek := &counted{AEAD: newAEAD(t)}
		c, r := NewCloser(kek, &shardKeeper, domain.Env{}), NewReader(kek, &shardKeeper, domain.Env{})
		k := newDataKey(t, c, "conn_1")
		sealed := closePart(t, c, k, []byte("x"))
		open := func(want int64) {
			t.Helper()
			if _, err := r.Open(k, "positions", "part1", sealed); err != nil {
				t.Fatal(err)
			}
			if n := kek.asked.Load(); n != want {
				t.Errorf("the portfolio key was asked %d times; want %d", n, want)
			}
		}
		open(2) // once by the closer, once by the reader
		time.Sleep(KeysetLife - time.Second)
		open(2)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(r.ring.held) != 0 {
			t.Error("a keyset nobody asked for stayed in memory")
		}
		open(3) // its life is counted from the unwrapping, not from the last use
		r.Forget("conn_2")
		open(3)
		r.Forget("conn_1")
		if len(r.ring.held) != 0 {
			t.Error("a forgotten keyset stayed in memory")
		}
		open(4)
		time.Sleep(KeysetLife)
	})
}

// TestKeysetLifeFollowsTheInjectedClock has a clock that runs while timers do not.
func TestKeysetLifeFollowsTheInjectedClock(t *testing.T) {
	var now atomic.Int64
	env := domain.Env{Clock: func() time.Time { return time.Unix(now.Load(), 0) }}
	kek := &counted{AEAD: newAEAD(t)}
	c := NewCloser(kek, &shardKeeper, env)
	k := newDataKey(t, c, "conn_1")
	closePart(t, c, k, nil)
	now.Add(int64(KeysetLife / time.Second))
	closePart(t, c, k, nil)
	if n := kek.asked.Load(); n != 2 || len(c.ring.held) != 1 {
		t.Errorf("the portfolio key was asked %d times and %d keysets are held; want 2 and 1", n, len(c.ring.held))
	}
	c.Forget("conn_1")
}

func TestKeysetsHeldAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kek := &counted{AEAD: newAEAD(t)}
		c := NewCloser(kek, &shardKeeper, domain.Env{})
		first := newDataKey(t, c, "conn_first")
		closePart(t, c, first, nil)
		for i := range MaxKeysets {
			time.Sleep(time.Millisecond)
			closePart(t, c, newDataKey(t, c, domain.ConnectionID(fmt.Sprint("conn_", i))), nil)
		}
		if n := len(c.ring.held); n != MaxKeysets {
			t.Errorf("%d keysets are held; want %d", n, MaxKeysets)
		}
		before := kek.asked.Load()
		closePart(t, c, first, nil)
		if kek.asked.Load() != before+1 {
			t.Error("the oldest keyset was not the one to go")
		}
		time.Sleep(KeysetLife)
	})
}

// TestManyAtOnceUnwrapOnce holds the portfolio key back until everybody is on the way.
func TestManyAtOnceUnwrapOnce(t *testing.T) {
	kek := &counted{AEAD: newAEAD(t), hold: make(chan struct{})}
	c := NewCloser(kek, &shardKeeper, domain.Env{})
	k := newDataKey(t, c, "conn_1")
	var begun, all sync.WaitGroup
	begun.Add(50)
	for range 50 {
		all.Go(func() {
			begun.Done()
			closePart(t, c, k, nil)
		})
	}
	begun.Wait()
	close(kek.hold)
	all.Wait()
	if n := kek.asked.Load(); n != 1 {
		t.Errorf("the portfolio key was asked %d times; want once", n)
	}
	c.Forget("conn_1")
}

// TestFailureIsNotRemembered fails, and fails as what it is, then works again.
func TestFailureIsNotRemembered(t *testing.T) {
	kek := &counted{AEAD: newAEAD(t)}
	c := NewCloser(kek, &shardKeeper, domain.Env{})
	k := newDataKey(t, c, "conn_1")
	away := &domain.Error{Kind: domain.Unavailable, Code: "kms_unavailable"}
	kek.fail.Store(away)
	if _, err := c.Close(k, "positions", "part1", nil); !errors.Is(err, away) || errors.Is(err, ErrSealed) {
		t.Errorf("Close = %v; want %v", err, away)
	}
	id, shard := newShard(t)
	if _, err := c.NewDataKey(testBind, id, shard); !errors.Is(err, away) {
		t.Errorf("NewDataKey = %v; want %v", err, away)
	}
	kek.fail.Store(nil)
	closePart(t, c, k, nil)
	c.Forget("conn_1")
}

func TestSmallThingsAreBound(t *testing.T) {
	key := newAEAD(t)
	s := domain.Session{ID: "ses_1", ClientID: "cli_1", ConsentID: "con_1", ConnectionID: "conn_1"}
	ch := domain.Challenge{ID: "chal_1", SessionID: "ses_1", ClientID: "cli_1", ConsentID: "con_1", ConnectionID: "conn_1"}
	e := domain.Endpoint{ID: "ep_1", ClientID: "cli_1"}
	session := func(f func(*domain.Session)) []byte { c := s; f(&c); return SessionLabel(&c) }
	challenge := func(f func(*domain.Challenge)) []byte { c := ch; f(&c); return DisplayLabel(&c) }
	labels := map[string][]byte{
		"session": SessionLabel(&s), "challenge": DisplayLabel(&ch), "endpoint": WebhookLabel(&e),
		"session's client":       session(func(s *domain.Session) { s.ClientID = "cli_2" }),
		"session's consent":      session(func(s *domain.Session) { s.ConsentID = "con_2" }),
		"session's connection":   session(func(s *domain.Session) { s.ConnectionID = "conn_2" }),
		"session's id":           session(func(s *domain.Session) { s.ID = "ses_2" }),
		"challenge's client":     challenge(func(c *domain.Challenge) { c.ClientID = "cli_2" }),
		"challenge's consent":    challenge(func(c *domain.Challenge) { c.ConsentID = "con_2" }),
		"challenge's connection": challenge(func(c *domain.Challenge) { c.ConnectionID = "conn_2" }),
		"challenge's session":    challenge(func(c *domain.Challenge) { c.SessionID = "ses_2" }),
		"challenge's id":         challenge(func(c *domain.Challenge) { c.ID = "chal_2" }),
		"endpoint's client":      WebhookLabel(&domain.Endpoint{ID: "ep_1", ClientID: "cli_2"}),
		"endpoint's id":          WebhookLabel(&domain.Endpoint{ID: "ep_2", ClientID: "cli_1"}),
	}
	for name, label := range labels {
		sealed, err := Seal(key, label, []byte(canary))
		if err != nil {
			t.Fatal(err)
		}
		for other, otherLabel := range labels {
			got, err := Open(key, otherLabel, sealed)
			if same := name == other; same && (err != nil || string(got.Reveal()) != canary) || !same && !errors.Is(err, ErrSealed) {
				t.Errorf("sealed for %s, opened for %s: %v", name, other, err)
			}
		}
	}
	if _, err := Seal(key, labels["session"], make([]byte, MaxSmall+1)); domain.KindOf(err) != domain.TooLarge {
		t.Errorf("Seal of too much = %v", err)
	}
	if sealed, err := Seal(key, labels["session"], make([]byte, MaxSmall)); err != nil {
		t.Error(err)
	} else if _, err := Open(key, labels["session"], sealed); err != nil {
		t.Errorf("the largest does not open: %v", err)
	}
	if _, err := Open(key, labels["session"], make([]byte, MaxSmall*2)); !errors.Is(err, ErrSealed) {
		t.Errorf("Open of too much = %v", err)
	}
	if _, err := Seal(closingHalf{}, nil, nil); err == nil || !strings.HasPrefix(err.Error(), "sealing: ") {
		t.Errorf("Seal without a key = %v", err)
	}
}

// TestCompressorForgets looks into a used compressor for what it compressed. Its memory is private to compress/flate, so
// it is read by reflection.
func TestCompressorForgets(t *testing.T) {
	secret := []byte("Zitronella Kanarius")
	plain := bytes.Repeat(append(secret, " 0123456789\n"...), 5000)
	z := compressors.Get().(*gzip.Writer)
	z.Reset(io.Discard)
	if _, err := z.Write(plain); err != nil || !remembers(reflect.ValueOf(z), secret) {
		t.Fatalf("the look into a compressor is blind (%v)", err)
	}
	for range 100 {
		if _, err := pack(plain); err != nil {
			t.Fatal(err)
		}
		z := compressors.Get().(*gzip.Writer) // most often the one that was just used
		if remembers(reflect.ValueOf(z), secret) {
			t.Fatal("a compressor that was put back remembers what it compressed")
		}
		compressors.Put(z)
	}
}

// remembers searches every array and slice of bytes that v leads to.
func remembers(v reflect.Value, secret []byte) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return !v.IsNil() && remembers(v.Elem(), secret)
	case reflect.Struct:
		for i := range v.NumField() {
			if remembers(v.Field(i), secret) {
				return true
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return bytes.Contains(v.Slice(0, v.Cap()).Bytes(), secret)
		}
	case reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 && v.CanAddr() {
			return bytes.Contains(v.Slice(0, v.Len()).Bytes(), secret)
		}
	}
	return false
}
