package main

import (
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
)

// TestWaitLine reads what people are shown while a call to AWS waits.
func TestWaitLine(t *testing.T) {
	for want, wait := range map[string]awscloud.Wait{
		"place 3 in the queue for ssm:StartSession in eu-west-1, about 4s":                    {Action: "ssm:StartSession", Region: "eu-west-1", Place: 3, Delay: 3700 * time.Millisecond},
		"AWS asks for fewer calls of ssm:StartSession in eu-west-1, trying again in about 1s": {Action: "ssm:StartSession", Region: "eu-west-1", Delay: 90 * time.Millisecond, Throttled: true},
	} {
		if got := waitLine(wait); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
