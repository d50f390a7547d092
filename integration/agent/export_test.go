package agent

import (
	"context"
	"net/http"
)

// SignForTest lets a test sign an upgrade as the client.
func SignForTest(ctx context.Context, c Credentials, req *http.Request, region string) error {
	return c.sign(ctx, req, nil, region)
}
