package main

import (
	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/domain"
)

type route = home.Route

// function is one deployment of a function of pipeline.json.
type function struct {
	home.Function
	custodian domain.CustodianID // whose function it is, if it is one custodian's
	folder    string             // below functions
}
