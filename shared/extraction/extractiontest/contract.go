// Package extractiontest is the contract that every connector passes.
//
// A connector's own test brings a bank of its protocol that can play each [Play], and calls [Run]. The contract drives
// the connector the way the engine does: a new connector value at every step, with nothing but the sealed State to
// carry on from, behind the egress guard, which must never have to refuse anything.
package extractiontest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// Play is what the bank does.
type Play string

const (
	PlayCode           Play = "code"            // asks for a code, and takes Bank.Code
	PlayExpired        Play = "expired"         // asks for a code, and says that any comes too late
	PlayPush           Play = "push"            // asks for approval elsewhere, which Bank.Approve gives
	PlayExempt         Play = "exempt"          // asks for nothing
	PlayRefused        Play = "refused"         // refuses the password
	PlayBusy           Play = "busy"            // answers the login with 429 and Bank.Pause
	PlayMalformedLogin Play = "malformed login" // answers the login with something that is no answer
	PlayMalformedRead  Play = "malformed read"  // asks for nothing, and answers every reading so
)

// Setup is what a connector's test brings.
type Setup struct {
	Connector func() extraction.Connector // a new value
	Custodian domain.Custodian
	Open      func(t *testing.T, play Play) Bank // starts a bank; t.Cleanup ends it
}

// Bank is one bank and one investor's access to it.
type Bank struct {
	Network     http.RoundTripper // leads to it
	Secrets     domain.Secrets
	Credentials map[string]string
	Code, Wrong string // PlayCode: a right and a wrong code
	Approve     func() // PlayPush
	Pause       time.Duration
	Seen        func() Seen
}

// Seen is what reached the bank so far.
type Seen struct {
	Logins     int // passwords handed in
	Challenges int // asked for
	Reads      int // requests for records
	Ends       int // sessions closed
}

// Run checks that the connector keeps the contract.
func Run(t *testing.T, s Setup) {
	for _, c := range []struct {
		name  string
		check func(*testing.T, Setup)
	}{
		{"declares only what the guard can pass", declares},
		{"refused password is told after one login", refused},
		{"wrong code, then the right one", codes},
		{"expired code", expires},
		{"approval elsewhere", approves},
		{"nothing asked", exempt},
		{"unattended asks no challenge", unattended},
		{"pause asked for is passed on", pauses},
		{"malformed login", malformedLogin},
		{"malformed reading", malformedRead},
		{"foreign state", foreignState},
		{"reading stops with its consumer", stops},
		{"cancelled login", cancelledLogin},
		{"cancelled reading", cancelledRead},
		{"ending twice", endsTwice},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, s) })
	}
}

// visit drives one session the way the engine does.
type visit struct {
	t        *testing.T
	s        Setup
	bank     Bank
	gate     *extraction.Gate
	state    []byte
	attended bool
}

func open(t *testing.T, s Setup, play Play) *visit {
	return &visit{t: t, s: s, bank: s.Open(t, play), attended: true}
}

func (v *visit) session() extraction.Session {
	v.gate = extraction.Guard(v.s.Custodian, v.s.Connector().Requests(), v.bank.Network,
		func(_ context.Context, method, host, path string) {
			v.t.Errorf("the guard had to refuse %s %s %s", method, host, path)
		})
	return extraction.Session{ID: "ses_00000000000000000000000000", Custodian: v.s.Custodian, HTTP: extraction.NewClient(v.gate),
		Secrets: v.bank.Secrets, State: bytes.Clone(v.state), Attended: v.attended, Language: "en", Products: domain.Products}
}

// step takes one step with a new connector, and wipes afterwards what the engine wipes.
func (v *visit) step(ctx context.Context, in extraction.Input) (extraction.Outcome, error) {
	v.t.Helper()
	session := v.session()
	out, err := v.s.Connector().Step(ctx, session, in)
	clear(session.State)
	for _, secret := range in.Credentials {
		secret.Wipe()
	}
	in.Code.Wipe()
	v.silent(err)
	if err != nil {
		return out, err
	}
	if (out.Challenge == nil) == (out.Portfolio == nil) {
		v.t.Fatal("the outcome is not exactly one of challenge and portfolio")
	}
	if out.Challenge != nil {
		v.state = bytes.Clone(out.Challenge.State)
		clear(out.Challenge.State)
		v.sound(out.Challenge)
		return out, nil
	}
	v.state = bytes.Clone(out.Portfolio.State)
	clear(out.Portfolio.State)
	v.gate.SetPhase(extraction.PhaseRead)
	return out, nil
}

