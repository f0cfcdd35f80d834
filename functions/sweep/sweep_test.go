package sweep_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/functions/sweep"
	"sluis.internal/shared/domain"
)

func TestExpiry(t *testing.T) {
	for _, c := range []struct {
		name  string
		state domain.ConsentState
		conn  domain.ConnectionState
		left  time.Duration
		ends  bool
	}{
		{"valid, over", domain.ConsentValid, domain.ConnectionActive, 0, true},
		{"valid, long over", domain.ConsentValid, domain.ConnectionPaused, -time.Hour, true},
		{"valid, a millisecond left", domain.ConsentValid, domain.ConnectionActive, time.Millisecond, false},
		{"undecided, over", domain.ConsentReceived, domain.ConnectionPending, 0, true},
		{"undecided, time left", domain.ConsentReceived, domain.ConnectionPending, time.Hour, false},
		{"revoked, over", domain.ConsentRevoked, domain.ConnectionRemoved, -time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := build(t)
			consent, conn := h.connect()
			consent.State, consent.ExpiresAt = c.state, h.env.Now().Add(c.left)
			conn.State, conn.NextRefreshAt = c.conn, domain.Time{}
			h.put(consent, conn)
			for range 2 { // the second sweep finds nothing to do
				h.sweep()
			}
			h.get(consent)
			h.get(conn)
			if ended := consent.State == domain.ConsentExpired; ended != c.ends {
				t.Fatalf("the consent is %s", consent.State)
			}
			erasures, notices := h.store.emitted(domain.TopicErasure), h.store.emitted(domain.TopicNotice)
			if !c.ends {
				if len(erasures)+len(notices) > 0 {
					t.Error("something was emitted")
				}
				return
			}
			if conn.State != domain.ConnectionRemoved || conn.Reason != domain.ReasonConsentEnded || conn.Sequence != 1 {
				t.Errorf("the connection is %+v", conn)
			}
			if len(notices) != 1 || len(erasures) != count(c.state == domain.ConsentValid) { // what was never granted left nothing
				t.Errorf("emitted %v and %v", erasures, notices)
			}
			if len(erasures) > 0 && (erasures[0].Subject != string(conn.ID) || erasures[0].Custodian != "sandbox") {
				t.Errorf("emitted %v", erasures)
			}
			notice := &domain.Notice{ID: domain.NoticeID(notices[0].Subject)}
			h.get(notice)
			if notice.Type != domain.NoticeConsentExpired || len(h.entries("consent.expired")) != 1 {
				t.Errorf("the notice is %+v", notice)
			}
		})
	}
}

