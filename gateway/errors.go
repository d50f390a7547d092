package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Every failure has two texts. The cause goes to the log and the audit; what the person reads is a sentence and a next step, made here from the facts of
// the refusal and nothing else, in one voice: lower case, no full stop, no stack, and no ARN but the role that IAM refused. Both carry the same
// reference id.

// phrase words one reason: what is the matter, and what to do about it.
type phrase func(r *authz.Refusal) (sentence, step string)

// phrases has one entry for each authz.Reason; a test holds this.
var phrases = map[authz.Reason]phrase{
	authz.ReasonUnknownKey: func(r *authz.Refusal) (string, string) {
		return "the key " + r.Subject + " is not known here", "offer another key, or ask for this one to be enrolled"
	},
	authz.ReasonNoLogin: func(*authz.Refusal) (string, string) {
		return "the connection ended before anybody had logged in", "log in with a key that is enrolled here; `ssh -v` shows which ones are offered"
	},
	authz.ReasonCertificateExpired: func(r *authz.Refusal) (string, string) {
		return "your key or certificate is not valid now" + because(r), "get a fresh one and try again"
	},
	authz.ReasonCertificateInvalid: func(r *authz.Refusal) (string, string) {
		return "your certificate cannot be accepted" + because(r), "get one from the configured CA, with options that the gateway supports"
	},
	authz.ReasonWrongPrincipal: func(r *authz.Refusal) (string, string) {
		return "your certificate is good, but its principals name nobody known here" + because(r), "ask for a certificate with your principal, or for yours to be enrolled"
	},
	authz.ReasonRevoked: func(*authz.Refusal) (string, string) {
		return "this key or certificate has been revoked", "use another key, or ask for a new one to be enrolled"
	},
	authz.ReasonSourceAddress: func(*authz.Refusal) (string, string) {
		return "this key is not for use from your address", "connect from an address that it is meant for, or use another key"
	},
	authz.ReasonBadTargetName: func(r *authz.Refusal) (string, string) {
		return subject(r, "this") + " is not a name of a machine" + because(r), "name it by instance id, Name tag, tag:value, private address or DNS name"
	},
	authz.ReasonBadOSUser: func(r *authz.Refusal) (string, string) {
		return subject(r, "this") + " is not a user name that Instance Connect accepts", "log in as a user of the machine, for example ec2-user or ubuntu"
	},
	authz.ReasonUnknownTarget: func(r *authz.Refusal) (string, string) {
		return "no machine " + subject(r, "of that name") + " is known", "check the name, account and region; `ssh GATEWAY ls` lists what there is"
	},
	authz.ReasonAmbiguousTarget: func(r *authz.Refusal) (string, string) {
		return subject(r, "this name") + " means several machines", "use one of these:" + list(r.Candidates)
	},
	authz.ReasonNotPermitted: func(r *authz.Refusal) (string, string) {
		return notPermitted(r) + because(r), "ask whoever writes the policy of this gateway"
	},
	authz.ReasonPolicyError: func(*authz.Refusal) (string, string) {
		return "the access policy failed, and so nothing is allowed", "tell whoever runs the gateway the reference"
	},
	authz.ReasonNoRole: func(r *authz.Refusal) (string, string) {
		return "you have no IAM role in the account of this machine" + because(r), "ask for a role to be mapped to you"
	},
	authz.ReasonDifferentIdentity: func(*authz.Refusal) (string, string) {
		return "the login to the machine is by somebody else than the login to the gateway", "use keys of the same person for both, see IdentityFile in ssh_config"
	},
	authz.ReasonTooManyConnections: func(r *authz.Refusal) (string, string) {
		return "too many connections are open" + because(r), "close some, or share one with ControlMaster"
	},
	authz.ReasonHostKeyChanged: func(r *authz.Refusal) (string, string) {
		return "the machine " + subject(r, "") + " shows another host key than before" + because(r),
			"if it was rebuilt, have the old one forgotten with `ssm-ssh-gateway pins rm " + subject(r, "") + "`; if not, somebody else may be answering for it"
	},
	authz.ReasonHostKeyUnknown: func(r *authz.Refusal) (string, string) {
		return "the host key of " + subject(r, "the machine") + " is not known, and this gateway does not trust on first use" + because(r), "have its key added"
	},
	authz.ReasonUnsupportedTarget: func(r *authz.Refusal) (string, string) {
		return subject(r, "this") + " cannot be reached in this way" + because(r), "ask whoever runs the gateway which ways there are"
	},
	authz.ReasonNoCommonAlgorithm: func(r *authz.Refusal) (string, string) {
		return "the client has no " + subject(r, "algorithm") + " that is taken here" + because(r), "use a newer client, or take the old algorithms out of its options"
	},
	authz.ReasonNoUDP: func(r *authz.Refusal) (string, string) {
		return orElse(r.Action, "this program") + " needs UDP to the machine, and a Session Manager session carries none",
			"use plain ssh, with tmux or screen on the machine to find your work again after a lost connection"
	},
	authz.ReasonShuttingDown: func(*authz.Refusal) (string, string) {
		return "the gateway is stopping", "try again in a moment"
	},
	authz.ReasonInternal: func(*authz.Refusal) (string, string) {
		return "something went wrong in the gateway", "try again, then tell whoever runs it the reference"
	},
	authz.ReasonAccessDenied: func(r *authz.Refusal) (string, string) {
		return "AWS does not allow " + orElse(r.Action, "this") + " as " + orElse(r.Role, "the gateway's own credentials") + because(r), "ask for the IAM permission, for this machine"
	},
	authz.ReasonTargetNotConnected: func(r *authz.Refusal) (string, string) {
		return "the SSM agent of " + subject(r, "the machine") + " is not connected" + because(r), "check that the machine runs, its agent and its instance profile, and that account and region are right"
	},
	authz.ReasonInstanceState: func(r *authz.Refusal) (string, string) {
		return subject(r, "the machine") + " is " + orElse(r.Detail, "not running"), "start it, then try again"
	},
	authz.ReasonKeyRefused: func(r *authz.Refusal) (string, string) {
		return "the machine did not let user " + subject(r, "") + " in" + because(r),
			"check that this user exists there, and that EC2 Instance Connect is installed or the gateway's user CA is trusted (TrustedUserCAKeys)"
	},
	authz.ReasonThrottled: func(*authz.Refusal) (string, string) {
		return "AWS asks for fewer calls", "wait a minute, then try again"
	},
	authz.ReasonPortRefused: func(r *authz.Refusal) (string, string) {
		return "nothing answers on " + orElse(r.Action, "this port") + " of " + subject(r, "the machine") + because(r), "check that the service there is running and listens on localhost"
	},
	authz.ReasonNoSSHD: func(r *authz.Refusal) (string, string) {
		return r.Action + " needs sshd, which does not answer on " + subject(r, "the machine"), "use the Session Manager shell that stands in for it, or have sshd started there"
	},
	authz.ReasonSessionEnded: func(r *authz.Refusal) (string, string) {
		return "Session Manager ended the session" + because(r), "connect again; if it repeats, ask about idle and duration limits"
	},
	authz.ReasonCredentials: func(*authz.Refusal) (string, string) {
		return "the gateway has no usable AWS credentials", "tell whoever runs it the reference"
	},
	authz.ReasonDocument: func(r *authz.Refusal) (string, string) {
		return "the session document does not allow this" + because(r), "ask for the document to be made, or for this port to be allowed in it"
	},
	authz.ReasonTimeout: func(r *authz.Refusal) (string, string) {
		return orElse(r.Action, "the other side") + " took too long", "try again"
	},
	authz.ReasonCloud: func(r *authz.Refusal) (string, string) {
		return "AWS answered with an error" + because(r), "try again, then tell whoever runs the gateway the reference"
	},
}

