//go:build !unix

package main

import "io"

// awaitUnread cannot tell here.
func awaitUnread(io.Writer, <-chan struct{}) bool { return false }
