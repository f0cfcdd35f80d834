package gcp_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
)

// asked collects the queries that a client sends to Firestore.
type asked struct {
	mu  sync.Mutex
	all []*firestorepb.StructuredQuery
}

func (a *asked) option() option.ClientOption {
	return option.WithGRPCDialOption(grpc.WithChainStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := open(ctx, d, c, method, o...)
		return &listened{s, a}, err
	}))
}

type listened struct {
	grpc.ClientStream
	a *asked
}

func (l *listened) SendMsg(m any) error {
	if q, ok := m.(*firestorepb.RunQueryRequest); ok {
		l.a.mu.Lock()
		l.a.all = append(l.a.all, q.GetStructuredQuery())
		l.a.mu.Unlock()
	}
	return l.ClientStream.SendMsg(m)
}

func (a *asked) take() []*firestorepb.StructuredQuery {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.all
	a.all = nil
	return all
}

// needs is the composite index that Firestore wants for a query, as its documentation on index types has it: the fields
// that must be equal, then those that order, in their directions. Empty where Firestore's own index of each field will do.
func needs(t *testing.T, q *firestorepb.StructuredQuery) string {
	t.Helper()
	var equal, order []string
	var bounded string
	filters := []*firestorepb.StructuredQuery_Filter{q.GetWhere()}
	if c := q.GetWhere().GetCompositeFilter(); c != nil {
		filters = c.GetFilters()
	}
	for _, f := range filters {
		switch ff := f.GetFieldFilter(); {
		case ff == nil:
		case ff.GetOp() == firestorepb.StructuredQuery_FieldFilter_EQUAL:
			equal = append(equal, ff.GetField().GetFieldPath())
		default:
			bounded = ff.GetField().GetFieldPath()
		}
	}
	for _, o := range q.GetOrderBy() {
		if path := o.GetField().GetFieldPath(); path != "__name__" {
			order = append(order, path+" "+strings.ToLower(o.GetDirection().String()))
		}
	}
	if bounded != "" && (len(order) == 0 || !strings.HasPrefix(order[0], bounded+" ")) {
		t.Errorf("a query is bounded by %s and ordered by %v: Firestore orders by what is bounded first", bounded, order)
	}
	if len(equal)+len(order) < 2 {
		return ""
	}
	slices.Sort(equal)
	return fmt.Sprint(q.GetFrom()[0].GetCollectionId(), equal, order)
}

// made is the composite index that is made of an entry of indexes.json: the fields that a query fixes, the one that may be
// bounded, and the key.
func made(ix domain.Index) string {
	direction := map[string]string{"asc": " ascending", "desc": " descending"}[ix.Order]
	var order []string
	if ix.Range != "" {
		order = append(order, ix.Range+direction)
	}
	equal := slices.Sorted(slices.Values(ix.Equal))
	return fmt.Sprint(string(ix.Of), equal, append(order, "Key"+direction))
}

// TestIndexes sends every form of query of every entry of indexes.json, and what the outbox asks: each is answered by the
// index that the entry makes, or needs none. Without its entry, no query of it is sent at all.
func TestIndexes(t *testing.T) {
	gcptest.Emulators(t)
	contracts, err := domain.ReadContracts(schemas.FS)
	if err != nil {
		t.Fatal(err)
	}
	var a asked
	client := []option.ClientOption{option.WithEndpoint(os.Getenv("FIRESTORE_EMULATOR_HOST")), option.WithoutAuthentication(), a.option(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
	t.Setenv("FIRESTORE_EMULATOR_HOST", "") // with it the client would dial by itself, past a.option
	options := gcp.Options{Project: "p-indexes", Indexes: contracts.Indexes, Kinds: contracts.Kinds(), Ends: contracts.Ends(), Client: client}
	b, err := gcp.New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for i, ix := range contracts.Indexes {
		forms := []domain.Query{{}}
		if ix.Range != "" {
			forms = append(forms, domain.Query{From: "a"}, domain.Query{To: "b"}, domain.Query{From: "a", To: "b"})
		}
		for _, q := range forms {
			q.Index, q.Limit, q.Match = ix.Name, 10, slices.Repeat([]string{"x"}, len(ix.Equal))
			if _, err := b.List(t.Context(), q); err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			all := a.take()
			if len(all) != 1 {
				t.Fatalf("%+v became %d queries", q, len(all))
			}
			for _, sent := range all {
				if want := needs(t, sent); want != "" && want != made(ix) {
					t.Errorf("%+v needs the index %s, and %s is made", q, want, made(ix))
				}
			}
		}
		without := options
		without.Indexes = slices.Delete(slices.Clone(contracts.Indexes), i, i+1)
		lacking, err := gcp.New(t.Context(), without)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lacking.List(t.Context(), domain.Query{Index: ix.Name, Limit: 10, Match: slices.Repeat([]string{"x"}, len(ix.Equal))}); err == nil || len(a.take()) > 0 {
			t.Errorf("%s is asked without its entry: %v", ix.Name, err)
		}
		_ = lacking.Close()
	}
	if _, err := b.DeadLetters(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	if err := b.Pump(ctx); err != nil {
		t.Fatal(err)
	}
	all := a.take()
	if len(all) < 2 {
		t.Fatalf("the outbox asked %d queries", len(all))
	}
	for _, sent := range all {
		if want := needs(t, sent); want != "" {
			t.Errorf("the outbox needs the index %s, and none is made", want)
		}
	}
}
