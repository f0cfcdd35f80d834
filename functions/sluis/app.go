package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"sluis.internal/shared/serve"
)

// app plays a client's program in one journey: it asks for a consent, reads, and looks at the webhooks that came for
// its connection.
type app struct {
	api        string
	token      string
	http       *http.Client
	inbox      *inbox
	record     *recorder
	name       string // the investor's reference
	consent    string
	connection string
	link       string
}

func (a *app) do(ctx context.Context, method, path string, body, out any) error {
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.api+path, r)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := a.record.answer(resp); err != nil {
		return err
	}
	return readAnswer(resp, out)
}

// ask creates a consent; args change what is asked: products=a,b access=one_off language=fr.
func (a *app) ask(ctx context.Context, args []string) error {
	body := map[string]any{"investor_ref": a.name, "purpose": map[string]string{"code": "wealth_overview"},
		"products": []string{"accounts", "cash", "positions", "transactions", "orders"}}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		body[name] = value
		if name == "products" {
			body[name] = strings.Split(value, ",")
		}
	}
	var made struct {
		ID           string `json:"id"`
		ConnectionID string `json:"connection_id"`
		Link         struct {
			URL string `json:"url"`
		} `json:"link"`
	}
	if err := a.do(ctx, http.MethodPost, "/v1/consents", body, &made); err != nil {
		return err
	}
	a.consent, a.connection, a.link = made.ID, made.ConnectionID, made.Link.URL
	return nil
}

func (a *app) newLink(ctx context.Context, purpose string) error {
	var made struct {
		URL string `json:"url"`
	}
	err := a.do(ctx, http.MethodPost, "/v1/consents/"+a.consent+"/links", map[string]string{"purpose": purpose}, &made)
	a.link = made.URL
	return err
}

func (a *app) terminate(ctx context.Context) error {
	return a.do(ctx, http.MethodDelete, "/v1/consents/"+a.consent, nil, nil)
}

func (a *app) erase(ctx context.Context, scope string) error {
	path := "/v1/connections/" + a.connection
	if scope != "all" {
		path += "/" + scope
	}
	return a.do(ctx, http.MethodDelete, path, nil, nil)
}

func (a *app) refresh(ctx context.Context) error {
	return a.do(ctx, http.MethodPost, "/v1/connections/"+a.connection+"/refresh", map[string]string{}, nil)
}

// awaitVersion waits until the portfolio's newest version has that number.
func (a *app) awaitVersion(ctx context.Context, number string) error {
	return a.inbox.until(ctx, func() (bool, error) {
		var p struct {
			Number json.Number `json:"number"`
		}
		err := a.do(ctx, http.MethodGet, "/v1/connections/"+a.connection+"/portfolio", nil, &p)
		return p.Number.String() == number, err
	})
}

// readProduct reads a product to its last page and compares its state, and its count with what came.
func (a *app) readProduct(ctx context.Context, args []string) error {
	var status struct {
		State  string `json:"state"`
		Reason string `json:"reason"`
		Count  int    `json:"count"`
	}
	records, next := 0, ""
	for {
		var page struct {
			Status json.RawMessage   `json:"status"`
			Data   []json.RawMessage `json:"data"`
			Next   string            `json:"next"`
		}
		if err := a.do(ctx, http.MethodGet, "/v1/connections/"+a.connection+"/portfolio/"+args[0]+"?limit=1000&cursor="+next, nil, &page); err != nil {
			return err
		}
		if err := json.Unmarshal(page.Status, &status); err != nil {
			return err
		}
		records += len(page.Data)
		if next = page.Next; next == "" {
			break
		}
	}
	if len(args) > 1 && args[1] != "any" && status.State != args[1] || len(args) > 2 && status.Reason != args[2] {
		return fmt.Errorf("%s is %s %s, want %s", args[0], status.State, status.Reason, strings.Join(args[1:], " "))
	}
	if records != status.Count {
		return fmt.Errorf("%d records came, %d were announced", records, status.Count)
	}
	return nil
}

// awaitWebhooks waits until this connection's webhooks are exactly these, without a gap in their sequence.
func (a *app) awaitWebhooks(ctx context.Context, want []string) error {
	var got []string
	err := a.inbox.until(ctx, func() (bool, error) {
		got = a.inbox.of(a.connection)
		return slices.Equal(got, want), nil
	})
	if err != nil {
		return fmt.Errorf("webhooks %v: %w", got, err)
	}
	return nil
}

// inbox receives webhooks and verifies them as any client would, with Standard Webhooks' own library.
type inbox struct {
	listener net.Listener
	record   *recorder
	mu       sync.Mutex
	verify   *standardwebhooks.Webhook
	messages map[string]message // by webhook-id: each counts once, however often it comes
	refused  int
	changed  chan struct{} // closed at every arrival
}

type message struct {
	Type string `json:"type"`
	Data struct {
		ConnectionID string `json:"connection_id"`
		Sequence     int    `json:"sequence"`
	} `json:"data"`
}

func newInbox(l net.Listener, record *recorder) *inbox {
	return &inbox{listener: l, record: record, messages: map[string]message{}, changed: make(chan struct{})}
}

func (in *inbox) url() string { return "http://" + in.listener.Addr().String() + "/webhooks" }

// trust sets the secret that webhooks are signed with.
func (in *inbox) trust(secret string) error {
	verify, err := standardwebhooks.NewWebhook(secret)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.verify = verify
	return err
}

func (in *inbox) serve() error { return serve.NewServer(in).Serve(in.listener) }

// ServeHTTP takes one webhook.
func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	in.mu.Lock()
	defer in.mu.Unlock()
	var m message
	if err == nil && in.verify != nil {
		err = in.verify.Verify(body, r.Header)
	}
	if err == nil {
		err = json.Unmarshal(body, &m)
	}
	if err == nil {
		err = in.record.write(exchange{Kind: "webhook", Body: body})
	}
	if err != nil || in.verify == nil {
		in.refused++
		http.Error(w, "not verified", http.StatusUnauthorized)
		return
	}
	in.messages[r.Header.Get("webhook-id")] = m
	close(in.changed)
	in.changed = make(chan struct{})
	w.WriteHeader(http.StatusNoContent)
}

// of lists a connection's webhooks by their sequence; a gap shows as a dash.
func (in *inbox) of(connection string) []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	var types []string
	for _, m := range in.messages {
		if m.Data.ConnectionID != connection {
			continue
		}
		for len(types) < m.Data.Sequence {
			types = append(types, "-")
		}
		types[m.Data.Sequence-1] = m.Type
	}
	return types
}

// webhookTime bounds the wait for webhooks.
const webhookTime = 30 * time.Second

// until waits for a condition that an arriving webhook may fulfil.
func (in *inbox) until(ctx context.Context, fulfilled func() (bool, error)) error {
	ctx, done := context.WithTimeout(ctx, webhookTime)
	defer done()
	for {
		in.mu.Lock()
		changed := in.changed
		in.mu.Unlock()
		ok, err := fulfilled()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("waited too long")
		case <-changed:
		}
	}
}
