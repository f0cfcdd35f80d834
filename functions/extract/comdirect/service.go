package comdirect

import "sluis.internal/shared/extraction"

// New makes the function for one custodian that speaks this protocol: the step engine with this connector. Its
// entries are Engine.Run, for events, and Engine.Answer, for the investor's answers.
func New(engine extraction.Engine) *extraction.Engine {
	engine.Connector = Connector{}
	return &engine
}
