package gcptest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"testing"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/api/iterator"
	"google.golang.org/protobuf/proto"
)

// Document is one as Firestore keeps it, or was asked to.
type Document struct {
	Collection, ID string
	Fields         map[string][]byte // texts and bytes as they are, other values as JSON
}

// Written are the documents that a Commit writes, by its message on the wire.
func Written(message []byte) (all []Document, err error) {
	var c firestorepb.CommitRequest
	if err := proto.Unmarshal(message, &c); err != nil {
		return nil, err
	}
	for _, w := range c.Writes {
		name := w.GetUpdate().GetName()
		if name == "" {
			continue // it deletes
		}
		d := Document{path.Base(path.Dir(name)), path.Base(name), map[string][]byte{}}
		for field, v := range w.GetUpdate().GetFields() {
			switch v := v.ValueType.(type) {
			case *firestorepb.Value_StringValue:
				d.Fields[field] = []byte(v.StringValue)
			case *firestorepb.Value_BytesValue:
				d.Fields[field] = v.BytesValue
			default:
				d.Fields[field] = []byte(fmt.Sprint(v))
			}
		}
		all = append(all, d)
	}
	return all, nil
}

// Stored calls each with every document of a project, in all of its collections or in those that are named.
func Stored(ctx context.Context, t testing.TB, project string, each func(Document), only ...string) {
	t.Helper()
	c, err := firestore.NewClient(ctx, project)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	collections, err := c.Collections(ctx).GetAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, collection := range collections {
		if len(only) > 0 && !slices.Contains(only, collection.ID) {
			continue
		}
		docs := collection.Documents(ctx)
		for {
			snap, err := docs.Next()
			if errors.Is(err, iterator.Done) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			each(Document{collection.ID, snap.Ref.ID, plain(t, snap.Data())})
		}
	}
}

func plain(t testing.TB, values map[string]any) map[string][]byte {
	t.Helper()
	fields := map[string][]byte{}
	for name, v := range values {
		switch v := v.(type) {
		case string:
			fields[name] = []byte(v)
		case []byte:
			fields[name] = v
		default:
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			fields[name] = text
		}
	}
	return fields
}
