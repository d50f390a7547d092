package main

import (
	"fmt"
	"net"
	"strconv"
)

// splitDestination reads host:port.
func splitDestination(text string) (host string, port int, err error) {
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port", text)
	}
	port, err = strconv.Atoi(number)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("%q is no port", number)
	}
	return host, port, nil
}
