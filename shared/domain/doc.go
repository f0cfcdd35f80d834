// Package domain is the vocabulary of Sluis and the ports it needs.
//
// A noun has one file. The file says in business words what the noun is, lists its states, and holds the table of
// the moves it may make between them: a move that is not in the table is refused with [Conflict]. The tables are the
// law; every function, page and backend obeys them, and the tests walk each of them exhaustively.
//
// The nouns, in the order an investor meets them:
//
//	Client      the wealth manager or app that asks, with its Advisors and API keys
//	Consent     what the investor allows: what data, from where, for whom, why, until when
//	Link, Visit the single-use invitation, and the browser visit it opens
//	Connection  one consent at one custodian, and how well it is doing
//	Credential  the sealed login of a connection
//	BankAccess  one login at one bank, as the bank counts what can lock it
//	Session     one visit to the bank: queued, running, suspended for SCA, ended
//	Challenge   one question of the bank's strong customer authentication (SCA)
//	Portfolio   one version of what was read, with its encrypted Parts
//	Notice      one fact that a client is told, with its Endpoints and Deliveries
//	Entry       one line of the audit log
//	Erasure     the certificate that something is gone
//
// The ports ([Store], [Tx], [Queue], [Encrypter], [Decrypter], [Secrets]) are promises that backends keep;
// shared/backend/backendtest checks them. [Perform] is the one way to act under a consent: it re-checks the consent
// inside the same transaction as the effect and records the audit entry there.
//
// This package imports only the standard library, so that everything may import it.
package domain
