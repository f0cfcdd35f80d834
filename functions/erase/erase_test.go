package erase_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sluis.internal/functions/erase"
	"sluis.internal/shared/domain"
)

// TestNoSigner: while the key of certificates cannot be had there is an error and no certificate, but what was to be
// erased is erased; asked again once the key is back, the certificate is given.
func TestNoSigner(t *testing.T) {
	h := build(t, 1)
	h.away = &domain.Error{Kind: domain.Unavailable, Code: "keys_unavailable", Message: "the keys cannot be reached; try again"}
	path := "/v1/connections/" + string(h.conn.ID)
	for _, call := range [][2]string{{"DELETE", path + "/data"}, {"GET", path + "/erasures"}} {
		if w := h.call(h.token, call[0], call[1], ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "keys_unavailable") {
			t.Errorf("%s gives %d %s", call, w.Code, w.Body)
		}
	}
	if held := h.held(h.conn); held["data_key"]+held["portfolio"]+held["part"] != 0 {
		t.Errorf("there is still %v", held)
	}
	h.away = nil
	if cert := h.erase("/data"); cert.Erased["data_key"] != 1 || erase.Verify(cert, h.public) != nil {
		t.Errorf("the certificate is %+v", cert)
	}
}

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		rest              string
		scope             domain.ErasureScope
		erased, left      string
		state             domain.ConnectionState
		reason, cancelled domain.Reason
		consent           domain.ConsentState
		notices           string
		credential        domain.CredentialState
	}{
		{"/credentials", domain.EraseCredentials, "map[challenge:1 credential:1 session:1 shard:2]", "map[data_key:1 part:3 portfolio:2]",
			domain.ConnectionAwaiting, domain.ReasonCredentialsErased, domain.ReasonCredentialsErased, domain.ConsentValid,
			"connection.awaiting_credentials erasure.completed", ""},
		{"/data", domain.EraseData, "map[challenge:1 data_key:1 part:3 portfolio:2 session:1 shard:1]", "map[credential:1]",
			domain.ConnectionPaused, domain.ReasonDataErased, domain.ReasonDataErased, domain.ConsentValid,
			"connection.paused erasure.completed", domain.CredentialUnconfirmed},
		{"", domain.EraseAll, "map[challenge:1 credential:1 data_key:1 part:3 portfolio:2 session:1 shard:3]", "map[]",
			domain.ConnectionRemoved, domain.ReasonConsentEnded, domain.ReasonConsentEnded, domain.ConsentTerminated,
			"consent.terminated erasure.completed", ""},
	} {
		t.Run(string(c.scope), func(t *testing.T) {
			h := build(t, 3)
			cert := h.erase(c.rest)
			if cert.Scope != c.scope || fmt.Sprint(cert.Erased) != c.erased || cert.Cause != "client_request" ||
				cert.Actor.Kind != domain.ActorClient || !cert.ErasedAt.Equal(h.now) || !cert.BackupsUntil.Equal(h.now.Add(7*24*time.Hour)) {
				t.Errorf("the certificate is %+v", cert)
			}
			if left := fmt.Sprint(h.held(h.conn)); left != c.left {
				t.Errorf("left is %s, want %s", left, c.left)
			}
			waiting := &domain.Session{ID: h.conn.SessionID}
			h.get(waiting)
			if waiting.State != domain.SessionCancelled || waiting.Reason != c.cancelled || len(waiting.Sealed) > 0 {
				t.Errorf("the session is %+v", waiting)
			}
			if e := h.store.emitted(domain.TopicSession); len(e) != 1 || e[0].Subject != string(waiting.ID) || e[0].Custodian != "sandbox" {
				t.Errorf("extraction is asked %+v", e)
			}
			net := domain.At(h.now.Add(time.Minute))
			if c.scope == domain.EraseAll {
				net = domain.Time{} // the ending of the consent asks for it, as by any door
			}
			if e := h.store.emitted(domain.TopicErasure); len(e) != 1 || !e[0].NotBefore.Equal(net.Time) {
				t.Errorf("the safety net is %+v", e)
			}
			h.get(h.conn)
			if h.conn.State != c.state || h.conn.Reason != c.reason || !h.conn.NextRefreshAt.IsZero() ||
				c.scope != domain.EraseCredentials && (h.conn.PortfolioID != "" || len(h.conn.Products) > 0) {
				t.Errorf("the connection is %+v", h.conn)
			}
			h.get(h.consent)
			if h.consent.State != c.consent {
				t.Errorf("the consent is %s", h.consent.State)
			}
			if have := h.notices(h.conn); have != c.notices {
				t.Errorf("told are %q, want %q", have, c.notices)
			}
			if credential := (&domain.Credential{ConnectionID: h.conn.ID}); !h.gone(credential) && credential.State != c.credential {
				t.Errorf("the credential is %s", credential.State)
			}
			if len(h.forgotten) == 0 {
				t.Error("cached keysets are not forgotten")
			}
			if left := len(h.shards.IDs()); left != map[domain.ErasureScope]int{domain.EraseCredentials: 1, domain.EraseData: 2}[c.scope] {
				t.Errorf("%d shards are left", left)
			}
			if h.entries("erasure.begun") != 1 || h.entries("erasure.completed") != 1 {
				t.Error("the steps are not recorded")
			}
		})
	}
}

