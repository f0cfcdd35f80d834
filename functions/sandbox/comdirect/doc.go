// Package comdirect is a bank to practise on. It plays the REST API of comdirect, as its public documentation of April
// 2020 describes it, over HTTPS: logins, SCA, accounts, depots. Nobody's money is in it.
//
// A person, a test or the demonstration picks a login from the table that [Logins] returns. Each plays one story: one
// for every TAN method, and one for everything that can go wrong. All else is as at the real bank, its traps included:
//
//   - Data is read only with the token of the secondary flow, and that only after SCA (chapters 2.3 to 2.5).
//   - Five challenges without a right TAN lock the access; so do three wrong TANs (2.3, 2.4) and three refused logins.
//     It counts over all sessions, by the rules that custodians.json declares, and forgets nothing by itself: a control
//     call unlocks ([Bank.Unlock]), or [Options] say how long it remembers.
//   - Every request carries x-http-request-info (1.2.1).
//   - paging-first above 0 wants transactionState=BOOKED, and paging-count stops at 500: the documentation is silent
//     about it, users of the real API report it.
//   - Bonds are priced in per cent of face, quantities have no currency, a value date may be 30 February (3.4.6).
//
// What is said in words only, or not at all, is settled thus:
//
//	situation                      status  answer
//	wrong PIN, unknown number      400     {"error":"invalid_grant","error_description":"Bad credentials"}
//	access locked, at the login    400     {"error":"invalid_grant","error_description":"User account is locked"}
//	wrong client                   401     {"error":"invalid_client"}
//	token unknown, expired, ended  401     {"error":"invalid_token"}
//	token of the first phase       403     {"error":"insufficient_scope"}
//	something to do first          422     code [CodeAction]
//	wrong TAN                      400     code [CodeWrongTAN]
//	push not approved yet          400     code [CodeWrongTAN], key [KeyPushPending]
//	push refused in the app        400     code [CodeWrongTAN], key [KeyPushRejected]
//	challenge too old              422     code [CodeExpired]
//	this answer locked the access  422     code [CodeLocked]
//
// The body of a refusal is a BusinessMessage (1.4), except for the token endpoint, which answers as RFC 6749 says.
//
// A [Bank] is an http.Handler and keeps all in memory. With a state file it survives a restart: tokens are signed, and
// sessions, counters and changed PINs are kept. [ServeTLS] puts it on a loopback port under a certificate authority
// made at that moment. Tests steer it ([Bank.Approve], [Bank.ChangePIN], [Bank.FailNext] …) and ask it what it saw
// ([Bank.Requests], [Bank.Refused], [Bank.OpenSessions] …). It never notes a PIN or a TAN.
package comdirect
