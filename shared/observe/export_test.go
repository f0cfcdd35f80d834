package observe

// Closed are the labels' values.
var Closed = closed