func TestRefreshes(t *testing.T) {
	for _, c := range []struct {
		name                  string
		lay                   func(*house, *domain.Consent, *domain.Connection)
		queued, stopped, next bool // next: the schedule goes on
	}{
		{"due", func(*house, *domain.Consent, *domain.Connection) {}, true, false, true},
		{"not due yet", func(h *house, _ *domain.Consent, c *domain.Connection) {
			c.NextRefreshAt = h.env.Now().Add(time.Millisecond)
		}, false, false, true},
		{"paused", func(_ *house, _ *domain.Consent, c *domain.Connection) { c.State = domain.ConnectionPaused }, false, false, true},
		{"consent revoked", func(_ *house, c *domain.Consent, _ *domain.Connection) { c.State = domain.ConsentRevoked }, false, true, false},
		{"consent of another custodian", func(_ *house, c *domain.Consent, _ *domain.Connection) { c.Custodian = "other" }, false, true, false},
		{"consent for another region", func(_ *house, c *domain.Consent, _ *domain.Connection) { c.Regions = []string{"mars"} }, false, true, false},
		{"one-off consent", func(_ *house, c *domain.Consent, _ *domain.Connection) { c.Access = domain.AccessOnce }, false, true, false},
		{"no credential", func(h *house, _ *domain.Consent, c *domain.Connection) {
			h.delete(&domain.Credential{ConnectionID: c.ID})
		}, false, true, false},
		{"credential refused", func(h *house, _ *domain.Consent, c *domain.Connection) {
			h.put(&domain.Credential{ConnectionID: c.ID, State: domain.CredentialRefused})
		}, false, true, false},
		{"client suspended", func(h *house, _ *domain.Consent, _ *domain.Connection) {
			h.client.State = domain.ClientSuspended
			h.put(h.client)
		}, false, false, true},
		{"session under way", func(h *house, _ *domain.Consent, c *domain.Connection) {
			s := &domain.Session{ID: domain.NewID[domain.SessionID](h.env), State: domain.SessionRunning, ExpiresAt: h.env.Now().Add(time.Hour)}
			c.SessionID = s.ID
			h.put(s)
		}, false, false, true},
		{"session ended", func(h *house, _ *domain.Consent, c *domain.Connection) {
			s := &domain.Session{ID: domain.NewID[domain.SessionID](h.env), State: domain.SessionFailed, ExpiresAt: h.env.Now().Add(time.Hour)}
			c.SessionID = s.ID
			h.put(s)
		}, true, false, true},
		{"session long gone", func(h *house, _ *domain.Consent, c *domain.Connection) {
			c.SessionID = domain.NewID[domain.SessionID](h.env)
		}, true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := build(t)
			consent, conn := h.connect()
			c.lay(h, consent, conn)
			h.put(consent, conn)
			before := conn.SessionID
			first, second := h.sweep(), h.sweep()
			if first.Refreshes+second.Refreshes != count(c.queued) || first.Stopped+second.Stopped != count(c.stopped) {
				t.Errorf("reports are %+v and %+v", first, second)
			}
			h.get(conn)
			if going := !conn.NextRefreshAt.IsZero(); going != c.next {
				t.Errorf("the next reading is at %v", conn.NextRefreshAt)
			}
			events := h.store.emitted(domain.TopicSession)
			if len(events) != count(c.queued) {
				t.Fatalf("emitted %v", events)
			}
			if !c.queued {
				if conn.SessionID != before {
					t.Error("the connection has another session")
				}
				return
			}
			s := &domain.Session{ID: conn.SessionID}
			h.get(s)
			if s.State != domain.SessionQueued || s.Cause != domain.CauseScheduled || s.ConsentID != consent.ID ||
				events[0].Subject != string(s.ID) || events[0].Custodian != "sandbox" || s.Attended() {
				t.Errorf("session %+v, event %+v", s, events[0])
			}
		})
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestRefusalsAreRecorded(t *testing.T) {
	h := build(t)
	consent, _ := h.connect()
	consent.State = domain.ConsentRevoked
	h.put(consent)
	h.sweep()
	denied := h.entries("refresh.scheduled")
	if len(denied) != 1 || denied[0].Data.Outcome != domain.OutcomeDenied || denied[0].Data.Reason != "consent_revoked" {
		t.Errorf("recorded %+v", denied)
	}
	if stopped := h.entries("schedule.stopped"); len(stopped) != 1 || stopped[0].Data.Details["reason"] != "consent_revoked" {
		t.Errorf("recorded %+v", stopped)
	}
}

func TestRefreshesAreSpread(t *testing.T) {
	h := build(t)
	for range 20 {
		h.connect()
	}
	h.sweep()
	var at []time.Duration
	for _, e := range h.store.emitted(domain.TopicSession) {
		at = append(at, e.NotBefore.Sub(h.env.Now()))
	}
	slices.Sort(at)
	if len(at) != 20 || at[0] != 0 || at[19] != 19*250*time.Millisecond {
		t.Errorf("sessions begin after %v", at)
	}
}

// TestClientsTakeTurns has a thousand readings of one client due, for long, and three of another: a sweep queues as many
// as begin until the next one, and among them are the three.
func TestClientsTakeTurns(t *testing.T) {
	h := build(t)
	h.service.Every, h.service.Pace = 10*time.Second, 100*time.Millisecond
	first := h.client
	var flood []domain.Document
	for range 1000 {
		consent, conn := h.made()
		conn.NextRefreshAt = h.env.Now().Add(-time.Hour)
		flood = append(flood, consent, conn)
	}
	h.put(flood...)
	h.client = &domain.Client{ID: domain.NewID[domain.ClientID](h.env), State: domain.ClientActive}
	h.put(h.client)
	few := map[string]*domain.Connection{}
	for range 3 {
		_, conn := h.connect()
		few[string(conn.ID)] = conn
	}
	if r := h.sweep(); r.Refreshes != 101 || r.More {
		t.Errorf("the report is %+v", r)
	}
	for id, conn := range few {
		if h.get(conn); conn.SessionID == "" {
			t.Errorf("%s waits behind a thousand of another client", id)
		}
	}
	lanes, last := map[string]int{}, time.Duration(0)
	for _, e := range h.store.emitted(domain.TopicSession) {
		lanes[e.Lane]++
		last = max(last, e.NotBefore.Sub(h.env.Now()))
	}
	if lanes[string(first.ID)] != 98 || lanes[string(h.client.ID)] != 3 || last != 10*time.Second {
		t.Errorf("the lanes are %v, and the last begins after %v", lanes, last)
	}
}

// TestBrokenOnesDoNotHoldUp has a client's first due connections fail, sweep after sweep.
func TestBrokenOnesDoNotHoldUp(t *testing.T) {
	h := build(t)
	h.service.Every, h.service.Pace = 10*time.Second, time.Second
	for range 50 {
		_, conn := h.made()
		conn.NextRefreshAt = h.env.Now().Add(-time.Hour)
		h.put(conn) // without its consent
	}
	h.connect()
	if r, err := h.service.Sweep(t.Context()); err == nil || r.Refreshes != 1 {
		t.Errorf("the report is %+v, %v", r, err)
	}
}

func TestSessionThatSetsNothingIsLookedAtAgain(t *testing.T) {
	h := build(t)
	_, conn := h.connect()
	h.sweep()
	h.now = h.now.Add(2 * time.Hour)
	if r := h.sweep(); r.Refreshes != 0 {
		t.Error("a second session was queued beside the first")
	}
	h.get(conn)
	s := &domain.Session{ID: conn.SessionID}
	h.get(s)
	s.State = domain.SessionFailed
	h.put(s)
	h.now = h.now.Add(2 * time.Hour)
	if r := h.sweep(); r.Refreshes != 1 {
		t.Error("the schedule stood still")
	}
}

func TestSweepsAtOnceDoEverythingOnce(t *testing.T) {
	h := build(t)
	for range 5 {
		h.connect()
		consent, conn := h.connect()
		consent.ExpiresAt, conn.NextRefreshAt = h.env.Now(), domain.Time{}
		h.put(consent, conn)
		h.put(&domain.Link{Hash: string(domain.NewID[domain.EventID](h.env)), ExpiresAt: h.env.Now()})
	}
	var wg sync.WaitGroup
	reports := make([]sweep.Report, 4)
	for i := range reports {
		wg.Go(func() { reports[i] = h.sweep() })
	}
	wg.Wait()
	var refreshes, expired, links int
	for _, r := range reports {
		refreshes, expired, links = refreshes+r.Refreshes, expired+r.Expired, links+r.Deleted["link"]
	}
	if refreshes != 5 || expired != 5 || links != 5 {
		t.Errorf("done were %d refreshes, %d expiries, %d links; want 5 of each", refreshes, expired, links)
	}
	if n := len(h.store.emitted(domain.TopicSession)); n != 5 {
		t.Errorf("%d sessions were emitted", n)
	}
	if n := len(h.store.emitted(domain.TopicErasure)); n != 5 {
		t.Errorf("%d erasures were emitted", n)
	}
}

// mortals gives one document of each kind that ends by itself.
func mortals(h *house, ends domain.Time) []domain.Document {
	return []domain.Document{
		&domain.Link{Hash: string(domain.NewID[domain.EventID](h.env)), ExpiresAt: ends},
		&domain.Visit{Hash: string(domain.NewID[domain.EventID](h.env)), ExpiresAt: ends},
		&domain.Session{ID: domain.NewID[domain.SessionID](h.env), ExpiresAt: ends},
		&domain.Challenge{ID: domain.NewID[domain.ChallengeID](h.env), ExpiresAt: ends},
		&domain.Notice{ID: domain.NewID[domain.NoticeID](h.env), ExpiresAt: ends},
		&domain.Delivery{ID: domain.NewID[domain.DeliveryID](h.env), ExpiresAt: ends},
		&domain.Pace{ID: string(domain.NewID[domain.EventID](h.env)), ExpiresAt: ends},
		&domain.Once{ID: string(domain.NewID[domain.EventID](h.env)), ExpiresAt: ends},
		&domain.BankAccess{ID: domain.AccessKey(domain.NewID[domain.EventID](h.env)), ExpiresAt: ends},
	}
}

func TestRetention(t *testing.T) {
	h := build(t)
	over, living := mortals(h, h.env.Now()), mortals(h, h.env.Now().Add(time.Millisecond))
	h.put(over...)
	h.put(living...)
	if len(h.service.Lives) != len(over) {
		t.Fatalf("%d kinds end by themselves, the test knows %d", len(h.service.Lives), len(over))
	}
	r := h.sweep()
	for i := range over {
		if !h.gone(over[i]) || r.Deleted[over[i].Kind()] != 1 {
			t.Errorf("the %s that has ended is still there", over[i].Kind())
		}
		if h.gone(living[i]) {
			t.Errorf("the %s that lives is gone", living[i].Kind())
		}
	}
	if n := len(h.entries("retention.applied")); n != len(over) {
		t.Errorf("%d batches are recorded, want %d", n, len(over))
	}
}

func TestRetentionInBatches(t *testing.T) {
	h := build(t)
	for range 3 {
		var docs []domain.Document
		for range 150 {
			docs = append(docs, &domain.Notice{ID: domain.NewID[domain.NoticeID](h.env), ExpiresAt: h.env.Now()})
		}
		h.put(docs...)
	}
	if r := h.sweep(); r.Deleted["notice"] != 450 || r.More {
		t.Errorf("the report is %+v", r)
	}
	sum := 0
	for _, e := range h.entries("retention.applied") {
		var n int
		if _, err := fmt.Sscan(e.Data.Details["count"], &n); err != nil || n > 200 {
			t.Errorf("a batch of %q", e.Data.Details["count"])
		}
		sum += n
	}
	if sum != 450 {
		t.Errorf("the audit log counts %d", sum)
	}
}

func TestProlongedLifeIsSpared(t *testing.T) {
	h := build(t)
	d := &domain.Delivery{ID: domain.NewID[domain.DeliveryID](h.env), ExpiresAt: h.env.Now()}
	h.put(d)
	h.store.before = func() {
		d.ExpiresAt = h.env.Now().Add(time.Hour)
		h.put(d)
	}
	h.sweep()
	if h.gone(d) {
		t.Error("a delivery that was prolonged meanwhile is gone")
	}
}

func TestUnknownKindIsAnError(t *testing.T) {
	h := build(t)
	h.service.Lives = append(h.service.Lives, domain.Index{Of: "consent", Name: "consents_by_client"})
	link := &domain.Link{Hash: "l", ExpiresAt: h.env.Now()}
	h.put(link)
	if _, err := h.service.Sweep(t.Context()); err == nil {
		t.Error("an unknown kind was swept")
	}
	if !h.gone(link) {
		t.Error("the others were held up")
	}
}

// version stores a version of conn that names parts of transactions and orders.
func (h *house) version(conn *domain.Connection, ends domain.Time, transactions, orders []string) *domain.Portfolio {
	conn.Versions++
	p := &domain.Portfolio{ID: domain.NewID[domain.PortfolioID](h.env), ClientID: conn.ClientID, ConsentID: conn.ConsentID,
		ConnectionID: conn.ID, Number: conn.Versions, ExpiresAt: ends, SweepAt: ends, Products: map[domain.Product]domain.ProductStatus{
			domain.ProductTransactions: {State: domain.ProductComplete, Count: 9, Parts: transactions},
			domain.ProductOrders:       {State: domain.ProductComplete, Count: 9, Parts: orders}}}
	conn.PortfolioID = p.ID
	h.put(p, conn)
	for _, id := range slices.Concat(transactions, orders) {
		h.put(&domain.Part{ID: id, ClientID: conn.ClientID, ConsentID: conn.ConsentID, ConnectionID: conn.ID})
	}
	return p
}

func (h *house) parts(conn *domain.Connection) (ids []string) {
	h.t.Helper()
	all, _, err := domain.List[domain.Part](h.t.Context(), h.store, domain.Query{Index: "parts_by_connection", Match: []string{string(conn.ID)}, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range all {
		ids = append(ids, p.ID)
	}
	return ids
}

func TestEndedVersionsGoWithTheirParts(t *testing.T) {
	h := build(t)
	_, conn := h.connect()
	conn.NextRefreshAt = domain.Time{}
	_, other := h.connect()
	other.NextRefreshAt = domain.Time{}
	h.version(other, domain.Time{}, []string{"x"}, nil)
	one := h.version(conn, h.env.Now(), []string{"a", "b"}, []string{"c"})
	two := h.version(conn, h.env.Now().Add(time.Hour), []string{"b"}, []string{"d"})
	three := h.version(conn, domain.Time{}, []string{"e"}, []string{"d"})
	r := h.sweep()
	if !h.gone(one) || h.gone(two) || h.gone(three) || fmt.Sprint(h.parts(conn)) != "[b d e]" || fmt.Sprint(h.parts(other)) != "[x]" {
		t.Errorf("left are %v and %v", h.parts(conn), h.parts(other))
	}
	if r.Deleted["portfolio"] != 1 || r.Deleted["part"] != 2 {
		t.Errorf("the report is %+v", r)
	}
	h.now = h.now.Add(time.Hour)
	h.sweep()
	if fmt.Sprint(h.parts(conn)) != "[d e]" {
		t.Errorf("left are %v", h.parts(conn))
	}
	if again := h.sweep(); len(again.Deleted) > 0 {
		t.Errorf("a third sweep did %+v", again)
	}
}

func TestManyParts(t *testing.T) {
	h := build(t)
	_, conn := h.connect()
	conn.NextRefreshAt = domain.Time{}
	var ids []string
	for i := range 130 {
		ids = append(ids, fmt.Sprintf("p%03d", i))
	}
	h.version(conn, h.env.Now(), ids, nil)
	h.version(conn, domain.Time{}, ids[:3], nil)
	if r := h.sweep(); r.Deleted["part"] != 127 || len(h.parts(conn)) != 3 {
		t.Errorf("the report is %+v, left are %v", r, h.parts(conn))
	}
}

func TestNothingIsCollectedUnderARunningSession(t *testing.T) {
	h := build(t)
	_, conn := h.connect()
	conn.NextRefreshAt = domain.Time{}
	old := h.version(conn, h.env.Now(), []string{"a"}, nil)
	h.version(conn, domain.Time{}, []string{"b"}, nil)
	s := &domain.Session{ID: domain.NewID[domain.SessionID](h.env), State: domain.SessionQueued, ExpiresAt: h.env.Now().Add(time.Hour)}
	conn.SessionID = s.ID
	h.put(s, conn)
	h.store.before = func() { s.State = domain.SessionRunning; h.put(s) }
	h.sweep()
	if len(h.parts(conn)) != 2 || h.gone(old) {
		t.Fatal("parts were deleted under a running session")
	}
	s.State = domain.SessionComplete
	h.put(s)
	h.store.before = func() { conn.Versions++; h.put(conn) } // a version came after the listing
	h.sweep()
	if len(h.parts(conn)) != 2 || h.gone(old) {
		t.Fatal("parts were deleted by a listing that was old")
	}
	h.sweep()
	if fmt.Sprint(h.parts(conn)) != "[b]" || !h.gone(old) {
		t.Errorf("left are %v", h.parts(conn))
	}
}

// TestPartsLetGoByALivingVersion: parts that a version let go are deleted at once, though the version lives on, unless
// another needs them; nobody reads them for that, and nothing is done twice.
func TestPartsLetGoByALivingVersion(t *testing.T) {
	h := build(t)
	_, conn := h.connect()
	conn.NextRefreshAt = domain.Time{}
	old := h.version(conn, h.env.Now().Add(time.Hour), []string{"a", "c"}, []string{"b"})
	h.version(conn, domain.Time{}, []string{"c"}, []string{"d"})
	status := old.Products[domain.ProductTransactions]
	old.LetGo, status.Parts = status.Parts, nil // only the latest version of transactions may be kept, orders have a history
	old.Products[domain.ProductTransactions], old.SweepAt = status, h.env.Now()
	h.put(old)
	h.service.Store = broken{h.store, "parts_by_connection"}
	if r := h.sweep(); fmt.Sprint(h.parts(conn)) != "[b c d]" || h.gone(old) || r.Deleted["part"] != 1 || r.Deleted["portfolio"] != 0 {
		t.Errorf("left are %v, the report is %+v", h.parts(conn), r)
	}
	kept := &domain.Portfolio{ID: old.ID}
	if err := h.store.Get(t.Context(), kept); err != nil || !kept.SweepAt.Equal(kept.ExpiresAt.Time) {
		t.Errorf("sweep looks again at %v, and it ends at %v: %v", kept.SweepAt, kept.ExpiresAt, err)
	}
	if r := h.sweep(); len(r.Deleted) > 0 {
		t.Errorf("a second sweep did %+v", r)
	}
	h.now = h.now.Add(time.Hour)
	if r := h.sweep(); fmt.Sprint(h.parts(conn)) != "[c d]" || !h.gone(old) || r.Deleted["part"] != 1 {
		t.Errorf("left are %v, the report is %+v", h.parts(conn), r)
	}
}

// TestPartsOfNoVersion: what a reading that broke off has stored goes before the next one that is due.
func TestPartsOfNoVersion(t *testing.T) {
	h := build(t)
	_, conn := h.connect()
	h.version(conn, h.env.Now().Add(time.Hour), []string{"a"}, nil)
	h.version(conn, domain.Time{}, []string{"b"}, nil)
	for i := range 60 {
		h.put(&domain.Part{ID: fmt.Sprintf("loose%02d", i), ClientID: conn.ClientID, ConsentID: conn.ConsentID, ConnectionID: conn.ID})
	}
	conn.Staged = true
	h.put(conn)
	r := h.sweep()
	if fmt.Sprint(h.parts(conn)) != "[a b]" || r.Deleted["part"] != 60 || r.Refreshes != 1 {
		t.Errorf("left are %v, the report is %+v", h.parts(conn), r)
	}
	if err := h.store.Get(t.Context(), conn); err != nil || conn.Staged {
		t.Errorf("it would be looked at again: %v", err)
	}

	_, asked := h.connect() // and of one that is read when its client asks only, with the next version that ends
	asked.NextRefreshAt, asked.Staged = domain.Time{}, true
	h.version(asked, h.env.Now(), []string{"c"}, nil)
	h.version(asked, domain.Time{}, []string{"d"}, nil)
	h.put(&domain.Part{ID: "loose", ClientID: asked.ClientID, ConsentID: asked.ConsentID, ConnectionID: asked.ID})
	if r := h.sweep(); fmt.Sprint(h.parts(asked)) != "[d]" || r.Deleted["part"] != 2 {
		t.Errorf("left are %v, the report is %+v", h.parts(asked), r)
	}
}

// dying is a store whose commit of a number, counted from 1, fails, though it may have taken effect, and all after it.
type dying struct {
	domain.Store
	at, commits int
	applied     bool
}

func (d *dying) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	d.commits++
	if d.commits < d.at || d.commits == d.at && d.applied {
		if err := d.Store.Commit(ctx, fn); err != nil || d.commits < d.at {
			return err
		}
	}
	return errors.New("the process died")
}

// TestSweepThatDies: a sweep that breaks off at any commit is carried on by the next, which leaves what the first would have.
func TestSweepThatDies(t *testing.T) {
	for _, applied := range []bool{false, true} {
		for at := 1; ; at++ {
			h := build(t)
			_, conn := h.connect()
			conn.NextRefreshAt, conn.Staged = domain.Time{}, true
			ended := h.version(conn, h.env.Now(), []string{"a"}, []string{"b"})
			trimmed := h.version(conn, h.env.Now().Add(time.Hour), nil, []string{"b"})
			trimmed.LetGo, trimmed.SweepAt = []string{"c"}, h.env.Now()
			h.version(conn, domain.Time{}, []string{"d"}, nil)
			for _, id := range []string{"c", "loose"} {
				h.put(&domain.Part{ID: id, ClientID: conn.ClientID, ConsentID: conn.ConsentID, ConnectionID: conn.ID})
			}
			h.put(trimmed)
			d := &dying{Store: h.store, at: at, applied: applied}
			h.service.Store = d
			_, err := h.service.Sweep(t.Context())
			h.service.Store = h.store
			h.sweep()
			if err := h.store.Get(t.Context(), trimmed); err != nil || len(trimmed.LetGo) > 0 {
				t.Errorf("died at commit %d, %v: %v, the version that lives on lets go %v", at, applied, err, trimmed.LetGo)
			}
			if err := h.store.Get(t.Context(), conn); err != nil || conn.Staged || !h.gone(ended) || fmt.Sprint(h.parts(conn)) != "[b d]" {
				t.Errorf("died at commit %d, %v: %v, left are %v", at, applied, err, h.parts(conn))
			}
			if err == nil {
				if at < 6 {
					t.Errorf("a sweep has %d commits", at-1)
				}
				break
			}
		}
	}
}

// broken is a store whose listings of one index fail.
type broken struct {
	domain.Store
	index string
}

func (b broken) List(ctx context.Context, q domain.Query) (domain.Page, error) {
	if q.Index == b.index {
		return domain.Page{}, errors.New("the index is broken")
	}
	return b.Store.List(ctx, q)
}

func TestOneFailureHoldsNothingElseUp(t *testing.T) {
	for _, index := range []string{"connections_due", "consents_by_state", "portfolios_to_sweep", "expired_links"} {
		t.Run(index, func(t *testing.T) {
			h := build(t)
			h.connect()
			visit := &domain.Visit{Hash: "v", ExpiresAt: h.env.Now()}
			h.put(visit)
			h.service.Store = broken{h.store, index}
			r, err := h.service.Sweep(t.Context())
			if err == nil {
				t.Error("the failure was hidden")
			}
			if !h.gone(visit) || r.Refreshes != count(index != "connections_due") {
				t.Errorf("the others were held up: %+v", r)
			}
		})
	}
}

// thrown is a store whose queries by one index panic.
type thrown struct {
	domain.Store
	index string
}

func (s thrown) List(ctx context.Context, q domain.Query) (domain.Page, error) {
	if q.Index == s.index {
		panic("a secret")
	}
	return s.Store.List(ctx, q)
}

// TestPanicHoldsNothingElseUp: a part of a sweep that panics has failed; the others are done, and nobody is told what was
// thrown.
func TestPanicHoldsNothingElseUp(t *testing.T) {
	for _, index := range []string{"connections_due", "consents_by_state", "portfolios_to_sweep", "expired_links"} {
		h := build(t)
		h.connect()
		visit := &domain.Visit{Hash: "v", ExpiresAt: h.env.Now()}
		h.put(visit)
		h.service.Store = thrown{h.store, index}
		r, err := h.service.Sweep(t.Context())
		if domain.CodeOf(err) != "panic" || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", index, err)
		}
		if !h.gone(visit) || r.Refreshes != count(index != "connections_due") {
			t.Errorf("%s: the others were held up: %+v", index, r)
		}
	}
}

// empty is a store with nothing in it that counts how often it is swept.
type empty struct {
	domain.Store
	sweeps int
}

func (e *empty) List(_ context.Context, q domain.Query) (domain.Page, error) {
	if q.Index == "clients" {
		e.sweeps++
	}
	return domain.Page{}, nil
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &empty{}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Minute)
		defer cancel()
		(&sweep.Service{Store: store}).Run(ctx)
		if store.sweeps < 80 || store.sweeps > 130 {
			t.Errorf("swept %d times in 100 minutes, want about once a minute", store.sweeps)
		}
	})
}
