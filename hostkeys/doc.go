// Package hostkeys is host keys in both directions: those the gateway shows (its own key, and certificates for the machines it stands in for) and
// those it believes (what a machine's own sshd shows, judged by pins, the machine's console text, a host CA, or first use).
package hostkeys
