package ssmproto

import (
	"context"
	"encoding/json"
	"fmt"
)

// greet answers a handshake request, once: a second answer would block the agent for ever (SPEC.md §4.4). The answer may have to wait for KMS, so it is
// made in a goroutine of its own. The caller holds mu.
func (c *Conn) greet(payload []byte) {
	if c.presumed { // what was written in the meantime, the agent throws away (SPEC.md §4.4)
		c.fail(fmt.Errorf("%w: it began after that", ErrHandshakeTimeout))
		return
	}
	if c.greeted || c.state == Open || c.state == Closed {
		return
	}
	c.greeted = true
	request, err := ParseHandshakeRequest(payload)
	if err != nil {
		c.fail(err)
		return
	}
	if c.grant.GenerateDataKey == nil {
		p, response, refused := answer(request, c.options.ClientVersion, nil)
		c.respond(p, response, refused, nil)
		return
	}
	c.goroutines.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.options.HandshakeTimeout)
		defer cancel()
		var secret *sessionCipher
		p, response, refused := answer(request, c.options.ClientVersion, func(parameters json.RawMessage) (result *kmsResult, err error) {
			result, secret, err = c.makeKey(ctx, parameters)
			return result, err
		})
		c.mu.Lock()
		defer c.mu.Unlock()
		c.respond(p, response, refused, secret)
	})
}

// respond sends the answer to a handshake request, and begins to encrypt. The caller holds mu.
func (c *Conn) respond(p peer, response HandshakeResponse, refused error, secret *sessionCipher) {
	text, err := response.Append(nil)
	if err != nil {
		c.fail(err)
		return
	}
	c.peer, c.muxed, c.refused, c.cipher = p, p.multiplexed(), refused, secret
	// Nothing else composes messages before the state is Open, so the number cannot have been taken.
	c.queue(encode(PayloadHandshakeResponse, c.send.next, text))
}
