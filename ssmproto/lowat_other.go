//go:build !linux

package ssmproto

import "net"

// mark does nothing here. Linux has low-water marks that spare a runtime with epoll its wakings, see lowat_linux.go.
type mark struct{}

func markOf(net.Conn) mark { return mark{} }

func (*mark) raise() bool { return false }

func (*mark) lower() {}

func (*mark) read([]byte) (int, error) { return 0, nil }
