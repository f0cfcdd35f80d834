package gcptest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/firestore/apiv1/firestorepb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Meter stands before an emulator, passes everything on, and counts what Google would bill: documents read (also those
// that are not there, and one for a query that finds nothing), written and deleted, and messages published.
type Meter struct {
	Host string // where it listens for everybody

	mu    sync.Mutex
	count map[string]int
	hear  func(method string, message []byte)
	conn  *grpc.ClientConn
}

// What a Meter counts.
const (
	Reads     = "reads"
	Writes    = "writes"
	Deletes   = "deletes"
	Published = "published"
)

// NewMeter serves a meter before the emulator at host until the test ends.
func NewMeter(t testing.TB, host string) *Meter {
	t.Helper()
	conn, err := grpc.NewClient(host, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	m := &Meter{count: map[string]int{}, conn: conn}
	t.Cleanup(func() { _ = conn.Close() })
	m.Host = m.For(t, "")
	return m
}

// For gives a further address where the meter listens. What comes by it is counted once more for who.
func (m *Meter) For(t testing.TB, who string) (host string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(64<<20),
		grpc.UnknownServiceHandler(func(_ any, in grpc.ServerStream) error { return m.pass(who, in) }))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// Take returns what was counted since it was called last.
func (m *Meter) Take() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	count := m.count
	m.count = map[string]int{}
	return count
}

// Hear has fn hear every message that passes from now on, as it stands on the wire, before it goes on: of "Commit" what
// is asked, of "Commit answered" what is answered. It is called from many goroutines.
func (m *Meter) Hear(fn func(method string, message []byte)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hear = fn
}

func (m *Meter) heard(method string, message []byte) {
	m.mu.Lock()
	hear := m.hear
	m.mu.Unlock()
	if hear != nil {
		hear(method, message)
	}
}

// pass carries one call through, message by message.
func (m *Meter) pass(who string, in grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(in)
	name := method[strings.LastIndex(method, "/")+1:]
	md, _ := metadata.FromIncomingContext(in.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(in.Context(), md.Copy()))
	defer cancel()
	out, err := m.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	go func() {
		for {
			var q []byte
			if err := in.RecvMsg(&q); err != nil {
				_ = out.CloseSend()
				return
			}
			m.asked(who, name, q)
			m.heard(name, q)
			if out.SendMsg(&q) != nil {
				return
			}
		}
	}()
	found := 0
	for {
		var a []byte
		err := out.RecvMsg(&a)
		if errors.Is(err, io.EOF) {
			if name == "RunQuery" && found == 0 {
				m.add(who, Reads, 1)
			}
			return nil
		}
		if err != nil {
			return err
		}
		found += m.answered(who, name, a)
		m.heard(name+" answered", a)
		if err := in.SendMsg(&a); err != nil {
			return err
		}
	}
}

func (m *Meter) add(who, what string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count[what] += n
	if who != "" {
		m.count[Of(who, what)] += n
	}
}

// Of is what a meter counts for one of those that it is For.
func Of(who, what string) string { return what + " of " + who }

func (m *Meter) asked(who, name string, q []byte) {
	switch name {
	case "Commit":
		var c firestorepb.CommitRequest
		_ = proto.Unmarshal(q, &c) // the emulator reads it too
		for _, w := range c.Writes {
			if w.GetDelete() != "" {
				m.add(who, Deletes, 1)
			} else {
				m.add(who, Writes, 1)
			}
		}
	case "Publish":
		var p pubsubpb.PublishRequest
		_ = proto.Unmarshal(q, &p)
		m.add(who, Published, len(p.Messages))
	}
}

// answered counts the documents in an answer.
func (m *Meter) answered(who, name string, a []byte) (found int) {
	switch name {
	case "BatchGetDocuments":
		var r firestorepb.BatchGetDocumentsResponse
		if _ = proto.Unmarshal(a, &r); r.GetFound() != nil || r.GetMissing() != "" {
			found = 1
		}
	case "RunQuery":
		var r firestorepb.RunQueryResponse
		if _ = proto.Unmarshal(a, &r); r.GetDocument() != nil {
			found = 1
		}
	}
	m.add(who, Reads, found)
	return found
}

// raw is a codec that leaves messages as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, status.Error(codes.Internal, "no bytes")
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return status.Error(codes.Internal, "no bytes")
	}
	*b = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = raw{}
