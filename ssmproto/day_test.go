package ssmproto

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestDay is an SSH session of 24 hours with output flowing, through 24 hourly closes; each time the credentials have expired as well, so that the first
// ResumeSession fails. SSH sees nothing but a pause.
func TestDay(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		near, far := net.Pipe()
		f.onData = func(p []byte) { _, _ = far.Write(p) }
		f.serving.Go(func() {
			buffer := make([]byte, 1024)
			for {
				n, err := far.Read(buffer)
				if err != nil {
					return
				}
				f.write(buffer[:n])
			}
		})
		t.Cleanup(func() { _ = far.Close() })
		const interval, lines = 10 * time.Second, 24*360 + 30
		line := noise(1, 500)
		f.serving.Go(func() { talkative(t, near, line, interval, lines) })

		expired := false
		f.resumeWith = func(context.Context) (Token, error) {
			if expired = !expired; expired {
				return Token{}, errors.New("ExpiredTokenException")
			}
			return f.freshToken(), nil
		}
		c := f.dial(func(o *Options) { o.WaitForPeer, o.PeerCheck = true, time.Minute })
		f.serving.Go(func() {
			for range 24 {
				time.Sleep(time.Hour)
				f.bye()
			}
		})
		sum := sha256.New()
		got := listen(t, c, sum)
		if want := sha256.Sum256(bytes.Repeat(line, lines)); got != int64(lines*len(line)) || !bytes.Equal(sum.Sum(nil), want[:]) {
			t.Errorf("%d bytes of output, not what was sent", got)
		}
		equal(t, "resumes", c.Stats().Resumes, 24)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// talkative is an SSH server whose only command writes a line again and again.
func talkative(t *testing.T, conn net.Conn, line []byte, interval time.Duration, lines int) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Error(err)
		return
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Error(err)
		return
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		t.Error(err)
		return
	}
	go ssh.DiscardRequests(requests)
	for offer := range channels {
		channel, asked, err := offer.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			for r := range asked {
				_ = r.Reply(true, nil)
			}
		}()
		for range lines {
			if _, err := channel.Write(line); err != nil {
				t.Errorf("writing output: %v", err)
			}
			time.Sleep(interval)
		}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
		_ = channel.Close()
	}
	_ = server.Close()
}

// listen runs a command over c and copies its output to w.
func listen(t *testing.T, c net.Conn, w io.Writer) int64 {
	t.Helper()
	inner, channels, requests, err := ssh.NewClientConn(c, "fake", &ssh.ClientConfig{User: "u", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(inner, channels, requests)
	defer func() { _ = client.Close() }()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	counted := &counter{w: w}
	session.Stdout = counted
	if err := session.Run("talk"); err != nil {
		t.Errorf("the command: %v", err)
	}
	return counted.n
}

// counter counts what it passes on.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}
