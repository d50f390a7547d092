package stripe

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// A lane may be lost on which a file is being opened while its CLOSE is under way. Nothing is opened there any more that a RENAME would have to wait for.
func TestALaneLostDuringACloseHoldsNothingUp(t *testing.T) {
	first, late := inTheMiddle(openssh()), inTheMiddle(openssh())
	goOn, asked, lost := make(chan struct{}), make(chan struct{}), make(chan struct{})
	late.turnInto(func(pkt *packet) [][]byte {
		if pkt.typ() == typOpen {
			close(asked)
			return nil
		}
		return [][]byte{pkt.bytes()}
	})
	var lanes atomic.Int32
	r := newRig(t, 3, first.start, func(r *rig, cfg *Config) {
		hear, told := cfg.OnLane, sync.OnceFunc(func() { close(lost) })
		cfg.OnLane = func(c LaneChange) {
			if hear(c); c.Err != nil {
				told()
			}
		}
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) {
			if lanes.Add(1) == 1 {
				return openssh()(t, r.dir), nil
			}
			<-goOn
			return r.furtherLane(late.start(t, r.dir)), nil
		}
	})
	if err := os.WriteFile(filepath.Join(r.dir, "f"), noise(200<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	h := r.open("f", openRead)
	r.one(readOf(h, 0, 4<<10)).release()
	r.striped("f")
	close(goOn)
	for opening := false; !opening; {
		r.one(readOf(h, 0, 4<<10)).release()
		select {
		case <-asked:
			opening = true
		default:
		}
	}
	first.hold()
	closed := r.closing(h)
	first.requested(1) // what the file is, before it is closed
	r.cut()
	testkit.Receive(t, lost, "the loss of the lane")
	first.release()
	if got := testkit.Receive(t, closed, "the answer to CLOSE"); got != "0Success" {
		t.Errorf("close: %s", got)
	}
	testkit.Within(t, "a RENAME", func() { mustOK(t, r.one(renameOf("f", "g"))) })
	r.end()
}
