package agent_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

func startSession(t *testing.T, cfg agent.Config, doc document) (control, data *peer) {
	t.Helper()
	s := newService(t)
	_, control = s.startAgent(cfg)
	control.startSession(doc)
	return control, s.accept(s.data)
}

func TestShell(t *testing.T) {
	control, data := startSession(t, agent.Config{Quirks: agent.Quirks{NoShellDelay: true}}, document{
		kind: "Standard_Stream", inputs: `{"kmsKeyId":"","shellProfile":{"linux":"echo pro''file"}}`,
	})
	data.stream("profile") // no handshake: output is the first thing the client sees
	data.inputUntilAcked("stty -echo; echo $TERM\r")
	data.stream("xterm-256color")
	data.awaitAck(data.input(ssmproto.PayloadSize, `{"cols":132,"rows":50}`))
	data.awaitAck(data.input(ssmproto.PayloadOutput, "stty size\r"))
	data.stream("50 132")
	data.awaitAck(data.input(ssmproto.PayloadOutput, "printf 'h\\303\\244lf %s\\n' done; exit\r"))
	data.stream("hälf done")
	for m, ok := data.next(); ok; m, ok = data.next() {
		if m.Type == ssmproto.OutputStreamData {
			data.ack(m)
		}
	}
	if status, output := control.completion(); status != "Success" || output != "" {
		t.Errorf("completion %s %q", status, output)
	}
}

// A job that ignores the hang-up keeps the terminal open; the agent ends all the same, and before it.
func TestCloseDespiteBackgroundJob(t *testing.T) {
	s := newService(t)
	a, control := s.startAgent(agent.Config{Quirks: agent.Quirks{NoShellDelay: true}})
	control.startSession(document{kind: "Standard_Stream", inputs: `{"shellProfile":{"linux":"stty -echo; trap '' HUP; sleep 3600 & echo job-$! start''ed"}}`})
	data := s.accept(s.data)
	shown := data.stream("started")
	var id int
	if _, err := fmt.Sscanf(shown[strings.LastIndex(shown, "job-"):], "job-%d", &id); err != nil {
		t.Fatalf("%q: %v", shown, err)
	}
	job, err := os.FindProcess(id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := job.Kill(); err != nil {
			t.Errorf("the job has not outlived the agent: %v", err)
		}
	}()
	testkit.Within(t, "the end of the agent", func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestInteractiveCommand(t *testing.T) {
	control, data := startSession(t, agent.Config{}, document{
		kind: "InteractiveCommands", properties: `{"linux":{"commands":"{{ command }}"},"macos":{"commands":"{{ command }}"}}`,
		parameters: map[string]string{"command": `read -r x; echo "it was $x"; tty`},
	})
	data.inputUntilAcked("typed\r")
	if got := data.stream("/dev/"); !strings.Contains(got, "it was typed") {
		t.Errorf("got %q", got)
	}
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
}

func TestSeparatedCommand(t *testing.T) {
	control, data := startSession(t, agent.Config{}, document{
		kind: "NonInteractiveCommands",
		properties: `{"linux":{"commands":"{{ command }}","separateOutputStream":"true","stdOutSeparatorPrefix":"out:","stdErrSeparatorPrefix":"err:"},
			"macos":{"commands":"{{ command }}","separateOutputStream":true,"stdOutSeparatorPrefix":"out:","stdErrSeparatorPrefix":"err:"}}`,
		parameters: map[string]string{"command": `sh -c "echo one; echo two; echo three >&2; exit 5"`},
	})
	data.shake(modernClient)
	got := map[ssmproto.PayloadType]string{}
	for got[ssmproto.PayloadExitCode] == "" {
		m, ok := data.output()
		if !ok {
			t.Fatal("the connection ended")
		}
		got[m.PayloadType] += string(m.Payload)
	}
	if got[ssmproto.PayloadOutput] != "out:one\nout:two\n" || got[ssmproto.PayloadStdErr] != "err:three\n" || got[ssmproto.PayloadExitCode] != "EXIT_CODE: 5" {
		t.Errorf("got %v", got)
	}
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
}

func TestCombinedCommand(t *testing.T) {
	_, data := startSession(t, agent.Config{}, document{
		kind: "NonInteractiveCommands", properties: `{"linux":{"commands":"sh -c 'echo one; echo two >&2'"},"macos":{"commands":"sh -c 'echo one; echo two >&2'"}}`,
	})
	data.shake(modernClient)
	if got := data.stream("two\n"); got != "one\ntwo\n" {
		t.Errorf("got %q", got)
	}
}

func TestCommandTakesInterrupt(t *testing.T) {
	control, data := startSession(t, agent.Config{}, document{
		kind:       "NonInteractiveCommands",
		properties: `{"linux":{"commands":"{{ command }}","separateOutputStream":true},"macos":{"commands":"{{ command }}","separateOutputStream":true}}`,
		parameters: map[string]string{"command": `sh -c "trap 'echo stopped; exit 3' INT; echo up; while :; do sleep 0.05; done"`},
	})
	data.shake(modernClient)
	data.stream("up\n")
	data.inputUntilAcked("\x03")
	if got := data.stream("stopped"); !strings.Contains(got, "stopped") {
		t.Errorf("got %q", got)
	}
	if m, ok := data.output(); !ok || string(m.Payload) != "EXIT_CODE: 3" {
		t.Errorf("got %+v", m)
	}
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
}

func TestMissingProgram(t *testing.T) {
	control, data := startSession(t, agent.Config{}, document{
		kind: "NonInteractiveCommands", properties: `{"linux":{"commands":"/no/such/program"},"macos":{"commands":"/no/such/program"}}`,
	})
	data.shake(modernClient)
	if m, ok := data.output(); !ok || m.PayloadType != ssmproto.PayloadStdErr {
		t.Errorf("got %+v", m)
	}
	if status, output := control.completion(); status != "Failed" || !strings.Contains(output, "/no/such/program") {
		t.Errorf("completion %s %q", status, output)
	}
}
