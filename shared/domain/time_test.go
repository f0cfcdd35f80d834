package domain

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
)

func TestTimesTextForm(t *testing.T) {
	amsterdam := time.FixedZone("CET", 3600)
	for _, c := range []struct {
		name string
		in   time.Time
		want string
	}{
		{"whole second", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), "2026-03-01T12:00:00.000Z"},
		{"finer than a millisecond", time.Date(2026, 3, 1, 12, 0, 0, 1_999_999, time.UTC), "2026-03-01T12:00:00.001Z"},
		{"trailing noughts stay", time.Date(2026, 3, 1, 12, 0, 0, 100_000_000, time.UTC), "2026-03-01T12:00:00.100Z"},
		{"another zone", time.Date(2026, 3, 1, 0, 30, 0, 0, amsterdam), "2026-02-28T23:30:00.000Z"},
		{"none", time.Time{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := At(c.in)
			if at.String() != c.want {
				t.Errorf("string %q, want %q", at, c.want)
			}
			raw, err := json.Marshal(at)
			if err != nil || string(raw) != `"`+c.want+`"` {
				t.Errorf("JSON %s, %v", raw, err)
			}
			text, err := at.MarshalText()
			if err != nil || string(text) != c.want {
				t.Errorf("text %s, %v", text, err)
			}
			var back Time
			if err := json.Unmarshal(raw, &back); err != nil || back != at {
				t.Errorf("read back %v, %v", back, err)
			}
		})
	}
}

func TestTimesRead(t *testing.T) {
	for text, want := range map[string]string{
		`"2026-03-01T12:00:00Z"`:           "2026-03-01T12:00:00.000Z",
		`"2026-03-01T13:00:00+01:00"`:      "2026-03-01T12:00:00.000Z",
		`"2026-03-01T12:00:00.123456789Z"`: "2026-03-01T12:00:00.123Z",
		`""`:                               "",
		`null`:                             "2020-01-01T00:00:00.000Z", // as it was
	} {
		at := At(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))
		if err := json.Unmarshal([]byte(text), &at); err != nil || at.String() != want {
			t.Errorf("%s: %q, %v", text, at, err)
		}
	}
	for _, bad := range []string{`"tomorrow"`, `"2026-03-01"`, `"2026-03-01 12:00:00Z"`, `"2026-13-01T12:00:00Z"`, `"2026-03-01T12:00:00"`, `1772366400`, `{}`, `true`,
		`"2026-03-01T1:00:00Z"`, `"2026-03-01T12:00:00,5Z"`, `"2026-03-01T12:00:00+24:00"`, `"9999-12-31T23:59:59-14:00"`,
		`"0000-12-31T00:00:00Z"`, `"0001-01-01T00:00:00+14:00"`, `"0001-01-01T00:00:00Z"`} {
		var at Time
		if err := json.Unmarshal([]byte(bad), &at); err == nil || !at.IsZero() {
			t.Errorf("%s: read as %q", bad, at)
		}
	}
}

func TestTimesSortAsText(t *testing.T) {
	var texts []string
	var times []Time
	for i := range 500 {
		at := At(time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC)).Add(time.Duration(i*i*i) * 7919 * time.Millisecond)
		texts, times = append(texts, at.String()), append(times, at)
	}
	if !slices.IsSorted(texts) || !slices.IsSortedFunc(times, func(a, b Time) int { return a.Compare(b.Time) }) {
		t.Error("they do not sort alike")
	}
}

func TestTimesReckon(t *testing.T) {
	later := noon.Add(time.Second + time.Microsecond) // what is finer is dropped
	if !noon.Before(later) || later.Before(noon) || !later.After(noon) || noon.Before(noon) || noon.After(noon) || later.Sub(noon) != time.Second {
		t.Errorf("%s and %s", noon, later)
	}
	if later == noon || noon.Add(time.Second) != later {
		t.Error("equal moments are not equal values")
	}
	if got := still.Now(); got != noon {
		t.Errorf("now is %s", got)
	}
	if now := (Env{}).Now(); now.Location() != time.UTC || now.Nanosecond()%int(time.Millisecond) != 0 {
		t.Errorf("without a clock it is %v", now)
	}
}
