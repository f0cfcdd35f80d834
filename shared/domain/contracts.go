package domain

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
)

// Contracts are what the files in schemas say of documents and custodians.
type Contracts struct {
	Indexes    []Index     // indexes.json
	Lives      []Life      // retention.json
	Custodians []Custodian // custodians.json
}

// Life is a row of retention.json: how documents of a kind end.
type Life struct {
	Kind  DocumentKind `json:"kind"`
	Ends  string       `json:"ends"`  // operator, erase, ttl or never
	Field string       `json:"field"` // holds the time of the end, where there is one
	Life  string       `json:"life"`
	Why   string       `json:"why"`
}

// ReadContracts reads them from the folder schemas.
func ReadContracts(schemas fs.FS) (Contracts, error) {
	var c Contracts
	for name, into := range map[string]any{"indexes.json": &c.Indexes, "retention.json": &c.Lives, "custodians.json": &c.Custodians} {
		raw, err := fs.ReadFile(schemas, name)
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			return Contracts{}, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return c, nil
}

// Kinds lists every kind of document that a backend keeps.
func (c Contracts) Kinds() []DocumentKind {
	kinds := make([]DocumentKind, len(c.Lives))
	for i, l := range c.Lives {
		kinds[i] = l.Kind
	}
	return kinds
}

// Ends gives, of each kind whose life ends by itself, the field that says when.
func (c Contracts) Ends() map[DocumentKind]string {
	ends := map[DocumentKind]string{}
	for _, l := range c.Lives {
		if l.Ends == "ttl" && l.Field != "" {
			ends[l.Kind] = l.Field
		}
	}
	return ends
}

// Overdue lists, for the kinds whose life ends by itself, the indexes by which those are found that are over.
func (c Contracts) Overdue() []Index {
	ends := c.Ends()
	return slices.DeleteFunc(slices.Clone(c.Indexes), func(ix Index) bool {
		return ends[ix.Of] == "" || ix.Range != ends[ix.Of] || len(ix.Equal) > 0
	})
}

// Custodian finds a custodian of the catalogue; the zero value where there is none.
func (c Contracts) Custodian(id CustodianID) Custodian {
	i := slices.IndexFunc(c.Custodians, func(x Custodian) bool { return x.ID == id })
	if i < 0 {
		return Custodian{}
	}
	return c.Custodians[i]
}
