package awscloud

import (
	"context"
	"fmt"
	"net/http"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	messageService = "ssmmessages"
	emptyBodyHash  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // SHA-256 of nothing
)

// sign adds SigV4 headers to the WebSocket upgrade, as AWS's plugin does since 1.2.764. Only host, date and token are signed: the upgrade's own headers
// are added by the WebSocket library afterwards. A URL that is signed already is left alone.
func (s *heldSession) sign(ctx context.Context, req *http.Request) error {
	if req.URL.Query().Has("X-Amz-Signature") {
		return nil
	}
	credentials, err := s.client.credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("signing the data channel: %w", translate(err, "credentials", s.role.ARN))
	}
	bare, err := http.NewRequestWithContext(ctx, http.MethodGet, req.URL.String(), http.NoBody) //nolint:gosec // never sent: it only carries what is signed
	if err != nil {
		return fmt.Errorf("signing the data channel: %w", err)
	}
	bare.Host = req.Host
	if err := v4.NewSigner().SignHTTP(ctx, credentials, bare, emptyBodyHash, messageService, s.on.Region, time.Now()); err != nil {
		return fmt.Errorf("signing the data channel: %w", err)
	}
	for _, name := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token"} {
		if value := bare.Header.Get(name); value != "" {
			req.Header.Set(name, value)
		}
	}
	return nil
}
