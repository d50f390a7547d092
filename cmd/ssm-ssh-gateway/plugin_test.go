package main

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// pluginArgs starts a session and gives what the AWS command line would hand on.
func pluginArgs(t *testing.T, l *lab.Lab, target string, purpose awscloud.Purpose) []string {
	t.Helper()
	cloud, err := (&laptop{}).open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cloud.Close() }()
	on, err := cloud.Resolve(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := cloud.StartSession(t.Context(), authz.Role{}, on, purpose)
	if err != nil {
		t.Fatal(err)
	}
	response, err := json.Marshal(startedSession{grant.SessionID, grant.StreamURL, grant.Token.Reveal()})
	if err != nil {
		t.Fatal(err)
	}
	return []string{string(response), lab.Region, "StartSession", "", `{"Target": "` + on.ID + `"}`, l.AWS.URL()}
}

func TestCalledAsPlugin(t *testing.T) {
	for program, want := range map[string]bool{
		"session-manager-plugin": true, "/usr/local/bin/session-manager-plugin": true, "session-manager-plugin.exe": true,
		"ssm-ssh-gateway": false, "./bin/ssm-ssh-gateway": false, "session-manager-plugin-2": false,
	} {
		if got := calledAsPlugin(program); got != want {
			t.Errorf("%s: %v", program, got)
		}
	}
}

// TestPluginArguments: what the plugin says when it is not called as the AWS command line does.
func TestPluginArguments(t *testing.T) {
	laptopLab(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 0, "in place of the Session Manager plugin"},
		{[]string{"--version"}, 0, "1.2.764.0\n"},
		{[]string{"--help"}, exitUsage, "unknown operation --help"},
		{[]string{"{}", lab.Region, "StopSession", "", "{}", ""}, exitFailure, `invalid operation "StopSession"`},
		{[]string{"no JSON", lab.Region, "StartSession"}, exitFailure, "the response of StartSession is no JSON"},
		{[]string{"{}", lab.Region, "StartSession", "", "no JSON"}, exitFailure, "the request of StartSession is no JSON"},
		{[]string{"{}", lab.Region, "StartSession"}, exitFailure, "the response of StartSession has no session"},
	} {
		var out, errs strings.Builder
		code := runPlugin(t.Context(), c.args, stdio{strings.NewReader(""), &out}, &errs)
		if said := out.String() + errs.String(); code != c.code || !strings.Contains(said, c.want) {
			t.Errorf("%q: exit status %d and %q, want %d and %q", c.args, code, said, c.code, c.want)
		}
	}
}

// TestPluginResponseInEnvironment: the response may be in a variable, which nobody after us sees.
func TestPluginResponseInEnvironment(t *testing.T) {
	l := laptopLab(t)
	args := pluginArgs(t, l, lab.MainInstance, awscloud.Purpose{
		Document: awscloud.CommandDocument, Parameters: map[string][]string{commandParameter: {"echo found"}},
	})
	t.Setenv(responsePrefix, args[0])
	args[0] = responsePrefix
	var out, errs strings.Builder
	if code := runPlugin(t.Context(), args, stdio{strings.NewReader(""), &out}, &errs); code != 0 || !strings.Contains(out.String(), "found\n") {
		t.Errorf("exit status %d, printed %q, said %q", code, out.String(), errs.String())
	}
	if _, left := os.LookupEnv(responsePrefix); left {
		t.Error("the response is still in the environment")
	}
	nothingOpen(t, l)
}

// TestPluginWithoutCredentials: a session opens even if nobody could resume it.
func TestPluginWithoutCredentials(t *testing.T) {
	l := laptopLab(t)
	args := pluginArgs(t, l, lab.MainInstance, awscloud.Purpose{
		Document: awscloud.CommandDocument, Parameters: map[string][]string{commandParameter: {"echo found"}},
	})
	args[3] = "no-such-profile"
	var out, errs strings.Builder
	if code := runPlugin(t.Context(), args, stdio{strings.NewReader(""), &out}, &errs); code != 0 || !strings.Contains(out.String(), "found\n") {
		t.Errorf("exit status %d, printed %q, said %q", code, out.String(), errs.String())
	}
	if !strings.Contains(errs.String(), "cannot be resumed") {
		t.Errorf("nothing of the missing profile: %q", errs.String())
	}
	nothingOpen(t, l)
}

// TestPluginOldAgent has an agent that does not multiplex: one connection after the other, over the same session.
func TestPluginOldAgent(t *testing.T) {
	l := laptopLab(t)
	old, err := agent.Start(t.Context(), agent.Config{
		Endpoint: l.AWS.PlainURL(), InstanceID: lab.OfflineInstance, Region: lab.Region, AgentVersion: "3.0.100.0",
		Credentials: agent.Credentials{AccessKeyID: "AKIAEMULATORAGENT000", SecretAccessKey: "not-a-secret-agent"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	if err := l.AWS.WaitAgent(t.Context(), lab.OfflineInstance); err != nil {
		t.Fatal(err)
	}
	args := pluginArgs(t, l, lab.OfflineInstance, awscloud.Purpose{
		Document: awscloud.PortDocument, Parameters: map[string][]string{"portNumber": {serveEcho(t, "127.0.0.1")}, "localPortNumber": {"0"}},
	})
	out, errs, ended := testkit.NewTranscript(), testkit.NewTranscript(), make(chan int, 1)
	go func() { ended <- runPlugin(t.Context(), args, stdio{strings.NewReader(""), out}, errs) }()
	opened := out.Find(t, `Port (\d+) opened for sessionId (\S+)\.`)
	for range 3 {
		roundTrip(t, "tcp", "127.0.0.1:"+opened[1], 20<<10)
	}
	l.AWS.End(opened[2], "")
	if code := testkit.Receive(t, ended, "the end of the plugin"); code != 0 {
		t.Errorf("exit status %d: %s", code, errs.String())
	}
	nothingOpen(t, l)
}

// TestPluginStandardStream relays bytes between standard input and output and a port, with nothing in between.
func TestPluginStandardStream(t *testing.T) {
	l := laptopLab(t)
	args := pluginArgs(t, l, lab.MainInstance, awscloud.Purpose{Document: "AWS-StartSSHSession", Parameters: map[string][]string{"portNumber": {serveEcho(t, "127.0.0.1")}}})
	in, typed := io.Pipe()
	out, errs, ended := testkit.NewTranscript(), testkit.NewTranscript(), make(chan int, 1)
	go func() { ended <- runPlugin(t.Context(), args, stdio{in, out}, errs) }()
	go func() { _, _ = io.WriteString(typed, "hello\n") }() // nobody may read it, if the session fails
	out.Find(t, `\Ahello\n\z`)
	session := errs.Find(t, `Starting session with SessionId: (\S+)`)[1]
	l.AWS.End(session, "")
	if code := testkit.Receive(t, ended, "the end of the plugin"); code != 0 || out.String() != "hello\n" {
		t.Errorf("exit status %d, printed %q, said %q", code, out.String(), errs.String())
	}
	_ = typed.Close()
	nothingOpen(t, l)
}