func (v *visit) login(ctx context.Context) (extraction.Outcome, error) {
	v.t.Helper()
	fields := map[string]domain.Secret{}
	for name, value := range v.bank.Credentials {
		fields[name] = domain.NewSecret([]byte(value))
	}
	return v.step(ctx, extraction.Input{Kind: extraction.InputLogin, Credentials: fields})
}

func (v *visit) code(code string) (extraction.Outcome, error) {
	v.t.Helper()
	return v.step(v.t.Context(), extraction.Input{Kind: extraction.InputCode, Code: domain.NewSecret([]byte(code))})
}

// sound checks what holds of every challenge.
func (v *visit) sound(c *extraction.Challenge) {
	v.t.Helper()
	if c.Status != domain.SCARequired && len(v.state) == 0 {
		v.t.Error("a challenge without a State cannot be carried on")
	}
	if (c.Status == domain.SCAIssued && c.Flow != domain.FlowCode) || (c.Status == domain.SCAAwaiting && c.Flow == domain.FlowCode) {
		v.t.Errorf("a challenge is %s with flow %q", c.Status, c.Flow)
	}
	if c.Flow == domain.FlowDecoupled && c.PollEvery <= 0 {
		v.t.Error("a decoupled challenge says not how often to ask")
	}
	for _, m := range c.Methods {
		if !slices.Contains(v.s.Custodian.Methods, m) {
			v.t.Errorf("method %v is not in the catalogue", m)
		}
	}
}

// silent checks that an error says nothing of what it must not: credentials, codes and the custodian's secrets.
func (v *visit) silent(err error) {
	v.t.Helper()
	if err == nil {
		return
	}
	secrets := append(slices.Collect(maps.Values(v.bank.Credentials)), v.bank.Code, v.bank.Wrong)
	for _, name := range v.s.Custodian.Secrets {
		if s, e := v.bank.Secrets.Secret(v.t.Context(), name); e == nil {
			secrets = append(secrets, string(s.Reveal()))
		}
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, secret := range secrets {
			if secret != "" && strings.Contains(e.Error(), secret) {
				v.t.Fatal("an error holds a secret")
			}
		}
	}
}

// end closes the session the way the engine does.
func (v *visit) end() error {
	session := v.session()
	v.gate.SetPhase(extraction.PhaseEnd)
	err := v.s.Connector().End(v.t.Context(), session)
	v.silent(err)
	return err
}

