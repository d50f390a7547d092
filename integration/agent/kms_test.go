package agent_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// withKeys gives a grant the client's way to the emulated KMS; change may spoil the encryption context.
func withKeys(t *testing.T, w *world, grant ssmproto.Grant, change func(map[string]string)) ssmproto.Grant {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := kms.New(kms.Options{
		Region: region, BaseEndpoint: aws.String(w.PlainURL()), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(keyID, keySecret, ""),
	})
	grant.GenerateDataKey = func(ctx context.Context, keyID string, bound map[string]string) (ssmproto.DataKey, error) {
		change(bound)
		out, err := client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
			KeyId: aws.String(keyID), NumberOfBytes: aws.Int32(ssmproto.DataKeySize), EncryptionContext: bound,
		})
		if err != nil {
			return ssmproto.DataKey{}, err
		}
		return ssmproto.NewDataKey(out.Plaintext, out.CiphertextBlob), nil
	}
	return grant
}

// An encrypted command: both streams and the exit code.
func TestJointEncryptedCommand(t *testing.T) {
	w := newWorld(t, agent.Config{})
	grant := w.start("Secret-Command", map[string][]string{"command": {"sh -c 'echo out; echo err >&2; exit 3'"}})
	s, err := ssmproto.DialShell(w.deadline(), withKeys(t, w, grant, func(map[string]string) {}), nil)
	if err != nil {
		t.Fatal(err)
	}
	for want, stream := range map[string]io.Reader{"out\n": s, "err\n": s.Stderr()} {
		if got, err := io.ReadAll(stream); string(got) != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if code, known := s.ExitCode(); code != 3 || !known {
		t.Errorf("exit code %d, known %v", code, known)
	}
	_ = s.Close()
}

// A command that says nothing and is over at once tells its exit code all the same.
func TestJointSilentCommand(t *testing.T) {
	w := newWorld(t, agent.Config{})
	grant := w.start("Secret-Command", map[string][]string{"command": {"sh -c 'exit 3'"}})
	s, err := ssmproto.DialShell(w.deadline(), withKeys(t, w, grant, func(map[string]string) {}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); len(got) > 0 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if code, known := s.ExitCode(); code != 3 || !known {
		t.Errorf("exit code %d, known %v", code, known)
	}
	_ = s.Close()
}

// An encrypted shell: input and output.
func TestJointEncryptedShell(t *testing.T) {
	w := newWorld(t, agent.Config{Shell: []string{"sh", "-c", "stty raw -echo; echo ready; exec cat"}, Quirks: agent.Quirks{NoShellDelay: true}})
	s, err := ssmproto.DialShell(w.deadline(), withKeys(t, w, w.start("Secret-Shell", nil), func(map[string]string) {}), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	greeting := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(s, greeting); err != nil || string(greeting) != "ready\n" {
		t.Fatalf("%q, %v", greeting, err)
	}
	if _, err := io.WriteString(s, "there and back"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("there and back"))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "there and back" {
		t.Errorf("%q, %v", got, err)
	}
}

// A key that is bound to another session opens nothing, and a client without KMS learns why it is turned away.
func TestJointEncryptionRefused(t *testing.T) {
	w := newWorld(t, agent.Config{})
	grant := withKeys(t, w, w.start("Secret-Shell", nil), func(bound map[string]string) { bound["aws:ssm:SessionId"] = "another" })
	_, err := ssmproto.DialShell(w.deadline(), grant, nil)
	var ended *ssmproto.SessionEndedError
	if !errors.As(err, &ended) || !strings.Contains(ended.Output, "InvalidCiphertext") {
		t.Errorf("a key of another session: %v", err)
	}
	if _, err := ssmproto.DialShell(w.deadline(), w.start("Secret-Shell", nil), nil); !errors.Is(err, ssmproto.ErrEncryption) {
		t.Errorf("a client without KMS: %v", err)
	}
}
