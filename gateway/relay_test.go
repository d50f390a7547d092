package gateway

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// relayed is a relay between two TCP connections, seen from their far ends.
type relayed struct {
	client, port net.Conn
	left         chan struct{}
	cancel       context.CancelCauseFunc
	result       chan relayResult
}

type relayResult struct {
	in, out int64
	err     error
}

// plainConn hides CloseWrite: the single-connection port session has no half-close.
type plainConn struct{ net.Conn }

func newRelay(t *testing.T, halfClose bool, linger time.Duration) *relayed {
	t.Helper()
	clientNear, clientFar := testkit.TCPPair(t)
	portNear, portFar := testkit.TCPPair(t)
	port := portNear
	if !halfClose {
		port = plainConn{portNear}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	r := &relayed{client: clientFar, port: portFar, left: make(chan struct{}), cancel: cancel, result: make(chan relayResult, 1)}
	go func() {
		in, out, err := relay(ctx, clientNear, port, r.left, linger)
		r.result <- relayResult{in, out, err}
	}()
	return r
}

func (r *relayed) endClientInput(t *testing.T) {
	t.Helper()
	if err := r.client.(*net.TCPConn).CloseWrite(); err != nil { //nolint:forcetypeassert // made by tcpPair
		t.Fatal(err)
	}
}

func TestRelayCarriesHalfCloses(t *testing.T) {
	r := newRelay(t, true, time.Hour)
	_, _ = io.WriteString(r.client, "all of it")
	r.endClientInput(t)
	if got, err := io.ReadAll(r.port); string(got) != "all of it" || err != nil {
		t.Fatalf("the machine read %q, %v", got, err)
	}
	_, _ = io.WriteString(r.port, "the answer to the end of input")
	_ = r.port.Close()
	if got, err := io.ReadAll(r.client); string(got) != "the answer to the end of input" || err != nil {
		t.Errorf("the client read %q, %v", got, err)
	}
	if end := testkit.Receive(t, r.result, "the end"); end.in != 9 || end.out != 30 || end.err != nil {
		t.Errorf("ended with %+v", end)
	}
}

func TestRelayLeavesTimeForTheAnswerWhereItCannotHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = time.Minute
		input, typed := io.Pipe()
		shown, output := io.Pipe()
		port, machine := net.Pipe() // which cannot half-close
		defer func() { _ = machine.Close() }()
		ended := make(chan error, 1)
		began := time.Now()
		go func() {
			_, _, err := relay(t.Context(), pipes{in: input, out: output}, port, make(chan struct{}), linger)
			ended <- err
		}()
		go func() {
			_, _ = io.WriteString(typed, "?")
			_ = typed.Close()
			_, _ = io.ReadFull(machine, make([]byte, 1))
			time.Sleep(linger - time.Second)
			_, _ = io.WriteString(machine, "!")
		}()
		if got, err := io.ReadAll(shown); string(got) != "!" || err != nil { // ends when it has been still for the linger time: the machine has not closed
			t.Errorf("the client read %q, %v", got, err)
		}
		if err := <-ended; err != nil || time.Since(began) != 2*linger-time.Second {
			t.Errorf("ended with %v after %s", err, time.Since(began))
		}
	})
}

// pipes is a client whose input may end before the rest of it.
type pipes struct {
	net.Conn
	in  *io.PipeReader
	out *io.PipeWriter
}

func (p pipes) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.in.Close(), p.out.Close()) }

func TestRelayEndsAtOnceWithAClientThatHasGone(t *testing.T) {
	for _, halfClose := range []bool{true, false} {
		r := newRelay(t, halfClose, time.Hour)
		r.endClientInput(t)
		close(r.left)
		if end := testkit.Receive(t, r.result, "the end"); end.err != nil {
			t.Errorf("half-close %v: ended with %+v", halfClose, end)
		}
	}
}

func TestRelayEndsWhenItIsCut(t *testing.T) {
	r := newRelay(t, false, time.Hour)
	cut := &authz.Refusal{Reason: authz.ReasonRevoked}
	r.cancel(cut)
	if end := testkit.Receive(t, r.result, "the end"); !errors.Is(end.err, cut) {
		t.Errorf("ended with %+v", end)
	}
}

func TestRelayEndsWithTheMachine(t *testing.T) {
	r := newRelay(t, false, time.Hour)
	_ = r.port.Close()
	if got, err := io.ReadAll(r.client); len(got) != 0 || err != nil {
		t.Errorf("the client read %q, %v", got, err)
	}
	if end := testkit.Receive(t, r.result, "the end"); end.err != nil {
		t.Errorf("ended with %+v", end)
	}
}

// TestNothingHereDialsOrListens: what a client names is looked up in the cloud and reached through it, never by this process itself.
func TestNothingHereDialsOrListens(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	forbidden := []string{"Dial", "DialTimeout", "DialTCP", "DialUDP", "DialUnix", "DialIP", "Dialer", "Listen", "ListenTCP", "ListenUDP", "ListenUnix", "ListenPacket", "ListenConfig", "Resolver", "LookupHost", "LookupIP", "LookupAddr", "LookupTXT", "ResolveTCPAddr"}
	seen := 0
	for _, entry := range files {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		seen++
		fileSet := token.NewFileSet()
		file, err := parser.ParseFile(fileSet, entry.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			use, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if of, ok := use.X.(*ast.Ident); ok && (of.Name == "net" || of.Name == "ssh") && slices.Contains(forbidden, use.Sel.Name) {
				t.Errorf("%s uses %s.%s", fileSet.Position(use.Pos()), of.Name, use.Sel.Name)
			}
			return true
		})
	}
	if seen < 10 {
		t.Errorf("only %d files were looked at", seen)
	}
}
