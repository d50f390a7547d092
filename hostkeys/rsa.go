package hostkeys

import (
	"crypto/rsa"

	"golang.org/x/crypto/ssh"
)

// rsaBits gives the size of an RSA key, and 0 for any other.
func rsaBits(key ssh.PublicKey) int {
	if holder, ok := key.(ssh.CryptoPublicKey); ok {
		if public, ok := holder.CryptoPublicKey().(*rsa.PublicKey); ok {
			return public.N.BitLen()
		}
	}
	return 0
}
