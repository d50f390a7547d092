package bridge

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pkg/sftp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// filesRig is a bridge whose machine serves files, over as many lanes.
func filesRig(t *testing.T, lanes int) *lanesRig {
	t.Helper()
	l := newLanesRig(t, 0, func(limits *Limits) { limits.Lanes, limits.FileLanes = lanes, lanes })
	l.realFiles = true
	return l
}

// sftpClient opens an SFTP session. end closes it and waits for the channel's end, which it gives.
func (l *lanesRig) sftpClient(t *testing.T) (client *sftp.Client, end func() *ChannelInfo) {
	t.Helper()
	client, err := sftp.NewClient(l.asClient())
	if err != nil {
		t.Fatal(err)
	}
	return client, func() *ChannelInfo {
		t.Helper()
		_ = client.Close()
		return testkit.Receive(t, l.watch.closed, "the end of the SFTP session")
	}
}

// writeUntil uploads a part of source: until the SFTP session has a stream on that lane.
func (l *lanesRig) writeUntil(t *testing.T, up *sftp.File, source *bytes.Reader, lane int) {
	t.Helper()
	testkit.Eventually(t, "another lane", func() bool {
		if _, err := up.ReadFromWithConcurrency(io.LimitReader(source, 1<<20), 32); err != nil {
			t.Fatal(err)
		}
		if source.Len() == 0 {
			t.Fatal("the file ended too early")
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.held) > lane && l.held[lane] == 1
	})
}

func randomFile(t *testing.T, size int) []byte {
	t.Helper()
	content := make([]byte, size)
	if _, err := rand.Read(content); err != nil {
		t.Fatal(err)
	}
	return content
}

func TestALargeFileIsSpreadOverLanes(t *testing.T) {
	l := filesRig(t, 4)
	client, end := l.sftpClient(t)
	path, content := filepath.Join(t.TempDir(), "file"), randomFile(t, 16<<20)
	up, err := client.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := up.ReadFromWithConcurrency(bytes.NewReader(content), 64); err != nil || n != int64(len(content)) {
		t.Fatalf("uploaded %d bytes: %v", n, err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("what arrived is another file (%d bytes, %v)", len(got), err)
	}
	down, err := client.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := down.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("what came back is another file (%d bytes, %v)", got.Len(), err)
	}
	if err := down.Close(); err != nil {
		t.Error(err)
	}
	if l.opened() < 2 {
		t.Errorf("%d lanes were opened", l.opened())
	}
	info := end()
	if info.In.Load() < int64(len(content)) || info.Out.Load() < int64(len(content)) || info.ExitStatus == nil || *info.ExitStatus != 0 {
		t.Errorf("audit: in %d, out %d, exit status %v", info.In.Load(), info.Out.Load(), info.ExitStatus)
	}
	if info := len(l.watch.closed); info != 0 {
		t.Errorf("%d channels were told of that the client did not open", info)
	}
}

func TestFilesStayOnOneLaneWhereThatIsWanted(t *testing.T) {
	l := newLanesRig(t, 0, nil)
	l.realFiles = true
	client, end := l.sftpClient(t)
	path, content := filepath.Join(t.TempDir(), "file"), randomFile(t, 4<<20)
	up, err := client.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.ReadFrom(bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) || l.opened() != 1 {
		t.Errorf("%d bytes over %d lanes, %v", len(got), l.opened(), err)
	}
	end()
}

// TestATransferMakesRoom: it holds every lane there may be, and gives one back in the middle of a file.
func TestATransferMakesRoom(t *testing.T) {
	for _, what := range []string{"pty", "make"} {
		t.Run(what, func(t *testing.T) { makesRoomFor(t, what) })
	}
}

func makesRoomFor(t *testing.T, what string) {
	t.Helper()
	l := filesRig(t, 2)
	client, end := l.sftpClient(t)
	path, content := filepath.Join(t.TempDir(), "file"), randomFile(t, 64<<20)
	up, err := client.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	source := bytes.NewReader(content)
	l.writeUntil(t, up, source, 1)
	shell := l.start(t, what)
	if shell.lane != 1 {
		t.Errorf("it is on lane %d, beside the transfer", shell.lane)
	}
	shell.echo(t)
	if _, err := up.ReadFromWithConcurrency(source, 32); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("what arrived is another file (%d bytes, %v)", len(got), err)
	}
	shell.stop(t)
	testkit.Receive(t, l.watch.closed, "the end of its channel")
	end()
}

// TestATransferSurvivesTheLossOfALane: what it had not confirmed is done again.
func TestATransferSurvivesTheLossOfALane(t *testing.T) {
	l := filesRig(t, 3)
	client, end := l.sftpClient(t)
	path, content := filepath.Join(t.TempDir(), "file"), randomFile(t, 64<<20)
	up, err := client.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	source := bytes.NewReader(content)
	l.writeUntil(t, up, source, 1)
	testkit.Receive(t, l.target(1).ready, "the second lane")
	_ = l.target(1).raw.Close()
	if _, err := up.ReadFromWithConcurrency(source, 32); err != nil {
		t.Fatal(err)
	}
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("what arrived is another file (%d bytes, %v)", len(got), err)
	}
	end()
}

// TestAClientThatVanishesLeavesNoStream: neither the session nor its further lanes outlive it.
func TestAClientThatVanishesLeavesNoStream(t *testing.T) {
	l := filesRig(t, 3)
	client, _ := l.sftpClient(t)
	up, err := client.OpenFile(filepath.Join(t.TempDir(), "file"), os.O_WRONLY|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.ReadFrom(bytes.NewReader(randomFile(t, 4<<20))); err != nil {
		t.Fatal(err)
	}
	_ = l.client.Close()
	if err := l.wait(t); err != nil {
		t.Errorf("ended with %v", err)
	}
}
