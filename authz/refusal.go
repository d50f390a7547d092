package authz

import "strings"

// Reason says why a person did not reach a machine. Reasons are values: tests, audit, metrics and the person's message all switch on them,
// nobody searches error text (style: "reasons are values").
type Reason string

// Reasons that are ours: who the person is, what they may do, what the name means.
const (
	ReasonUnknownKey         Reason = "unknown_key"          // no person has this key
	ReasonNoLogin            Reason = "no_login"             // the client went away, or spoke no SSH, before any login had passed or been refused
	ReasonCertificateExpired Reason = "certificate_expired"  // or not yet valid, or valid for too long; also a plain key past its expiry-time=
	ReasonCertificateInvalid Reason = "certificate_invalid"  // wrong CA, wrong type, option we cannot enforce, weak key or signature
	ReasonWrongPrincipal     Reason = "wrong_principal"      // the certificate is good but names nobody we know
	ReasonRevoked            Reason = "revoked"              // key, certificate or CA is on a revocation list
	ReasonSourceAddress      Reason = "source_address"       // key or certificate is not for use from there
	ReasonBadTargetName      Reason = "bad_target_name"      // not a name of any form we accept
	ReasonBadOSUser          Reason = "bad_os_user"          // not a user name EC2 Instance Connect accepts
	ReasonUnknownTarget      Reason = "unknown_target"       // no machine has this name, as far as this person may know
	ReasonAmbiguousTarget    Reason = "ambiguous_target"     // several machines have it; Candidates lists them
	ReasonNotPermitted       Reason = "not_permitted"        // policy says no, or says nothing
	ReasonPolicyError        Reason = "policy_error"         // a policy failed at run time: deny
	ReasonNoRole             Reason = "no_role"              // nobody mapped this person to an IAM role for that account
	ReasonDifferentIdentity  Reason = "different_identity"   // inner login is somebody else than the outer one
	ReasonTooManyConnections Reason = "too_many_connections" // one of our limits
	ReasonHostKeyChanged     Reason = "host_key_changed"     // the machine shows another key than it did
	ReasonHostKeyUnknown     Reason = "host_key_unknown"     // strict, and no key is known
	ReasonUnsupportedTarget  Reason = "unsupported_target"   // no way in fits this kind of machine
	ReasonNoCommonAlgorithm  Reason = "no_common_algorithm"  // the client has none of our algorithms of one kind; Subject is the kind, Detail what it has
	ReasonNoUDP              Reason = "no_udp"               // a program that needs UDP to the machine, which no session carries; Action names it
	ReasonShuttingDown       Reason = "shutting_down"        // the gateway is stopping
	ReasonInternal           Reason = "internal"             // a fault of ours
)

// Reasons that AWS or the machine gives.
const (
	ReasonAccessDenied       Reason = "access_denied"        // IAM refused; Action and Role say what and as whom
	ReasonTargetNotConnected Reason = "target_not_connected" // the agent is offline, or in another account or region
	ReasonInstanceState      Reason = "instance_state"       // stopped, terminated, …; Detail has the state
	ReasonKeyRefused         Reason = "key_refused"          // pushed, but sshd would not have it: Instance Connect missing, or no such OS user
	ReasonThrottled          Reason = "throttled"            // AWS asked us to slow down, and retrying did not help
	ReasonPortRefused        Reason = "port_refused"         // nothing listens on the port of the machine
	ReasonNoSSHD             Reason = "no_sshd"              // what was asked for needs an sshd, and a Session Manager shell stands in for it
	ReasonSessionEnded       Reason = "session_ended"        // Session Manager ended the session
	ReasonCredentials        Reason = "credentials"          // the gateway has no usable AWS credentials
	ReasonDocument           Reason = "document"             // the session document is missing or does not allow this
	ReasonTimeout            Reason = "timeout"              // something did not answer in time; Action says what
	ReasonCloud              Reason = "cloud"                // any other answer of AWS
)

// Refusal is the error that ends an attempt. It carries facts; the sentence that a person reads is made from them by the gateway,
// the cause goes to the log under the same reference id.
type Refusal struct { //nolint:errname // the word for it, in every package
	Reason     Reason
	Subject    string   // what was asked for: a target as typed, an OS user, a key fingerprint
	Action     string   // IAM action or step that failed, e.g. "ssm:StartSession"
	Role       string   // role ARN it failed as; empty for ambient credentials
	Detail     string   // a fact worth telling the person: instance state, both fingerprints, a policy's @message
	Candidates []string // for ReasonAmbiguousTarget: what to type instead, one each
	Cause      error    // for the log only
}

// Error tells everything, for logs. It is not what the person reads.
func (r *Refusal) Error() string {
	var b strings.Builder
	b.WriteString(string(r.Reason))
	for _, part := range []struct{ name, value string }{
		{"subject", r.Subject}, {"action", r.Action}, {"role", r.Role}, {"detail", r.Detail}, {"candidates", strings.Join(r.Candidates, ",")},
	} {
		if part.value != "" {
			b.WriteString(" " + part.name + "=" + part.value)
		}
	}
	if r.Cause != nil {
		b.WriteString(": " + r.Cause.Error())
	}
	return b.String()
}

// Unwrap gives the cause.
func (r *Refusal) Unwrap() error { return r.Cause }
