package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// page is something to get, again and again.
type page struct {
	url    string
	header http.Header
	client *http.Client
	body   []byte // of the last answer
}

func (p *page) get() error {
	r, err := http.NewRequest(http.MethodGet, p.url, nil)
	if err != nil {
		return err
	}
	r.Header = p.header
	resp, err := p.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if p.body, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %d", p.url, resp.StatusCode)
	}
	return err
}

// consentPage is a visit that has followed its link.
func (h *house) consentPage(tb testing.TB) *page {
	tb.Helper()
	var made struct{ Link struct{ URL string } }
	must(tb, h.Call(context.Background(), http.MethodPost, "/v1/consents", map[string]any{"investor_ref": "bench-page",
		"purpose": map[string]string{"code": "wealth_overview"}, "products": []domain.Product{domain.ProductAccounts, domain.ProductPositions}}, &made))
	client := &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := http.NewRequest(http.MethodPost, made.Link.URL, nil)
	must(tb, err)
	r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Sec-Fetch-Site": {"same-origin"}}
	resp, err := client.Do(r)
	must(tb, err)
	must(tb, resp.Body.Close())
	if len(resp.Cookies()) == 0 {
		tb.Fatalf("the link answers %d and gives no cookie", resp.StatusCode)
	}
	c := resp.Cookies()[0]
	return &page{url: h.Pages + "/consent", client: client, header: http.Header{"Cookie": {c.Name + "=" + c.Value}}}
}

func (h *house) recordsPage(conn domain.ConnectionID) *page {
	return &page{url: h.API + "/v1/connections/" + string(conn) + "/portfolio/positions?limit=100",
		client: &http.Client{Transport: &http.Transport{}}, header: http.Header{"Authorization": {"Bearer " + h.Token}}}
}

// served compares a page with a file of its content.
func served(tb testing.TB, p *page) (ours, bare act) { return spent(p.get), spent(asFile(tb, p).get) }

// asFile serves the page's bytes from a file, on a server with the same settings.
func asFile(tb testing.TB, p *page) *page {
	tb.Helper()
	must(tb, p.get())
	dir := tb.TempDir()
	must(tb, os.WriteFile(filepath.Join(dir, "page.html"), p.body, 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	server := serve.NewServer(http.FileServer(http.Dir(dir)))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }() // until it is closed
	tb.Cleanup(func() { must(tb, server.Close()); <-done })
	file := &page{url: "http://" + l.Addr().String() + "/page.html", client: &http.Client{Transport: &http.Transport{}}, header: http.Header{}}
	must(tb, file.get())
	if !bytes.Equal(file.body, p.body) {
		tb.Fatal("the file is not the page")
	}
	return file
}
