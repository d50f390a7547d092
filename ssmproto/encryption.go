package ssmproto

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
)

// Sizes of the encryption of shell sessions (SPEC.md §6).
const (
	// DataKeySize is the size of the data key of a session, in bytes: two AES-256 keys.
	DataKeySize     = 64
	directionalKey  = DataKeySize / 2
	contextSession  = "aws:ssm:SessionId"
	contextTarget   = "aws:ssm:TargetId"
	contextRandom   = "aws:ssm:RandomChallenge"
	maxChallengeLen = 4096
)

// ErrDecrypt says that a message of the agent is not encrypted with the session's key.
var ErrDecrypt = errors.New("ssmproto: a message of the instance cannot be decrypted")

// errNoTarget is for a caller who was not told what StartSession was asked for, such as a plugin under an old AWS command line.
var errNoTarget = fmt.Errorf("%w, whose key is bound to the target, and the target is not known", ErrEncryption)

// DataKey is the answer of KMS to GenerateDataKey. Its plain form is a secret: it prints and logs as redacted.
type DataKey struct {
	plain      []byte
	ciphertext []byte
}

// NewDataKey wraps Plaintext, of DataKeySize bytes, and CiphertextBlob of a GenerateDataKey answer.
func NewDataKey(plaintext, ciphertextBlob []byte) DataKey {
	return DataKey{plain: plaintext, ciphertext: ciphertextBlob}
}

// String hides the key.
func (k DataKey) String() string { return "[redacted]" }

// GoString hides the key from %#v.
func (k DataKey) GoString() string { return "ssmproto.DataKey{[redacted]}" }

// LogValue hides the key from slog.
func (k DataKey) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText hides the key from encoders.
func (k DataKey) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// sessionCipher encrypts the two directions of a session: AES-256-GCM with a random nonce in front, and no additional data (SPEC.md §6).
type sessionCipher struct{ out, in cipher.AEAD }

// newSessionCipher takes the first half of the key for what the agent sends, the second for what we send.
func newSessionCipher(key []byte) (*sessionCipher, error) {
	if len(key) != DataKeySize {
		return nil, fmt.Errorf("ssmproto: the data key has %d bytes, not %d", len(key), DataKeySize)
	}
	in, err := newDirection(key[:directionalKey])
	if err != nil {
		return nil, err
	}
	out, err := newDirection(key[directionalKey:])
	if err != nil {
		return nil, err
	}
	return &sessionCipher{out: out, in: in}, nil
}

func newDirection(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("ssmproto: data key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("ssmproto: data key: %w", err)
	}
	return aead, nil
}

func (s *sessionCipher) seal(plain []byte) []byte {
	return s.out.Seal(nil, nil, plain, nil) //nolint:gosec // this AEAD takes no nonce, it makes a random one
}

func (s *sessionCipher) open(payload []byte) ([]byte, error) {
	plain, err := s.in.Open(nil, nil, payload, nil)
	if err != nil {
		return nil, ErrDecrypt
	}
	return plain, nil
}

// kmsParameters are the parameters of a KMSEncryption action. Challenge is missing from agents that do not check it.
type kmsParameters struct {
	KMSKeyID  string `json:"KMSKeyId"`
	Challenge string
}

// kmsResult is the result of a KMSEncryption action. With ChallengeAcknowledgement the challenge is part of the encryption context.
type kmsResult struct {
	KMSCipherTextKey         []byte
	KMSCipherTextHash        []byte
	ChallengeAcknowledgement bool `json:",omitempty"`
}

// encryptionContext binds the data key to the session, its target and the agent's challenge (SPEC.md §6).
func (c *Conn) encryptionContext(p kmsParameters) map[string]string {
	bound := map[string]string{contextSession: c.grant.SessionID, contextTarget: c.grant.Target}
	if p.Challenge != "" {
		bound[contextRandom] = p.Challenge
	}
	return bound
}

// makeKey asks for the data key of the session and takes it in use. It waits for KMS, so the caller must not hold mu.
func (c *Conn) makeKey(ctx context.Context, parameters json.RawMessage) (*kmsResult, *sessionCipher, error) {
	var p kmsParameters
	if err := json.Unmarshal(parameters, &p); err != nil {
		return nil, nil, fmt.Errorf("ssmproto: KMS encryption: %w", err)
	}
	if c.grant.Target == "" {
		return nil, nil, errNoTarget
	}
	key, err := c.grant.GenerateDataKey(ctx, p.KMSKeyID, c.encryptionContext(p))
	if err != nil {
		return nil, nil, fmt.Errorf("ssmproto: generate the session's data key: %w", err)
	}
	s, err := newSessionCipher(key.plain)
	if err != nil {
		return nil, nil, err
	}
	return &kmsResult{KMSCipherTextKey: key.ciphertext, ChallengeAcknowledgement: p.Challenge != ""}, s, nil
}

// encryptionChallenge is the payload of both messages of the proof that the two sides have the same keys. It is base64 of an encrypted text.
type encryptionChallenge struct{ Challenge []byte }

// meetChallenge answers the agent's challenge: the same bytes, encrypted for the other direction. The caller holds mu.
func (c *Conn) meetChallenge(payload []byte) {
	if c.cipher == nil || c.challenged || len(payload) > maxChallengeLen {
		return
	}
	var asked encryptionChallenge
	if err := json.Unmarshal(payload, &asked); err != nil {
		c.fail(fmt.Errorf("ssmproto: encryption challenge: %w", err))
		return
	}
	plain, err := c.cipher.open(asked.Challenge)
	if err != nil {
		c.fail(fmt.Errorf("ssmproto: encryption challenge: %w", err))
		return
	}
	answer, err := json.Marshal(encryptionChallenge{c.cipher.seal(plain)})
	if err != nil {
		c.fail(fmt.Errorf("ssmproto: encryption challenge: %w", err))
		return
	}
	c.challenged = true
	c.queue(encode(PayloadEncChallengeResponse, c.send.next, answer)) // nothing else composes before the state is Open
}

// decrypt replaces the payload of a received message by its plain form. The caller holds mu.
func (c *Conn) decrypt(f *frame) bool {
	if c.cipher == nil {
		return true
	}
	plain, err := c.cipher.open(f.rest)
	if err != nil {
		c.fail(err)
		return false
	}
	f.rest = plain
	return true
}