// must returns an outcome that came without an error.
func (v *visit) must(out extraction.Outcome, err error) extraction.Outcome {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// challenged returns the challenge of an outcome that must stand at status.
func (v *visit) challenged(status domain.SCAState) func(extraction.Outcome, error) *extraction.Challenge {
	return func(out extraction.Outcome, err error) *extraction.Challenge {
		v.t.Helper()
		out = v.must(out, err)
		if out.Challenge == nil || out.Challenge.Status != status {
			v.t.Fatalf("the outcome is %+v; want a challenge that is %s", out.Challenge, status)
		}
		return out.Challenge
	}
}

// fails checks that err is a failure for that reason.
func (v *visit) fails(err error, reason domain.Reason) *extraction.Failure {
	v.t.Helper()
	var f *extraction.Failure
	if !errors.As(err, &f) || f.Reason != reason {
		v.t.Fatalf("error %v; want a failure for %s", err, reason)
	}
	return f
}

// readAll pulls everything of a portfolio and checks each record.
func (v *visit) readAll(p *extraction.Portfolio) (n int) {
	v.t.Helper()
	if p == nil {
		v.t.Fatal("there is no portfolio")
	}
	for _, product := range domain.Products {
		if (p.Read[product] != nil) != slices.Contains(v.s.Custodian.Products, product) {
			v.t.Errorf("the catalogue and the connector disagree about %s", product)
		}
		if p.Read[product] == nil {
			continue
		}
		for record, err := range p.Read[product] {
			v.silent(err)
			if err != nil {
				v.t.Fatalf("reading %s: %v", product, err)
			}
			if record.Product() != product || record.Origin().SourceID == "" {
				v.t.Fatalf("a record among %s is of %s, from %q", product, record.Product(), record.Origin().SourceID)
			}
			n++
		}
	}
	return n
}

func declares(t *testing.T, s Setup) {
	reads := 0
	for _, r := range s.Connector().Requests() {
		if err := r.Check(s.Custodian); err != nil {
			t.Error(err)
		}
		if r.Phase == extraction.PhaseRead {
			reads++
		}
	}
	if reads == 0 {
		t.Error("no reading request is declared")
	}
}

func refused(t *testing.T, s Setup) {
	v := open(t, s, PlayRefused)
	_, err := v.login(t.Context())
	if f := v.fails(err, domain.ReasonCredentialsRefused); f.Retry || f.Unjudged {
		t.Errorf("failure %+v; a refused password is judged, and never tried again", f)
	}
	if seen := v.bank.Seen(); seen.Logins != 1 || seen.Challenges != 0 || seen.Reads != 0 {
		t.Errorf("the bank saw %+v; want one login", seen)
	}
}

func codes(t *testing.T, s Setup) {
	v := open(t, s, PlayCode)
	v.challenged(domain.SCAIssued)(v.login(t.Context()))
	c := v.challenged(domain.SCARejected)(v.code(v.bank.Wrong))
	if c.TriesLeft < 1 {
		t.Errorf("%d tries left after the first wrong code", c.TriesLeft)
	}
	out := v.must(v.code(v.bank.Code))
	if n := v.readAll(out.Portfolio); n == 0 {
		t.Error("nothing was read")
	}
	again := v.must(v.step(t.Context(), extraction.Input{Kind: extraction.InputResume}))
	v.readAll(again.Portfolio)
	if seen := v.bank.Seen(); seen.Logins != 1 || seen.Challenges != 1 {
		t.Errorf("the bank saw %+v; want one login and one challenge", seen)
	}
	if err := v.end(); err != nil || v.bank.Seen().Ends == 0 {
		t.Errorf("ending: %v, with %d sessions closed", err, v.bank.Seen().Ends)
	}
}

func expires(t *testing.T, s Setup) {
	v := open(t, s, PlayExpired)
	v.challenged(domain.SCAIssued)(v.login(t.Context()))
	v.challenged(domain.SCAExpired)(v.code(v.bank.Code))
	if err := v.end(); err != nil {
		t.Error(err)
	}
}

func approves(t *testing.T, s Setup) {
	v := open(t, s, PlayPush)
	v.challenged(domain.SCAAwaiting)(v.login(t.Context()))
	poll := extraction.Input{Kind: extraction.InputPoll}
	v.challenged(domain.SCAAwaiting)(v.step(t.Context(), poll))
	v.bank.Approve()
	out := v.must(v.step(t.Context(), poll))
	v.readAll(out.Portfolio)
	if seen := v.bank.Seen(); seen.Logins != 1 || seen.Challenges != 1 {
		t.Errorf("the bank saw %+v; want one login and one challenge", seen)
	}
}

func exempt(t *testing.T, s Setup) {
	v := open(t, s, PlayExempt)
	v.attended = false
	out := v.must(v.login(t.Context()))
	v.readAll(out.Portfolio)
}

func unattended(t *testing.T, s Setup) {
	for _, play := range []Play{PlayCode, PlayPush} {
		v := open(t, s, play)
		v.attended = false
		v.challenged(domain.SCARequired)(v.login(t.Context()))
		if seen := v.bank.Seen(); seen.Challenges != 0 || seen.Reads != 0 {
			t.Errorf("the bank saw %+v; want no challenge with nobody there to answer", seen)
		}
		if err := v.end(); err != nil || v.bank.Seen().Ends == 0 {
			t.Errorf("ending: %v; want the half-open session closed", err)
		}
	}
}

func pauses(t *testing.T, s Setup) {
	v := open(t, s, PlayBusy)
	_, err := v.login(t.Context())
	f := v.fails(err, domain.ReasonRateLimited)
	if !f.Retry || !f.Unjudged || f.RetryAfter != v.bank.Pause {
		t.Errorf("failure %+v; want a retry after %s, the password unjudged", f, v.bank.Pause)
	}
	if seen := v.bank.Seen(); seen.Logins != 1 {
		t.Errorf("the bank saw %+v; want one login", seen)
	}
}

func malformedLogin(t *testing.T, s Setup) {
	v := open(t, s, PlayMalformedLogin)
	_, err := v.login(t.Context())
	if f := v.fails(err, domain.ReasonBankAnswer); f.Retry || f.Unjudged {
		t.Errorf("failure %+v; want one for good, the password perhaps judged", f)
	}
	if seen := v.bank.Seen(); seen.Logins != 1 {
		t.Errorf("the bank saw %+v; want one login", seen)
	}
}

func malformedRead(t *testing.T, s Setup) {
	v := open(t, s, PlayMalformedRead)
	out := v.must(v.login(t.Context()))
	for product, records := range out.Portfolio.Read {
		n := 0
		for record, err := range records {
			n++
			v.silent(err)
			if record != nil && err == nil {
				continue
			}
			v.fails(err, domain.ReasonBankAnswer)
		}
		if n == 0 {
			t.Errorf("%s ended without an error: an empty list must not hide a failure", product)
		}
	}
}

func foreignState(t *testing.T, s Setup) {
	for _, state := range []string{"", "{}", "null", "[]", "\x00\xff", `{"access":7}`} {
		v := open(t, s, PlayCode)
		v.state = []byte(state)
		for _, kind := range []extraction.InputKind{extraction.InputCode, extraction.InputPoll, extraction.InputSelect,
			extraction.InputRenew, extraction.InputResume, "other"} {
			if _, err := v.step(t.Context(), extraction.Input{Kind: kind, Code: domain.NewSecret([]byte(v.bank.Code))}); err == nil {
				t.Errorf("step %s went on from the state %q", kind, state)
			}
		}
		if seen := v.bank.Seen(); seen.Logins+seen.Challenges+seen.Reads > 0 {
			t.Errorf("the bank saw %+v", seen)
		}
	}
}

func stops(t *testing.T, s Setup) {
	v := open(t, s, PlayExempt)
	out := v.must(v.login(t.Context()))
	for _, product := range s.Custodian.Products {
		for _, err := range out.Portfolio.Read[product] {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	before := v.bank.Seen().Reads
	for range out.Portfolio.Read[domain.ProductAccounts] {
		break
	}
	if after := v.bank.Seen().Reads; before == 0 || after > before+2 {
		t.Errorf("%d reading requests, then %d; want few for one record", before, after)
	}
}

func cancelledLogin(t *testing.T, s Setup) {
	v := open(t, s, PlayCode)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.login(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v; want the cancellation", err)
	}
	if seen := v.bank.Seen(); seen.Logins != 0 {
		t.Errorf("the bank saw %+v", seen)
	}
}

func cancelledRead(t *testing.T, s Setup) {
	v := open(t, s, PlayExempt)
	ctx, cancel := context.WithCancel(t.Context())
	out := v.must(v.login(ctx))
	cancel()
	before := v.bank.Seen().Reads
	for product, records := range out.Portfolio.Read {
		for _, err := range records {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("reading %s: %v; want the cancellation", product, err)
			}
		}
	}
	if after := v.bank.Seen().Reads; after != before {
		t.Errorf("%d requests reached the bank after the cancellation", after-before)
	}
}

func endsTwice(t *testing.T, s Setup) {
	v := open(t, s, PlayExempt)
	if err := v.end(); err != nil {
		t.Errorf("ending what never began: %v", err)
	}
	v.must(v.login(t.Context()))
	for range 2 {
		if err := v.end(); err != nil {
			t.Error(err)
		}
	}
	if v.bank.Seen().Ends == 0 {
		t.Error("the bank saw no end")
	}
}
