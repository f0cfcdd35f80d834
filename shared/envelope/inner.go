package envelope

import (
	"crypto"
	"crypto/rsa"
	"errors"
)

// Inner shows the inner gate's keys, oldest first, as their keeper lists them: what a function needs that has browsers
// seal. It may wait until there is one.
type Inner func() ([]crypto.PublicKey, error)

// Public describes the key that browsers seal to at present.
func (in Inner) Public() (JWK, error) {
	all, err := in()
	if err != nil {
		return JWK{}, err
	}
	newest, ok := all[len(all)-1].(*rsa.PublicKey)
	if !ok {
		return JWK{}, errNotRSA
	}
	return PublicJWK(Thumbprint(newest), newest), nil
}

// Kids lists the keys that browsers may have sealed to.
func (in Inner) Kids() ([]string, error) {
	all, err := in()
	kids := make([]string, len(all))
	for i, key := range all {
		public, ok := key.(*rsa.PublicKey)
		if !ok {
			return nil, errNotRSA
		}
		kids[i] = Thumbprint(public)
	}
	return kids, err
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
				return nil, errNotRSA
			}
			open[Thumbprint(public)] = key
		}
		return open, nil
	}
}

var errNotRSA = errors.New("the inner gate's key is not RSA")
