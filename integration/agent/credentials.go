package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Credentials are the instance's. They print as the access key alone.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
}

// String hides the secret parts.
func (c Credentials) String() string { return c.AccessKeyID + " [redacted]" }

// GoString hides the secret parts from %#v.
func (c Credentials) GoString() string { return "agent.Credentials{" + c.String() + "}" }

// LogValue hides the secret parts from slog.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText hides the secret parts from encoders.
func (c Credentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

const signingName = "ssmmessages" // the service part of the signature

// sign adds a SigV4 signature. Without an access key the request stays unsigned.
func (c Credentials) sign(ctx context.Context, req *http.Request, body []byte, region string) error {
	return c.signFor(ctx, signingName, req, body, region)
}

func (c Credentials) signFor(ctx context.Context, service string, req *http.Request, body []byte, region string) error {
	if c.AccessKeyID == "" {
		return nil
	}
	sum := sha256.Sum256(body)
	keys := aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}
	if err := v4.NewSigner().SignHTTP(ctx, keys, req, hex.EncodeToString(sum[:]), service, region, time.Now()); err != nil {
		return fmt.Errorf("sign %s %s: %w", req.Method, req.URL.Path, err)
	}
	return nil
}
