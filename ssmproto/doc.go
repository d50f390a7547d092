// Package ssmproto speaks the data channel of AWS Systems Manager Session Manager. It turns the right to a session, a [Grant], into a [Conn],
// which is a [net.Conn]: every byte arrives once and in order, across loss, duplicates, pauses of the service and lost connections, or the
// connection fails with an error that says why.
//
// The package knows neither SSH nor the AWS SDK: whoever has credentials fills a Grant. The protocol is described in SPEC.md, whose section
// numbers the comments cite.
//
//	Dial      opens a session and waits for its handshake; Conn.Read and Conn.Write move the bytes of a port session
//	NewMux    opens many connections through one session, where agent and document allow it
//	DialShell opens a shell or command session, with standard error and exit code apart
//
// Conn.Stats tells what a session is doing, without allocating: what is unacknowledged, the round trip, repeats and resumptions.
//
// Inside, the order of messages is kept by two state machines without clock, lock or goroutine (sendWindow, recvWindow). A Conn has two
// goroutines around them: one reads frames and reconnects, the other writes acknowledgements, repeats and new data at the permitted rate.
// Bulk in small messages is handled several messages at a time (gatherer, news), because being woken costs more than a message.
package ssmproto
