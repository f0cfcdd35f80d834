package domain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func bankRules() *BankRules {
	return &BankRules{Locks: map[BankCount]LockRule{CountLogin: {At: 3, ResetBy: CountLogin}, CountCode: {At: 3, ResetBy: CountCode},
		CountChallenge: {At: 5, ResetBy: CountCode}},
		Readings: ReadingRule{Most: 4, Hours: 24, Per: PerAccess}, Logins: ReadingRule{Most: 20, Hours: 24},
		BackOff: map[Reason][]int{ReasonCredentialsRefused: {0, 60}, ReasonAccountLocked: {15, 60}, ReasonBankUnavailable: {0, 1, 5}}}
}

var (
	person  = BankVisit{Attended: true, Client: "cli_1", Consent: "con_1"}
	machine = BankVisit{Recurring: true, Client: "cli_1", Consent: "con_1", Products: []Product{ProductCash}}
)

func anAccess() *BankAccess { return NewBankAccess("acs_1", "bank", noon) }

// TestTheLastTryIsNeverUsed walks every counter to its end, refused each time or with an end that nobody knows.
func TestTheLastTryIsNeverUsed(t *testing.T) {
	for _, c := range BankCounts {
		for _, settled := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, settled %v", c, settled), func(t *testing.T) {
				a, r, used := anAccess(), bankRules(), 0
				for range 10 {
					book := func() (int64, error) { return a.Book(r, c, nil, noon) }
					if c == CountLogin {
						book = func() (int64, error) { return a.BookLogin(r, person, noon) }
					}
					number, err := book()
					if err != nil {
						if CodeOf(err) != string(ReasonAccessResting) || KindOf(err) != Conflict {
							t.Fatal(err)
						}
						continue
					}
					used++
					if settled {
						a.Settle(r, c, number, VerdictCounted, noon)
					}
				}
				if used != r.Locks[c].At-1 {
					t.Errorf("%d were used of a bank that locks at %d", used, r.Locks[c].At)
				}
				if left, limited := a.Left(r, c, noon); left != 0 || !limited || !a.Resting(r, noon) {
					t.Errorf("%d left, limited %v, resting %v", left, limited, a.Resting(r, noon))
				}
				if err := a.Admit(r, person, noon); CodeOf(err) != string(ReasonAccessResting) {
					t.Errorf("a person is admitted: %v", err)
				}
				if err := a.Admit(r, machine, noon); (err != nil) != (c == CountLogin) { // without a person no code is asked for
					t.Errorf("a reading without the investor: %v", err)
				}
				if err := a.Admit(r, person, noon.Add(BankAccessLife)); err == nil {
					t.Error("time alone woke it, where the bank does not forget")
				}
				a.Release(noon)
				if a.Resting(r, noon) || a.Admit(r, person, noon) != nil {
					t.Error("an operator's release did not open it")
				}
			})
		}
	}
}

func TestWhatResetsIsTheBanks(t *testing.T) {
	for _, right := range BankCounts {
		for _, stands := range BankCounts {
			a, r := anAccess(), bankRules()
			n, _ := a.Book(r, stands, nil, noon)
			a.Settle(r, stands, n, VerdictCounted, noon)
			n, _ = a.Book(r, right, nil, noon)
			a.Settle(r, right, n, VerdictRight, noon)
			want := 1
			if r.Locks[stands].ResetBy == right {
				want = 0
			}
			if got := a.Count(stands); got != want {
				t.Errorf("a right %s leaves %d of %s, want %d", right, got, stands, want)
			}
		}
	}
}

