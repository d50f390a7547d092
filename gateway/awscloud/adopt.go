package awscloud

import (
	"context"
	"net/http"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Started is a session that somebody else has started, such as the AWS command line for its plugin.
type Started struct {
	Target, Region, SessionID, StreamURL string
	Token                                ssmproto.Token
}

// Adopt gives the grant of a session that was started elsewhere. Own credentials resume, terminate and sign it; where there are none the session
// still opens, because the service takes unsigned connections, and lasts until its connection is lost.
func (c *Cloud) Adopt(from Started) (ssmproto.Grant, error) {
	client, err := c.clientsFor(c.accounts[0], authz.Role{}, from.Region, "")
	if err != nil {
		return ssmproto.Grant{}, err
	}
	held := &heldSession{cloud: c, on: &authz.Instance{ID: from.Target, Region: from.Region, Account: c.accounts[0].ID}, client: client}
	grant := held.grant(from.SessionID, from.StreamURL, from.Token.Reveal())
	grant.Sign = func(ctx context.Context, req *http.Request) error {
		if err := held.sign(ctx, req); err != nil {
			c.log.DebugContext(ctx, "the data channel is opened unsigned", "cause", err)
		}
		return nil
	}
	return grant, nil
}
