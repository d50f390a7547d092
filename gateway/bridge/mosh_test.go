package bridge

import (
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestStartsMosh(t *testing.T) {
	for command, want := range map[string]bool{
		"mosh-server 'new' '-c' '8' '-s' '-l' 'LANG=C.UTF-8'": true, // mosh 1.4.0
		"/opt/mosh/bin/mosh-server 'new' '-s'":                true,
		"LC_ALL=C.UTF-8 mosh-server 'new'":                    true,
		"env mosh-server new":                                 true,
		`sh -c '[ -n "$SSH_CONNECTION" ] && printf "\nMOSH %s\n" "$SSH_CONNECTION"' ; mosh-server 'new'`: true,
		"mosh-server":                     false,
		"mosh-server --version":           false,
		"echo mosh-server new":            false,
		"apt-get install mosh-server new": false,
		"mosh-server-wrapper new":         false,
		"":                                false,
	} {
		if startsMosh(command) != want {
			t.Errorf("%q: want %v", command, want)
		}
	}
}

func TestMoshIsToldWhyAndItsServerNeverRuns(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: runProgram(func(_ ssh.Channel, what string) { t.Errorf("%s ran", what) })})
	ch, reqs := r.channel(t, "session", nil)
	status := make(chan *ssh.Request, 8)
	go func() {
		defer close(status)
		for req := range reqs {
			status <- req
		}
	}()
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ S string }{"mosh-server 'new' '-s'"})); !ok || err != nil {
		t.Fatalf("answer %v, %v: the client throws away what stderr has said", ok, err)
	}
	if told, _ := io.ReadAll(ch.Stderr()); string(told) != "text: no_udp action=mosh\r\n" {
		t.Errorf("stderr: %q", told)
	}
	if got := testkit.Receive(t, status, "the status"); got.Type != "exit-status" || string(got.Payload) != "\x00\x00\x00\xff" {
		t.Errorf("got %s %v", got.Type, got.Payload)
	}
	_ = ch.Close()
	testkit.Receive(t, r.watch.closed, "the end")
	if got := r.watch.requests; len(got) != 1 || !strings.HasPrefix(got[0], "exec"+RefusedSuffix) {
		t.Errorf("audit: %v", got)
	}
}
