package awscloud

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// echo answers every connection with what it says, until the test ends.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); group.Wait() })
	return listener.Addr().String()
}

// attach starts an agent for a machine, whose every port leads to an echo.
func attach(t *testing.T, server *awsemu.Server, id, region string) {
	t.Helper()
	address := echo(t)
	running, err := agent.Start(t.Context(), agent.Config{
		Endpoint: server.PlainURL(), InstanceID: id, Region: region, PortMap: func(string, int) string { return address },
		Credentials: agent.Credentials{AccessKeyID: "AKIAEMULATORAGENT000", SecretAccessKey: "secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	if err := server.WaitAgent(ctx, id); err != nil {
		t.Fatal(err)
	}
}

func roundTrip(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("said %q, heard %q, %v", text, got, err)
	}
}

// TestSessionOverTheWire takes a grant through its whole life where AWS checks every signature: open, lose the connection, resume, terminate.
func TestSessionOverTheWire(t *testing.T) {
	server := worldOf(t, awsemu.Config{RequireSignedChannels: true})
	attach(t, server, webID, "eu-west-1")
	c := cloudIn(t, server, Config{})
	grant, err := c.StartPort(t.Context(), person(prodRole, "alice", nil), mustResolve(t, c, webID), 22, "alice ref-1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	conn, err := ssmproto.Dial(ctx, grant, nil)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, conn, "before")
	if err := server.Cut(grant.SessionID, awsemu.SideClient); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, conn, "and after")
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := grant.Terminate(t.Context(), grant.SessionID); err != nil {
		t.Error(err)
	}
	if _, err := grant.Resume(t.Context(), grant.SessionID); !errors.Is(err, ssmproto.ErrSessionOver) {
		t.Errorf("resuming what was terminated: %v", err)
	}
	for _, action := range []string{"StartSession", "ResumeSession", "TerminateSession"} {
		calls := callsOf(server, action)
		if len(calls) == 0 {
			t.Errorf("no %s", action)
		}
		for _, call := range calls {
			if call.SessionName != "alice" || call.SourceIdentity != "alice" {
				t.Errorf("%s was signed by %s", action, call.Principal)
			}
		}
	}
}