func TestBatchesAreBoundedAndTheFirstMakesAllUnreadable(t *testing.T) {
	h := build(t, 120)
	h.store.before = func(commit int) {
		if commit == 1 {
			return
		}
		for _, d := range []domain.Document{&domain.Credential{ConnectionID: h.conn.ID}, &domain.DataKey{ConnectionID: h.conn.ID}} {
			if !h.gone(d) {
				t.Errorf("before commit %d the %s is still there", commit, d.Kind())
			}
		}
	}
	cert := h.erase("")
	if cert.Erased["part"] != 120 || len(h.held(h.conn)) > 0 {
		t.Errorf("erased %v, left %v", cert.Erased, h.held(h.conn))
	}
	if len(h.store.changes) < 5 {
		t.Errorf("120 parts went in %d commits", len(h.store.changes))
	}
	for i, n := range h.store.changes {
		if n > 60 {
			t.Errorf("commit %d changed %d documents", i+1, n)
		}
	}
}

// total adds up what all certificates of the connection say, and fails if a line was left behind.
func (h *house) total() map[string]int {
	h.t.Helper()
	sum := map[string]int{}
	for _, cert := range h.certificates(h.conn) {
		if err := erase.Verify(cert, h.public); err != nil {
			h.t.Errorf("an erasure was left behind, or does not verify: %+v", cert)
		}
		for kind, n := range cert.Erased {
			sum[kind] += n
		}
	}
	return sum
}

func TestDeathAtEveryCommit(t *testing.T) {
	want := map[string]map[string]int{
		"/credentials": {"challenge": 1, "credential": 1, "session": 1, "shard": 2},
		"/data":        {"challenge": 1, "data_key": 1, "part": 60, "portfolio": 2, "session": 1, "shard": 1},
		"":             {"challenge": 1, "credential": 1, "data_key": 1, "part": 60, "portfolio": 2, "session": 1, "shard": 3},
	}
	for rest, erased := range want {
		for _, applied := range []bool{false, true} {
			for commit := 1; commit <= 8; commit++ {
				t.Run(fmt.Sprintf("DELETE%s commit %d applied %v", rest, commit, applied), func(t *testing.T) {
					t.Parallel()
					h := build(t, 60)
					h.store.dieAt, h.store.applied = commit, applied
					w := h.call(h.token, "DELETE", "/v1/connections/"+string(h.conn.ID)+rest, "")
					died := w.Code == 500
					h.store.dieAt = 0
					if died && commit == 1 && !applied {
						if len(h.held(h.conn)) != 5 || len(h.store.events) > 0 {
							t.Error("nothing should have happened")
						}
						h.erase(rest)
					} else if died {
						if events := h.store.emitted(domain.TopicErasure); len(events) == 0 {
							t.Fatal("no event takes care of the rest")
						}
					}
					h.now = h.now.Add(time.Minute)
					for _, e := range h.store.emitted(domain.TopicErasure) {
						if err := h.service.Erasure(t.Context(), e); err != nil {
							t.Fatal(err)
						}
					}
					if sum := h.total(); !maps.Equal(sum, erased) {
						t.Errorf("the certificates count %v, want %v", sum, erased)
					}
					left := h.held(h.conn)
					for kind := range erased {
						if left[kind] > 0 {
							t.Errorf("%d of %s are left", left[kind], kind)
						}
					}
					if n := strings.Count(h.notices(h.conn), "erasure.completed"); n != 1 {
						t.Errorf("the client was told %d times, want once", n)
					}
				})
			}
		}
	}
}

