package erase_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluis.internal/functions/erase"
	"sluis.internal/shared/domain"
)

// TestNoCertificateWhileABankSessionIsOpen: what was to be erased opens no more at once, but no certificate is signed while
// a way into the bank still lies sealed; it is, by itself, once extraction has closed it, or the bank has forgotten it.
func TestNoCertificateWhileABankSessionIsOpen(t *testing.T) {
	for _, rest := range []string{"/credentials", "/data", ""} {
		for _, closed := range []bool{true, false} {
			t.Run(fmt.Sprintf("DELETE%s closed %v", rest, closed), func(t *testing.T) {
				h := build(t, 3)
				h.store.away = true
				w := h.call(h.token, "DELETE", "/v1/connections/"+string(h.conn.ID)+rest, "")
				if w.Code != http.StatusAccepted || !strings.HasSuffix(w.Header().Get("Location"), "/erasures") || !strings.Contains(w.Body.String(), "bank_session") {
					t.Fatalf("it answers %d %s", w.Code, w.Body)
				}
				session := &domain.Session{ID: h.conn.SessionID}
				h.get(session)
				if _, err := h.shards.Get(t.Context(), session.Shard); err != nil {
					t.Errorf("the state can no longer be opened to close it at the bank: %v", err)
				}
				if len(h.shards.IDs()) != map[string]int{"/credentials": 2, "/data": 2, "": 1}[rest] {
					t.Error("other shards wait for the bank")
				}
				event := domain.Event{Topic: domain.TopicErasure, Subject: string(h.conn.ID)}
				if err := h.service.Erasure(t.Context(), event); domain.KindOf(err) != domain.Unavailable {
					t.Errorf("the event is over: %v", err)
				}
				if strings.Contains(h.notices(h.conn), "erasure.completed") {
					t.Error("the client is told that it is complete")
				}
				h.now = h.now.Add(domain.BankSession)
				if closed {
					h.now = h.now.Add(time.Minute - domain.BankSession)
					h.store.closeBank(t.Context(), session.ID)
				}
				if err := h.service.Erasure(t.Context(), event); err != nil {
					t.Fatal(err)
				}
				h.get(session)
				certs := h.certificates(h.conn)
				if len(certs) != 1 || erase.Verify(certs[0], h.public) != nil || certs[0].Erased["session"] != 1 || len(session.Sealed) > 0 {
					t.Errorf("the certificates are %+v, the state %q", certs, session.Sealed)
				}
			})
		}
	}
}

// TestDeathAtEveryShard dies before and after each destruction: it completes, and counts each shard once.
func TestDeathAtEveryShard(t *testing.T) {
	for _, point := range []string{"destroy", "destroyed"} {
		for n := 1; n <= 3; n++ {
			t.Run(fmt.Sprintf("%s %d", point, n), func(t *testing.T) {
				h := build(t, 3)
				seen := 0
				h.shards.Fault = func(at string, _ domain.ShardID) error {
					if at != point {
						return nil
					}
					if seen++; seen == n {
						return errors.New("the process died")
					}
					return nil
				}
				if w := h.call(h.token, "DELETE", "/v1/connections/"+string(h.conn.ID), ""); w.Code != 500 {
					t.Fatalf("it answers %d %s", w.Code, w.Body)
				}
				if len(h.certificates(h.conn)) != 1 || len(h.certificates(h.conn)[0].Signature) > 0 {
					t.Error("it is signed before the shards are destroyed")
				}
				if err := h.service.Erasure(t.Context(), domain.Event{Topic: domain.TopicErasure, Subject: string(h.conn.ID)}); err != nil {
					t.Fatal(err)
				}
				if sum := h.total(); sum["shard"] != 3 || len(h.shards.IDs()) > 0 {
					t.Errorf("the certificates count %v, left are %v", sum, h.shards.IDs())
				}
			})
		}
	}
}

// TestReplacedAndAnnounced: the shards of a credential that was replaced, and those that were announced for one that is
// still to come, are destroyed before the certificate is signed; and whoever comes with the latter begins again.
func TestReplacedAndAnnounced(t *testing.T) {
	h := build(t, 3)
	replaced, announced := h.shard(), h.shard()
	loose := func(id domain.ShardID, doomed bool) {
		err := h.store.Store.Commit(t.Context(), func(tx domain.Tx) error {
			return errors.Join(domain.LoosenShard(h.env, tx, h.conn.Binding(), domain.ShardCredential, id, doomed),
				tx.Record(domain.Note(h.env, "test", "laid", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "test", nil)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	loose(replaced, true)
	loose(announced, false)
	cert := h.erase("")
	if cert.Erased["shard"] != 5 || len(h.shards.IDs()) > 0 {
		t.Errorf("destroyed %v, left %v", cert.Erased, h.shards.IDs())
	}
	err := h.store.Store.Commit(t.Context(), func(tx domain.Tx) error { return domain.TakeShards(tx, announced) })
	if domain.CodeOf(err) != "erased_meanwhile" {
		t.Errorf("a shard that was destroyed is taken: %v", err)
	}
}

// TestCertificateSaysWhatIsTrueOfCopies.
func TestCertificateSaysWhatIsTrueOfCopies(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		copies            erase.Copies
		readable, backups time.Duration
	}{
		{erase.Copies{}, 0, 0},
		{erase.Copies{Backups: 7 * day}, 0, 7 * day},
		{erase.Copies{Backups: 7 * day, Memory: 10 * time.Minute}, 10 * time.Minute, 7 * day},
		{erase.Copies{Shards: 3 * day, Memory: 10 * time.Minute}, 3 * day, 0},
	} {
		h := build(t, 1)
		h.service.Copies = c.copies
		cert := h.erase("")
		for what, x := range map[string]struct {
			have domain.Time
			want time.Duration
		}{"readable_until": {cert.ReadableUntil, c.readable}, "backups_until": {cert.BackupsUntil, c.backups}} {
			if x.want == 0 && !x.have.IsZero() || x.want > 0 && !x.have.Equal(h.now.Add(x.want)) {
				t.Errorf("%+v: %s is %v", c.copies, what, x.have)
			}
		}
	}
}
