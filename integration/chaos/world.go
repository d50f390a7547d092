package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
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
	account   = "111122223333"
	keyID     = "AKIAEMULATORCHAOS001" //nolint:gosec // of the emulator
	keySecret = "emulated-secret"
	// commandDocument runs a command with its two streams apart.
	commandDocument = "Chaos-Command"
)

// world is the emulated AWS, and the destinations that its machines lead to.
type world struct {
	aws      *awsemu.Server
	ssm      *ssm.Client
	http     *http.Transport
	listener net.Listener
	serving  sync.WaitGroup
	dir      string // for the files of commands

	mu    sync.Mutex
	plays map[uint64]*play // by number, which a connection to the destination begins with
	conns map[net.Conn]struct{}
}

func newWorld() (*world, error) {
	cfg := awsemu.Account{
		ID: account, Users: []awsemu.User{{Name: "chaos", AccessKeyID: keyID, SecretAccessKey: keySecret, Policy: awsemu.Allow([]string{"*"}, "*")}},
		Documents: []awsemu.Document{{Name: commandDocument, Region: region, Content: `{"schemaVersion":"1.0","description":"chaos","sessionType":"NonInteractiveCommands",` +
			`"parameters":{"command":{"type":"String"}},"properties":{"linux":{"commands":"{{ command }}","separateOutputStream":true},` +
			`"macos":{"commands":"{{ command }}","separateOutputStream":true}}}`}},
	}
	server, err := awsemu.Start(awsemu.Config{Accounts: []awsemu.Account{cfg}})
	if err != nil {
		return nil, err
	}
	w := &world{aws: server, http: &http.Transport{}, plays: map[uint64]*play{}, conns: map[net.Conn]struct{}{}}
	w.ssm = ssm.New(ssm.Options{
		Region: region, BaseEndpoint: aws.String(server.PlainURL()), HTTPClient: &http.Client{Transport: w.http},
		Credentials: credentials.NewStaticCredentialsProvider(keyID, keySecret, ""),
	})
	if w.dir, err = os.MkdirTemp("", "chaos-"); err == nil {
		w.listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	w.serving.Go(w.accept)
	return w, nil
}

// newMachine adds a machine. Each schedule has one of its own: of an agent that has just gone the service may not know yet.
func (w *world) newMachine(n uint64) (id string, err error) {
	id = fmt.Sprintf("i-%017x", n+1)
	return id, w.aws.AddInstance(account, awsemu.Instance{ID: id, Region: region})
}

func (w *world) close() error {
	if w.listener != nil {
		_ = w.listener.Close()
	}
	w.mu.Lock()
	for c := range w.conns {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.serving.Wait()
	err := w.aws.Close()
	w.http.CloseIdleConnections()
	return errors.Join(err, os.RemoveAll(w.dir))
}

// accept is the destination of all port sessions. It speaks first, as SSH servers do.
func (w *world) accept() {
	for {
		c, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.conns[c] = struct{}{}
		w.mu.Unlock()
		w.serving.Go(func() {
			w.serve(c)
			_ = c.Close()
			w.mu.Lock()
			delete(w.conns, c)
			w.mu.Unlock()
		})
	}
}

func (w *world) serve(c net.Conn) {
	if _, err := io.WriteString(c, greeting); err != nil {
		return
	}
	var head [headSize]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	number, stream := parseHead(head)
	w.mu.Lock()
	p := w.plays[number]
	w.mu.Unlock()
	if p != nil && stream < len(p.up) {
		p.destination(c, stream)
	}
}

// startAgent puts a machine on the air.
func (w *world) startAgent(ctx context.Context, machine string, quirks agent.Quirks) (*agent.Agent, error) {
	a, err := agent.Start(context.WithoutCancel(ctx), agent.Config{
		Endpoint: w.aws.PlainURL(), InstanceID: machine, Region: region, Quirks: quirks,
		Credentials: agent.Credentials{AccessKeyID: keyID, SecretAccessKey: keySecret},
		PortMap:     func(string, int) string { return w.listener.Addr().String() },
		Shell:       []string{"sh", "-c", "stty raw -echo; printf '" + greeting + "'; exec cat"},
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-a.Ready():
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), a.Close())
	}
	if err := w.aws.WaitAgent(ctx, machine); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// grant asks for a session.
func (w *world) grant(ctx context.Context, machine, document string, parameters map[string][]string) (ssmproto.Grant, error) {
	in := &ssm.StartSessionInput{Target: aws.String(machine), Parameters: parameters}
	if document != "" {
		in.DocumentName = aws.String(document)
	}
	out, err := w.ssm.StartSession(ctx, in)
	if err != nil {
		return ssmproto.Grant{}, err
	}
	return ssmproto.Grant{
		SessionID: aws.ToString(out.SessionId), StreamURL: aws.ToString(out.StreamUrl), Token: ssmproto.NewToken(aws.ToString(out.TokenValue)),
		Resume: func(ctx context.Context, id string) (ssmproto.Token, error) {
			again, err := w.ssm.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: aws.String(id)})
			switch {
			case err != nil:
				return ssmproto.Token{}, err
			case aws.ToString(again.TokenValue) == "":
				return ssmproto.Token{}, ssmproto.ErrSessionOver
			}
			return ssmproto.NewToken(aws.ToString(again.TokenValue)), nil
		},
		Terminate: func(ctx context.Context, id string) error {
			_, err := w.ssm.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: aws.String(id)})
			return err
		},
	}, nil
}

// patience is how long a schedule may take on a crowded machine.
const patience = 3 * time.Minute
