package gateway

import (
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// errSilentClient is why a connection ends whose client no longer answers.
var errSilentClient = &authz.Refusal{Reason: authz.ReasonTimeout, Action: "the client's answer to a keepalive"}

// keepAlive asks the client of an outer connection for signs of life, and cuts the connection when Limits.KeepaliveCount intervals pass without an answer:
// also one whose answer is stuck, since a half-dead TCP connection would hold its machines for hours. Connections joined with a machine are watched by their bridge.
func (c *conn) keepAlive(client ssh.Conn) {
	every := c.srv.cfg.Limits.Keepalive
	dead := time.AfterFunc(every*time.Duration(c.srv.cfg.Limits.KeepaliveCount+1), func() { c.cancel(errSilentClient) })
	defer dead.Stop()
	beat := time.NewTicker(every)
	defer beat.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-beat.C:
		}
		if _, _, err := client.SendRequest(bridge.KeepAliveRequest, true, nil); err != nil {
			return // the connection has ended, and this is its end: jumps will see it
		}
		dead.Reset(every * time.Duration(c.srv.cfg.Limits.KeepaliveCount+1))
	}
}
