package awsemu_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// control makes a request to the emulator's own paths and gives status and body.
func control(t *testing.T, s *awsemu.Server, method, path, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(deadline(t), method, s.PlainURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestKeysAnswerHTTP10 asks as a shell does that has nothing but /dev/tcp, with TLS on beside it.
func TestKeysAnswerHTTP10(t *testing.T) {
	s := start(t, func(c *config) { c.TLS = true })
	out, err := stsClient(trusting(t, s, gateway(t, s))).AssumeRole(deadline(t), assumption("alice", "shop"))
	if err != nil {
		t.Fatal(err)
	}
	alice := trusting(t, s, sdk(t, s, *out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken))
	key := ed25519Key(t)
	if _, err := connectClient(alice).SendSSHPublicKey(deadline(t), &ec2instanceconnect.SendSSHPublicKeyInput{
		InstanceId: aws.String(webID), InstanceOSUser: aws.String("ubuntu"), SSHPublicKey: aws.String(key),
	}); err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(s.PlainURL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /_emulator/keys?instance=%s&user=ubuntu HTTP/1.0\r\n\r\n", webID)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || string(body) != key {
		t.Errorf("keys are %q, %v; want %q", body, err, key)
	}
}

// trusting makes a configuration believe the emulator's CA and nothing else.
func trusting(t *testing.T, s *awsemu.Server, c aws.Config) aws.Config {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: trust(t, s)}
	t.Cleanup(transport.CloseIdleConnections)
	c.HTTPClient = &http.Client{Transport: transport}
	return c
}

func trust(t *testing.T, s *awsemu.Server) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.CAPEM()) {
		t.Fatal("no CA certificate")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// TestTLS goes all the way: call over https, stream over wss, CA from the file.
func TestTLS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	s := start(t, func(c *config) { c.TLS, c.CAFile = true, file })
	if written, err := os.ReadFile(file); err != nil || string(written) != string(s.CAPEM()) {
		t.Errorf("the CA file differs from the CA: %v", err)
	}
	attachAgent(t, s, webID)
	out, err := stsClient(trusting(t, s, gateway(t, s))).AssumeRole(deadline(t), assumption("alice", "shop"))
	if err != nil {
		t.Fatal(err)
	}
	alice := trusting(t, s, sdk(t, s, *out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken))
	grant, err := ssmClient(alice).StartSession(deadline(t), &ssm.StartSessionInput{Target: aws.String(webID), DocumentName: aws.String("AWS-StartSSHSession")})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(*grant.StreamUrl, "wss://") {
		t.Errorf("stream URL is %s", *grant.StreamUrl)
	}
	dialer := websocket.Dialer{TLSClientConfig: trust(t, s)}
	ws, _, err := dialer.DialContext(deadline(t), *grant.StreamUrl, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if err := ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"MessageSchemaVersion":"1.0","TokenValue":%q}`, *grant.TokenValue)); err != nil {
		t.Fatal(err)
	}
	waitInfo(t, s, *grant.SessionId, func(i awsemu.SessionInfo) bool { return i.ClientOnline })
}

// TestControlAPI sets faults, cuts and says goodbye over HTTP, and reads the logs.
func TestControlAPI(t *testing.T) {
	s := start(t)
	alice := person(t, s, "alice", "shop")
	talk := startTalk(t, s, alice)
	faults := fmt.Sprintf(`{"scope":{"session":%q},"faults":{"seed":3,"toAgent":{"drop":1,"delay":"1ms"},"byeEvery":"1h"}}`, talk.id)
	if status, body := control(t, s, http.MethodPost, "/_emulator/faults", faults); status != http.StatusNoContent {
		t.Fatalf("faults: %d %s", status, body)
	}
	talk.client.send(ssmproto.InputStreamData, 0, "x")
	testkit.Eventually(t, "the message that gets lost", func() bool { return info(t, s, talk.id).ToAgent.Lost == 1 })
	if status, body := control(t, s, http.MethodPost, "/_emulator/cut?side=agent&session="+talk.id, ""); status != http.StatusNoContent {
		t.Fatalf("cut: %d %s", status, body)
	}
	if err := talk.agent.ended(); websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("cut politely: %v", err)
	}
	if status, body := control(t, s, http.MethodPost, "/_emulator/cut?reason=bye&session="+talk.id, ""); status != http.StatusNoContent {
		t.Fatalf("bye: %d %s", status, body)
	}
	if err := talk.client.ended(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("bye ends in %v", err)
	}
	var sessions []awsemu.SessionInfo
	_, body := control(t, s, http.MethodGet, "/_emulator/sessions", "")
	if err := json.Unmarshal([]byte(body), &sessions); err != nil || len(sessions) != 1 || sessions[0].ToAgent.Lost != 1 {
		t.Errorf("sessions: %s, %v", body, err)
	}
	var calls []awsemu.Call
	_, body = control(t, s, http.MethodGet, "/_emulator/calls", "")
	if err := json.Unmarshal([]byte(body), &calls); err != nil || len(calls) != 2 || calls[1].Action != "StartSession" || calls[1].SourceIdentity != "alice" {
		t.Errorf("calls: %s, %v", body, err)
	}
	if strings.Contains(body, "EMULATOR") {
		t.Errorf("the call log has a token or key in it: %s", body)
	}
}

func TestControlAPIRefuses(t *testing.T) {
	s := start(t)
	for _, test := range []struct {
		path, body string
		status     int
	}{
		{"/_emulator/faults", `{"faults":{"dorp":1}}`, http.StatusBadRequest},
		{"/_emulator/faults", `{"faults":{"toAgent":{"drop":2}}}`, http.StatusBadRequest},
		{"/_emulator/faults", `{"faults":{"startLatency":"soon"}}`, http.StatusBadRequest},
		{"/_emulator/cut?session=none", "", http.StatusNotFound},
	} {
		if status, body := control(t, s, http.MethodPost, test.path, test.body); status != test.status {
			t.Errorf("%s %s: %d %s, want %d", test.path, test.body, status, body, test.status)
		}
	}
}

// TestOtherHostNamesAreRefused keeps web pages out that point a name of their own at loopback.
func TestOtherHostNamesAreRefused(t *testing.T) {
	s := start(t)
	request, err := http.NewRequestWithContext(deadline(t), http.MethodGet, s.PlainURL()+"/_emulator/calls", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close, request.Host = true, "emulator.example.com"
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("answered %s to another name", response.Status)
	}
}

// TestChannelSignatures demands signatures on channels and sees who has one.
func TestChannelSignatures(t *testing.T) {
	s := start(t, func(c *config) { c.RequireSignedChannels = true })
	response, err := postChannel(deadline(t), s, "control-channel", webID)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("an unsigned agent gets %s", response.Status)
	}
	for service, want := range map[string]int{"ssmmessages": http.StatusSwitchingProtocols, "ssm": http.StatusForbidden} {
		request, err := http.NewRequestWithContext(deadline(t), http.MethodGet, s.PlainURL()+"/v1/data-channel/alice-,=@0?role=publish_subscribe", nil)
		if err != nil {
			t.Fatal(err)
		}
		const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
		who := aws.Credentials{AccessKeyID: gatewayKey, SecretAccessKey: gatewaySecret}
		if err := v4.NewSigner().SignHTTP(t.Context(), who, request, emptyHash, service, region, time.Now()); err != nil {
			t.Fatal(err)
		}
		request.Header.Del("Host")
		dialer := websocket.Dialer{}
		ws, response, err := dialer.DialContext(deadline(t), strings.Replace(request.URL.String(), "http", "ws", 1), request.Header)
		if response == nil || response.StatusCode != want {
			t.Errorf("signed for %s: %v, %v; want status %d", service, response, err, want)
		}
		if ws != nil {
			_ = ws.Close()
		}
	}
}

// TestAWSCLI has a program with its own signer and parsers ask, over TLS.
func TestAWSCLI(t *testing.T) {
	if _, err := exec.LookPath("aws"); err != nil {
		t.Skip("the AWS CLI is not installed")
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	s := start(t, func(c *config) { c.TLS, c.CAFile = true, file })
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(deadline(t), "aws", append(args, "--output", "text", "--region", region)...)
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_ACCESS_KEY_ID=" + gatewayKey, "AWS_SECRET_ACCESS_KEY=" + gatewaySecret,
			"AWS_ENDPOINT_URL=" + s.URL(), "AWS_CA_BUNDLE=" + file, "AWS_EC2_METADATA_DISABLED=true",
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := run("sts", "get-caller-identity", "--query", "Arn"); got != "arn:aws:iam::"+account+":user/gateway" {
		t.Errorf("caller identity is %s", got)
	}
	got := run("ec2", "describe-instances", "--filters", "Name=tag:Name,Values=web", "--query", "Reservations[].Instances[].[InstanceId,State.Name]")
	if got != webID+"\trunning" {
		t.Errorf("instances are %q", got)
	}
	if got := run("ssm", "get-connection-status", "--target", webID, "--query", "Status"); got != "notconnected" {
		t.Errorf("connection status is %s", got)
	}
	got = run("sts", "assume-role", "--role-arn", personRole, "--role-session-name", "bob", "--source-identity", "bob", "--query", "SourceIdentity")
	if got != "bob" {
		t.Errorf("source identity is %s", got)
	}
}
