package observe

import (
	"context"
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"sluis.internal/shared/domain"
)

// Label is one thing that a span or a count says of itself.
type Label struct{ key, value string }

// Labels with a closed set.
func Custodian(id domain.CustodianID) Label { return Label{"custodian", string(id)} }
func Topic(t domain.Topic) Label            { return Label{"topic", string(t)} }
func Key(name string) Label                 { return Label{"key", name} }
func KMSMethod(name string) Label           { return Label{"method", name} }
func Code(name string) Label                { return Label{"code", name} }
func Answer(kind domain.AnswerKind) Label   { return Label{"kind", string(kind)} }

// Host is a host that a custodian's catalogue entry names.
func Host(declared string) Label { return Label{"server.address", declared} }

// Route is a declared template, with its method: "GET /v1/consents/{consent}".
func Route(pattern string) Label { return Label{"http.route", pattern} }

const (
	other = "other" // what is not of the closed set
	none  = "none"  // what does not apply
)

// closed are the values of labels. What an entry, a bank or a caller says beyond them is not repeated. Custodians and their
// SCA methods come from the catalogue.
var closed = map[string][]string{
	"topic": {string(domain.TopicSession), string(domain.TopicNotice), string(domain.TopicDelivery), string(domain.TopicErasure)},
	"cause": {string(domain.CauseFirst), string(domain.CauseReconnect), string(domain.CauseRequested), string(domain.CauseScheduled)},
	"kind": {string(domain.AnswerCode), string(domain.AnswerPoll), string(domain.AnswerSelect), string(domain.AnswerRenew),
		string(domain.AnswerCancel)},
	"refresh": {string(domain.SessionComplete), string(domain.SessionFailed), string(domain.SessionCancelled)},
	"sca": {string(domain.SCAVerified), string(domain.SCARejected), string(domain.SCAExpired), string(domain.SCAFailed),
		string(domain.SCARequired)},
	"reason": {string(domain.ReasonCredentialsRefused), string(domain.ReasonAccountLocked), string(domain.ReasonActionRequired),
		string(domain.ReasonSCARequired), string(domain.ReasonSCARejected), string(domain.ReasonSCACancelled), string(domain.ReasonSCAExpired),
		string(domain.ReasonBankUnavailable), string(domain.ReasonRateLimited), string(domain.ReasonBankAnswer),
		string(domain.ReasonInterrupted), string(domain.ReasonEgressRefused), string(domain.ReasonConsentEnded),
		string(domain.ReasonCredentialsErased), string(domain.ReasonDataErased), string(domain.ReasonInternal),
		string(domain.ReasonAccessResting), string(domain.ReasonAccessWaits), string(domain.ReasonReadingsSpent), string(domain.ReasonMisshapen)},
	"denial": {"consent_not_yours", "consent_expired", "consent_custodian", "consent_scope", "consent_purpose", "consent_region",
		"consent_one_off", "consent_unknown", "client_suspended", "visit_purpose", "confirmation_needed", "challenge_elsewhere",
		"consent_received", "consent_valid", "consent_rejected", "consent_revoked", "consent_terminated"},
	"key":    {"inner", "outer", "display", "session", "portfolio", "webhook", "certificate"},
	"method": {"Encrypt", "Decrypt", "AsymmetricDecrypt", "AsymmetricSign", "GetPublicKey", "ListCryptoKeyVersions"},
	"scaMethod": {"sms", "call", "email", "push_code", "totp", "chip_card", "coordinate_card", "photo_tan", "qr", "flicker", "app",
		"redirect"},
	"code": {"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
		"ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss",
		"Unauthenticated"},
}

// of gives value if it is of the set, none if it is empty, and other if not.
func of(set, value string) string {
	switch {
	case value == "":
		return none
	case slices.Contains(closed[set], value):
		return value
	}
	return other
}

func attributes(i *instruments, labels []Label) []attribute.KeyValue {
	out := make([]attribute.KeyValue, len(labels))
	for n, l := range labels {
		switch l.key {
		case "custodian":
			l.value = i.custodian(domain.CustodianID(l.value))
		case "http.route", "server.address": // declared by us
		default:
			l.value = of(l.key, l.value)
		}
		out[n] = attribute.String(l.key, l.value)
	}
	return out
}

func (i *instruments) custodian(id domain.CustodianID) string {
	if id == "" {
		return none
	}
	if _, known := i.methods[id]; !known {
		return other
	}
	return string(id)
}

// scaMethod is the kind of an SCA method that a bank has its own name for.
func (i *instruments) scaMethod(c domain.CustodianID, name string) string {
	if kind, known := i.methods[c][name]; known {
		return of("scaMethod", kind)
	}
	return of("scaMethod", name)
}

var codeShape = domain.NewShape(`^[a-z][a-z0-9_]{0,39}$`)

// shape lets an error's code pass if it looks like one of ours.
func shape(code string) string {
	if !codeShape.MatchString(code) {
		return other
	}
	return code
}

// entry counts what one entry of the audit log tells of.
func (i *instruments) entry(ctx context.Context, e *domain.Entry) {
	action, details := strings.TrimPrefix(e.Type, "sluis."), e.Data.Details
	if e.Data.Outcome == domain.OutcomeDenied {
		if action != "request.refused" { // refused before an act under a consent could begin
			count(ctx, i.denials, map[string]string{"code": of("denial", e.Data.Reason)})
		}
		return
	}
	custodian := i.custodian(e.Data.Custodian)
	if outcome, reason := refresh(action, details["reason"]); outcome != "" {
		count(ctx, i.refreshes, map[string]string{"custodian": custodian, "cause": of("cause", details["cause"]),
			"outcome": of("refresh", outcome), "reason": of("reason", reason)})
	}
	if outcome := sca(action, details); outcome != "" {
		count(ctx, i.sca, map[string]string{"custodian": custodian, "method": i.scaMethod(e.Data.Custodian, details["method"]),
			"outcome": of("sca", outcome)})
	}
}

func count(ctx context.Context, c metric.Int64Counter, labels map[string]string) {
	var all []attribute.KeyValue
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, attribute.String(key, labels[key]))
	}
	c.Add(ctx, 1, metric.WithAttributes(all...))
}

// refresh is how a session ended, if the action ends one.
func refresh(action, reason string) (outcome, why string) {
	switch action {
	case "portfolio.stored":
		return string(domain.SessionComplete), ""
	case "session.failed":
		return string(domain.SessionFailed), reason
	case "session.expired":
		return string(domain.SessionFailed), string(domain.ReasonSCAExpired)
	case "session.cancelled": // the entry's reason is the consent's
		return string(domain.SessionCancelled), string(domain.ReasonConsentEnded)
	}
	return "", ""
}

// sca is what came of the bank's question, if the action says so: it was answered rightly or wrongly, it could not be asked
// or nobody answered it in time, or the session failed while it was open.
func sca(action string, details map[string]string) string {
	reason, asked := details["reason"], details["method"] != ""
	switch {
	case action == "sca.verified":
		return string(domain.SCAVerified)
	case action == "session.suspended" && (details["sca"] == string(domain.SCARejected) || details["sca"] == string(domain.SCAExpired)):
		return details["sca"]
	case action == "session.expired":
		return string(domain.SCAExpired)
	case action == "session.failed" && reason == string(domain.ReasonSCARequired):
		return string(domain.SCARequired)
	case action == "session.failed" && (reason == string(domain.ReasonSCARejected) || reason == string(domain.ReasonSCACancelled)):
		return string(domain.SCARejected)
	case action == "session.failed" && asked:
		return string(domain.SCAFailed)
	}
	return ""
}
