// Package comdirect reads portfolios over the comdirect REST API (version 20.04) and any bank that speaks it.
//
// A visit goes: password token (scope TWO_FACTOR), session, challenge, activation of the session TAN, then a second
// token (grant cd_secondary) that opens accounts and depots. The files follow the visit:
//
//	connector.go  what may be asked of the bank, and which step follows which
//	login.go      tokens: password, secondary, refresh, revoke
//	sca.go        challenges: photoTAN image, SMS, approval in the app
//	wire.go       one request, its answer, and what a failure means
//	read.go       lists, page by page
//	records.go    the bank's objects as portfolio records
//	values.go     decimals, amounts and dates
//
// The clauses cited are those of the bank's interface specification of April 2020.
package comdirect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// Connector implements extraction.Connector. It has no fields: all that a visit needs is in the session's State.
type Connector struct{}

const (
	pathToken          = "/oauth/token"
	pathRevoke         = "/oauth/revoke"
	pathSessions       = "/api/session/clients/user/v1/sessions"
	pathAuthentication = "/api/session/v1/authentications/"
	pathBalances       = "/api/banking/clients/user/v2/accounts/balances"
	pathAccounts       = "/api/banking/v1/accounts/"
	pathDepots         = "/api/brokerage/clients/user/v3/depots"
	pathDepot          = "/api/brokerage/v3/depots/"
	pathOrders         = "/api/brokerage/depots/"
)

// Requests implements extraction.Connector. Revoking is declared for the login too: a login that cannot be carried
// on is closed at once, for no State would be left to close it with.
func (Connector) Requests() []extraction.Request {
	login := func(method, path string) extraction.Request {
		return extraction.Request{Method: method, Endpoint: "api", Path: path, Phase: extraction.PhaseLogin}
	}
	counted := func(method, path string, counts domain.BankCount) extraction.Request {
		return extraction.Request{Method: method, Endpoint: "api", Path: path, Phase: extraction.PhaseLogin, Counts: counts}
	}
	read := func(path string) extraction.Request {
		return extraction.Request{Method: http.MethodGet, Endpoint: "api", Path: path, Phase: extraction.PhaseRead}
	}
	return []extraction.Request{
		counted(http.MethodPost, pathToken, domain.CountLogin),
		login(http.MethodGet, pathSessions),
		counted(http.MethodPost, pathSessions+"/{session}/validate", domain.CountChallenge),
		counted(http.MethodPatch, pathSessions+"/{session}", domain.CountCode),
		login(http.MethodGet, pathAuthentication+"{id}"),
		login(http.MethodDelete, pathRevoke),
		read(pathBalances),
		read(pathAccounts + "{account}/transactions"),
		read(pathDepots),
		read(pathDepot + "{depot}/positions"),
		read(pathDepot + "{depot}/transactions"),
		read(pathOrders + "{depot}/v3/orders"),
		{Method: http.MethodDelete, Endpoint: "api", Path: pathRevoke, Phase: extraction.PhaseEnd},
	}
}

// Step implements extraction.Connector. The records of a Portfolio are read under ctx.
func (Connector) Step(ctx context.Context, s extraction.Session, in extraction.Input) (extraction.Outcome, error) {
	if in.Kind == extraction.InputLogin {
		out, err := login(ctx, s, in)
		return out, failed(err)
	}
	v, err := carryOn(s)
	if err != nil {
		return extraction.Outcome{}, err
	}
	out, err := v.step(ctx, in)
	if errors.Is(err, errSessionOver) {
		err = over(in.Kind)
	}
	return out, failed(err)
}

func (v *visit) step(ctx context.Context, in extraction.Input) (extraction.Outcome, error) {
	if v.st.Session == "" || v.st.Open != (in.Kind == extraction.InputResume) {
		return extraction.Outcome{}, fmt.Errorf("taking step %q: the session does not stand there", in.Kind)
	}
	if err := v.freshen(ctx); err != nil {
		return extraction.Outcome{}, err
	}
	switch in.Kind {
	case extraction.InputCode:
		return v.code(ctx, in.Code)
	case extraction.InputPoll:
		return v.poll(ctx)
	case extraction.InputSelect:
		return v.choose(ctx, in.Method)
	case extraction.InputRenew:
		return v.renew(ctx)
	case extraction.InputResume:
		// Asking for the session finds out whether the bank still knows the token, while a new one may be asked for.
		if _, err := v.session(ctx); err != nil {
			return extraction.Outcome{}, err
		}
		return v.portfolio(ctx)
	}
	return extraction.Outcome{}, fmt.Errorf("taking step %q: no such step", in.Kind)
}

// over is the failure when the bank no longer knows the session: nothing but a new login helps.
func over(kind extraction.InputKind) error {
	f := &extraction.Failure{Reason: domain.ReasonSCAExpired, Err: errSessionOver}
	if kind == extraction.InputResume {
		f.Reason = domain.ReasonSCARequired
	}
	return f
}

// End implements extraction.Connector. It revokes the token in use, which ends the session TAN with it (clause
// 3.1.2), and the first one, for the clause does not say that it ends too.
func (Connector) End(ctx context.Context, s extraction.Session) error {
	if len(s.State) == 0 {
		return nil
	}
	v, err := carryOn(s)
	if err != nil {
		return err
	}
	return failed(v.revoke(ctx))
}

// state is what lies sealed between two steps.
type state struct {
	Client     string    `json:"client"` // our own name for the visit: 32 hexadecimal digits (clause 1.2.2)
	Access     string    `json:"access"`
	Refresh    string    `json:"refresh"`
	Primary    string    `json:"primary,omitempty"` // the first token, once there is a second
	Expires    int64     `json:"expires"`           // of Access, Unix seconds
	Open       bool      `json:"open"`              // Access opens accounts and depots
	Session    string    `json:"session"`           // the bank's identifier
	Methods    []string  `json:"methods,omitempty"`
	Challenge  challenge `json:"challenge"`
	Challenges int       `json:"challenges"` // asked of the bank in this visit
	Wrong      int       `json:"wrong"`      // codes the bank refused in this visit
}

// challenge is what the bank asked last.
type challenge struct {
	ID      string         `json:"id"`
	Method  string         `json:"method"`
	Poll    string         `json:"poll,omitempty"` // identifier of the authentication to ask after
	Display domain.Display `json:"display"`
}

func carryOn(s extraction.Session) (*visit, error) {
	v := &visit{s: s}
	if err := json.Unmarshal(s.State, &v.st); err != nil || v.st.Access == "" {
		return nil, errors.New("opening the session's state: it is not one of this connector's")
	}
	return v, nil
}

func (v *visit) seal() ([]byte, error) {
	b, err := json.Marshal(v.st)
	if err != nil {
		return nil, fmt.Errorf("writing the session's state: %w", err)
	}
	return b, nil
}
