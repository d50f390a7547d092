package stripe

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// errFault is a fault of ours. It ends the stream it happened in, not the process and everybody else's.
var errFault = errors.New("stripe: internal fault")

// spawn runs task on a goroutine that Wait waits for. A panic ends Run with an error.
func (p *Proxy) spawn(task func()) {
	p.owned.Go(func() {
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			p.cfg.Log.Error("panic in an SFTP stream", "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			select {
			case p.broken <- fmt.Errorf("%w: %v", errFault, fault):
			default: // one is enough
			}
		}()
		task()
	})
}
