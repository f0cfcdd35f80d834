// Package bench measures what the promises cost. Every benchmark does one of the house's acts and, in turns with it, a
// yardstick that does what nobody could leave out: the same cryptography, bytes, calls or files, and nothing of ours
// around them. What is reported is the ratio of the two, ×bare, so that it says as much on a slow machine as on a fast
// one:
//
//	go test -run '^$' -bench . ./test/bench
//
// prints one table at the end. Turns make pairs, and a figure is the median of its pairs, so that a machine that is busy
// with something else meanwhile speaks for neither side. Beside time a row has processor time (getrusage) and memory
// (bytes allocated), both of this process alone: the bank runs in a process of its own, and whatever else the home does
// in the background waits while an act is measured.
//
// The acts run through a whole home: real keys, the database on disk, the bank over HTTPS, the client's inbox over HTTP.
//
//	seal      both gates closed, the browser's too, against one RSA and two AES operations
//	open      both gates opened, against the same
//	commit    read, write, emit, record, against the same bytes into the same tables by prepared statements (it runs in
//	          shared/backend/sql, the only room where a database may be used without our store around it)
//	refresh   an unattended reading that finds nothing new, against the same calls to the bank over a warm connection,
//	          each answer read and decoded once into structs, and one bare opening of a credential
//	far       the same, with a bank whose every answer takes 10 ms, as a near one on the internet does
//	changed   the same, where positions and prices differ each time: what changed is encrypted and stored
//	large     the refresh of 20,000 positions and 200,000 transactions (with -long)
//	delivery  a webhook, loaded, signed, sent and noted on disk, against a bare signed POST to the same inbox
//	noted     the same delivery, against that POST and one audit entry committed to disk
//	page      what the investor sees, rendered, against the same bytes as a static file
//	records   a page of a portfolio read by a client, audited, decrypted, against the same bytes as a static file
//	start     from exec to the first answer, against a Go program that listens on as many addresses
//	cold      the same of every deployed function, built as Google builds it, against a function that says hello
//
// No test asserts a time. What can be counted is held by a test instead: requests to the bank,
// connections to it, and durable commits.
package bench
