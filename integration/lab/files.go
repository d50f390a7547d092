package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// policyText lets everybody do everything but reach machines in quarantine.
const policyText = `@id("everybody")
permit (principal, action, resource);

@id("quarantine") @message("this machine is in quarantine")
forbid (principal, action, resource) when { resource.hasTag("Quarantine") };
`

// writeGatewayConfig writes what `serve --config` reads: configuration, policy and revocation list.
func (l *Lab) writeGatewayConfig(c *crowd) error {
	var b strings.Builder
	fmt.Fprintf(&b, `listen = [%q]
public_name = "gateway"
state_dir = "state"
user_ca_key = "state/user_ca_ed25519_key"
audit_log = "audit.jsonl"
log_level = "debug"
policies = ["policy.cedar"]
revoked_keys = ["revoked"]

[aws]
region = %q

[session]
max_payload = %d
keep_warm = %q
progress_after = %q

[targets]
forwarded_agent = true
session_manager_shell = true

[[account]]
alias = %q
id = %q
regions = [%q]

[[user_ca]]
key = %q

[aliases]
www = %q

`, l.GatewayAddr, Region, max(l.maxPayload, 1024), l.keepWarm.String(), l.progressAfter.String(), AccountAlias, AccountID, Region, authorizedLine(c.authority.PublicKey()), MainInstance)
	for _, name := range peopleWithRoles {
		if name == "carol" && !c.hasFIDO {
			continue
		}
		fmt.Fprintf(&b, "[[person]]\nname = %q\nrole = \"arn:aws:iam::%s:role/ssh-gw-user/%s\"\ntags = { team = \"blue\" }\n", name, AccountID, name)
		if name == "bob" {
			b.WriteString("principals = [\"bob\"]\n\n")
			continue
		}
		fmt.Fprintf(&b, "keys = [%q]\n\n", strings.TrimSpace(c.publicKeys[name]))
	}
	return writeFiles(map[string]string{
		l.GatewayConfig: b.String(), filepath.Join(l.Dir, "policy.cedar"): policyText, filepath.Join(l.Dir, "revoked"): c.publicKeys["revoked"],
	})
}

// writeClientFiles writes, for each person, the ssh_config that the README shows.
func (l *Lab) writeClientFiles(c *crowd, hostCA ssh.PublicKey, instanceKeys []ssh.PublicKey) error {
	instanceLines := make([]string, 0, len(instanceKeys))
	for _, key := range instanceKeys {
		instanceLines = append(instanceLines, knownhosts.Line([]string{MainInstance}, key))
	}
	files := map[string]string{
		l.knownHosts():       "@cert-authority * " + authorizedLine(hostCA) + "\n",
		l.InstanceKnownHosts: strings.Join(instanceLines, "\n") + "\n",
	}
	for name := range c.publicKeys {
		files[l.SSHConfigFor(name)] = l.sshConfig(name)
	}
	return writeFiles(files)
}

func (l *Lab) sshConfig(person string) string {
	host, port, _ := strings.Cut(l.GatewayAddr, ":")
	var options strings.Builder
	if provider, err := SecurityKeyProvider(); err == nil && person == "carol" {
		fmt.Fprintf(&options, "    SecurityKeyProvider %s\n", provider)
	}
	return fmt.Sprintf(`Host gateway
    HostName %s
    Port %s
    HostKeyAlias gateway
Host i-* I-* mi-* web-* www twin *-1 *.%s *.%s
    ProxyJump gateway
Host *
    User %s
    IdentityFile %s
    IdentitiesOnly yes
    StrictHostKeyChecking yes
    UserKnownHostsFile %s
    GlobalKnownHostsFile /dev/null
    LogLevel INFO
%s`, host, port, Region, AccountAlias, person, l.UserKey(person), l.knownHosts(), options.String())
}

func (l *Lab) knownHosts() string { return filepath.Join(l.Dir, "known_hosts") }

func authorizedLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func writeFiles(files map[string]string) error {
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
