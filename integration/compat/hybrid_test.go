package compat

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// TestPassthroughToHybridNodes: nothing can be pushed there, so that the node's own authorized_keys decide, and ssh says what they decided.
func TestPassthroughToHybridNodes(t *testing.T) {
	w := theWorld(t)
	reach := func(node string) outcome {
		return run(t, w.sshCommand(passthrough, "-o", "HostName="+node, "-o", "StrictHostKeyChecking=accept-new",
			"-o", "UserKnownHostsFile="+filepath.Join(openDir(t, "known"), "hosts"), "target", "echo reached; exit 7"), patience)
	}
	if got := reach(lab.HybridNode); got.stdout != "reached\n" || got.code != 7 {
		t.Errorf("a node that knows the key: %s", got)
	}
	if got := reach(lab.StrangerNode); got.stdout != "" || got.code != 255 || !strings.Contains(got.stderr, "Permission denied (publickey") {
		t.Errorf("a node that does not: %s", got)
	}
}
