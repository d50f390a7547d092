package authz

import "regexp"

// osUserPattern is the InstanceOSUser pattern of the EC2 Instance Connect API (SendSSHPublicKey, API reference), 1 to 32 characters.
var osUserPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9@._-]{0,30}[A-Za-z0-9$_-]?$`)

// ParseOSUser accepts a user name of the machine as typed, if EC2 Instance Connect would: 1 to 32 characters, a letter or underscore first, then
// letters, digits and @ . _ -, with $ only at the end. Case matters. Anything else is a *Refusal with ReasonBadOSUser.
func ParseOSUser(name string) (string, error) {
	if len(name) > 32 || !osUserPattern.MatchString(name) {
		return "", &Refusal{Reason: ReasonBadOSUser, Subject: clip(name)}
	}
	return name, nil
}
