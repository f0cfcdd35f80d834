package sandbox

import (
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/shopspring/decimal"
)

// Signs that keep a figure together and readable.
const (
	thin  = "\u202f" // narrow no-break space, between groups of three digits
	bound = "\u00a0" // no-break space, before a currency
	minus = "\u2212"
	none  = "–"
)

// digits are those after the point of currencies that have not two (ISO 4217).
var digits = map[string]int32{"JPY": 0, "KRW": 0, "CLP": 0, "ISK": 0, "VND": 0, "HUF": 2, "BHD": 3, "KWD": 3, "JOD": 3, "OMR": 3, "TND": 3}

// group puts thin spaces between thousands. number is plain notation.
func group(number string) string {
	sign := ""
	if rest, negative := strings.CutPrefix(number, "-"); negative {
		sign, number = minus, rest
	}
	whole, fraction, point := strings.Cut(number, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + thin + whole[i:]
	}
	if point {
		whole += "." + fraction
	}
	return sign + whole
}

// figure is a sum of money without its currency, rounded to the currency's digits.
func figure(d decimal.Decimal, currency string) string {
	places, special := digits[currency]
	if !special {
		places = 2
	}
	return group(d.StringFixed(places))
}

// sum is money as it is shown.
func sum(d decimal.Decimal, currency string) string { return figure(d, currency) + bound + currency }

// money is an amount as it is shown, or a dash where there is none.
func money(a *amount) string {
	if a == nil {
		return none
	}
	return sum(a.Value, a.Currency)
}

// exact is an amount with every digit that the bank gave.
func exact(a *amount) string {
	if a == nil {
		return none
	}
	return group(a.Value.StringFixed(max(0, -a.Value.Exponent()))) + bound + a.Currency
}

// quantity is a number of pieces, or a face value.
func quantity(d *decimal.Decimal) string {
	if d == nil {
		return none
	}
	return group(d.String())
}

// quoted is a price: per cent of face as such, and nothing that it could be mistaken for.
func quoted(p *price) string {
	if p == nil {
		return none
	}
	text := p.Value.String() // without trailing zeros
	if _, fraction, _ := strings.Cut(text, "."); len(fraction) < 2 {
		text = p.Value.StringFixed(2)
	}
	if p.Percent {
		return group(text) + bound + "%"
	}
	return group(text) + bound + p.Currency
}

// gain is what a position has won or lost against its cost; Tone is gain, loss or nothing.
type gain struct{ Text, Share, Tone string }

// gainOf compares value and cost, if both are in one currency.
func gainOf(value, cost *amount) gain {
	if value == nil || cost == nil || value.Currency != cost.Currency {
		return gain{Text: none}
	}
	won := value.Value.Sub(cost.Value)
	g := gain{Text: signed(sum(won, value.Currency), won)}
	switch won.Sign() {
	case 1:
		g.Tone = "gain"
	case -1:
		g.Tone = "loss"
	}
	if !cost.Value.IsZero() {
		g.Share = signed(group(won.Div(cost.Value.Abs()).Shift(2).StringFixed(1))+bound+"%", won)
	}
	return g
}

// signed puts a plus before what is above zero.
func signed(text string, d decimal.Decimal) string {
	if d.Sign() > 0 {
		return "+" + text
	}
	return text
}

// moment is a time of ours as it is shown.
func moment(t time.Time) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format("2 Jan 2006, 15:04 UTC")
}

// clock is a time of today, to the second.
func clock(t time.Time) string { return t.UTC().Format("15:04:05") }

// stated is a time or a day as the bank states it, made readable where it can be.
func stated(text string) string {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return moment(t)
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t.Format("2 Jan 2006")
	}
	if text == "" {
		return "not stated"
	}
	return text
}

// asOf heads the provenance of a record.
func asOf(text string) string {
	if text == "" {
		return "the bank states no date"
	}
	return "as of " + stated(text)
}

// count is a number of things: "1 record", "2 records".
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return group(strconv.Itoa(n)) + " " + thing
}

// plain makes words of a code such as awaiting_credentials.
func plain(code string) string { return strings.ReplaceAll(code, "_", " ") }

// capital begins with a capital letter.
func capital(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// short cuts a text to so many characters.
func short(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return strings.TrimRight(string(r[:most-1]), " ,.-") + "…"
	}
	return text
}

