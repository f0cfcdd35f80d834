package comdirect

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// Codes and keys of refusals that a reader has to tell apart.
const (
	CodeWrongTAN    = "TAN_UNGUELTIG"
	CodeExpired     = "expired"
	CodeLocked      = "ZUGANG_GESPERRT"
	CodeAction      = "BEDINGUNGEN_BESTAETIGEN"
	CodeObject      = "request.object.invalid"
	CodeQuery       = "request.query.invalid"
	KeyPushPending  = "PUSHTAN_ANGEFORDERT"
	KeyPushRejected = "PUSHTAN_ABGELEHNT"
)

// businessMessage is chapter 1.4's.
type businessMessage struct {
	Severity string            `json:"severity"`
	Key      string            `json:"key"`
	Message  string            `json:"message"`
	Args     map[string]string `json:"args"`
	Origin   []string          `json:"origin"`
}

// refuse answers with a BusinessMessage in body and header (chapter 1.4).
func refuse(w http.ResponseWriter, status int, code, key, message string, origin ...string) {
	refuseWith(w, status, code, businessMessage{Severity: "ERROR", Key: key, Message: message, Origin: origin})
}

func refuseWith(w http.ResponseWriter, status int, code string, m businessMessage) {
	if m.Args == nil {
		m.Args = map[string]string{}
	}
	if m.Origin == nil {
		m.Origin = []string{}
	}
	messages := []businessMessage{m}
	w.Header().Set("x-http-response-info", headerJSON(map[string]any{"messages": messages}))
	answer(w, status, map[string]any{"code": code, "messages": messages})
}

// refuseToken answers as RFC 6749 section 5.2 and RFC 6750 section 3.1 say.
func refuseToken(w http.ResponseWriter, status int, code, description string) {
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="comdirect", error="`+code+`"`)
	}
	answer(w, status, map[string]string{"error": code, "error_description": description})
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("writing answer: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a reader that has gone needs no answer
}

// headerJSON is v as JSON in ASCII, for a header.
func headerJSON(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("writing header: " + err.Error())
	}
	var out strings.Builder
	for _, r := range string(raw) {
		if r < 0x80 {
			out.WriteRune(r)
			continue
		}
		out.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
	}
	return out.String()
}
