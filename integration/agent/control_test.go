package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

func TestControlChannelOpening(t *testing.T) {
	s := newService(t)
	a, control := s.startAgent(agent.Config{})
	select {
	case <-a.Ready():
	case <-time.After(patience):
		t.Fatal("not ready")
	}
	if control.hello["TokenValue"] != "token-"+machine || control.hello["AgentVersion"] != "3.3.987.0" || control.hello["PlatformType"] != "linux" {
		t.Errorf("first frame %v", control.hello)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) != 2 || s.requests[1].URL.RawQuery != "role=subscribe&stream=input" {
		t.Errorf("requests %v", s.requests)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(s.bodies[0]), &body); err != nil || body["MessageSchemaVersion"] != "1.0" || body["ClientId"] != nil {
		t.Errorf("body %s", s.bodies[0])
	}
	for _, r := range s.requests {
		signature := r.Header.Get("Authorization")
		if !strings.Contains(signature, "/us-east-1/ssmmessages/aws4_request") || r.Header.Get("X-Amz-Security-Token") != "session" {
			t.Errorf("%s %s: Authorization %q", r.Method, r.URL, signature)
		}
	}
}

// Sessions go on while the control channel is away, and their end is reported on the next one.
func TestControlChannelReconnects(t *testing.T) {
	s, control, data, conn := connected(t, agent.Config{Quirks: agent.Quirks{EagerControl: true}})
	_ = control.ws.Close()
	control = s.accept(s.control)
	data.awaitAck(data.input(ssmproto.PayloadOutput, "still here"))
	expectRead(t, conn, "still here")
	_ = conn.Close()
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
}

func TestCompletionIsRepeated(t *testing.T) {
	_, control, _, conn := connected(t, agent.Config{})
	_ = conn.Close()
	first := control.until(ssmproto.AgentTaskComplete)
	second := control.until(ssmproto.AgentTaskComplete)
	if first.ID != second.ID {
		t.Errorf("two completions with ids %s and %s", first.ID, second.ID)
	}
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
}

func TestUnusableDocumentsFail(t *testing.T) {
	for name, test := range map[string]struct {
		doc  document
		want string
	}{
		"unknown type": {document{kind: "Other"}, "plugin with name Other not found"},
		"pattern": {document{
			kind: "Port", properties: `{"portNumber":"{{ p }}"}`, parameters: map[string]string{"p": "x"}, patterns: map[string]string{"p": "^[0-9]+$"},
		}, "parameter p does not match"},
		"no commands": {document{kind: "InteractiveCommands", properties: `{"linux":{"commands":" "}}`}, "commands cannot be empty"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			_, control := s.startAgent(agent.Config{})
			control.startSession(test.doc)
			if name != "pattern" {
				s.accept(s.data)
			}
			status, output := control.completion()
			if status != "Failed" || !strings.Contains(output, test.want) {
				t.Errorf("%s %q", status, output)
			}
		})
	}
}

func TestCloseWithOpenSession(t *testing.T) {
	s := newService(t)
	addr, conns := listen(t)
	a, control := s.startAgent(agent.Config{PortMap: func(string, int) string { return addr }})
	control.startSession(sshDocument)
	data := s.accept(s.data)
	data.shake(modernClient)
	conn := receive(t, conns)
	defer conn.Close()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the destination: %v", err)
	}
}

func TestCredentialsPrintRedacted(t *testing.T) {
	c := agent.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "hush", SessionToken: "quiet"}
	text, err := json.Marshal(map[string]any{"c": c})
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s", c, c, c), string(text)} {
		if strings.Contains(printed, "hush") || strings.Contains(printed, "quiet") {
			t.Errorf("printed %s", printed)
		}
	}
}

func TestStartRefusesNonsense(t *testing.T) {
	for _, endpoint := range []string{"", "127.0.0.1:1", "ftp://127.0.0.1", "http://127.0.0.1/path"} {
		if a, err := agent.Start(context.Background(), agent.Config{Endpoint: endpoint, InstanceID: machine, Region: "x"}); err == nil {
			_ = a.Close()
			t.Errorf("%q: started", endpoint)
		}
	}
	if _, err := agent.Start(context.Background(), agent.Config{Endpoint: "http://127.0.0.1:1"}); err == nil {
		t.Error("started without an instance id")
	}
}