func TestAskingAgainFinishes(t *testing.T) {
	h := build(t, 60)
	h.store.dieAt = 4
	if w := h.call(h.token, "DELETE", "/v1/connections/"+string(h.conn.ID)+"/data", ""); w.Code != 500 {
		t.Fatalf("the process did not die: %d", w.Code)
	}
	if list := h.call(h.token, "GET", "/v1/connections/"+string(h.conn.ID)+"/erasures", ""); strings.Contains(list.Body.String(), "era_") {
		t.Errorf("an erasure under way is shown as a certificate: %s", list.Body)
	}
	cert := h.erase("/data")
	if want := (map[string]int{"challenge": 1, "data_key": 1, "part": 60, "portfolio": 2, "session": 1, "shard": 1}); !maps.Equal(cert.Erased, want) {
		t.Errorf("the certificate counts %v, want %v", cert.Erased, want)
	}
	if len(h.certificates(h.conn)) != 1 {
		t.Error("there is more than the certificate")
	}
}

func TestManyAtOnce(t *testing.T) {
	h := build(t, 120)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if w := h.call(h.token, "DELETE", "/v1/connections/"+string(h.conn.ID)+"/data", ""); w.Code != 200 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	wg.Wait()
	if want := (map[string]int{"challenge": 1, "data_key": 1, "part": 120, "portfolio": 2, "session": 1, "shard": 1}); !maps.Equal(h.total(), want) {
		t.Errorf("the certificates count %v, want %v", h.total(), want)
	}
	h.get(h.conn)
	h.notices(h.conn)
}

func TestAllTwiceGivesOneCertificate(t *testing.T) {
	h := build(t, 3)
	one := h.erase("")
	two := h.erase("")
	if one.ID != two.ID || len(h.certificates(h.conn)) != 1 {
		t.Errorf("have %s and %s", one.ID, two.ID)
	}
	commits := len(h.store.changes)
	for _, e := range h.store.emitted(domain.TopicErasure) {
		if err := errors.Join(h.service.Erasure(t.Context(), e), h.service.Erasure(t.Context(), e)); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.store.changes) != commits {
		t.Error("a repeated event did something")
	}
}

func TestWhatCameLaterStays(t *testing.T) {
	h := build(t, 70)
	first := fmt.Sprintf("part_%s_%03d", h.conn.ID, 0)
	key := &domain.DataKey{ConnectionID: h.conn.ID, Wrapped: []byte("new")}
	fresh := &domain.Portfolio{ID: domain.NewID[domain.PortfolioID](h.env), ConnectionID: h.conn.ID, Number: 3}
	h.store.before = func(commit int) {
		if commit == 4 { // after the parts were listed: the bank was read anew, and one part is the same as before
			h.now = h.now.Add(time.Second)
			key.CreatedAt, fresh.RetrievedAt = h.env.Now(), h.env.Now()
			h.put(key, fresh, &domain.Part{ID: first, ConnectionID: h.conn.ID, CreatedAt: h.env.Now(), Sealed: []byte("anew")})
		}
	}
	cert := h.erase("/data")
	if cert.Erased["part"] != 69 || cert.Erased["portfolio"] != 2 {
		t.Errorf("erased %v", cert.Erased)
	}
	if h.gone(key) || h.gone(fresh) || h.gone(&domain.Part{ID: first}) {
		t.Error("what was read after the erasure is gone")
	}
}

