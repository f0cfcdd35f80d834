package consent

import (
	"context"
	"net/http"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

func TestLinksByPurpose(t *testing.T) {
	for _, purpose := range []domain.LinkUse{domain.LinkConsent, domain.LinkReconnect, domain.LinkManage} {
		t.Run(string(purpose), func(t *testing.T) {
			h := newHome(t)
			id, _ := h.ask(asked)
			if purpose == domain.LinkReconnect {
				id, _ = h.granted(asked)
			}
			r := h.call(http.StatusCreated, "POST", "/v1/consents/"+string(id)+"/links", `{"purpose":"`+string(purpose)+`"}`)
			if r.text("purpose") != string(purpose) || r.text("expires_at") != "2026-03-04T12:00:00.000Z" || len(r.body) != 3 {
				t.Errorf("got %s", r.raw)
			}
			if v := h.visit(tokenOf(t, r)); v.Purpose != purpose || v.ConsentID != id {
				t.Errorf("visit %+v", v)
			}
			if e := h.wantEntry("link.created", domain.OutcomeAllowed, ""); e.Data.Details["purpose"] != string(purpose) {
				t.Errorf("entry %+v", e)
			}
		})
	}
	h := newHome(t)
	id, _ := h.ask(asked)
	for _, body := range []string{`{}`, ``, `{"purpose":"login"}`} {
		if r := h.as(h.key, "POST", "/v1/consents/"+string(id)+"/links", body); r.status != http.StatusBadRequest || r.text("field") != "/purpose" {
			t.Errorf("%s: %d %s", body, r.status, r.raw)
		}
	}
}

// Only one invitation to decide is open at a time; links to manage or reconnect live side by side.
func TestNewLinkVoidsTheOlderInvitation(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		purpose string
		voids   bool
	}{{"consent", true}, {"manage", false}} {
		t.Run(c.purpose, func(t *testing.T) {
			h := newHome(t)
			id, first := h.ask(asked)
			if !c.voids {
				first = tokenOf(t, h.call(http.StatusCreated, "POST", "/v1/consents/"+string(id)+"/links", `{"purpose":"manage"}`))
			}
			var tokens []string
			for range 3 {
				tokens = append(tokens, tokenOf(t, h.call(http.StatusCreated, "POST", "/v1/consents/"+string(id)+"/links", `{"purpose":"`+c.purpose+`"}`)))
			}
			for _, token := range []string{first, tokens[0], tokens[1]} {
				_, _, err := h.Redeem(ctx, token, browser, "")
				if c.voids {
					wantCode(t, err, domain.Gone, "link_used")
				} else if err != nil {
					t.Error(err)
				}
			}
			if _, _, err := h.Redeem(ctx, tokens[2], browser, ""); err != nil {
				t.Errorf("the newest link: %v", err)
			}
		})
	}
}

// The pointer to the newest invitation ends with it, lies where sweep finds it, and is no link itself.
func TestPointerToTheNewestInvitation(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	id, token := h.ask(asked)
	links, _, err := domain.List[domain.Link](ctx, h.store, domain.Query{Index: "expired_links", To: "2026-03-04T12:00:00.001Z"})
	if err != nil || len(links) != 2 {
		t.Fatalf("%d links end in three days, want the link and its pointer: %v", len(links), err)
	}
	for _, l := range links {
		if l.ConsentID != id || l.Key() != domain.HashToken(token) && l.Key() != "latest-"+string(id) {
			t.Errorf("link %+v", l)
		}
	}
	for _, guess := range []string{"latest-" + string(id), string(id), ""} {
		_, _, _, err := h.Peek(ctx, guess, browser)
		wantCode(t, err, domain.Gone, "link_used")
	}
	e := operatorNote(h.Env, "test.swept", h.client.ID, "links") // both swept: a new link begins anew
	err = h.store.Commit(ctx, func(tx domain.Tx) error { tx.Delete(&links[0]); tx.Delete(&links[1]); return tx.Record(e) })
	if err != nil {
		t.Fatal(err)
	}
	h.pass(domain.LinkLife + time.Second)
	fresh := tokenOf(t, h.call(http.StatusCreated, "POST", "/v1/consents/"+string(id)+"/links", `{"purpose":"consent"}`))
	if _, _, err := h.Redeem(ctx, fresh, browser, ""); err != nil {
		t.Error(err)
	}
}

func TestTokensDependOnEverything(t *testing.T) {
	h := newHome(t)
	seen := map[string]bool{}
	for _, id := range []domain.ConsentID{"con_1", "con_2"} {
		for _, purpose := range []domain.LinkUse{domain.LinkConsent, domain.LinkManage} {
			for _, nonce := range []string{"a", "b"} {
				token := h.token(id, purpose, nonce)
				if seen[token] || len(token) != tokenLength || token != h.token(id, purpose, nonce) {
					t.Errorf("token of %s %s %s", id, purpose, nonce)
				}
				seen[token] = true
			}
		}
	}
	h.LinkKey = domain.NewSecret([]byte("another key of thirty-two bytes!"))
	if seen[h.token("con_1", domain.LinkConsent, "a")] {
		t.Error("another key makes the same token")
	}
}
