package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
)

var field = regexp.MustCompile(`^(string|int32) ([a-z_]+) = ([0-9]+);$`)

// schema reads terraform/event.proto: one message of simple fields. A line of another kind is an error.
func schema(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	raw, err := os.ReadFile("../../terraform/event.proto")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]*descriptorpb.FieldDescriptorProto_Type{"string": descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), "int32": descriptorpb.FieldDescriptorProto_TYPE_INT32.Enum()}
	message := &descriptorpb.DescriptorProto{Name: proto.String("Event")}
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		m := field.FindStringSubmatch(line)
		switch {
		case m != nil:
			n, _ := strconv.Atoi(m[3])
			message.Field = append(message.Field, &descriptorpb.FieldDescriptorProto{Name: proto.String(m[2]), Number: proto.Int32(int32(n)),
				Type: kinds[m[1]], Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()})
		case line != "" && !strings.HasPrefix(line, "//") && !slices.Contains([]string{`syntax = "proto3";`, "message Event {", "}"}, line):
			t.Fatalf("event.proto: a line of another kind: %s", line)
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{Name: proto.String("event.proto"), Syntax: proto.String("proto3"), MessageType: []*descriptorpb.DescriptorProto{message}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("Event")
}

// fitting is what Pub/Sub does with a message on a topic whose schema is a message of protocol buffers in JSON: unknown fields are
// refused, and so are values of another type. Google's emulator cannot.
func fitting(d protoreflect.MessageDescriptor, body []byte) error {
	return protojson.Unmarshal(body, dynamicpb.NewMessage(d))
}

// entry is an audit entry, which every commit needs.
func entry(env domain.Env) *domain.Entry {
	return domain.Note(env, "sluis", "event.tested", domain.Actor{Kind: domain.ActorOperator, ID: "operator"}, "", "", nil)
}

// TestEvents publishes events of every shape as functions do it, and wants the topics' schema to take each: the least that an event
// says, all that it can say, and one that comes again.
func TestEvents(t *testing.T) {
	d := schema(t)
	gcptest.Emulators(t)
	contracts, err := domain.ReadContracts(schemas.FS)
	if err != nil {
		t.Fatal(err)
	}
	const project, topic = "p-events", "session-requested"
	bodies := make(chan []byte, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var push struct{ Message struct{ Data []byte } }
		if err := json.NewDecoder(q.Body).Decode(&push); err == nil {
			bodies <- push.Message.Data
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	gcptest.Push(t, project, topic, topic, server.URL)
	b, err := gcp.New(t.Context(), gcp.Options{Project: project, Indexes: contracts.Indexes, Kinds: contracts.Kinds(), Ends: contracts.Ends()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var env domain.Env
	events := []domain.Event{{Topic: topic, Subject: "con_1"},
		{Topic: topic, Subject: "con_2", Custodian: "comdirect", Lane: "cli_1"},
		{Topic: topic, Subject: "con_3", Custodian: "comdirect", Lane: "cli_1", NotBefore: env.Now().Add(time.Second)}}
	if err := b.Commit(t.Context(), func(tx domain.Tx) error {
		for _, e := range events {
			if err := tx.Emit(e); err != nil {
				return err
			}
		}
		return tx.Record(entry(env))
	}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	go func() { _ = b.Pump(ctx) }() // publishes what comes later
	missing := map[string]bool{"con_1": true, "con_2": true, "con_3": true}
	for len(missing) > 0 {
		select {
		case body := <-bodies:
			if err := fitting(d, body); err != nil {
				t.Errorf("%s is refused: %v", body, err)
			}
			maps.DeleteFunc(missing, func(subject string, _ bool) bool { return strings.Contains(string(body), subject) })
		case <-ctx.Done():
			t.Fatalf("not published: %v", missing)
		}
	}
	for _, stray := range []string{`{"id":"evt_1","password":"x"}`, `{"id":1}`, `{"attempt":"often"}`, `[]`, `{`} {
		if fitting(d, []byte(stray)) == nil {
			t.Errorf("%s is taken", stray)
		}
	}
}
