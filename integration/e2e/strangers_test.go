package e2e

import (
	"net"
	"strings"
	"testing"
	"time"
)

// TestStrangers tries every door with nothing, with a key nobody knows, and with a key that is known but does not count.
// The outsider stays outside, learns nothing about targets, and causes no call to AWS.
func TestStrangers(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		from := time.Now()
		doors := map[string][]string{
			"jump":                    {target, "echo inside"},
			"direct":                  {"ec2-user@i-0123456789abcdef0@gateway", "echo inside"},
			"the gateway itself":      {"gateway", "ls"},
			"plain port":              {"-W", "i-0123456789abcdef0:22", "gateway"},
			"no key at all":           {"-o", "PubkeyAuthentication=no", "gateway", "ls"},
			"password":                {"-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive", "gateway", "ls"},
			"an unknown target":       {"ec2-user@i-0ffffffffffffffff", "echo inside"},
			"the gateway's own ports": {"-W", "127.0.0.1:22", "gateway"},
		}
		for name, args := range doors {
			for _, person := range []string{"mallory", "revoked", "expired", "wrong-principal", "wrong-ca"} {
				t.Run(person+" "+name, func(t *testing.T) {
					got := w.as(person).ssh(t, nil, append([]string{"-o", "BatchMode=yes"}, args...)...)
					if got.code != 255 || got.stdout != "" {
						t.Errorf("not kept outside: %s", got)
					}
					if strings.Contains(got.stderr, "i-0ffffffffffffffff is") || strings.Contains(got.stderr, "web-1") {
						t.Errorf("a stranger is told about targets: %s", got)
					}
				})
			}
		}
		if calls := w.beginningsSince(from); len(calls) > 0 {
			t.Errorf("strangers caused calls to AWS: %+v", calls)
		}
	})
}

// TestPlacesThatAreNoTargets asks the gateway, as somebody it knows, for hosts that are not instances: it never dials them.
func TestPlacesThatAreNoTargets(t *testing.T) {
	w := worldOf(t, "embedded")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	dialed := make(chan struct{}, 1)
	go func() {
		if _, err := listener.Accept(); err == nil {
			dialed <- struct{}{}
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "169.254.169.254", "[::1]", "0.0.0.0", "metadata.google.internal"} {
		got := w.ssh(t, nil, "-W", host+":"+port, "gateway")
		if got.code == 0 || !strings.Contains(got.stderr, "open failed") {
			t.Errorf("-W %s:%s: %s", host, port, got)
		}
	}
	if got := w.ssh(t, nil, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:"+listener.Addr().String(), "gateway"); got.code == 0 {
		t.Errorf("the gateway listens on its own host: %s", got)
	}
	select {
	case <-dialed:
		t.Error("the gateway dialed a place that a client named")
	default:
	}
}

// TestAnotherPersonInside logs in to the gateway as one person and to the instance as another.
func TestAnotherPersonInside(t *testing.T) {
	w := worldOf(t, "embedded")
	jump := "ProxyCommand=ssh -F " + w.lab.SSHConfigFor("alice") + " -W %h:22 gateway"
	got := w.as("bob").ssh(t, nil, "-o", "ProxyJump=none", "-o", jump, target, "echo inside")
	if got.code == 0 || got.stdout != "" {
		t.Errorf("bob came in through alice's connection: %s", got)
	}
}
