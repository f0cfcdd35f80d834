// Package webhook knows how Sluis tells a client something over HTTP: what is sent, how it is signed, where it may go,
// and when it is tried again.
//
// The form is that of Standard Webhooks 1.0. Three headers go with each body: webhook-id (the notice's identifier, the
// same on every attempt, so that the client can drop what it has seen), webhook-timestamp (the seconds of this
// attempt, so that an old request cannot be played back) and webhook-signature (HMAC-SHA256 over all three).
//
// A client chooses the address, so the address is hostile input: a [Sender] looks at every address after the name was
// resolved, follows no redirect, uses no proxy and reads next to nothing of the answer. [Rules] says where webhooks may
// go at all.
//
// This package keeps nothing. functions/deliver holds the deliveries and their states.
package webhook
