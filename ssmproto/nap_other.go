//go:build !linux

package ssmproto

import "time"

// nap is a short wait that nothing but time ends. Linux has a cheaper one, see nap_linux.go.
type nap struct{}

func (*nap) sleep(d time.Duration) { time.Sleep(d) }

func (*nap) close() {}
