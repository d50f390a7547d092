package awsemu

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// kmsKey is a Key with its account.
type kmsKey struct {
	Key
	arn string
}

const maxDataKey = 1024 // bytes, KMS API reference, GenerateDataKey NumberOfBytes

// sealer encrypts data keys. Its key lives as long as the emulator.
type sealer struct{ aead cipher.AEAD }

func (k *sealer) init() error {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	block, err := aes.NewCipher(secret)
	if err != nil {
		return fmt.Errorf("awsemu: kms: %w", err)
	}
	k.aead, err = cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return fmt.Errorf("awsemu: kms: %w", err)
	}
	return nil
}

// blob is what a ciphertext says in clear: which key. The context is authenticated, not stored.
type blob struct {
	KeyARN string
	Sealed []byte
}

func (s *Server) addKMSKeys(a Account) error {
	for _, k := range a.Keys {
		if k.ID == "" || k.Region == "" {
			return fmt.Errorf("KMS key %q lacks id or region", k.ID)
		}
		arn := "arn:" + partition(k.Region) + ":kms:" + k.Region + ":" + a.ID + ":key/" + k.ID
		if s.kmsKeys[arn] != nil {
			return fmt.Errorf("KMS key %s exists twice", k.ID)
		}
		s.kmsKeys[arn] = &kmsKey{Key: k, arn: arn}
	}
	return nil
}

// findKey accepts key ids, aliases and the ARNs of both.
func (s *Server) findKey(c *call, name string) (*kmsKey, error) {
	home := ":kms:" + c.region + ":" + c.who.account + ":"
	for arn, k := range s.kmsKeys {
		if name == arn || strings.Contains(arn, home) && (name == k.ID || k.Alias != "" && (name == k.Alias || strings.HasSuffix(name, home+k.Alias))) {
			return k, nil
		}
	}
	if !strings.HasPrefix(name, "arn:") && !strings.HasPrefix(name, "alias/") {
		name = "arn:" + partition(c.region) + home + "key/" + name
	}
	return nil, badRequest("NotFoundException", "Key '%s' does not exist", name)
}

type dataKeyRequest struct {
	KeyID             string `json:"KeyId"`
	NumberOfBytes     int
	KeySpec           string
	EncryptionContext map[string]string
}

type dataKeyResponse struct {
	KeyID          string `json:"KeyId"`
	CiphertextBlob []byte
	Plaintext      []byte
}

func (s *Server) generateDataKey(c *call) (any, error) {
	var ask dataKeyRequest
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	c.note("KeyId", ask.KeyID)
	key, err := s.findKey(c, ask.KeyID)
	if err != nil {
		return nil, err
	}
	if err := s.authorize(c.who, c.iamAction(), onKey(key, ask.EncryptionContext)); err != nil {
		return nil, err
	}
	n := ask.NumberOfBytes
	switch {
	case ask.KeySpec == "AES_256" && n == 0:
		n = 32
	case ask.KeySpec == "AES_128" && n == 0:
		n = 16
	case ask.KeySpec != "" || n < 1 || n > maxDataKey:
		return nil, badRequest("ValidationException", "Please specify either number of bytes or key spec.")
	}
	plain := make([]byte, n)
	_, _ = rand.Read(plain)
	//nolint:gosec // G407: this AEAD takes no nonce, it makes a random one
	sealed := s.kms.aead.Seal(nil, nil, plain, authenticated(key.arn, ask.EncryptionContext))
	text, err := json.Marshal(blob{KeyARN: key.arn, Sealed: sealed})
	if err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	return dataKeyResponse{KeyID: key.arn, CiphertextBlob: text, Plaintext: plain}, nil
}

type decryptRequest struct {
	KeyID             string `json:"KeyId"`
	CiphertextBlob    []byte
	EncryptionContext map[string]string
}

type decryptResponse struct {
	KeyID               string `json:"KeyId"`
	Plaintext           []byte
	EncryptionAlgorithm string
}

func (s *Server) decrypt(c *call) (any, error) {
	var ask decryptRequest
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	var b blob
	if json.Unmarshal(ask.CiphertextBlob, &b) != nil || s.kmsKeys[b.KeyARN] == nil {
		return nil, badRequest("InvalidCiphertextException", "")
	}
	c.note("KeyId", b.KeyARN)
	key := s.kmsKeys[b.KeyARN]
	if err := s.authorize(c.who, c.iamAction(), onKey(key, ask.EncryptionContext)); err != nil {
		return nil, err
	}
	if ask.KeyID != "" {
		named, err := s.findKey(c, ask.KeyID)
		if err != nil {
			return nil, err
		}
		if named != key {
			return nil, badRequest("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
		}
	}
	plain, err := s.kms.aead.Open(nil, nil, b.Sealed, authenticated(key.arn, ask.EncryptionContext))
	if err != nil {
		return nil, errors.Join(badRequest("InvalidCiphertextException", ""), err)
	}
	return decryptResponse{KeyID: key.arn, Plaintext: plain, EncryptionAlgorithm: "SYMMETRIC_DEFAULT"}, nil
}

// authenticated binds a ciphertext to its key and context. Marshaling a map sorts its keys, so equal contexts give equal bytes.
func authenticated(arn string, context map[string]string) []byte {
	text, _ := json.Marshal(context) // a map of strings always marshals
	return append([]byte(arn+"\n"), text...)
}

func onKey(k *kmsKey, context map[string]string) resource {
	r := resource{arn: k.arn}
	for name, value := range context {
		r = r.with("kms:EncryptionContext:"+name, value)
	}
	return r
}
