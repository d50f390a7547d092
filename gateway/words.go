package gateway

// Words gives the sentence and the next step for a failure, as the person at the client reads them, without a reference id: for programs that have
// a terminal of their own, and may know a better step. Facts come from an *authz.Refusal in err's chain; any other error is worded as a fault of ours.
func Words(err error) (what, step string) { return wording(err) }