// notPermitted tells connect, which is about the machine, from what is done on it.
func notPermitted(r *authz.Refusal) string {
	switch {
	case r.Action == "" || r.Action == string(authz.ActionConnect):
		return "you may not connect to " + subject(r, "this")
	case r.Subject == "":
		return r.Action + " is not permitted"
	}
	return r.Action + " is not permitted on " + subject(r, "")
}

// sentence words an error for a person. ref is the id under which the log has the cause.
func sentence(err error, ref string) string {
	what, step := wording(err)
	return fmt.Sprintf("%s; %s [ref %s]", what, step, ref)
}

// wording finds the phrase for an error.
func wording(err error) (what, step string) {
	refusal := asRefusal(err)
	word, known := phrases[refusal.Reason]
	if !known {
		word = phrases[authz.ReasonInternal]
	}
	return word(refusal)
}

// asRefusal finds the refusal in err; what is none becomes one of ours.
func asRefusal(err error) *authz.Refusal {
	var refusal *authz.Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.Is(err, context.DeadlineExceeded):
		return &authz.Refusal{Reason: authz.ReasonTimeout, Cause: err}
	}
	return &authz.Refusal{Reason: authz.ReasonInternal, Cause: err}
}

// wordLimit bounds one fact in a sentence: enough for an ARN or two fingerprints.
const wordLimit = 300

func because(r *authz.Refusal) string {
	if r.Detail == "" {
		return ""
	}
	return " (" + printable(r.Detail, wordLimit) + ")"
}

func subject(r *authz.Refusal, otherwise string) string {
	return orElse(r.Subject, otherwise)
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return printable(s, wordLimit)
}

func list(lines []string) string {
	const most = 20
	var b strings.Builder
	for i, line := range lines {
		if i == most {
			fmt.Fprintf(&b, "\n  … and %d more", len(lines)-most)
			break
		}
		b.WriteString("\n  " + printable(line, wordLimit))
	}
	return b.String()
}

// newRef makes a reference id: short enough to be read out over a phone, and unique together with its time.
func newRef() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// stack is the stack of a panic, bounded for the log.
func stack() string {
	const limit = 8 << 10
	s := debug.Stack()
	return string(s[:min(len(s), limit)])
}
