package main

import (
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// TestKeepAlive: off is the library's default, a number bounds question and answer, and one that no agent could meet is refused.
func TestKeepAlive(t *testing.T) {
	for text, want := range map[string]struct {
		check, silence time.Duration
		refused        bool
	}{
		"0":     {},
		"1s":    {check: time.Second, silence: 3 * time.Second},
		"30s":   {check: 30 * time.Second, silence: 90 * time.Second},
		"500ms": {refused: true},
		"-1s":   {refused: true},
		"soon":  {refused: true},
	} {
		var k keepAlive
		if err := k.Set(text); (err != nil) != want.refused {
			t.Errorf("%s: %v", text, err)
		}
		options := k.of(ssmproto.Options{WaitForPeer: true})
		if options.PeerCheck != want.check || options.PeerTimeout != want.silence || !options.WaitForPeer {
			t.Errorf("%s gives %+v", text, options)
		}
	}
}
