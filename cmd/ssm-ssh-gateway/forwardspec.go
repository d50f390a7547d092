package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// forwardSpec is one -L: where to listen on this machine, and where that leads.
type forwardSpec struct {
	network, address string // for net.Listen: tcp or unix
	host             string // empty for the instance itself
	port             int
}

// to names the destination.
func (s *forwardSpec) to() string {
	host := s.host
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, strconv.Itoa(s.port))
}

var errForwardForm = errors.New("write [BIND:]PORT:HOST:HOSTPORT or SOCKET:HOST:HOSTPORT")

// parseForward reads what ssh takes for -L, as far as Session Manager can do it. Without BIND only this machine can connect; BIND * is all addresses.
func parseForward(text string) (forwardSpec, error) {
	fields, err := splitForward(text)
	if err != nil {
		return forwardSpec{}, err
	}
	if strings.HasPrefix(fields[len(fields)-1], "/") {
		return forwardSpec{}, fmt.Errorf("%q: Session Manager does not reach unix sockets of the instance; with ssh -L through connect or the gateway it works", text)
	}
	if len(fields) < 3 || len(fields) > 4 {
		return forwardSpec{}, fmt.Errorf("%q: %w", text, errForwardForm)
	}
	host, port := fields[len(fields)-2], fields[len(fields)-1]
	spec := forwardSpec{network: "tcp"}
	if spec.port, err = parsePort(port, 1); err != nil {
		return forwardSpec{}, fmt.Errorf("%q: %w", text, err)
	}
	if !itself(host) {
		spec.host = host
	}
	local := fields[len(fields)-3]
	if len(fields) == 3 && strings.ContainsAny(local, `/\`) {
		spec.network, spec.address = "unix", local
		return spec, nil
	}
	if _, err := parsePort(local, 0); err != nil {
		return forwardSpec{}, fmt.Errorf("%q: %w", text, err)
	}
	bind := "127.0.0.1"
	if len(fields) == 4 {
		if bind = fields[0]; bind == "*" {
			bind = ""
		}
	}
	spec.address = net.JoinHostPort(bind, local)
	return spec, nil
}

// splitForward cuts at colons, but not within the brackets of an IPv6 address.
func splitForward(text string) ([]string, error) {
	var fields []string
	for rest := text; ; {
		field, after, more := strings.Cut(rest, ":")
		if strings.HasPrefix(rest, "[") {
			inside, behind, closed := strings.Cut(rest[1:], "]")
			if !closed || behind != "" && behind[0] != ':' {
				return nil, fmt.Errorf("%q: a bracket is not closed", text)
			}
			field, after, more = inside, strings.TrimPrefix(behind, ":"), behind != ""
		}
		if strings.ContainsAny(field, "[]") {
			return nil, fmt.Errorf("%q: brackets belong around an IPv6 address", text)
		}
		fields = append(fields, field)
		if !more {
			return fields, nil
		}
		rest = after
	}
}

// parsePort reads a port number that is at least least; 0 lets the system choose.
func parsePort(text string, least int) (int, error) {
	port, err := strconv.Atoi(text)
	if err != nil || port < least || port > 65535 {
		return 0, fmt.Errorf("%q is no port", text)
	}
	return port, nil
}

// itself says whether host means the instance, which the agent calls localhost. Other loopback addresses are asked for by address.
func itself(host string) bool {
	return host == "" || strings.EqualFold(host, "localhost") || host == "127.0.0.1"
}
