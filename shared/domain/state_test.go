package domain

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var noon = At(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

// law is one noun's table, in words: what the test expects, written apart from the table itself, and how to move one.
type law struct {
	noun   string
	typ    string // the Go type of its states
	start  string // where a new one stands
	legal  string // "from: to to; from: to"
	table  map[string][]string
	final  func(state string) bool
	attain func(from, to string) (now any, err error) // moves a noun that stands at from
	at     func(state string) any                     // a noun that stands there
}

// lawOf makes a law of a table and of a noun's Move.
func lawOf[S ~string, N any](noun, start string, m Moves[S], at func(S) *N, move func(*N, S) error, legal string) law {
	table := map[string][]string{}
	for from, tos := range m {
		table[string(from)] = []string{}
		for _, to := range tos {
			table[string(from)] = append(table[string(from)], string(to))
		}
	}
	return law{noun: noun, typ: reflect.TypeFor[S]().Name(), start: start, legal: legal, table: table,
		final: func(s string) bool { return m.Final(S(s)) },
		at:    func(s string) any { return at(S(s)) },
		attain: func(from, to string) (any, error) {
			n := at(S(from))
			err := move(n, S(to))
			return n, err
		}}
}

func laws() []law {
	return []law{
		lawOf("client", "active", ClientMoves,
			func(s ClientState) *Client { return &Client{State: s} },
			func(c *Client, s ClientState) error { return c.Move(s, noon) },
			"active: suspended closed; suspended: active closed; closed:"),
		lawOf("advisor", "active", AdvisorMoves,
			func(s AdvisorState) *Advisor { return &Advisor{State: s} },
			func(a *Advisor, s AdvisorState) error { return a.Move(s, noon) },
			"active: removed; removed:"),
		lawOf("api_key", "active", KeyMoves,
			func(s KeyState) *APIKey { return &APIKey{State: s} },
			func(k *APIKey, s KeyState) error { return k.Move(s, noon) },
			"active: revoked; revoked:"),
		lawOf("consent", "received", ConsentMoves,
			func(s ConsentState) *Consent { return &Consent{State: s} },
			func(c *Consent, s ConsentState) error { return c.Move(s, noon) },
			"received: valid rejected expired terminated; valid: expired revoked terminated; rejected:; expired:; revoked:; terminated:"),
		lawOf("connection", "pending", ConnectionMoves,
			func(s ConnectionState) *Connection {
				return &Connection{State: s, Reason: ReasonInternal, NextRefreshAt: noon}
			},
			func(c *Connection, s ConnectionState) error { return c.Move(s, ReasonSCARequired, noon) },
			"pending: awaiting_credentials removed; awaiting_credentials: connecting removed; "+
				"connecting: awaiting_sca active paused awaiting_credentials removed; "+
				"awaiting_sca: connecting paused awaiting_credentials removed; active: connecting paused awaiting_credentials removed; "+
				"paused: connecting awaiting_credentials removed; removed:"),
		lawOf("credential", "sealed", CredentialMoves,
			func(s CredentialState) *Credential { return &Credential{State: s} },
			func(c *Credential, s CredentialState) error { return c.Move(s, noon) },
			"sealed: trying; trying: accepted refused unconfirmed sealed; accepted: trying; unconfirmed: trying; refused:"),
		lawOf("session", "queued", SessionMoves,
			func(s SessionState) *Session { return &Session{State: s, LeaseUntil: noon} },
			func(n *Session, s SessionState) error { return n.Move(s, ReasonInternal, noon) },
			"queued: running failed cancelled; running: queued suspended complete failed cancelled; suspended: running failed cancelled; "+
				"complete:; failed:; cancelled:"),
		lawOf("challenge", "required", SCAMoves,
			func(s SCAState) *Challenge { return &Challenge{State: s, Display: []byte("sealed")} },
			func(c *Challenge, s SCAState) error { return c.Move(s, noon) },
			"required: method_selection challenge_issued awaiting_user exempt failed expired; "+
				"method_selection: challenge_issued awaiting_user failed expired; "+
				"challenge_issued: method_selection awaiting_user verified rejected expired failed; "+
				"awaiting_user: method_selection challenge_issued verified rejected expired failed; "+
				"rejected: method_selection challenge_issued awaiting_user expired failed; "+
				"expired: method_selection challenge_issued awaiting_user failed; verified:; failed:; exempt:"),
		lawOf("endpoint", "enabled", EndpointMoves,
			func(s EndpointState) *Endpoint { return &Endpoint{State: s} },
			func(e *Endpoint, s EndpointState) error { return e.Move(s, noon) },
			"enabled: disabled removed; disabled: enabled removed; removed:"),
		lawOf("delivery", "pending", DeliveryMoves,
			func(s DeliveryState) *Delivery { return &Delivery{State: s} },
			func(d *Delivery, s DeliveryState) error { return d.Move(s, noon) },
			"pending: delivered failed cancelled; delivered: pending; failed: pending; cancelled: pending"),
	}
}

// read takes a law in words apart.
func (l law) read() map[string][]string {
	out := map[string][]string{}
	for row := range strings.SplitSeq(l.legal, ";") {
		from, tos, _ := strings.Cut(strings.TrimSpace(row), ":")
		out[from] = strings.Fields(tos)
	}
	return out
}

// Every noun is tried in every state with every state, and one that is none: what the law does not list is refused and
// leaves the noun as it was; what it lists is done.
func TestEveryMoveOfEveryNoun(t *testing.T) {
	for _, l := range laws() {
		t.Run(l.noun, func(t *testing.T) {
			want := l.read()
			states := append(slices.Sorted(maps.Keys(want)), "", "no_such_state")
			for _, from := range states {
				for _, to := range states {
					n, err := l.attain(from, to)
					state := reflect.ValueOf(n).Elem().FieldByName("State").String()
					if slices.Contains(want[from], to) {
						if err != nil || state != to {
							t.Errorf("%s to %s: %v, stands at %s", from, to, err, state)
						}
						continue
					}
					if KindOf(err) != Conflict || CodeOf(err) != l.noun+"_state" || !strings.Contains(err.Error(), from) || !strings.Contains(err.Error(), to) {
						t.Errorf("%s to %s: %v, want a conflict that names both", from, to, err)
					}
					if !reflect.DeepEqual(n, l.at(from)) {
						t.Errorf("%s to %s: refused, yet changed to %+v", from, to, n)
					}
				}
			}
		})
	}
}

func TestEveryLawIsWhole(t *testing.T) {
	declared := statesInSource(t)
	walked := map[string]bool{}
	for _, l := range laws() {
		t.Run(l.noun, func(t *testing.T) {
			walked[l.typ] = true
			keys := slices.Sorted(maps.Keys(l.table))
			if !slices.Equal(keys, declared[l.typ]) {
				t.Errorf("the table has rows for %v, the source declares %v", keys, declared[l.typ])
			}
			reached := map[string]bool{l.start: true}
			for todo := []string{l.start}; len(todo) > 0; todo = todo[1:] {
				for _, to := range l.table[todo[0]] {
					if !reached[to] {
						reached[to] = true
						todo = append(todo, to)
					}
				}
			}
			for from, tos := range l.table {
				if !reached[from] {
					t.Errorf("nothing leads to %s", from)
				}
				if l.final(from) != (len(tos) == 0) {
					t.Errorf("final(%s) is %v with moves to %v", from, l.final(from), tos)
				}
				for i, to := range tos {
					if _, known := l.table[to]; !known || slices.Contains(tos[:i], to) || to == from {
						t.Errorf("%s to %s: unknown, listed twice, or itself", from, to)
					}
				}
			}
		})
	}
	for typ := range declared {
		if typ != "ProductState" && !walked[typ] { // a product's state is a finding of each reading, not a life
			t.Errorf("no law of %s is walked", typ)
		}
	}
}

// statesInSource finds the values of every type named …State in this package's source.
func statesInSource(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			typ, ok := spec.Type.(*ast.Ident)
			if !ok || !strings.HasSuffix(typ.Name, "State") {
				return true
			}
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out[typ.Name] = append(out[typ.Name], value)
			return true
		})
	}
	for typ := range out {
		slices.Sort(out[typ])
	}
	return out
}

