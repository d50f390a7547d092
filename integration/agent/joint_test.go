package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const (
	region    = "eu-central-1"
	keyID     = "AKIAEMULATORJOINT001"
	keySecret = "emulated-secret"
)

// world is the emulated AWS with one machine, whose agent leads to the test's destinations.
type world struct {
	*awsemu.Server
	t   *testing.T
	ssm *ssm.Client
}

func newWorld(t *testing.T, cfg agent.Config) *world {
	t.Helper()
	server, err := awsemu.Start(awsemu.Config{
		RequireSignedChannels: true,
		Accounts: []awsemu.Account{{
			ID:        "111122223333",
			Users:     []awsemu.User{{Name: "joint", AccessKeyID: keyID, SecretAccessKey: keySecret, Policy: awsemu.Allow([]string{"*"}, "*")}},
			Instances: []awsemu.Instance{{ID: machine, Region: region}},
			Keys:      []awsemu.Key{{ID: "0a1b2c3d-0000-0000-0000-000000000001", Region: region, Alias: "alias/sessions"}},
			Documents: []awsemu.Document{
				{Name: "Secret-Shell", Region: region, Content: `{"schemaVersion":"1.0","sessionType":"Standard_Stream","inputs":{"kmsKeyId":"alias/sessions"}}`},
				{Name: "Secret-Command", Region: region, Content: `{"schemaVersion":"1.0","sessionType":"NonInteractiveCommands","inputs":{"kmsKeyId":"alias/sessions"},` +
					`"parameters":{"command":{"type":"String"}},"properties":{"linux":{"commands":"{{ command }}","separateOutputStream":true}}}`},
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.Endpoint, cfg.InstanceID, cfg.Region = server.PlainURL(), machine, region
	cfg.Credentials = agent.Credentials{AccessKeyID: keyID, SecretAccessKey: keySecret}
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := agent.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	w := &world{Server: server, t: t}
	if err := server.WaitAgent(w.deadline(), machine); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	w.ssm = ssm.New(ssm.Options{
		Region: region, BaseEndpoint: aws.String(server.PlainURL()), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(keyID, keySecret, ""),
	})
	return w
}

func (w *world) deadline() context.Context {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	w.t.Cleanup(cancel)
	return ctx
}

// start asks the emulated AWS for a session, as a client of ssmproto would be given it.
func (w *world) start(document string, parameters map[string][]string) ssmproto.Grant {
	w.t.Helper()
	out, err := w.ssm.StartSession(w.deadline(), &ssm.StartSessionInput{Target: aws.String(machine), DocumentName: aws.String(document), Parameters: parameters})
	if err != nil {
		w.t.Fatal(err)
	}
	signer := agent.Credentials{AccessKeyID: keyID, SecretAccessKey: keySecret}
	return ssmproto.Grant{
		SessionID: aws.ToString(out.SessionId), StreamURL: aws.ToString(out.StreamUrl), Token: ssmproto.NewToken(aws.ToString(out.TokenValue)),
		Target: machine,
		Resume: func(ctx context.Context, id string) (ssmproto.Token, error) {
			again, err := w.ssm.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: aws.String(id)})
			if err != nil {
				return ssmproto.Token{}, err
			}
			return ssmproto.NewToken(aws.ToString(again.TokenValue)), nil
		},
		Sign: func(ctx context.Context, req *http.Request) error { return agent.SignForTest(ctx, signer, req, region) },
	}
}

// echo is a destination that greets, as an SSH server does, and then sends back what it gets.
func echo(t *testing.T, greeting string) string {
	t.Helper()
	addr, conns := listen(t)
	var wait sync.WaitGroup
	done := make(chan struct{})
	wait.Go(func() {
		for {
			select {
			case conn := <-conns:
				wait.Go(func() {
					defer conn.Close()
					_, _ = io.WriteString(conn, greeting)
					_, _ = io.Copy(conn, conn)
				})
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		wait.Wait()
	})
	return addr
}

// thereAndBack sends random bytes through conn and compares what comes back.
func thereAndBack(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(3 * patience))
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := conn.Write(data); err != nil {
			t.Errorf("write: %v", err)
		}
	})
	got := make([]byte, size)
	n, err := io.ReadFull(conn, got)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes came back, the same: %t, %v", n, size, bytes.Equal(got[:n], data[:n]), err)
	}
	writing.Wait()
}

// The client's library, the emulated service and the agent, each written apart from the others.
func TestJointSSHSession(t *testing.T) {
	for name, faults := range map[string]awsemu.Faults{
		"calm": {},
		"loss": {Seed: 1, ToAgent: awsemu.Link{Drop: 0.02, Duplicate: 0.05, Reorder: 0.05}, ToClient: awsemu.Link{Drop: 0.02, Duplicate: 0.05, Reorder: 0.05}},
		"cuts": {CutAfterMessages: 200, CutSide: awsemu.SideAgent},
	} {
		t.Run(name, func(t *testing.T) {
			addr := echo(t, "SSH-2.0-echo\r\n")
			w := newWorld(t, agent.Config{PortMap: func(string, int) string { return addr }})
			if err := w.SetFaults(awsemu.Scope{}, faults); err != nil {
				t.Fatal(err)
			}
			conn, err := ssmproto.Dial(w.deadline(), w.start("AWS-StartSSHSession", map[string][]string{"portNumber": {"22"}}), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			greeting := make([]byte, len("SSH-2.0-echo\r\n"))
			if _, err := io.ReadFull(conn, greeting); err != nil || !strings.HasPrefix(string(greeting), "SSH-2.0-echo") {
				t.Fatalf("greeting %q, %v", greeting, err)
			}
			thereAndBack(t, conn, 128<<10)
		})
	}
}

// Where the agent's client leaves, the session ends at the service.
func TestJointSessionEnds(t *testing.T) {
	addr := echo(t, "SSH-2.0-echo\r\n")
	w := newWorld(t, agent.Config{PortMap: func(string, int) string { return addr }})
	grant := w.start("AWS-StartSSHSession", map[string][]string{"portNumber": {"22"}})
	conn, err := ssmproto.Dial(w.deadline(), grant, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, len("SSH-2.0-echo\r\n"))); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := w.WaitSession(w.deadline(), grant.SessionID, func(i awsemu.SessionInfo) bool { return i.Status == awsemu.StatusTerminated }); err != nil {
		t.Error(err)
	}
}

// A multiplexed session through all three, with several connections at a time and a reader that is slow to begin.
func TestJointMux(t *testing.T) {
	addr := echo(t, "")
	w := newWorld(t, agent.Config{PortMap: func(string, int) string { return addr }, Quirks: agent.Quirks{Fast: true}})
	grant := w.start("AWS-StartPortForwardingSession", map[string][]string{"portNumber": {"5432"}, "localPortNumber": {"0"}})
	conn, err := ssmproto.Dial(w.deadline(), grant, nil)
	if err != nil {
		t.Fatal(err)
	}
	mux, err := ssmproto.NewMux(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer mux.Close()
	var wait sync.WaitGroup
	for range 3 {
		stream, err := mux.Open(w.deadline())
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			thereAndBack(t, stream, 256<<10)
			_ = stream.Close()
		})
	}
	wait.Wait()
}
