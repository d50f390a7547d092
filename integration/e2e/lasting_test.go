package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// leastResumes is how many times connections have to be replaced under a transfer before it proves anything.
const leastResumes = 5

// TestTransferOutlastsItsConnections copies a file each way while AWS closes every data channel again and again, as it does hourly. It is a smaller version
// of what `make lasting` does at the real agent's pace: 200 MiB, and a close every five seconds.
func TestTransferOutlastsItsConnections(t *testing.T) {
	size, every, each := 24<<20, 250*time.Millisecond, eachFastInstance
	if os.Getenv("LASTING") != "" {
		size, every, each = 200<<20, 5*time.Second, eachInstance
	}
	each(t, func(t *testing.T, w *world) {
		w.faults(t, awsemu.Scope{Instance: lab.MainInstance}, awsemu.Faults{ByeEvery: awsemu.Duration(every)})
		local, content := t.TempDir(), randomBytes(t, size)
		write(t, filepath.Join(local, "up"), content)
		before := w.resumes()
		for rounds := 1; rounds == 1 || w.resumes()-before < leastResumes; rounds++ {
			w.copyPatiently(t, filepath.Join(local, "up"), target+":lasting")
			w.copyPatiently(t, target+":lasting", filepath.Join(local, "down"))
			if got, err := os.ReadFile(filepath.Join(local, "down")); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("round %d: what came back is another file (%d bytes, %v)", rounds, len(got), err)
			}
		}
		t.Logf("%d connections were replaced", w.resumes()-before)
		w.eventually(t, "no session is open", func() bool { return w.openSessions() == 0 })
	})
}

// resumes counts the connections that were replaced so far.
func (w *world) resumes() int {
	n := 0
	for _, call := range w.lab.AWS.Calls() {
		if call.Action == "ResumeSession" && call.Error == "" {
			n++
		}
	}
	return n
}

// copyPatiently is scp without the limit of other tests.
func (w *world) copyPatiently(t *testing.T, from, to string) {
	t.Helper()
	scp := w.command("scp", "-q", from, to)
	output := &logBuffer{}
	scp.Stdout, scp.Stderr = output, output
	if err := scp.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(10*time.Minute, func() { _ = scp.Process.Kill() })
	defer limit.Stop()
	if err := scp.Wait(); err != nil {
		t.Fatalf("scp %s %s: %v\n%s", from, to, err, output)
	}
}
