package referee_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"go.uber.org/goleak"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/referee"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.StopIgnoringSignals()
	goleak.VerifyTestMain(m)
}

const (
	region    = "eu-west-1"
	machine   = "i-0123456789abcdef0"
	prompt    = "referee> " // of the machine's shell
	accessKey = "AKIAEMULATORREFEREE0"
	secretKey = "not-a-secret-referee"
	patience  = 2 * testkit.Patience // for a whole test; nothing here takes a tenth of it on an idle machine
)

// world is an emulated AWS with one machine whose agent is connected, and AWS's plugin.
type world struct {
	aws    *awsemu.Server
	plugin string
	env    []string // for the plugin and the AWS command line
	calls  *ssm.Client
}

// newWorld starts one. ports says where the machine's ports really are; the agent's habits are those of the real one but for one: that acknowledgements
// overtake its bookkeeping takes a network without delay or, here, a busy processor. The plugin acknowledges nothing twice, so that what is then lost would
// never be repeated.
func newWorld(t *testing.T, ctx context.Context, ports func(host string, port int) string) *world {
	t.Helper()
	plugin, err := referee.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	emulator, err := awsemu.Start(awsemu.Config{Accounts: []awsemu.Account{{
		ID: "111122223333",
		Users: []awsemu.User{{
			Name: "referee", AccessKeyID: accessKey, SecretAccessKey: secretKey,
			Policy: awsemu.Allow([]string{"ssm:*", "ssmmessages:*", "ec2:*", "ec2-instance-connect:*"}, "*"),
		}},
		Instances: []awsemu.Instance{{ID: machine, Region: region, Tags: map[string]string{"Name": "web-1"}, PrivateIP: "10.0.0.10"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, "emulator", emulator.Close()) })
	attached, err := agent.Start(context.WithoutCancel(ctx), agent.Config{
		Endpoint: emulator.PlainURL(), InstanceID: machine, Region: region, PortMap: ports, Shell: []string{"env", "PS1=" + prompt, "sh"},
		Credentials: agent.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, Quirks: agent.Quirks{RecordBeforeSending: true},
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "db.internal" {
				return []netip.Addr{netip.MustParseAddr("10.0.0.53")}, nil
			}
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, "agent", attached.Close()) })
	if err := emulator.WaitAgent(ctx, machine); err != nil {
		t.Fatal(err)
	}
	w := &world{aws: emulator, plugin: plugin, env: append(withoutAWS(os.Environ()),
		"AWS_ACCESS_KEY_ID="+accessKey, "AWS_SECRET_ACCESS_KEY="+secretKey, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_REGION="+region, "AWS_DEFAULT_REGION="+region, "AWS_ENDPOINT_URL="+emulator.PlainURL(), "AWS_PAGER=",
		"TMPDIR="+testkit.SocketDir(t), "AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull, "PATH="+filepath.Dir(plugin)+string(os.PathListSeparator)+os.Getenv("PATH"))}
	w.calls = ssm.New(ssm.Options{
		Region: region, BaseEndpoint: aws.String(emulator.PlainURL()), Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	})
	return w
}

// withoutAWS drops what the caller's environment says about AWS. Empty values would not do: the AWS command line looks for a profile with no name.
func withoutAWS(env []string) []string {
	return slices.DeleteFunc(env, func(entry string) bool { return strings.HasPrefix(entry, "AWS_") })
}

func closed(t *testing.T, what string, err error) {
	if err != nil {
		t.Errorf("close the %s: %v", what, err)
	}
}

// session is AWS's plugin at work on a session.
type session struct {
	id  string
	cmd *exec.Cmd
	in  io.WriteCloser
	out transcript
}

// start opens a session with a document (none: the shell) and gives it to the plugin, as the AWS command line does.
func (w *world) start(t *testing.T, ctx context.Context, document string, parameters map[string][]string) *session {
	t.Helper()
	s := w.command(t, ctx, document, parameters)
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.run(t)
	return s
}

// command opens the session and makes the plugin's command line, not yet started.
func (w *world) command(t *testing.T, ctx context.Context, document string, parameters map[string][]string) *session {
	t.Helper()
	input := &ssm.StartSessionInput{Target: aws.String(machine), Parameters: parameters}
	if document != "" {
		input.DocumentName = aws.String(document)
	}
	grant, err := w.calls.StartSession(ctx, input)
	if err != nil {
		t.Fatal(err)
	}
	response, err := json.Marshal(map[string]any{"SessionId": grant.SessionId, "StreamUrl": grant.StreamUrl, "TokenValue": grant.TokenValue})
	if err != nil {
		t.Fatal(err)
	}
	request, err := json.Marshal(map[string]any{"Target": machine})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{id: *grant.SessionId, out: transcript{testkit.NewTranscript()}}
	s.cmd = exec.CommandContext(ctx, w.plugin, string(response), region, "StartSession", "", string(request), w.aws.PlainURL())
	s.cmd.Env = w.env
	s.cmd.WaitDelay = 5 * time.Second
	return s
}

// run starts the program and takes care that it has ended with the test.
func (s *session) run(t *testing.T) {
	t.Helper()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
	})
}

// settle returns once the plugin has sent nothing for a while. It numbers what it sends from several goroutines without a lock, and counts on after it has sent
// (SendInputDataMessage in its datachannel/streaming.go): what takes the number of the message before is lost, and all that follows may wait for one that never
// comes. Nothing tells when it has counted on; on a busy machine that is after the answer has come.
func (s *session) settle(w *world) {
	sent := func() int64 {
		for _, info := range w.aws.Sessions() {
			if info.ID == s.id {
				return info.ToAgent.Messages
			}
		}
		return 0
	}
	const quiet = time.Second
	for before := int64(-1); before != sent(); time.Sleep(quiet) {
		before = sent()
	}
}

// interrupt is Ctrl-C, for the plugin itself: its flag that ends the session must not take the number of a stream's last frame.
func (s *session) interrupt(t *testing.T, w *world) {
	t.Helper()
	s.settle(w)
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}

// ends waits until the plugin has ended by itself, with success, and the service knows that the session is over.
func (s *session) ends(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the plugin ended with %v:\n%s", err, s.out.String())
	}
	over := func(i awsemu.SessionInfo) bool { return i.Status == awsemu.StatusTerminated }
	if err := w.aws.WaitSession(ctx, s.id, over); err != nil {
		t.Errorf("the session has not ended: %v", err)
	}
}

// transcript is what the plugin has printed.
type transcript struct{ *testkit.Transcript }

// after gives the n bytes that follow the first mark, once they are there.
func (tr transcript) after(ctx context.Context, mark string, n int) ([]byte, error) {
	var rest string
	err := tr.Until(ctx, func(text string) (enough bool) {
		_, rest, enough = strings.Cut(text, mark)
		return enough && len(rest) >= n
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %d of %d bytes after %q", err, len(rest), n, mark)
	}
	return []byte(rest[:n]), nil
}

// until waits for text and fails the test without it.
func (tr transcript) until(t *testing.T, ctx context.Context, text string) {
	t.Helper()
	if _, err := tr.after(ctx, text, 0); err != nil {
		t.Fatalf("%v in:\n%s", err, tr)
	}
}

// banner is what a server that speaks first says, as sshd does.
const banner = "SSH-2.0-referee\r\n"

// echo greets, sends back the next n bytes and closes.
func echo(n int64) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := io.WriteString(conn, banner); err == nil {
			_, _ = io.CopyN(conn, conn, n)
		}
	}
}

// hello is what a client says first.
const hello = "hello\n"

// answer is echo for a client that speaks first. Forwarding, the plugin loses what comes before its smux knows the stream, which it sends the SYN of before:
// a greeting, where a processor is busy (ssmproto.Mux does not).
func answer(n int64) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, len(hello))); err == nil {
			echo(n)(conn)
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return b
}

func only(port int, addr string) func(string, int) string {
	return func(host string, p int) string {
		if p == port && (host == "localhost" || strings.HasPrefix(host, "127.")) {
			return addr
		}
		return ""
	}
}