func TestEventAfterTheConsentEnded(t *testing.T) {
	for _, state := range []domain.ConsentState{domain.ConsentRevoked, domain.ConsentExpired, domain.ConsentTerminated, domain.ConsentRejected} {
		t.Run(string(state), func(t *testing.T) {
			h := build(t, 3)
			h.consent.State, h.conn.State = state, domain.ConnectionRemoved
			h.put(h.consent, h.conn)
			event := domain.Event{Topic: domain.TopicErasure, Subject: string(h.conn.ID)}
			if err := h.service.Erasure(t.Context(), event); err != nil {
				t.Fatal(err)
			}
			certs := h.certificates(h.conn)
			if len(certs) != 1 || certs[0].Cause != "consent_"+string(state) || certs[0].Actor.Kind != domain.ActorSystem || len(h.held(h.conn)) > 0 {
				t.Errorf("have %+v, left %v", certs, h.held(h.conn))
			}
			h.get(h.consent)
			if h.consent.State != state || h.notices(h.conn) != "erasure.completed" {
				t.Errorf("the consent is %s, told is %q", h.consent.State, h.notices(h.conn))
			}
		})
	}
	t.Run("not while it is valid", func(t *testing.T) {
		h := build(t, 3)
		if err := h.service.Erasure(t.Context(), domain.Event{Subject: string(h.conn.ID)}); err != nil {
			t.Fatal(err)
		}
		if len(h.held(h.conn)) != 5 || len(h.store.changes) > 0 {
			t.Error("an event erased what a valid consent covers")
		}
	})
	t.Run("of an unknown connection", func(t *testing.T) {
		h := build(t, 0)
		if err := h.service.Erasure(t.Context(), domain.Event{Subject: "conn_none"}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestConnectionStates(t *testing.T) {
	for _, state := range []domain.ConnectionState{domain.ConnectionPending, domain.ConnectionAwaiting, domain.ConnectionBusy,
		domain.ConnectionSCA, domain.ConnectionActive, domain.ConnectionPaused, domain.ConnectionRemoved} {
		for _, rest := range []string{"/credentials", "/data", ""} {
			t.Run(string(state)+rest, func(t *testing.T) {
				h := build(t, 1)
				h.conn.State = state
				h.put(h.conn)
				h.erase(rest)
				h.get(h.conn)
				if rest == "" && h.conn.State != domain.ConnectionRemoved {
					t.Errorf("the connection is %s", h.conn.State)
				}
			})
		}
	}
}

func TestErasingIsPossibleAfterTheConsentsTimeAndInAnotherRegion(t *testing.T) {
	h := build(t, 1)
	h.now = h.now.Add(48 * time.Hour)
	h.consent.Regions = []string{"mars"}
	h.put(h.consent)
	h.erase("/data")
	h.erase("")
}

func TestInvestor(t *testing.T) {
	h := build(t, 2)
	cookie := h.visit(h.consent)
	ask := func(consent domain.ConsentID, scope string) string {
		return fmt.Sprintf(`{"consent_id":%q,"scope":%q}`, consent, scope)
	}
	open, pending := h.connect("inv-1", domain.ConsentReceived)
	others, othersConn := h.connect("inv-2", domain.ConsentValid)
	for name, c := range map[string]struct {
		cookie, body string
		status       int
		code         string
	}{
		"another investor's consent": {cookie, ask(others.ID, "all"), 404, "not_found"},
		"an unknown consent":         {cookie, ask(domain.NewID[domain.ConsentID](h.env), "all"), 404, "not_found"},
		"no consent":                 {cookie, `{"scope":"all"}`, 400, "invalid_field"},
		"no scope":                   {cookie, ask(h.consent.ID, ""), 400, "invalid_field"},
		"a scope unheard of":         {cookie, ask(h.consent.ID, "some"), 400, "invalid_field"},
		"a member unheard of":        {cookie, `{"consent":"x"}`, 400, "invalid_field"},
		"no visit":                   {strings.Repeat("x", 43), ask(h.consent.ID, "all"), 401, "visit_ended"},
	} {
		t.Run(name, func(t *testing.T) {
			w := h.call(c.cookie, "POST", "/erase", c.body)
			if w.Code != c.status || !strings.Contains(w.Body.String(), `"code":"`+c.code+`"`) {
				t.Errorf("have %d %s", w.Code, w.Body)
			}
		})
	}
	h.get(othersConn)
	if othersConn.State != domain.ConnectionActive || len(h.held(h.conn)) != 5 {
		t.Error("a refused request erased something")
	}
	cert := h.certificate(h.call(cookie, "POST", "/erase", ask(h.consent.ID, "all")))
	if cert.Actor.Kind != domain.ActorInvestor || cert.Cause != "investor_request" || len(h.held(h.conn)) > 0 {
		t.Errorf("the certificate is %+v", cert)
	}
	h.get(h.consent)
	if h.consent.State != domain.ConsentRevoked || h.notices(h.conn) != "consent.revoked erasure.completed" {
		t.Errorf("the consent is %s, told is %q", h.consent.State, h.notices(h.conn))
	}
	h.certificate(h.call(cookie, "POST", "/erase", ask(open.ID, "all")))
	h.get(open)
	h.get(pending)
	if open.State != domain.ConsentRejected || pending.State != domain.ConnectionRemoved {
		t.Errorf("an undecided consent became %s, its connection %s", open.State, pending.State)
	}
}

func TestRoles(t *testing.T) {
	h := build(t, 1)
	advisor := &domain.Advisor{ID: domain.NewID[domain.AdvisorID](h.env), ClientID: h.client.ID, State: domain.AdvisorActive}
	h.put(advisor)
	h.consent.Advisors = []domain.AdvisorID{advisor.ID}
	h.put(h.consent)
	mine := h.client
	tokens := map[string]string{"advisor": h.issue(domain.RoleAdvisor, advisor.ID), "reviewer": h.issue(domain.RoleReviewer, "")}
	h.client = &domain.Client{ID: domain.NewID[domain.ClientID](h.env), State: domain.ClientActive}
	h.put(h.client)
	tokens["foreign"] = h.issue(domain.RoleClient, "")
	h.client = mine
	path := "/v1/connections/" + string(h.conn.ID)
	for who, want := range map[string][2]int{"advisor": {403, 403}, "reviewer": {403, 200}, "foreign": {404, 404}} {
		for _, rest := range []string{"", "/data", "/credentials"} {
			if w := h.call(tokens[who], "DELETE", path+rest, ""); w.Code != want[0] {
				t.Errorf("%s: DELETE %s gives %d", who, rest, w.Code)
			}
		}
		if w := h.call(tokens[who], "GET", path+"/erasures", ""); w.Code != want[1] {
			t.Errorf("%s: GET erasures gives %d", who, w.Code)
		}
	}
	if len(h.held(h.conn)) != 5 {
		t.Error("a refused request erased something")
	}
}

// TestListHasTheKeys: the newest version of the key signs, and older certificates find theirs beside it.
func TestListHasTheKeys(t *testing.T) {
	h := build(t, 1)
	h.erase("/credentials")
	newer := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))
	h.now = h.now.Add(time.Second)
	h.signers, h.public = append(h.signers, newer), newer.Public().(ed25519.PublicKey)
	h.erase("/data")
	w := h.call(h.token, "GET", "/v1/connections/"+string(h.conn.ID)+"/erasures", "")
	var page struct {
		Data []domain.Erasure  `json:"data"`
		Keys []jose.JSONWebKey `json:"keys"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Data) != 2 || len(page.Keys) != 2 {
		t.Fatalf("the list is %s", w.Body)
	}
	for i, cert := range page.Data { // both are newest first
		key := page.Keys[i]
		thumb, err := key.Thumbprint(crypto.SHA256)
		if err != nil || key.KeyID != cert.KeyID || key.KeyID != base64.RawURLEncoding.EncodeToString(thumb) {
			t.Errorf("certificate %d names %s, and the key is %s: %v", i, cert.KeyID, key.KeyID, err)
		}
		if err := erase.Verify(cert, key.Key.(ed25519.PublicKey)); err != nil {
			t.Errorf("a listed certificate does not verify: %v", err)
		}
	}
}

func TestVerifyRefusesWhatWasAltered(t *testing.T) {
	h := build(t, 1)
	good := h.erase("/data")
	for name, alter := range map[string]func(*domain.Erasure){
		"id":            func(c *domain.Erasure) { c.ID += "0" },
		"client":        func(c *domain.Erasure) { c.ClientID = "cli_x" },
		"consent":       func(c *domain.Erasure) { c.ConsentID = "con_x" },
		"connection":    func(c *domain.Erasure) { c.ConnectionID = "conn_x" },
		"scope":         func(c *domain.Erasure) { c.Scope = domain.EraseAll },
		"cause":         func(c *domain.Erasure) { c.Cause = "x" },
		"actor":         func(c *domain.Erasure) { c.Actor.ID = "x" },
		"count":         func(c *domain.Erasure) { c.Erased["part"]++ },
		"time":          func(c *domain.Erasure) { c.ErasedAt = c.ErasedAt.Add(time.Millisecond) },
		"backups":       func(c *domain.Erasure) { c.BackupsUntil = c.ErasedAt },
		"key":           func(c *domain.Erasure) { c.KeyID = "other" },
		"signature":     func(c *domain.Erasure) { c.Signature = bytes.Clone(c.Signature); c.Signature[0] ^= 1 },
		"no signature":  func(c *domain.Erasure) { c.Signature = nil },
		"cut signature": func(c *domain.Erasure) { c.Signature = c.Signature[:63] },
	} {
		t.Run(name, func(t *testing.T) {
			cert := good
			cert.Erased = maps.Clone(good.Erased)
			alter(&cert)
			if err := erase.Verify(cert, h.public); !errors.Is(err, erase.ErrSignature) {
				t.Errorf("have %v", err)
			}
		})
	}
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	for name, key := range map[string]ed25519.PublicKey{"another key": other, "no key": nil, "half a key": h.public[:16]} {
		if err := erase.Verify(good, key); !errors.Is(err, erase.ErrSignature) {
			t.Errorf("%s: have %v", name, err)
		}
	}
	if err := erase.Verify(good, h.public); err != nil {
		t.Error(err)
	}
}
