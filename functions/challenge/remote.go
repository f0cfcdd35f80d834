package challenge

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// Remote passes answers on to each custodian's own function. It is an Answerer.
type Remote struct {
	URL    string                                                           // of the function, with {custodian} in place of its name
	Client func(ctx context.Context, audience string) (*http.Client, error) // shows who we are to the function at that address
	mu     sync.Mutex
	known  map[string]*http.Client
}

// Answer implements Answerer.
func (r *Remote) Answer(ctx context.Context, c domain.CustodianID, answer domain.AnswerRequest) error {
	at := strings.ReplaceAll(r.URL, "{custodian}", string(c))
	client, err := r.client(ctx, at)
	if err != nil {
		return &domain.Error{Kind: domain.Unavailable, Code: "custodian_unavailable", Message: "this custodian cannot be reached from here; try again", Err: err}
	}
	return serve.Tell(ctx, client, at+"/answer", answer)
}

// client keeps one client for each address: its tokens last an hour.
func (r *Remote) client(ctx context.Context, at string) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.known[at]; c != nil {
		return c, nil
	}
	c, err := r.Client(context.WithoutCancel(ctx), at)
	if err != nil {
		return nil, err
	}
	if r.known == nil {
		r.known = map[string]*http.Client{}
	}
	r.known[at] = c
	return c, nil
}
