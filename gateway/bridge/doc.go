// Package bridge joins the SSH connection of a client with connections to one machine: channel by channel, request by request, in order, and each judged.
//
//	Run            one client connection, from its first channel to its last byte          bridge.go
//	intake         what a leg opens and asks, taken in without holding up its read loop    requests.go
//	opening        which channels there may be, and who may open them                      open.go
//	channel        one channel and its mirror: data, half-closes, the order of the end     channel.go copy.go
//	session        the requests of a session: terminal, environment, programs, exits       session.go mosh.go
//	forwards       -L, -R, -D, unix sockets, agent, X11                                    forwards.go listeners.go
//	lanes          the connections to the machine, opened and closed as traffic asks       lane.go link.go keepalive.go
//	pace           how much bulk is under way to a client that waits for echoes            pace.go
//	places         which lane carries which channel, and when one moves                    place.go berth.go traffic.go move.go
//	files          SFTP, spread over lanes by package stripe                               files.go
//
// A bridge knows neither AWS nor people nor policy: it asks a Gatekeeper, tells an Observer, and gets its connections from a function.
package bridge
