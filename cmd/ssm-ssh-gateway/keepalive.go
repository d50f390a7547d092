package main

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// keepAliveCount is how many intervals without a sign of life end a session, as OpenSSH's ServerAliveCountMax does.
const keepAliveCount = 3

// leastKeepAlive leaves the round trip to a far region, and an agent that is busy, time to answer.
const leastKeepAlive = time.Second

// keepAlive is after how long a silence a machine is asked for a sign of life. 0 is never: the question counts as traffic, and a session that nobody uses would
// not be ended by AWS any more. It is a flag's value.
type keepAlive time.Duration

func (k *keepAlive) flag(flags *pflag.FlagSet) {
	flags.Var(k, "keepalive", "ask the machine for a sign of life after this long a silence, and end when it has not answered for three times as long (default off: asking keeps AWS from ending a session that nobody uses)")
}

// String is for pflag, as are Set and Type.
func (k *keepAlive) String() string { return time.Duration(*k).String() }

// Set reads a duration such as 30s.
func (k *keepAlive) Set(text string) error {
	every, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if every != 0 && every < leastKeepAlive {
		return fmt.Errorf("the least is %v, and 0 is off", leastKeepAlive)
	}
	*k = keepAlive(every)
	return nil
}

// Type is what usage calls the value.
func (*keepAlive) Type() string { return "duration" }

// of gives options with it.
func (k keepAlive) of(options ssmproto.Options) *ssmproto.Options {
	if k > 0 {
		options.PeerCheck, options.PeerTimeout = time.Duration(k), keepAliveCount*time.Duration(k)
	}
	return &options
}
