// Package envelope is the lock with the two gates that an investor's credentials pass, and the keysets that close
// what is read.
//
// Gate 1, the inner gate, is closed in the investor's browser (functions/consent/static/seal.js) to an RSA-4096 key:
// a compact JWE (RFC 7516) with RSA-OAEP-256 and A256GCM. The page takes no key but one whose thumbprint it has from
// elsewhere. The header says what it was sealed for, as what (domain.Sealing) and when; the payload fills whole blocks.
// [Inspect] checks all that can be checked without a key, so that nothing malformed, stale or meant for something else
// goes further.
//
// Gate 2, the outer gate, is closed by a [Sealer] under AES-256, with associated data that binds client, consent,
// connection, custodian, credential and generation: a ciphertext moved to another of these does not open, nor does an
// older one in the place of a newer. What an earlier build sealed has no generation: it is never opened, and the
// investor is asked to enter it anew.
//
// Only an [Opener] opens both. Powers are split by type, and by file: a program that seals and inspects links no code
// that opens. SCA codes pass the inner gate only, because nobody keeps them.
//
// Portfolio data lies under one keyset per connection (domain.DataKey), itself wrapped by the portfolio key. A
// [Closer] makes and uses keysets to close parts, a [Reader] to open them. Whoever destroys the wrapped keyset makes
// every copy of the data unreadable once the caches are empty, which takes ten minutes at most.
//
// A key's newest version closes, and all open. What is kept for long (wrapped keysets, webhook secrets) is closed anew by
// a domain.Rewrapper after a rotation. Credentials are not: that would take somebody who both closes and opens the outer
// gate. They end with their consent instead, within 180 days, and so does the need for the older version.
//
// [Seal] and [Open] close small things that live shortly or belong to us: a session's state at the bank, what a
// challenge shows, a webhook secret. [LocalKeys] keeps all keys in files, for one machine and for practice.
//
// What is wiped: plaintexts, content keys and results lie in slices that are overwritten after use. What Go's own
// ciphers keep inside (key schedules, RSA's big numbers) goes with the garbage collector.
package envelope
