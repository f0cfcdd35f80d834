package domain

import "slices"

// Installation is what a database says of itself: what else belongs to it. It lies in each database once. What lies
// beside the database (keys, shards) carries its ID, so that a mix of two installations is noticed; and it lists every
// version of a key that may have closed anything, so that one that is gone is noticed without a look at what it closed.
type Installation struct {
	Name      string         `json:"name"` // ThisInstallation
	ID        InstallationID `json:"id"`
	Whole     bool           `json:"whole"` // every key was there once: a founding that a death broke off is not
	Keys      []KeyVersion   `json:"keys,omitempty"`
	Place     string         `json:"place,omitempty"` // the file it was last seen in: another one is a copy
	FoundedAt Time           `json:"founded_at"`
	UpdatedAt Time           `json:"updated_at"`

	// CopiesUntil is until when copies of shards may be kept, as the operator declared before they were made. What is
	// erased before then may be read until then by who has such a copy, and a certificate of erasure says so.
	CopiesUntil Time `json:"copies_until,omitzero"`
}

// ThisInstallation is the key of the one Installation of a database.
const ThisInstallation = "this"

func (*Installation) Kind() DocumentKind { return "installation" }
func (i *Installation) Key() string      { return i.Name }

// KeyVersion is a version of a key that lies in a file on this machine.
type KeyVersion struct {
	Name     string `json:"name"`
	Number   int    `json:"number"`
	Mark     string `json:"mark"` // tells this key from every other, and gives nothing of it away
	Disabled bool   `json:"disabled,omitempty"`
}

// Same reports whether both are the same key, whatever its number is by now.
func (v KeyVersion) Same(w KeyVersion) bool { return v.Name == w.Name && v.Mark == w.Mark }

// Hold notes versions that are there, and reports whether that is news.
func (i *Installation) Hold(there ...KeyVersion) (news bool) {
	for _, v := range there {
		at := slices.IndexFunc(i.Keys, v.Same)
		switch {
		case at < 0:
			i.Keys, news = append(i.Keys, v), true
		case i.Keys[at] != v:
			i.Keys[at], news = v, true
		}
	}
	return news
}

// Missing lists the versions that are noted as in use and are not among those that are there and in use.
func (i *Installation) Missing(there []KeyVersion) (gone []KeyVersion) {
	for _, v := range i.Keys {
		if !v.Disabled && !slices.ContainsFunc(there, func(w KeyVersion) bool { return !w.Disabled && v.Same(w) }) {
			gone = append(gone, v)
		}
	}
	return gone
}
