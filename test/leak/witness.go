package leak

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Witness stands before the bank. Players type canaries as user names, passwords and codes; the witness turns them into
// what the bank knows. Everything that the bank hands out becomes a canary before the house hears of it.
type Witness struct {
	nest *Nest

	mu      sync.Mutex
	typed   map[string]string // canary to what the bank knows instead
	heard   map[string]int    // how often each canary arrived
	unknown map[string]bool   // fields of answers that bankFields does not have
	asked   []string          // addresses that the house asked for
}

// NewWitness lays its canaries in n.
func NewWitness(n *Nest) *Witness {
	return &Witness{nest: n, typed: map[string]string{}, heard: map[string]int{}, unknown: map[string]bool{}}
}

// Type makes a canary for a player to type, which the bank will take for real.
func (w *Witness) Type(class Class, name, marks string, length int, real string) string {
	return w.means(w.nest.Lay(class, name, marks, length), real)
}

// TypeNumber makes a user name for a player to type, of the shape that the custodian's contract asks for.
func (w *Witness) TypeNumber(name, real string) string {
	return w.means(w.nest.LayNumber(Username, name, len(real)), real)
}

func (w *Witness) means(canary, real string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.typed[canary] = real
	return canary
}

// Heard says how many of the canaries typed came to the bank's ears.
func (w *Witness) Heard() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.heard)
}

// Unknown lists fields of the bank's answers whose class nobody has decided.
func (w *Witness) Unknown() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.unknown))
}

// Asked lists the addresses, with their queries, that the house asked the bank for.
func (w *Witness) Asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

// real is what the bank knows instead of a text, which is the text itself if it is no canary.
func (w *Witness) real(text string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	known, ok := w.typed[text]
	if !ok {
		return text
	}
	w.heard[text]++
	return known
}

// Front is for the bank's option of that name.
func (w *Witness) Front(bank http.Handler) http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.asked = append(w.asked, r.Method+" "+r.URL.RequestURI())
		w.mu.Unlock()
		if code := r.Header.Get("X-Once-Authentication"); code != "" {
			r.Header.Set("X-Once-Authentication", w.real(code))
		}
		if r.Method == http.MethodPost && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			w.translateForm(r)
		}
		l := &listener{ResponseWriter: out, witness: w}
		bank.ServeHTTP(l, r)
	})
}

func (w *Witness) translateForm(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the bank will meet the same end
	}
	if form, err := url.ParseQuery(string(body)); err == nil {
		for name, values := range form {
			for i, v := range values {
				form[name][i] = w.real(v)
			}
		}
		body = []byte(form.Encode())
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// listener learns from an answer before it goes on. Whole objects come in one Write, or in lines of a list; whatever
// cannot be understood yet is kept until it can.
type listener struct {
	http.ResponseWriter
	witness *Witness
	body    []byte
	headers bool
}

func (l *listener) WriteHeader(status int) {
	l.learnHeaders()
	l.ResponseWriter.WriteHeader(status)
}

func (l *listener) Write(p []byte) (int, error) {
	l.learnHeaders()
	l.body = append(l.body, p...)
	l.witness.learn(l.body)
	return l.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the writer below.
func (l *listener) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func (l *listener) learnHeaders() {
	if l.headers {
		return
	}
	l.headers = true
	for _, name := range []string{"X-Once-Authentication-Info", "X-Http-Response-Info"} {
		l.witness.learn([]byte(l.Header().Get(name)))
	}
}

// learn takes every text of a JSON document, as far as it goes, for what its field is.
func (w *Witness) learn(body []byte) {
	d := json.NewDecoder(bytes.NewReader(body))
	var fields []string // of the objects that are open, from outside
	var inObject []bool
	key := true // in an object: a name comes next
	for {
		t, err := d.Token()
		if err != nil {
			return
		}
		switch v := t.(type) {
		case json.Delim:
			switch v {
			case '{', '[':
				inObject = append(inObject, v == '{')
				if v == '{' {
					fields = append(fields, "")
				}
			default:
				if inObject[len(inObject)-1] {
					fields = fields[:len(fields)-1]
				}
				inObject = inObject[:len(inObject)-1]
			}
			key = true
			continue
		case string:
			if len(inObject) > 0 && inObject[len(inObject)-1] && key {
				fields[len(fields)-1], key = v, false
				continue
			}
			if len(fields) > 0 {
				w.take(fields[len(fields)-1], v)
			}
		}
		key = true
	}
}

// take makes a canary of a field's text.
func (w *Witness) take(field, text string) {
	class, known := bankFields[field]
	switch {
	case !known:
		w.mu.Lock()
		w.unknown[field] = true
		w.mu.Unlock()
	case class == Token:
		w.nest.Learn(Canary{Token, "bank's " + field, text})
		if _, secret, signed := strings.Cut(text, "."); signed {
			w.nest.Learn(Canary{Token, "signature of bank's " + field, secret})
		}
	case class == Shown:
		image, err := base64.StdEncoding.DecodeString(text)
		if err == nil && len(image) > 200 {
			text = string(image[100:148]) // a piece of it is enough, and no page of a file cuts it in two
		}
		w.nest.Learn(Canary{Shown, "bank's " + field, text})
	case class != "":
		w.nest.Learn(Canary{class, "bank's " + field, text})
	}
}

// bankFields are the texts in the bank's answers, by field: what they are, or nothing where they tell of nobody.
var bankFields = classes(map[Class]string{
	Token: "access_token refresh_token",
	Shown: "challenge",
	Personal: `kdnr bpid kontaktId identifier authenticationId href accountId accountDisplayId clientId iban holderName
		reference referenceLatestTransaction directDebitMandateId endToEndReference remittanceInfo value depotId
		depotDisplayId defaultSettlementAccountId settlementAccountIds positionId instrumentId isin wkn name shortName
		transactionId orderId settlementAccountId executionId`,
	"": `token_type scope error error_description code severity key message origin versuche typ availableTypes rel
		method type status id unit currency text bic bookingStatus bookingDate valutaDate directDebitCreditorId
		bookingDateLatestTransaction dateLastUpdate custodyType priceDateTime profitLossPurchaseRel
		profitLossPrevDayRel version mnemonic notation instrumentType nominalRate maturityDate interestPaymentInterval
		settlementDate businessDate transactionDirection transactionType creationTimestamp orderType orderStatus side
		venueId validityType validity executionTimestamp`,
})

func classes(words map[Class]string) map[string]Class {
	out := map[string]Class{}
	for class, fields := range words {
		for f := range strings.FieldsSeq(fields) {
			out[f] = class
		}
	}
	return out
}
