// Package schemas holds the contracts of Sluis as data, and embeds them; it imports nothing of ours.
//
//	pipeline.json     the flow: each function's entry point, routes, trigger, topics and gates
//	custodians.json   the catalogue of banks, brokers and depots
//	indexes.json      every query's index
//	retention.json    the life of every kind of document, and why
//	openapi.yaml      the client API and the investor's, to be written
//	openapi.json      the same in one document, for generators of clients; made of openapi.yaml by go generate
//	*.schema.json     webhooks, events, audit entries, portfolio records, and the words that all of them share
package schemas

import "embed"

//go:generate go run ../test/openapi -schemas .

// FS is this folder.
//
//go:embed *.json openapi.yaml
var FS embed.FS
