package referee_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// AWS-StartSSHSession: the plugin's standard streams are the machine's port 22, and the session ends when the machine's side closes.
func TestSSHDocument(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	data := random(128 << 10)
	w := newWorld(t, ctx, only(22, testkit.ServeTCP(t, "127.0.0.1", echo(int64(len(data))))))
	s := w.start(t, ctx, "AWS-StartSSHSession", map[string][]string{"portNumber": {"22"}})
	s.out.until(t, ctx, banner)
	if _, err := s.in.Write(data); err != nil {
		t.Fatal(err)
	}
	back, err := s.out.after(ctx, banner, len(data))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back, data) {
		t.Error("the bytes that came back are not those that went")
	}
	s.ends(t, ctx, w)
}

// The connection to AWS breaks on either side, and not a byte is lost: the plugin resumes with a token of ResumeSession, the agent comes back by itself, in the
// middle of sending. The plugin's breaks in a pause: one that is sending, and be it acknowledgements, gives up, because its ReadStream ends with the write's error.
func TestResumeAfterACut(t *testing.T) {
	for _, side := range []awsemu.Side{awsemu.SideClient, awsemu.SideAgent} {
		t.Run(string(side), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			down, up, cut := random(192<<10), random(16<<10), make(chan struct{})
			if side == awsemu.SideAgent {
				close(cut)
			}
			w := newWorld(t, ctx, only(22, testkit.ServeTCP(t, "127.0.0.1", func(conn net.Conn) {
				_, _ = conn.Write(append([]byte(banner), down[:len(down)/3]...))
				select {
				case <-cut:
				case <-ctx.Done():
					return
				}
				_, _ = conn.Write(down[len(down)/3:])
				_, _ = io.CopyN(conn, conn, int64(len(up)))
			})))
			s := w.start(t, ctx, "AWS-StartSSHSession", nil)
			if _, err := s.out.after(ctx, banner, len(down)/3); err != nil {
				t.Fatal(err)
			}
			if err := w.aws.Cut(s.id, side); err != nil {
				t.Fatal(err)
			}
			if side == awsemu.SideClient {
				close(cut)
			}
			if _, err := s.out.after(ctx, banner, len(down)); err != nil {
				t.Fatalf("%v; calls: %s", err, actions(w))
			}
			if _, err := s.in.Write(up); err != nil {
				t.Fatal(err)
			}
			back, err := s.out.after(ctx, banner, len(down)+len(up))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(back, append(down, up...)) {
				t.Error("the bytes that came are not those that were sent")
			}
			s.ends(t, ctx, w)
			if resumed := strings.Contains(actions(w), "ResumeSession"); resumed != (side == awsemu.SideClient) {
				t.Errorf("resumed: %v, after a cut of the %s's side; calls: %s", resumed, side, actions(w))
			}
		})
	}
}

func actions(w *world) string {
	var names []string
	for _, call := range w.aws.Calls() {
		names = append(names, call.Service+":"+call.Action)
	}
	return fmt.Sprint(names)
}

var opened = regexp.MustCompile(`Port (\d+) opened`)

// localPort waits until the plugin listens and says where.
func (s *session) localPort(t *testing.T, ctx context.Context) string {
	t.Helper()
	s.out.until(t, ctx, "Waiting for connections")
	match := opened.FindStringSubmatch(s.out.String())
	if match == nil {
		t.Fatalf("the plugin does not say which port it opened:\n%s", s.out.String())
	}
	return net.JoinHostPort("localhost", match[1])
}

// through sends data to a port that answers, and gives the first error on the way there and back.
func through(addr string, data []byte) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, hello); err != nil {
		return err
	}
	greeting := make([]byte, len(banner))
	if _, err := io.ReadFull(conn, greeting); err != nil || string(greeting) != banner {
		return fmt.Errorf("greeting %q: %w", greeting, err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		wrote <- err
	}()
	back, err := io.ReadAll(conn) // to the end: the server closes when it has sent all back
	if writeErr := <-wrote; writeErr != nil {
		return writeErr
	}
	if err == nil && !bytes.Equal(back, data) {
		err = fmt.Errorf("sent %d bytes, got back %d, and not the same", len(data), len(back))
	}
	return err
}

// Several connections at once share one session, multiplexed.
func TestPortForwarding(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const size = 24 << 10
	w := newWorld(t, ctx, only(8080, testkit.ServeTCP(t, "127.0.0.1", answer(size))))
	s := w.start(t, ctx, "AWS-StartPortForwardingSession", map[string][]string{"portNumber": {"8080"}, "localPortNumber": {"0"}})
	addr := s.localPort(t, ctx)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			if err := through(addr, random(size)); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if err := through(addr, random(size)); err != nil { // after all others have closed
		t.Errorf("one more: %v", err)
	}
	s.interrupt(t, w)
	s.ends(t, ctx, w)
}

func TestRemoteHost(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const size = 24 << 10
	database := testkit.ServeTCP(t, "127.0.0.1", answer(size))
	w := newWorld(t, ctx, func(host string, port int) string {
		if host == "10.0.0.53" && port == 5432 {
			return database
		}
		return ""
	})
	s := w.start(t, ctx, "AWS-StartPortForwardingSessionToRemoteHost",
		map[string][]string{"host": {"db.internal"}, "portNumber": {"5432"}, "localPortNumber": {"0"}})
	if err := through(s.localPort(t, ctx), random(size)); err != nil {
		t.Error(err)
	}
	s.interrupt(t, w)
	s.ends(t, ctx, w)
}

// A port that nobody listens on: the plugin tells its user, and the session goes on for the next connection.
func TestPortForwardingToNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w := newWorld(t, ctx, only(0, ""))
	s := w.start(t, ctx, "AWS-StartPortForwardingSession", map[string][]string{"portNumber": {"8080"}, "localPortNumber": {"0"}})
	conn, err := net.Dial("tcp", s.localPort(t, ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.out.until(t, ctx, "Connection to destination port failed")
	s.interrupt(t, w)
	s.ends(t, ctx, w)
}
