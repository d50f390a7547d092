package agent

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	crand "crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Encryption of shell sessions (SPEC.md §6).
const (
	actionKMSEncryption = "KMSEncryption"
	kmsSigningName      = "kms"
	dataKeySize         = 64
	randomChallengeSize = 16
	challengeSize       = 64
	nonceSize           = 12
	encryptedNotice     = "This session is encrypted using AWS KMS."
)

var errChallenge = errors.New("the client did not prove that it has the session's key")

type (
	kmsParameters struct {
		KMSKeyID  string `json:"KMSKeyId"`
		Challenge []byte
	}
	kmsResult struct {
		KMSCipherTextKey         []byte
		ChallengeAcknowledgement bool
	}
	encryptionChallenge struct{ Challenge []byte }
)

// blockCipher is the two directions of a session. The nonce of what the agent sends begins at random and counts up.
type blockCipher struct {
	out, in cipher.AEAD
	nonce   [nonceSize]byte
}

func newBlockCipher(key []byte) (*blockCipher, error) {
	if len(key) != dataKeySize {
		return nil, fmt.Errorf("the data key has %d bytes", len(key))
	}
	c := &blockCipher{}
	for i, aead := range []*cipher.AEAD{&c.out, &c.in} {
		block, err := aes.NewCipher(key[i*dataKeySize/2 : (i+1)*dataKeySize/2])
		if err != nil {
			return nil, err
		}
		if *aead, err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	_, _ = crand.Read(c.nonce[:]) // does not fail, crypto/rand
	return c, nil
}

// seal is used by one goroutine at a time.
func (c *blockCipher) seal(plain []byte) []byte {
	low := binary.LittleEndian.Uint64(c.nonce[:]) + 1
	binary.LittleEndian.PutUint64(c.nonce[:], low)
	return c.out.Seal(bytes.Clone(c.nonce[:]), c.nonce[:], plain, nil)
}

func (c *blockCipher) open(payload []byte) ([]byte, error) {
	if len(payload) < nonceSize {
		return nil, errors.New("an encrypted payload is too short")
	}
	return c.in.Open(nil, payload[:nonceSize], payload[nonceSize:], nil)
}

// encrypt takes the client's data key in use, after the client has proved that it has it.
func (s *session) encrypt(ctx context.Context, result kmsResult, random []byte, hear shakes) error {
	bound := map[string]string{"aws:ssm:SessionId": s.start.id, "aws:ssm:TargetId": s.agent.cfg.InstanceID}
	if result.ChallengeAcknowledgement {
		text, err := json.Marshal(random) // the challenge as it was sent: base64
		if err != nil {
			return err
		}
		bound["aws:ssm:RandomChallenge"] = string(bytes.Trim(text, `"`))
	}
	key, err := s.agent.gateway.decryptKey(ctx, s.start.inputs.KMSKeyID, result.KMSCipherTextKey, bound)
	if err != nil {
		return err
	}
	secret, err := newBlockCipher(key)
	if err != nil {
		return err
	}
	challenge := make([]byte, challengeSize)
	_, _ = crand.Read(challenge)
	text, err := json.Marshal(encryptionChallenge{secret.seal(challenge)})
	if err != nil {
		return err
	}
	s.channel.send(ssmproto.PayloadEncChallengeRequest, text)
	answer, err := listen(ctx, hear.challenges, hear.acknowledged)
	if err != nil {
		return err
	}
	if plain, err := secret.open(answer.Challenge); err != nil || !bytes.Equal(plain, challenge) {
		return errChallenge
	}
	s.channel.encryptWith(secret)
	return nil
}

// decryptKey is KMS's Decrypt.
func (g *messageGateway) decryptKey(ctx context.Context, keyID string, blob []byte, bound map[string]string) ([]byte, error) {
	body, err := json.Marshal(struct {
		KeyID             string `json:"KeyId"`
		CiphertextBlob    []byte
		EncryptionContext map[string]string
	}{keyID, blob, bound})
	if err != nil {
		return nil, err
	}
	u := *g.base
	u.Path = "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "TrentService.Decrypt")
	if err := g.cfg.Credentials.signFor(ctx, kmsSigningName, req, body, g.cfg.Region); err != nil {
		return nil, err
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("decrypt the data key: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("decrypt the data key: %w", err)
	}
	var answer struct{ Plaintext []byte }
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("decrypt the data key: %s: %.200s", resp.Status, text)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("decrypt the data key: %w", err)
	}
	return answer.Plaintext, nil
}

// encrypted says whether payloads of a type are encrypted in an encrypted session.
func encrypted(kind ssmproto.PayloadType) bool {
	return kind == ssmproto.PayloadOutput || kind == ssmproto.PayloadStdErr || kind == ssmproto.PayloadExitCode
}
