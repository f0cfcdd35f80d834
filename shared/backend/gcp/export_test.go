package gcp

import "net/http"

// Identified is what shows Google who we are.
func Identified() http.RoundTripper { return &identified{} }
