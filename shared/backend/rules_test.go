package backend

import (
	"strings"
	"testing"

	"sluis.internal/shared/domain"
)

// TestDecodeQuotesNothing: a body that does not fit its document may hold anything, and errors are logged.
func TestDecodeQuotesNothing(t *testing.T) {
	for _, body := range []string{`{"versions":77777.5}`, `{"versions":"secret"}`, `{"id":{"secret":1}}`, `{"id":"x","versions":1,secret}`, `{"created_at":"secret"}`} {
		err := Decode([]byte(body), &domain.Connection{})
		if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "77777") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestDecodeLeavesNothing: what a body lacks is empty afterwards.
func TestDecodeLeavesNothing(t *testing.T) {
	c := &domain.Connection{ID: "conn_1", Sequence: 7, Products: map[domain.Product]domain.ProductStatus{domain.ProductCash: {}}}
	if err := Decode([]byte(`{"id":"conn_2"}`), c); err != nil || c.ID != "conn_2" || c.Sequence != 0 || c.Products != nil {
		t.Errorf("%+v, %v", c, err)
	}
}