// TestAResetForgivesOnlyWhatWasKnownBefore plays two sessions at once: nobody knows which of two requests under way the
// bank saw first.
func TestAResetForgivesOnlyWhatWasKnownBefore(t *testing.T) {
	a, r := anAccess(), bankRules()
	right, _ := a.Book(r, CountCode, nil, noon)
	wrong, _ := a.Book(r, CountCode, nil, noon)
	a.Settle(r, CountCode, wrong, VerdictCounted, noon) // told before the right one, seen after it perhaps
	a.Settle(r, CountCode, right, VerdictRight, noon)
	if a.Count(CountCode) != 1 {
		t.Errorf("%d wrong codes stand, want 1", a.Count(CountCode))
	}
	later, _ := a.Book(r, CountCode, nil, noon)
	a.Settle(r, CountCode, later, VerdictRight, noon)
	if a.Count(CountCode) != 0 {
		t.Error("a right code after it does not forgive it")
	}
	open, _ := a.Book(r, CountCode, nil, noon) // its process died
	later, _ = a.Book(r, CountCode, nil, noon)
	a.Settle(r, CountCode, later, VerdictRight, noon)
	if a.Count(CountCode) != 1 {
		t.Errorf("a code whose end nobody knows was forgiven by one under way with it (%d)", open)
	}
	later, _ = a.Book(r, CountCode, nil, noon.Add(tryLasts))
	a.Settle(r, CountCode, later, VerdictRight, noon.Add(tryLasts))
	if a.Count(CountCode) != 0 {
		t.Error("one that is over for long is not forgiven")
	}
	first, _ := a.Book(r, CountChallenge, nil, noon)
	code, _ := a.Book(r, CountCode, []int64{first}, noon) // the same step: the challenge came before
	a.Settle(r, CountCode, code, VerdictRight, noon)
	if a.Count(CountChallenge) != 0 {
		t.Error("a right code does not forgive the challenge that it answers")
	}
}

func TestABankThatForgetsByItself(t *testing.T) {
	a, r := anAccess(), bankRules()
	r.Locks[CountCode] = LockRule{At: 3, ResetBy: CountCode, HealsMinutes: 30}
	for range 2 {
		n, _ := a.Book(r, CountCode, nil, noon)
		a.Settle(r, CountCode, n, VerdictCounted, noon)
	}
	if !a.Resting(r, noon.Add(29*time.Minute)) || a.Resting(r, noon.Add(30*time.Minute)) {
		t.Error("it does not wake when the bank forgets")
	}
}

func TestFourReadingsInADay(t *testing.T) {
	for _, c := range []struct {
		per   PerOf
		other BankVisit // than machine
		want  bool      // whether it may still read once machine has used all
	}{
		{PerAccess, BankVisit{Client: "cli_1", Consent: "con_2", Products: []Product{ProductOrders}}, false},
		{PerAccount, BankVisit{Client: "cli_1", Consent: "con_2", Products: []Product{ProductOrders}}, false},
		{PerConsent, BankVisit{Client: "cli_1", Consent: "con_2", Products: []Product{ProductCash}}, true},
		{PerEndpoint, BankVisit{Client: "cli_1", Consent: "con_1", Products: []Product{ProductOrders}}, true},
		{PerEndpoint, BankVisit{Client: "cli_1", Consent: "con_2", Products: []Product{ProductOrders, ProductCash}}, false},
	} {
		t.Run(string(c.per), func(t *testing.T) {
			a, r, read := anAccess(), bankRules(), 0
			r.Readings.Per = c.per
			at := noon
			for range 1440 {
				if n, err := a.BookLogin(r, machine, at); err == nil {
					read++
					a.Settle(r, CountLogin, n, VerdictRight, at)
				} else if KindOf(err) != RateLimited || CodeOf(err) != string(ReasonReadingsSpent) {
					t.Fatal(err)
				}
				at = at.Add(time.Minute)
				if at == noon.Add(23*time.Hour) {
					if err := a.Admit(r, c.other, at); (err == nil) != c.want {
						t.Errorf("another reading: %v", err)
					}
					if b := a.Budget(r, machine, at); b.Most != 4 || b.Used != 4 || b.Left != 0 || b.NextAt != noon.Add(24*time.Hour) {
						t.Errorf("%+v", b)
					}
				}
			}
			if read != 4 {
				t.Errorf("%d readings in a day", read)
			}
			if a.Admit(r, machine, noon.Add(24*time.Hour)) != nil || a.Admit(r, person, noon.Add(time.Hour)) != nil {
				t.Error("the next day, or the investor, is refused")
			}
		})
	}
	t.Run("what the bank did not look at is no reading", func(t *testing.T) {
		a, r := anAccess(), bankRules()
		for range 10 {
			n, err := a.BookLogin(r, machine, noon)
			if err != nil {
				t.Fatal(err)
			}
			a.Settle(r, CountLogin, n, VerdictFree, noon)
		}
	})
}

