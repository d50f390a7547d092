package instance_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
)

const helperDir = "INSTANCE_TEST_HELPER_DIR"

// TestMachineDiesWithItsStarter kills the process that started a machine, which gets no chance to close it.
func TestMachineDiesWithItsStarter(t *testing.T) {
	if dir := os.Getenv(helperDir); dir != "" {
		startAndWait(dir)
	}
	if err := instance.RealAvailable(); err != nil {
		t.Skip(err)
	}
	starter := exec.Command(os.Args[0], "-test.run=^TestMachineDiesWithItsStarter$")
	starter.Env = append(os.Environ(), helperDir+"="+t.TempDir())
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the starter said %q, %v", line, err)
	}
	conn, err := net.Dial("tcp", strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(commandLimit))
	reader := bufio.NewReader(conn)
	if banner, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(banner, "SSH-2.0-OpenSSH") {
		t.Fatalf("banner %q, %v", banner, err)
	}
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait()
	if _, err := io.Copy(io.Discard, reader); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection of the machine outlives its starter")
	}
}

// startAndWait is the starter: it prints the address of a machine and waits to be killed.
func startAndWait(dir string) {
	inst, err := instance.Start(instance.Config{ID: instanceID, KeysURL: "http://127.0.0.1:9/keys", OSUsers: []string{"ec2-user"}, Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(inst.Addr)
	time.Sleep(commandLimit) // a limit for a starter that nobody kills
	os.Exit(1)
}