// state is how a connection's state is shown: Tone is good, wait, bad or over.
type state struct{ Label, Tone, Help string }

var connectionStates = map[string]state{
	"pending":              {"Waiting for the investor", "wait", "The investor has not decided yet. Give them the link."},
	"awaiting_credentials": {"Waiting for the login", "wait", "The investor agreed. Next they enter their bank login on Sluis’s pages, never here."},
	"connecting":           {"Reading", "wait", "Sluis is reading at the bank."},
	"awaiting_sca":         {"Waiting for confirmation at the bank", "wait", "The bank asks the investor to confirm the login, with a code or in its app."},
	"active":               {"Active", "good", "The portfolio was read."},
	"paused":               {"Paused", "bad", "Nothing new is read. What to do is said below."},
	"removed":              {"Removed", "over", "The consent has ended and everything was erased. Only this entry is left."},
}

func stateOf(code string) state {
	if s, known := connectionStates[code]; known {
		return s
	}
	return state{Label: capital(plain(code)), Tone: "wait"}
}

// reasons say what a reason means and what to do about it.
var reasons = map[string]string{
	"credentials_refused":   "The bank refused the login. Send a reconnect link, so that the investor can enter it again.",
	"account_locked":        "The bank locked the access. The investor unlocks it at the bank, then comes back by a reconnect link.",
	"action_required":       "The bank wants the investor to do something on its own site first, such as accept new terms. Send a reconnect link afterwards.",
	"sca_required":          "The bank wants the investor to confirm. Send a reconnect link.",
	"sca_rejected":          "The confirmation was declined. Send a reconnect link.",
	"sca_cancelled":         "The investor stopped the login themselves. Send a reconnect link when they want to go on.",
	"sca_expired":           "Nobody confirmed in time. Send a reconnect link.",
	"bank_unavailable":      "The bank did not answer, or reported an error. Try again later.",
	"rate_limited":          "The bank asked for a pause. Try again later.",
	"bank_answer":           "Sluis could not understand the bank’s answer. Try again later.",
	"interrupted":           "A login was cut short. Only the investor can repeat it: send a reconnect link.",
	"egress_refused":        "Sluis blocked a request to the bank that its connector had not declared. You need do nothing.",
	"access_resting":        "Not tried: one more failure could lock the access at the bank. The investor logs in at the bank; then an operator releases the access.",
	"access_waits":          "Not tried: the bank refused the last login, or was asked very often. Try again later.",
	"readings_spent":        "Not tried: without the investor, an access is read four times in 24 hours. The next reading follows by itself.",
	"credentials_misshapen": "Not tried: no login of this bank looks like this. Send a reconnect link, so that the investor enters it anew.",
	"consent_ended":         "The consent has ended.",
	"credentials_erased":    "The login was erased. Send a reconnect link to have it entered again.",
	"data_erased":           "The data was erased. A refresh reads it again, if the consent allows it.",
	"internal":              "Something failed at Sluis.",
}

func reasonOf(code string) string {
	if text, known := reasons[code]; known {
		return text
	}
	return capital(plain(code)) + "."
}

// done says what a button did.
var done = map[string]string{
	"asked":              "Consent requested. Open the link below as the investor, or give it to them.",
	"refresh":            "Refresh requested. A webhook will say when it is done.",
	"invite":             "Here is a new invitation. The one before it no longer works.",
	"reconnect":          "Here is a link to log in at the bank again.",
	"manage":             "Here is a link to the investor’s own overview, where they can withdraw or erase.",
	"remove-credentials": "The login was erased. The certificate is below.",
	"remove-data":        "The data was erased. The certificate is below.",
	"remove":             "The consent has ended and everything was erased. The certificate is below.",
	"replay":             "Sluis sends its notices again. Those that arrived before are recognised and ignored.",
}

// helpers are what templates call.
var helpers = template.FuncMap{
	"money": money, "exact": exact, "quantity": quantity, "quoted": quoted, "gain": gainOf, "moment": moment,
	"clock": clock, "stated": stated, "asOf": asOf, "count": count, "plain": plain, "capital": capital, "state": stateOf, "reason": reasonOf,
	"asset": assetOf, "dict": dict, "sum": sum,
}

// dict makes a map for a template that takes several values: names and values in turn.
func dict(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		name, _ := pairs[i].(string)
		m[name] = pairs[i+1]
	}
	return m
}
