package gateway

// closedAlready reports whether a signal channel has been closed.
func closedAlready(signal <-chan struct{}) bool {
	select {
	case <-signal:
		return true
	default:
		return false
	}
}