func TestAnyConsentStateIsEveryOne(t *testing.T) {
	want := slices.Sorted(maps.Keys(ConsentMoves))
	if got := slices.Sorted(slices.Values(AnyConsentState)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What moves do beside the state.
func TestMovesKeepTheBooks(t *testing.T) {
	later := noon.Add(time.Hour)
	t.Run("consent: decided once, ended at its end", func(t *testing.T) {
		for _, path := range [][]ConsentState{
			{ConsentValid, ConsentRevoked}, {ConsentValid, ConsentExpired}, {ConsentValid, ConsentTerminated},
			{ConsentRejected}, {ConsentExpired}, {ConsentTerminated}} {
			c, at := &Consent{State: ConsentReceived}, noon
			for _, to := range path {
				if err := c.Move(to, at); err != nil {
					t.Fatal(err)
				}
				if c.UpdatedAt != at || c.EndedAt.IsZero() != (to == ConsentValid) {
					t.Errorf("%s: updated %s, ended %q", to, c.UpdatedAt, c.EndedAt)
				}
				at = later
			}
			decided := path[0] == ConsentValid || path[0] == ConsentRejected
			if decided != (c.DecidedAt == noon) || !decided && !c.DecidedAt.IsZero() {
				t.Errorf("%v: decided at %q", path, c.DecidedAt)
			}
		}
	})
	t.Run("connection: the schedule stops unless active, the reason is the move's", func(t *testing.T) {
		for from, tos := range ConnectionMoves {
			for _, to := range tos {
				c := &Connection{State: from, Reason: ReasonInternal, NextRefreshAt: noon}
				if err := c.Move(to, ReasonSCARequired, later); err != nil {
					t.Fatal(err)
				}
				if c.Reason != ReasonSCARequired || c.UpdatedAt != later || c.NextRefreshAt.IsZero() != (to != ConnectionActive) {
					t.Errorf("%s to %s: %+v", from, to, c)
				}
			}
		}
	})
	t.Run("credential: the time of a try is kept", func(t *testing.T) {
		c := &Credential{State: CredentialSealed}
		if err := c.Move(CredentialTrying, noon); err != nil || c.TriedAt != noon {
			t.Fatalf("%v, tried at %q", err, c.TriedAt)
		}
		if err := c.Move(CredentialAccepted, later); err != nil || c.TriedAt != noon || c.UpdatedAt != later {
			t.Errorf("%v, tried at %q", err, c.TriedAt)
		}
	})
	t.Run("session: the lease ends with running, the end is kept", func(t *testing.T) {
		for from, tos := range SessionMoves {
			for _, to := range tos {
				s := &Session{State: from, LeaseUntil: later}
				if err := s.Move(to, ReasonBankUnavailable, noon); err != nil {
					t.Fatal(err)
				}
				if s.LeaseUntil.IsZero() != (to != SessionRunning) || (s.EndedAt == noon) != SessionMoves.Final(to) || s.Reason != ReasonBankUnavailable {
					t.Errorf("%s to %s: %+v", from, to, s)
				}
			}
		}
	})
	t.Run("challenge: what was shown goes with its end", func(t *testing.T) {
		for from, tos := range SCAMoves {
			for _, to := range tos {
				c := &Challenge{State: from, Display: []byte("sealed")}
				if err := c.Move(to, noon); err != nil {
					t.Fatal(err)
				}
				if (c.Display == nil) != SCAMoves.Final(to) {
					t.Errorf("%s to %s: display %q", from, to, c.Display)
				}
			}
		}
	})
}

func TestAttendedIsTheInvestorAtThePage(t *testing.T) {
	for cause, want := range map[Cause]bool{CauseFirst: true, CauseReconnect: true, CauseRequested: false, CauseScheduled: false} {
		if got := (&Session{Cause: cause}).Attended(); got != want {
			t.Errorf("%s: attended %v", cause, got)
		}
	}
}
