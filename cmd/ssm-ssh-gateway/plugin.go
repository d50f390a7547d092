package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const (
	// pluginName is what the AWS command line starts; under that name this program takes the plugin's place.
	pluginName = "session-manager-plugin"
	// pluginVersion is what --version says to the AWS command line, which calls everything before it outdated: the first version of AWS's plugin that signs its WebSocket
	// upgrade, as this one does.
	pluginVersion = "1.2.764.0"
	// responsePrefix begins the name of an environment variable that holds the response, where it is not the argument itself.
	responsePrefix = "AWS_SSM_START_SESSION_RESPONSE"
	// startOperation is the only operation there is.
	startOperation = "StartSession"
	// leastPluginArgs is what the oldest AWS command line gives: response, region, operation.
	leastPluginArgs = 3
)

// calledAsPlugin says whether the program was started under the plugin's name.
func calledAsPlugin(program string) bool {
	return strings.TrimSuffix(filepath.Base(program), ".exe") == pluginName
}

// pluginCall is what the AWS command line says, in its order.
type pluginCall struct {
	response, region, operation, profile, request, endpoint string
}

// startedSession is the response of StartSession.
type startedSession struct {
	SessionID  string `json:"SessionId"`
	StreamURL  string `json:"StreamUrl"`
	TokenValue string
}

// runPlugin does what AWS's session-manager-plugin does with these arguments. The exit status is 0 when the session ended by itself or was interrupted,
// the command's where it is told, else 1; AWS's own is always 0.
func runPlugin(ctx context.Context, args []string, local stdio, stderr io.Writer) int {
	switch {
	case len(args) == 0:
		_, _ = fmt.Fprintln(local.out, "\nThis is ssm-ssh-gateway in place of the Session Manager plugin. Use the AWS CLI to start a session.")
		return 0
	case len(args) == 1 && args[0] == "--version":
		_, _ = fmt.Fprintln(local.out, pluginVersion)
		return 0
	case len(args) < leastPluginArgs:
		_, _ = fmt.Fprintf(stderr, "%s: unknown operation %s; it is started by the AWS CLI\n", pluginName, args[0])
		return exitUsage
	}
	ctx, cancel := untilHangup(ctx)
	defer cancel()
	err := servePlugin(ctx, readPluginArgs(args), local, stderr)
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Err == nil:
		return exit.Code
	}
	_, _ = fmt.Fprintf(stderr, "%s: %s\n", pluginName, inWords(err))
	return exitFailure
}

func readPluginArgs(args []string) pluginCall {
	var call pluginCall
	for i, field := range []*string{&call.response, &call.region, &call.operation, &call.profile, &call.request, &call.endpoint} {
		if i < len(args) {
			*field = args[i]
		}
	}
	if name := call.response; strings.HasPrefix(name, responsePrefix) {
		call.response = os.Getenv(name)
		_ = os.Unsetenv(name) // a token is nothing for the environment of others
	}
	return call
}

// servePlugin opens the session and serves it as its type wants.
func servePlugin(ctx context.Context, call pluginCall, local stdio, stderr io.Writer) error {
	if call.operation != startOperation {
		return fmt.Errorf("invalid operation %q", call.operation)
	}
	grant, end, err := call.grant(ctx, stderr)
	if err != nil {
		return err
	}
	defer end()
	session, err := ssmproto.DialShell(ctx, grant, &ssmproto.Options{WaitForPeer: true})
	p := &pluginSession{Shell: session, local: local, stderr: stderr}
	switch {
	case endedSilently(err):
		p.say("\nStarting session with SessionId: %[1]s\n\n\nExiting session with sessionId: %[1]s.\n\n", grant.SessionID)
		return nil
	case err != nil:
		return fmt.Errorf("cannot start session: %w", err)
	}
	err = p.serve(ctx)
	if closing := session.Close(); err == nil && !errors.Is(closing, ssmproto.ErrUndelivered) {
		err = closing
	}
	return err
}

