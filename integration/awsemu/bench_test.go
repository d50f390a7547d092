package awsemu_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// BenchmarkRelay sends messages of the reference programs' size from client to agent, with and without the default delay.
func BenchmarkRelay(b *testing.B) {
	for _, bench := range []struct {
		name  string
		delay time.Duration
	}{{"delay=none", -1}, {"delay=5ms", 5 * time.Millisecond}} {
		b.Run(bench.name, func(b *testing.B) {
			s := start(b, func(c *config) { c.Delay = bench.delay })
			talk := startTalk(b, s, person(b, s, "alice", "shop"))
			m := ssmproto.Message{
				Type: ssmproto.InputStreamData, SchemaVersion: 1, Created: time.Now(), PayloadType: ssmproto.PayloadOutput,
				Payload: []byte(strings.Repeat("x", 1024)),
			}
			frame := m.Append(nil)
			b.SetBytes(int64(len(m.Payload)))
			sent := make(chan error, 1)
			go func() {
				for range b.N {
					if err := talk.client.ws.WriteMessage(websocket.BinaryMessage, frame); err != nil {
						sent <- err
						return
					}
				}
				sent <- nil
			}()
			for range b.N {
				if _, err := talk.agent.raw(); err != nil {
					b.Fatal(err)
				}
			}
			if err := <-sent; err != nil {
				b.Fatal(err)
			}
		})
	}
}
