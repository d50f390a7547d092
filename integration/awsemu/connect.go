package awsemu

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Limits of SendSSHPublicKey (EC2 Instance Connect API reference).
const (
	keyLife      = 60 * time.Second
	minKeyLength = 80
	maxKeyLength = 4096
	maxPushed    = 10_000
)

var (
	osUserPattern    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9\@\._-]{0,30}[A-Za-z0-9\$_-]?$`)
	connectIDPattern = regexp.MustCompile(`^i-[a-f0-9]+$`)
)

// pushedKey is a public key that lets somebody in for a minute.
type pushedKey struct {
	instance string
	user     string
	line     string // authorized_keys form, without comment
	expires  time.Time
}

type sendKeyRequest struct {
	InstanceID       string `json:"InstanceId"`
	InstanceOSUser   string
	SSHPublicKey     string
	AvailabilityZone string
}

type sendKeyResponse struct {
	RequestID string `json:"RequestId"`
	Success   bool
}

func (s *Server) sendSSHPublicKey(c *call) (any, error) {
	var ask sendKeyRequest
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	c.note("InstanceId", ask.InstanceID)
	c.note("InstanceOSUser", ask.InstanceOSUser)
	key, err := ask.check()
	if err != nil {
		return nil, err
	}
	c.note("KeyFingerprint", ssh.FingerprintSHA256(key))
	c.note("KeyType", key.Type())
	t, exists := s.target(c.who.account, c.region, ask.InstanceID)
	on := tagged(t.arn, t.tags, "aws:ResourceTag/", "ec2:ResourceTag/").with("ec2:osuser", ask.InstanceOSUser)
	if err := s.authorize(c.who, c.iamAction(), on); err != nil {
		return nil, err
	}
	switch {
	case !exists:
		return nil, badRequest("EC2InstanceNotFoundException", "The specified instance %s does not exist or is not in the same region.", ask.InstanceID)
	case t.state != StateRunning && t.state != StatePending:
		return nil, badRequest("EC2InstanceStateInvalidException",
			"Unable to connect because the instance is not in a valid state. Connect requires the instance to be running or starting.")
	}
	s.push(pushedKey{
		instance: ask.InstanceID, user: ask.InstanceOSUser, expires: s.now().Add(keyLife),
		line: strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n"),
	})
	return sendKeyResponse{RequestID: c.id, Success: true}, nil
}

// check applies the rules of the API reference. Keys are RSA or Ed25519: the script on the instance reads lines that begin with "ssh-" only.
func (ask *sendKeyRequest) check() (ssh.PublicKey, error) {
	if !connectIDPattern.MatchString(ask.InstanceID) || len(ask.InstanceID) < 10 || len(ask.InstanceID) > 32 {
		return nil, badRequest("InvalidArgsException", "Instance ID '%s' is not valid.", ask.InstanceID)
	}
	if len(ask.InstanceOSUser) > 32 || !osUserPattern.MatchString(ask.InstanceOSUser) {
		return nil, badRequest("InvalidArgsException", "OS user '%s' is not valid.", ask.InstanceOSUser)
	}
	if n := len(ask.SSHPublicKey); n < minKeyLength || n > maxKeyLength {
		return nil, badRequest("InvalidArgsException", "SSHPublicKey is %d characters long, not %d to %d.", n, minKeyLength, maxKeyLength)
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(ask.SSHPublicKey))
	if err != nil || len(options) > 0 || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, badRequest("InvalidArgsException", "SSHPublicKey is not one public key in OpenSSH form.")
	}
	if key.Type() != ssh.KeyAlgoED25519 && key.Type() != ssh.KeyAlgoRSA {
		return nil, badRequest("InvalidArgsException", "SSHPublicKey is of type %s; RSA and ED25519 are supported.", key.Type())
	}
	return key, nil
}

func (s *Server) push(k pushedKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.pushed = slices.DeleteFunc(s.pushed, func(old pushedKey) bool { return !now.Before(old.expires) })
	if len(s.pushed) >= maxPushed {
		s.pushed = slices.Delete(s.pushed, 0, 1)
	}
	s.pushed = append(s.pushed, k)
}

// PushedKeys gives the keys that let user into instance at this moment, as authorized_keys lines without comment, oldest first.
// There are none where the machine lacks Instance Connect, however many were pushed.
func (s *Server) PushedKeys(instanceID, user string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.instances[instanceID]; i == nil || i.NoInstanceConnect {
		return nil
	}
	now := s.now()
	var lines []string
	for _, k := range s.pushed {
		if k.instance == instanceID && k.user == user && now.Before(k.expires) {
			lines = append(lines, k.line)
		}
	}
	return lines
}
