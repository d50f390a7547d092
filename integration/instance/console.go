package instance

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ConsoleText is what the serial console shows after the first boot of a machine with cloud-init: some boot chatter, the fingerprints of the host
// keys in a frame, and the keys themselves between the BEGIN and END lines from which programs read them.
func (i *Instance) ConsoleText() string {
	var b strings.Builder
	host := "ip-10-0-0-1"
	fmt.Fprintf(&b, "[    0.000000] Linux version 6.1.0 (%s)\r\n", i.id)
	fmt.Fprintf(&b, "[    7.312034] cloud-init[1201]: Cloud-init v. 22.2.2 running 'modules:final'\r\n")
	line := func(text string) { fmt.Fprintf(&b, "ci-info: %s\r\n", text) }
	line("no authorized SSH keys fingerprints found for user ec2-user.")
	fmt.Fprintf(&b, "<14>Jan  1 00:00:00 %s ec2: \r\n", host)
	fmt.Fprintf(&b, "<14>Jan  1 00:00:00 %s ec2: #############################################################\r\n", host)
	fmt.Fprintf(&b, "<14>Jan  1 00:00:00 %s ec2: -----BEGIN SSH HOST KEY FINGERPRINTS-----\r\n", host)
	for _, key := range i.HostKeys {
		fmt.Fprintf(&b, "<14>Jan  1 00:00:00 %s ec2: 256 %s root@%s (%s)\r\n", host, ssh.FingerprintSHA256(key), host, keyLabel(key))
	}
	fmt.Fprintf(&b, "<14>Jan  1 00:00:00 %s ec2: -----END SSH HOST KEY FINGERPRINTS-----\r\n", host)
	fmt.Fprintf(&b, "<14>Jan  1 00:00:00 %s ec2: #############################################################\r\n", host)
	fmt.Fprintf(&b, "-----BEGIN SSH HOST KEY KEYS-----\r\n")
	for _, key := range i.HostKeys {
		fmt.Fprintf(&b, "%s root@%s\r\n", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), host)
	}
	fmt.Fprintf(&b, "-----END SSH HOST KEY KEYS-----\r\n")
	fmt.Fprintf(&b, "[   12.000611] cloud-init[1201]: Cloud-init v. 22.2.2 finished. Datasource DataSourceEc2.  Up 12.00 seconds\r\n\r\n%s login: ", host)
	return b.String()
}

// keyLabel is the type as ssh-keygen -l prints it.
func keyLabel(key ssh.PublicKey) string {
	if key.Type() == ssh.KeyAlgoED25519 {
		return "ED25519"
	}
	return "ECDSA"
}
