package main

import (
	"context"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// serveHere runs the lab's gateway in this process with its metrics on a free port, and gives their address.
func serveHere(t *testing.T, l *lab.Lab) (address string) {
	t.Helper()
	for _, variable := range l.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	cfg, findings := loadConfig(l.GatewayConfig)
	if err := findingsError(findings); err != nil {
		t.Fatal(err)
	}
	cfg.MetricsListen = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(context.Background())
	log, ended := testkit.NewTranscript(), make(chan error, 1)
	go func() { ended <- serve(ctx, cfg, serveOptions{log: log}) }()
	t.Cleanup(func() {
		cancel()
		if err := testkit.Receive(t, ended, "the end of serve"); err != nil {
			t.Error(err)
		}
	})
	log.Find(t, `"msg":"listening"`)
	return log.Find(t, `"msg":"metrics","address":"([^"]+)"`)[1]
}

// scrapeUntil asks until every line is there: some are counted a moment after the client has seen their cause.
func scrapeUntil(t *testing.T, address string, lines ...string) {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		answer, err := client.Get("http://" + address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s, %v", answer.Status, err)
		}
		missing := ""
		for _, line := range lines {
			if !strings.Contains("\n"+string(text), "\nssm_ssh_gateway_"+line+"\n") {
				missing = line
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q never came in:\n%s", missing, text)
		}
	}
}

// TestMetrics scrapes a gateway on which somebody is logged in to a machine, and after that.
func TestMetrics(t *testing.T) {
	l := laptopLab(t)
	address := serveHere(t, l)
	scrapeUntil(t, address, "connections_active 0", "lanes_active 0", "logins_total 0")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stranger := exec.CommandContext(ctx, "ssh", "-F", l.SSHConfigFor("mallory"), "-o", "BatchMode=yes", "gateway", "whoami")
	if out, err := stranger.CombinedOutput(); err == nil {
		t.Errorf("a stranger came in: %s", out)
	}
	ssh := exec.Command("ssh", "-F", l.SSHConfig, "-o", "BatchMode=yes", "ec2-user@"+lab.MainInstance, "echo ready; cat")
	typed, err := ssh.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := testkit.NewTranscript()
	ssh.Stdout, ssh.Stderr = out, out
	if err := ssh.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ssh.Process.Kill() }()
	out.Find(t, "ready\n")
	scrapeUntil(t, address,
		"connections_active 1", "machines_active 1", "lanes_active 1", "lanes_total 1", "logins_total 1", "upstreams_total 1", `channels_total{type="session"} 1`,
		`login_refusals_total{reason="unknown_key"} 1`, `aws_calls_total{action="ssm:StartSession",result="ok"} 1`, "ssm_resumes_total 0")

	session := ""
	for _, s := range l.AWS.Sessions() {
		if !s.Over() {
			session = s.ID
		}
	}
	if err := l.AWS.Bye(session); err != nil {
		t.Fatal(err)
	}
	scrapeUntil(t, address, "ssm_resumes_total 1", "lanes_active 1", "lanes_resuming 0")
	_ = typed.Close()
	if err := ssh.Wait(); err != nil {
		t.Error(err)
	}
	scrapeUntil(t, address, "connections_active 0", "machines_active 0", "lanes_active 0", "lanes_total 1", "ssm_resumes_total 1")
	nothingOpen(t, l)
}

// TestMetricsAddress: nothing is served unless asked for, and nothing to other machines unless that is said, too.
func TestMetricsAddress(t *testing.T) {
	for _, c := range []struct {
		address string
		public  bool
		want    string
	}{
		{"", false, ""},
		{"127.0.0.1:9090", false, ""},
		{"[::1]:9090", false, ""},
		{"localhost:9090", false, ""},
		{"127.0.0.1", false, "is not host:port"},
		{":9090", false, "other machines"},
		{"0.0.0.0:9090", false, "other machines"},
		{"[::]:9090", false, "other machines"},
		{"10.0.0.1:9090", false, "other machines"},
		{"gateway.example.com:9090", false, "other machines"},
		{"0.0.0.0:9090", true, ""},
		{"0.0.0.0", true, "is not host:port"},
	} {
		err := checkMetricsAddress(c.address, c.public)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, public %v: %v", c.address, c.public, err)
		}
	}
	cfg := &loadedConfig{fileConfig: fileConfig{MetricsListen: "0.0.0.0:0"}}
	if _, err := assemble(t.Context(), cfg, newLogger(cfg, io.Discard)); err == nil || !strings.Contains(err.Error(), "metrics_public") {
		t.Errorf("such a gateway was built: %v", err)
	}
}
