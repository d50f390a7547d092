//go:build !linux

package gateway

import "net"

// limitUnsent does nothing: the option is Linux's, and so are the machines that gateways run on.
func limitUnsent(net.Conn) {}
