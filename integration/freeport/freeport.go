// Package freeport finds addresses on loopback for programs that are told where to listen.
package freeport

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
)

// Ports from lowest on, so many, are below those that systems give away by themselves (32768 and up on Linux, 49152 elsewhere), of which some other listener might
// get the one that was found before the program takes it.
const (
	lowest = 26000
	span   = 6000
	tries  = 100
)

// Each program begins somewhere else, and goes on from there, so that it does not find one address for two purposes.
var (
	begin = rand.IntN(span) //nolint:gosec // guards nothing
	tried atomic.Int64
)

// Address is an address of loopback, HOST:PORT, where nobody listens just now. It fails when nobody may listen there, or many tries meet somebody who does.
func Address() (address string, err error) {
	for range tries {
		var listener net.Listener
		port := lowest + (begin+int(tried.Add(1)))%span
		listener, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return listener.Addr().String(), listener.Close()
		}
	}
	return "", err
}
