package journey

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// app plays a client's program in one journey: it asks for a consent, reads, and looks at the webhooks that came for
// its connection.
type app struct {
	*Place
	name       string // the investor's reference
	consent    string
	connection string
	link       string
	once       string // the Idempotency-Key of what is being done
}

// Call asks the client API with the place's token and reads a JSON answer into out. A refusal is a *Refusal.
func (p *Place) Call(ctx context.Context, method, path string, body, out any) error {
	return p.call(ctx, "", method, path, body, out)
}

// post asks for something to be made, once.
func (a *app) post(ctx context.Context, path string, body, out any) error {
	return a.call(ctx, a.once, http.MethodPost, path, body, out)
}

func (p *Place) call(ctx context.Context, once, method, path string, body, out any) error {
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.API+path, r)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.Token)
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if once != "" {
		req.Header.Set("Idempotency-Key", once)
	}
	resp, err := (&http.Client{Transport: p.Transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := p.Record.answer(resp); err != nil {
		return err
	}
	return readAnswer(resp, out)
}

// ask creates a consent; args change what is asked: products=a,b advisors=a,b access=one_off language=fr.
func (a *app) ask(ctx context.Context, args []string) error {
	body := map[string]any{"investor_ref": a.name, "purpose": map[string]string{"code": "wealth_overview"},
		"products": []string{"accounts", "cash", "positions", "transactions", "orders"}}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		body[name] = value
		if name == "products" || name == "advisors" {
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
	if err := a.post(ctx, "/v1/consents", body, &made); err != nil {
		return err
	}
	a.consent, a.connection, a.link = made.ID, made.ConnectionID, made.Link.URL
	return nil
}

func (a *app) newLink(ctx context.Context, purpose string) error {
	var made struct {
		URL string `json:"url"`
	}
	if err := a.post(ctx, "/v1/consents/"+a.consent+"/links", map[string]string{"purpose": purpose}, &made); err != nil {
		return err
	}
	a.link = made.URL
	return nil
}

func (a *app) terminate(ctx context.Context) error {
	return a.Call(ctx, http.MethodDelete, "/v1/consents/"+a.consent, nil, nil)
}

func (a *app) erase(ctx context.Context, scope string) error {
	path := "/v1/connections/" + a.connection
	if scope != "all" {
		path += "/" + scope
	}
	return a.Call(ctx, http.MethodDelete, path, nil, nil)
}

func (a *app) refresh(ctx context.Context) error {
	return a.post(ctx, "/v1/connections/"+a.connection+"/refresh", map[string]string{}, nil)
}

// awaitVersion waits until the portfolio's newest version has that number.
func (a *app) awaitVersion(ctx context.Context, number string) error {
	return a.Inbox.until(ctx, func() (bool, error) {
		var p struct {
			Number json.Number `json:"number"`
		}
		err := a.Call(ctx, http.MethodGet, "/v1/connections/"+a.connection+"/portfolio", nil, &p)
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
		if err := a.Call(ctx, http.MethodGet, "/v1/connections/"+a.connection+"/portfolio/"+args[0]+"?limit=1000&cursor="+next, nil, &page); err != nil {
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
	err := a.Inbox.until(ctx, func() (bool, error) {
		got = a.Inbox.Of(a.connection)
		return slices.Equal(got, want), nil
	})
	if err != nil {
		return fmt.Errorf("webhooks %v: %w", got, err)
	}
	return nil
}