// started reads what the AWS command line has started.
func (call *pluginCall) started() (awscloud.Started, error) {
	var response startedSession
	var request struct{ Target string }
	if err := json.Unmarshal([]byte(call.response), &response); err != nil {
		return awscloud.Started{}, fmt.Errorf("the response of StartSession is no JSON: %w", err)
	}
	if call.request != "" {
		if err := json.Unmarshal([]byte(call.request), &request); err != nil {
			return awscloud.Started{}, fmt.Errorf("the request of StartSession is no JSON: %w", err)
		}
	}
	if response.SessionID == "" || response.StreamURL == "" {
		return awscloud.Started{}, errors.New("the response of StartSession has no session; this program is started by the AWS CLI")
	}
	return awscloud.Started{
		Target: request.Target, Region: call.region, SessionID: response.SessionID, StreamURL: response.StreamURL, Token: ssmproto.NewToken(response.TokenValue),
	}, nil
}

// grant makes the session's grant, with calls to AWS where there are credentials to sign them. end is to be called when the session has ended.
func (call *pluginCall) grant(ctx context.Context, stderr io.Writer) (_ ssmproto.Grant, end func(), err error) {
	started, err := call.started()
	if err != nil {
		return ssmproto.Grant{}, nil, err
	}
	cloud, err := awscloud.New(ctx, awscloud.Config{
		Region: call.region, Profile: call.profile, SSMEndpoint: call.endpoint, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		var grant ssmproto.Grant
		grant, err = cloud.Adopt(started)
		if err == nil {
			return grant, func() { _ = cloud.Close() }, nil
		}
		_ = cloud.Close()
	}
	_, _ = fmt.Fprintf(stderr, "%s: a lost connection cannot be resumed: %s\n", pluginName, err)
	return ssmproto.Grant{SessionID: started.SessionID, StreamURL: started.StreamURL, Token: started.Token}, func() {}, nil
}

// pluginSession is one session in the hands of the plugin.
type pluginSession struct {
	*ssmproto.Shell
	local  stdio
	stderr io.Writer
}

// serve does what the session is for, until it ends, the user ends it, or ctx does.
func (p *pluginSession) serve(ctx context.Context) error {
	properties := p.PortProperties()
	switch {
	case p.SessionType() != ssmproto.SessionPort:
		return p.shell(ctx)
	case properties.Type == "LocalPortForwarding":
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		return p.forward(ctx, properties)
	default:
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		// A stream of bytes: what is for the user must not come between.
		_, _ = fmt.Fprintf(p.stderr, "\nStarting session with SessionId: %s\n", p.SessionID())
		var session net.Conn = p.Conn
		if properties.PortNumber == "22" {
			session = awaitGreeting(session)
		}
		return relay(ctx, session, p.local, readAhead(0, 0))
	}
}

// shell serves a shell or a command. Signals are typed, as on a terminal of the machine; only SIGTERM is for the plugin.
func (p *pluginSession) shell(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	typed := make(chan os.Signal, 1)
	signal.Notify(typed, os.Interrupt)
	defer signal.Stop(typed)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-typed:
				_ = p.Signal(ssmproto.Interrupt)
			case <-ended:
				return
			}
		}
	}()
	p.say("\nStarting session with SessionId: %s\n", p.SessionID())
	if message := p.Message(); message != "" {
		p.say("%s\n", message)
	}
	err := relayShell(ctx, p.Shell, shellStreams{p.local.in, p.local.out, p.stderr, p.local.out})
	p.say("\n\nExiting session with sessionId: %s.\n\n", p.SessionID())
	if code, known := p.ExitCode(); err == nil && known && code != 0 {
		return &exitError{Code: code}
	}
	return err
}

// say writes to standard output, where scripts look for the plugin's lines.
func (p *pluginSession) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p.local.out, format, args...)
}
