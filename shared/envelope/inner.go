package envelope

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"slices"
)

// Inner shows the inner gate's keys, oldest first, as their keeper lists them: what a function needs that has browsers
// seal. It may wait until there is one.
type Inner func() ([]crypto.PublicKey, error)

// Public describes the key that browsers seal to at present.
func (in Inner) Public() (JWK, error) { return in.Among(nil) }

// Among describes the newest of the keys that a page knows by their thumbprints, as it refuses all others: after a
// rotation two functions may for a while not know of the same keys. Where the page knows none, it is the newest of all.
func (in Inner) Among(known []string) (JWK, error) {
	all, err := in.keys()
	if err != nil {
		return JWK{}, err
	}
	for _, key := range slices.Backward(all) {
		if slices.Contains(known, Thumbprint(key)) {
			return PublicJWK(key), nil
		}
	}
	return PublicJWK(all[len(all)-1]), nil
}

// Kids lists the keys that browsers may have sealed to, or may seal to: their thumbprints.
func (in Inner) Kids() ([]string, error) {
	all, err := in.keys()
	kids := make([]string, len(all))
	for i, key := range all {
		kids[i] = Thumbprint(key)
	}
	return kids, err
}

// keys are those of the list, of the one type and size that the inner gate may have.
func (in Inner) keys() ([]*rsa.PublicKey, error) {
	all, err := in()
	if err != nil {
		return nil, err
	}
	keys := make([]*rsa.PublicKey, len(all))
	for i, key := range all {
		public, ok := key.(*rsa.PublicKey)
		if !ok || public.N.BitLen() != innerBits {
			return nil, errInner
		}
		keys[i] = public
	}
	return keys, nil
}

// ByKid gives the opening halves of the inner gate, as their keeper lists them, by kid.
func ByKid(list func() ([]crypto.Decrypter, error)) InnerKeys {
	return func() (map[string]crypto.Decrypter, error) {
		all, err := list()
		if err != nil {
			return nil, err
		}
		open := map[string]crypto.Decrypter{}
		for _, key := range all {
			public, ok := key.Public().(*rsa.PublicKey)
			if !ok {
				return nil, errInner
			}
			open[Thumbprint(public)] = key
		}
		return open, nil
	}
}

const innerBits = 4096

var errInner = errors.New("the inner gate's key is not RSA-4096")
