package instance

import (
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// agentSocket is the socket behind which programs of a session find the client's agent. Its directory is the temporary one, as with sshd: the path
// of a Unix socket must stay below about 100 bytes.
type agentSocket struct {
	dir, path string
	listener  net.Listener
}

func (c *connection) listenAgent(conn *ssh.ServerConn) (*agentSocket, error) {
	dir, err := os.MkdirTemp("", "ssh-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	a := &agentSocket{dir: dir, path: path, listener: l}
	if err := c.forwards.add("agent "+path, l); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	c.acceptForwards(conn, l, "auth-agent@openssh.com", func(net.Conn) []byte { return nil })
	return a, nil
}

func (a *agentSocket) close() {
	_ = a.listener.Close()
	_ = os.RemoveAll(a.dir)
}

// splitAddr gives "host port", the form of SSH_CONNECTION.
func splitAddr(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return strings.ReplaceAll(addr.String(), " ", "") + " 0"
	}
	return host + " " + port
}
