package ssmproto

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

const kmsRequest = `{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":` +
	`{"SessionType":"NonInteractiveCommands","Properties":null}},{"ActionType":"KMSEncryption","ActionParameters":` +
	`{"KMSKeyId":"alias/sessions","Challenge":"MDEyMzQ1Njc4OWFiY2RlZg=="}}]}`

func dataKey() []byte { return append(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)...) }

// reversed is the cipher of the other side.
func reversed(t testing.TB) *sessionCipher {
	t.Helper()
	s, err := newSessionCipher(dataKey())
	if err != nil {
		t.Fatal(err)
	}
	return &sessionCipher{out: s.in, in: s.out}
}

func kmsVector(t testing.TB, name string) []byte {
	t.Helper()
	v := vectorNamed(t, name)
	return v.frame(t)
}

// TestEncryptionVectors opens what plugin and agent have encrypted.
func TestEncryptionVectors(t *testing.T) {
	s, err := newSessionCipher(dataKey())
	if err != nil {
		t.Fatal(err)
	}
	fromAgent, err := s.open(kmsVector(t, "kms/agent-to-client-payload"))
	if string(fromAgent) != "hello\r\n" || err != nil {
		t.Errorf("%q, %v", fromAgent, err)
	}
	fromClient, err := reversed(t).open(kmsVector(t, "kms/client-to-agent-payload"))
	if string(fromClient) != "ls -la\r" || err != nil {
		t.Errorf("%q, %v", fromClient, err)
	}
	if _, err := s.open(kmsVector(t, "kms/client-to-agent-payload")); !errors.Is(err, ErrDecrypt) {
		t.Errorf("the other direction's key: %v", err)
	}
	again, err := reversed(t).open(s.seal([]byte("ls -la\r")))
	if string(again) != "ls -la\r" || err != nil {
		t.Errorf("%q, %v", again, err)
	}
}

// encrypted is a fake whose agent demands encryption and, once it has the key, proves it.
func encrypted(t *testing.T, f *fake, challenge []byte) Grant {
	f.request = kmsRequest
	f.complete = false
	f.onOther = func(m Message) {
		switch m.PayloadType {
		case PayloadHandshakeResponse:
			text, err := json.Marshal(encryptionChallenge{reversed(t).seal(challenge)})
			if err != nil {
				t.Error(err)
			}
			f.send(PayloadEncChallengeRequest, text)
		case PayloadEncChallengeResponse:
			var answer encryptionChallenge
			if err := json.Unmarshal(m.Payload, &answer); err != nil {
				t.Error(err)
			}
			if plain, err := reversed(t).open(answer.Challenge); !bytes.Equal(plain, challenge) || err != nil {
				t.Errorf("the challenge was answered with %q, %v", plain, err)
			}
			f.send(PayloadHandshakeComplete, []byte(`{"HandshakeTimeToComplete":1,"CustomerMessage":"This session is encrypted using AWS KMS."}`))
		}
	}
	grant := f.grant()
	grant.Target = "i-0123456789abcdef0"
	grant.GenerateDataKey = func(_ context.Context, keyID string, bound map[string]string) (DataKey, error) {
		equal(t, "key", keyID, "alias/sessions")
		equal(t, "context", bound, map[string]string{
			"aws:ssm:SessionId": "user-0123456789abcdef0", "aws:ssm:TargetId": "i-0123456789abcdef0", "aws:ssm:RandomChallenge": "MDEyMzQ1Njc4OWFiY2RlZg==",
		})
		return NewDataKey(dataKey(), []byte("blob")), nil
	}
	return grant
}

func TestEncryptedSession(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		s, err := DialShell(t.Context(), encrypted(t, f, noise(1, 64)), f.options())
		if err != nil {
			t.Fatal(err)
		}
		f.with(func() {
			equal(t, "response", strings.Contains(string(f.others[0].Payload), `"ActionResult":{"KMSCipherTextKey":"YmxvYg==","KMSCipherTextHash":null,"ChallengeAcknowledgement":true}`), true)
		})
		equal(t, "message", s.Message(), "This session is encrypted using AWS KMS.")
		up := noise(2, 5000)
		mustWrite(t, s, up)
		if err := s.Resize(Size{Cols: 80, Rows: 24}); err != nil { // is not encrypted
			t.Error(err)
		}
		f.await("the upload", func() bool { return len(f.sizes) == 5 })
		f.with(func() {
			var plain []byte
			rest := f.received
			for _, size := range f.sizes {
				p, err := reversed(t).open(rest[:size])
				if err != nil {
					t.Error(err)
				}
				plain, rest = append(plain, p...), rest[size:]
			}
			equal(t, "arrived as sent", bytes.Equal(plain, up), true)
		})
		down := noise(3, 5000)
		for part := range slices.Chunk(down, 1000) {
			f.send(PayloadOutput, reversed(t).seal(part))
		}
		mustRead(t, s, down)
		f.send(PayloadStdErr, reversed(t).seal([]byte("err")))
		f.send(PayloadExitCode, reversed(t).seal([]byte("EXIT_CODE: 3")))
		mustRead(t, s.Stderr(), []byte("err"))
		f.await("all acknowledgements", func() bool { return len(f.unacked) == 0 })
		code, known := s.ExitCode()
		equal(t, "exit code", []any{code, known}, []any{3, true})

		f.send(PayloadOutput, []byte("in clear, or forged: long enough for a tag"))
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrDecrypt) {
			t.Errorf("a message that is not encrypted: %v", err)
		}
		_ = s.Close()
	})
}

// TestEncryptionRefused tells the agent and the caller why. The agent then ends the session.
func TestEncryptionRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		denied := errors.New("AccessDeniedException: kms:GenerateDataKey")
		f.request, f.complete = kmsRequest, false
		f.onOther = func(Message) { f.closeSession("KMSEncryption failed on client with status 2") }
		grant := f.grant()
		grant.Target = "i-0123456789abcdef0"
		grant.GenerateDataKey = func(context.Context, string, map[string]string) (DataKey, error) { return DataKey{}, denied }
		if _, err := Dial(t.Context(), grant, f.options()); !errors.Is(err, denied) || !errors.Is(err, ErrSessionOver) {
			t.Errorf("%v", err)
		}
		f.with(func() {
			equal(t, "the agent is told", strings.Contains(string(f.others[0].Payload), `"ActionStatus":2`), true)
		})
	})
}

// TestEncryptionWithoutTarget asks for no key that could open nothing.
func TestEncryptionWithoutTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		grant := encrypted(t, f, noise(1, 64))
		grant.Target = ""
		f.onOther = func(Message) { f.closeSession("KMSEncryption failed on client with status 2") }
		if _, err := Dial(t.Context(), grant, f.options()); !errors.Is(err, ErrEncryption) || !strings.Contains(err.Error(), "the target is not known") {
			t.Errorf("%v", err)
		}
	})
}

func TestDataKeyDoesNotPrint(t *testing.T) {
	k := NewDataKey([]byte("secret key"), []byte("blob"))
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k)
	for _, shown := range []string{fmt.Sprint(k), fmt.Sprintf("%#v", k), string(text), log.String()} {
		if strings.Contains(shown, "secret") || strings.Contains(shown, "115") {
			t.Errorf("%q", shown)
		}
	}
}