// TestSharersTakeTurns has three clients ask whenever they can: nobody takes what another has not had yet.
func TestSharersTakeTurns(t *testing.T) {
	a, r := anAccess(), bankRules()
	of := func(c ClientID) BankVisit { return BankVisit{Recurring: true, Client: c, Consent: ConsentID(c)} }
	for _, c := range []ClientID{"cli_a", "cli_b", "cli_c"} { // each connected with its investor
		v := of(c)
		v.Attended = true
		n, err := a.BookLogin(r, v, noon)
		if err != nil {
			t.Fatal(err)
		}
		a.Settle(r, CountLogin, n, VerdictRight, noon)
	}
	read := map[ClientID]int{}
	for range 100 {
		for _, c := range []ClientID{"cli_a", "cli_a", "cli_a", "cli_b", "cli_c"} {
			if n, err := a.BookLogin(r, of(c), noon); err == nil {
				read[c]++
				a.Settle(r, CountLogin, n, VerdictRight, noon)
			}
		}
	}
	if read["cli_a"] != 2 || read["cli_b"] != 1 || read["cli_c"] != 1 {
		t.Errorf("%v: want two, one and one", read)
	}
	a = anAccess()
	n, _ := a.BookLogin(r, BankVisit{Attended: true, Recurring: true, Client: "cli_gone"}, noon)
	a.Settle(r, CountLogin, n, VerdictRight, noon)
	later := noon.Add(sharerLife)
	for range 4 {
		n, err := a.BookLogin(r, machine, later)
		if err != nil {
			t.Fatalf("a client that is gone keeps its share: %v", err)
		}
		a.Settle(r, CountLogin, n, VerdictRight, later)
	}
}

func TestBackOffGrows(t *testing.T) {
	a, r := anAccess(), bankRules()
	at := noon
	for _, minutes := range []int{15, 60, 60} {
		a.Failed(r, ReasonAccountLocked, 0, at)
		if wait := a.NextAt.Sub(at); wait != time.Duration(minutes)*time.Minute {
			t.Errorf("waits %s, want %d minutes", wait, minutes)
		}
		for _, v := range []BankVisit{person, machine} {
			if err := a.Admit(r, v, at); KindOf(err) != RateLimited || CodeOf(err) != string(ReasonAccessWaits) {
				t.Errorf("admitted at once: %v", err)
			}
		}
		at = a.NextAt
		if err := a.Admit(r, machine, at); CodeOf(err) != string(ReasonAccountLocked) {
			t.Errorf("read without the person who must unlock it: %v", err)
		}
		if err := a.Admit(r, person, at); err != nil {
			t.Errorf("the person is refused in time: %v", err)
		}
	}
	a.Succeeded(at)
	if a.Admit(r, machine, at) != nil {
		t.Error("a login that succeeded did not mend it")
	}
	a.Failed(r, ReasonSCAExpired, 0, at) // no row: nothing follows
	if !a.NextAt.IsZero() {
		t.Error("it waits for nothing")
	}
	a.Failed(r, ReasonBankUnavailable, 1000*time.Hour, at) // the bank's word is bounded
	if a.NextAt != at.Add(longestRest) {
		t.Errorf("waits until %s", a.NextAt)
	}
}

func TestAClockThatWasAheadDelaysNothing(t *testing.T) {
	a, r := anAccess(), bankRules()
	ahead := noon.Add(1000 * time.Hour)
	for range 4 {
		n, _ := a.BookLogin(r, machine, ahead)
		a.Settle(r, CountLogin, n, VerdictRight, ahead)
	}
	a.Failed(r, ReasonAccountLocked, 0, ahead)
	a.Person = ""
	if a.Admit(r, machine, noon) == nil {
		t.Error("what happened was forgotten")
	}
	if err := a.Admit(r, machine, noon.Add(24*time.Hour)); err != nil {
		t.Errorf("it waits for a time that never was: %v", err)
	}
}

func TestHowLongAnAccessIsKept(t *testing.T) {
	a, r := anAccess(), bankRules()
	n, _ := a.BookLogin(r, machine, noon)
	if a.ExpiresAt != noon.Add(BankAccessLife) {
		t.Error("what may stand at the bank is forgotten")
	}
	a.Settle(r, CountLogin, n, VerdictRight, noon)
	if a.ExpiresAt != noon.Add(quietAccessLife) {
		t.Error("an access in which nothing stands is kept for long")
	}
	if quietAccessLife < sharerLife || BankAccessLife < 2*MaxConsent {
		t.Error("it ends before what it is kept for")
	}
}

