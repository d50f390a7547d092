package authz

import "strings"

// maxLogin bounds a login name in the direct shape: an OS user, a separator and a target.
const maxLogin = 32 + 1 + maxTarget

// ParseLogin splits a login name of the direct shape (ssh ec2-user@i-abc@gateway) into OS user and target. It splits at the last @, because an OS
// user may contain @ (directory users) and a target may not; where there is no @, the first + or % separates, for tools that choke on a second @
// (an OS user may contain neither). ok is false when the name has no such shape: then it names no target.
//
// The halves are only split, not believed: ParseOSUser and ParseTarget judge them, after the key is proven.
func ParseLogin(login string) (osUser, target string, ok bool) {
	if len(login) > maxLogin {
		return "", "", false
	}
	at := strings.LastIndexByte(login, '@')
	if at < 0 {
		at = strings.IndexAny(login, "+%")
	}
	if at <= 0 || at == len(login)-1 {
		return "", "", false
	}
	return login[:at], login[at+1:], true
}
