package gateway

import (
	"context"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// bootText is the text that a machine printed at boot, read at most once.
type bootText struct {
	reader ConsoleReader
	role   authz.Role
	target *authz.Instance

	begun bool
	done  chan struct{}
	text  string // valid once done is closed, as err is
	err   error
}

// consoleOf prepares to read the boot text of a machine; nil where the cloud has none.
func (u *upstream) consoleOf(r *route) *bootText {
	reader, ok := u.srv.cfg.Cloud.(ConsoleReader)
	if !ok {
		return nil
	}
	return &bootText{reader: reader, role: r.role, target: r.target, done: make(chan struct{})}
}

// ahead begins to read beside StartSession, where no key of the machine is known and so the text will be wanted in the middle of the key exchange.
func (u *upstream) ahead(ctx context.Context, b *bootText) {
	if b == nil || !u.srv.cfg.Verifier.WantsConsole(ctx, b.target.Place()) {
		return
	}
	b.begun = true
	u.tasks.Go(func() {
		defer close(b.done)
		defer logPanic(u.visit.log, "console")
		b.err = errFault // unless it comes back
		b.text, b.err = b.reader.ConsoleOutput(ctx, b.role, b.target)
	})
}

// read gives the text. It is what hostkeys.Verifier asks where it has to.
func (b *bootText) read(ctx context.Context) (string, error) {
	if !b.begun {
		return b.reader.ConsoleOutput(ctx, b.role, b.target)
	}
	select {
	case <-b.done:
		return b.text, b.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