// TestNeverFewerThanTheBank drives random requests, under way at once, whose ends are told late, wrongly ordered or never,
// against a counter that is the bank's: the mirror never counts less, and the bank never comes to its limit.
func TestNeverFewerThanTheBank(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		a, r, at := anAccess(), bankRules(), noon
		bank := map[BankCount]int{}
		type request struct {
			c      BankCount
			number int64
			right  bool
			seen   bool
		}
		var under []*request
		for range 60 {
			switch k := rng.IntN(10); {
			case k < 5:
				c := BankCounts[rng.IntN(3)]
				if n, err := a.Book(r, c, nil, at); err == nil {
					under = append(under, &request{c: c, number: n, right: rng.IntN(3) == 0 && c != CountChallenge})
				}
			case len(under) == 0:
			case k < 8: // the bank sees one
				x := under[rng.IntN(len(under))]
				if x.seen {
					continue
				}
				x.seen = true
				if !x.right {
					bank[x.c]++
				}
				for _, c := range BankCounts {
					if x.right && r.Locks[c].ResetBy == x.c {
						bank[c] = 0
					}
					if bank[c] >= r.Locks[c].At || bank[c] > a.Count(c) {
						t.Fatalf("seed %d: the bank counts %d of %s, we %d", seed, bank[c], c, a.Count(c))
					}
				}
			default: // its end is told, or its process dies
				i := rng.IntN(len(under))
				x := under[i]
				verdict := VerdictCounted
				if !x.seen { // it never left
					verdict = VerdictFree
				} else if x.right {
					verdict = VerdictRight
				}
				if rng.IntN(4) > 0 {
					a.Settle(r, x.c, x.number, verdict, at)
				}
				under = slices.Delete(under, i, i+1)
			}
			for _, c := range BankCounts {
				if bank[c] > a.Count(c) {
					t.Fatalf("seed %d: the bank counts %d of %s, we %d", seed, bank[c], c, a.Count(c))
				}
			}
		}
	}
}

func TestAccessKeys(t *testing.T) {
	c, key := &Custodian{ID: "bank"}, NewSecret([]byte("pseudonym"))
	same := c.AccessKey(key, []byte("12345678"))
	for _, login := range []string{"1234 5678", " 12345678\n", "12-34-56-78", "1234\u00a05678"} {
		if c.AccessKey(key, []byte(login)) != same {
			t.Errorf("%q is another access", login)
		}
	}
	if c.AccessKey(key, []byte("Anna@x")) != c.AccessKey(key, []byte("ANNA@X")) {
		t.Error("case makes another access")
	}
	if c.AccessKey(key, []byte("12345679")) == same || (&Custodian{ID: "other"}).AccessKey(key, []byte("12345678")) == same ||
		c.AccessKey(NewSecret([]byte("other")), []byte("12345678")) == same {
		t.Error("two accesses have one name")
	}
	if len(same) != 30 || same[:4] != "acs_" {
		t.Errorf("%s", same)
	}
}

func TestShapeOfALogin(t *testing.T) {
	c := &Custodian{Credentials: []CredentialField{{Name: "username", Min: 8, Max: 8, Digits: true, Login: true}, {Name: "password", Min: 1, Max: 4}}}
	for _, x := range []struct {
		username, password string
		ok                 bool
	}{
		{"12345678", "pin", true}, {"12345678", "äöüß", true},
		{"1234567", "pin", false}, {"123456789", "pin", false}, {"1234567a", "pin", false}, {"1234 5678", "pin", false},
		{"", "pin", false}, {"12345678", "", false}, {"12345678", "12345", false}, {"١٢٣٤٥٦٧٨", "pin", false},
	} {
		login, err := c.Login(map[string]Secret{"username": NewSecret([]byte(x.username)), "password": NewSecret([]byte(x.password))})
		if (err == nil) != x.ok || x.ok && string(login) != x.username {
			t.Errorf("%q, %q: %q, %v", x.username, x.password, login, err)
		}
	}
	if !c.HasLogin() || (&Custodian{}).HasLogin() {
		t.Error("whether it has logins is wrong")
	}
}
