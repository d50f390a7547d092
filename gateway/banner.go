package gateway

import (
	"context"
	"strings"
	"sync"
	"time"
)

// banner is what a machine's sshd says before login (RFC 4252 section 5.4), kept until it can be shown: as a banner of our own while the person still logs in,
// so that it looks, and can be silenced, as without a gateway; else on stderr of their first session.
type banner struct {
	spoken chan struct{} // closed when sshd has answered the first request: by then it has said what it says to everybody

	mu   sync.Mutex
	end  func() // closes spoken
	text string // all that has been heard
	seen int    // bytes of it that somebody has been shown
}

// bannerLimit bounds what is kept of a banner, in bytes. A message of the SSH library may have 256 KiB, and OpenSSH's own tests go to 100,000 bytes.
const bannerLimit = 128 << 10

func newBanner() *banner {
	spoken := make(chan struct{})
	return &banner{spoken: spoken, end: sync.OnceFunc(func() { close(spoken) })}
}

// hear takes what the machine says. It is the library's BannerCallback, which may be called several times.
func (b *banner) hear(text string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text += text[:min(len(text), bannerLimit-len(b.text))]
	return nil
}

// take gives what has been heard and not been given yet.
func (b *banner) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.text[b.seen:]
	b.seen = len(b.text)
	return text
}

// whole gives all that has been heard, shown or not.
func (b *banner) whole() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text
}

// relayBanner holds a login that has succeeded until the machine's own banner is known, and shows it. It is held no longer than a session waits before it is
// told what for: then the session is needed for the telling, and gets the banner too. What went wrong on the way to the machine is told there as well.
func (d *doorman) relayBanner(ctx context.Context, v *visit, up *upstream) {
	began := time.Now()
	long := time.NewTimer(d.srv.cfg.ProgressAfter)
	defer long.Stop()
	select {
	case <-up.banner.spoken:
	case <-up.over:
	case <-long.C:
	case <-ctx.Done():
	}
	v.herald.held(time.Since(began))
	if text := up.banner.take(); text != "" {
		_ = d.wire.SendAuthBanner(text) // the client makes it safe for its terminal, as it must with every server's; an error ends the login by itself
	}
}

// printableLines makes a machine's banner safe for a terminal, line by line and bounded, for stderr of a session, which clients show as it is.
func printableLines(text string) string {
	const mostLines = 50
	var b strings.Builder
	lines := 0
	for line := range strings.Lines(text) {
		if lines++; lines > mostLines {
			break
		}
		b.WriteString(printable(strings.TrimRight(line, "\r\n"), auditTextLimit) + "\r\n")
	}
	return b.String()
}
