package awscloud

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheSDKSpeaksThroughTheLog has the metadata service of an instance refuse tokens, of which the SDK warns.
func TestTheSDKSpeaksThroughTheLog(t *testing.T) {
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer metadata.Close()
	nothing := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.URL, "AWS_CONFIG_FILE": nothing, "AWS_SHARED_CREDENTIALS_FILE": nothing,
		"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "",
	} {
		t.Setenv(name, value)
	}
	standardError, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stderr
	os.Stderr = standardError
	defer func() { os.Stderr = before }()
	var log bytes.Buffer
	_, err = loadProfile(t.Context(), Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, "")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), `level=WARN msg="AWS SDK"`) {
		t.Errorf("logged %q", log.String())
	}
	if told, err := os.ReadFile(standardError.Name()); err != nil || len(told) > 0 {
		t.Errorf("standard error: %q, %v", told, err)
	}
}
