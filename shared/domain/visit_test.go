package domain

import (
	"context"
	"testing"
	"time"
)

// TestCapabilities is the whole table: what each link is for, under its own consent and under another of that investor.
func TestCapabilities(t *testing.T) {
	all := []Capability{MayVisit, MayDecide, MayConfirm, MayConnect, MayAnswer, MayManage}
	own := map[LinkUse][]bool{
		LinkConsent:   {true, true, true, true, true, true},
		LinkReconnect: {true, false, true, true, true, true},
		LinkManage:    {true, false, false, false, false, true},
		"":            make([]bool, 6),
		"unheard-of":  make([]bool, 6),
	}
	for purpose, want := range own {
		v := &Visit{ConsentID: "con_1", Purpose: purpose}
		for i, need := range all {
			if got := v.May(need, "con_1"); got != want[i] {
				t.Errorf("%q may %s its own consent: %t", purpose, need, got)
			}
			if got := v.May(need, "con_2"); got != (purpose == LinkManage && need == MayManage) {
				t.Errorf("%q may %s another consent: %t", purpose, need, got)
			}
		}
		if v.May("", "con_1") {
			t.Errorf("%q may do what needs nothing", purpose)
		}
	}
}

// TestAnInvestorsActSaysWhatItNeeds: no handler can forget it. One that does is refused and recorded, as is one whose
// visit is over by the time of the act, has not confirmed, or is another's.
func TestAnInvestorsActSaysWhatItNeeds(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		lay  func(kept *Visit, a *Act)
		code string
	}{
		"as it should be": {func(*Visit, *Act) {}, ""},
		"no visit":        {func(_ *Visit, a *Act) { a.Visit = nil }, "visit_purpose"},
		"no need":         {func(_ *Visit, a *Act) { a.Needs = "" }, "visit_purpose"},
		"another purpose": {func(_ *Visit, a *Act) { a.Needs = MayDecide }, "visit_purpose"},
		"not kept so":     {func(kept *Visit, _ *Act) { kept.Purpose = LinkManage }, "visit_purpose"},
		"left":            {func(kept *Visit, _ *Act) { kept.Hash = "gone" }, "visit_ended"},
		"over":            {func(kept *Visit, _ *Act) { kept.ExpiresAt = noon }, "visit_ended"},
		"not confirmed":   {func(kept *Visit, _ *Act) { kept.Confirmation = nil }, "confirmation_needed"},
		"another investor": {func(_ *Visit, a *Act) {
			other := *a.Visit
			other.InvestorRef, a.Visit, a.InvestorRef = "inv-2", &other, ""
		}, "consent_not_yours"},
		"another consent": {func(_ *Visit, a *Act) { other := *a.Visit; other.ConsentID, a.Visit = "con_2", &other }, "visit_purpose"},
	} {
		consent := &Consent{ID: "con_1", ClientID: "cli_1", InvestorRef: "inv-1", State: ConsentValid, ExpiresAt: noon.Add(time.Hour)}
		kept := &Visit{Hash: "visit_1", ConsentID: "con_1", ClientID: "cli_1", InvestorRef: "inv-1", Purpose: LinkReconnect,
			Confirmation: &Confirmation{Digest: "5e1f"}, ExpiresAt: noon.Add(time.Hour)}
		seen := *kept
		a := seen.Act("test", "credential.sealed", MayConnect, "con_1", "")
		c.lay(kept, &a)
		l := newLedger(consent, kept)
		err := Perform(ctx, still, l, a, func(Tx, *Consent, *Act) error { return nil })
		if CodeOf(err) != c.code && !(err == nil && c.code == "") {
			t.Errorf("%s: %v, want %q", name, err, c.code)
		}
		if len(l.entries) != 1 || l.entries[0].Data.Reason != c.code {
			t.Errorf("%s: recorded %+v", name, l.entries)
		}
	}
}
