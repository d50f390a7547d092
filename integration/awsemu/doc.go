// Package awsemu is the part of AWS that the gateway talks to, as a network service on loopback: SSM with the message gateway between clients and
// agents, EC2, EC2 Instance Connect, STS and KMS. It speaks the wire forms of the real services, checks signatures and policies as they do,
// and is difficult on purpose: Faults make it drop, repeat, reorder, delay, cut, throttle, deny and babble.
//
// It cannot be mistaken for AWS. It listens on loopback only, every answer carries HeaderEmulator, and its keys and ids say what they are.
//
// The knowledge of the wire is that of ssmproto/SPEC.md; the behavior of the agent's side is in integration/agent, which shares only the message
// codec with the client. The package does not import testing, because the demo ships it.
package awsemu
