package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"sluis.internal/functions/consent"
	"sluis.internal/functions/sandbox"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// membership is what the sample client was given when it was added as a client: it lies beside the sandbox bank's
// memory, as a real client would keep its own.
type membership struct {
	Own     string `json:"own"`               // its address then; at another one it is added anew
	Backend string `json:"backend,omitempty"` // likewise: where its client lies
	Token   string `json:"token"`
	Secret  string `json:"secret,omitempty"` // of its webhook endpoint
}

// serveSample serves the sample client at l. The home must have begun.
func serveSample(ctx context.Context, h *home.Home, o *options, l net.Listener) error {
	path := filepath.Join(o.data(), "sandbox", "client.json")
	m := membership{Own: "http://" + l.Addr().String(), Backend: o.Backend}
	var kept membership
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && json.Unmarshal(raw, &kept) == nil && kept.Own == m.Own && kept.Backend == m.Backend {
		m = kept
	} else if err := join(ctx, h, &m, path); err != nil {
		return err
	}
	client := &sandbox.Client{API: h.APIURL(), Key: m.Token, Secret: m.Secret, PagesOrigin: h.PagesURL(), Own: m.Own}
	mux := http.NewServeMux()
	client.Routes(mux)
	h.Serve(l, mux)
	return nil
}

// join adds the sample client, with a key and an endpoint, and keeps what it was given.
func join(ctx context.Context, h *home.Home, m *membership, path string) error {
	month := domain.Saving{Scope: domain.SaveHistory, Days: 30}
	c, err := consent.AddClient(ctx, h, h.Env, "Sample Wealth", consent.Terms{ReturnOrigins: []string{m.Own},
		Saving: map[domain.Product]domain.Saving{domain.ProductAccounts: month, domain.ProductCash: month, domain.ProductPositions: month}})
	if err != nil {
		return err
	}
	_, token, err := consent.IssueKey(ctx, h, h.Env, c.ID, consent.KeyTerms{Role: domain.RoleClient, Label: "sample client"})
	if err != nil {
		return err
	}
	m.Token = string(token.Reveal())
	if m.Secret, err = register(ctx, h, m); err != nil {
		return err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

// register asks the client API for the endpoint, as any client does.
func register(ctx context.Context, h *home.Home, m *membership) (string, error) {
	place := &journey.Place{API: h.APIURL(), Token: m.Token}
	var made struct {
		Secret string `json:"secret"`
	}
	err := place.Call(ctx, http.MethodPost, "/v1/endpoints", map[string]string{"url": m.Own + "/webhooks"}, &made)
	return made.Secret, err
}
