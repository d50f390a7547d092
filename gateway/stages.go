package gateway

import (
	"context"
	"log/slog"
	"time"
)

// stage tells the log, at debug level, how long a step on the way to a machine took, and how long after the beginning of the stay it was done. Steps overlap: with
// all of one reference in the order of time it can be seen which waited for which.
func (v *visit) stage(what string, began time.Time) {
	if v.log.Enabled(context.Background(), slog.LevelDebug) {
		v.log.Debug("step done", "step", what, "took", time.Since(began), "since_begin", time.Since(v.began))
	}
}

// The steps, as the log calls them.
const (
	stepSession  = "StartSession" // with AssumeRole and our own queue, where they have to be
	stepChannel  = "data channel"
	stepHostKey  = "key exchange up to the host key" // the machine's version, and its agent's dialing, included
	stepBelieve  = "believing the host key"
	stepPush     = "key push"
	stepLogin    = "login to the machine" // from its version to the end of authentication
	stepReuse    = "finding a session of the last connection"
	stepOpen     = "first channel" // from the beginning of the stay
	stepPerson   = "login of the person through the jump"
	stepDeciding = "resolving and deciding"
)
