//go:build ignore

// Command plugincodec times the message codec of AWS's session-manager-plugin, in the module in which the plugin is built: integration/referee/plugin is the
// working directory, and this file is named to go run. It prints nanoseconds and allocations for reading and for writing one message.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/aws/session-manager-plugin/src/log"
	"github.com/aws/session-manager-plugin/src/message"
	"github.com/twinj/uuid"
)

type result struct {
	ParseNs, AppendNs         float64
	ParseAllocs, AppendAllocs int64
}

func main() {
	testing.Init()
	size := flag.Int("payload", 1024, "bytes of payload")
	flag.Parse()
	logger := log.NewMockLog()
	m := message.ClientMessage{
		MessageType: message.OutputStreamMessage, SchemaVersion: 1, CreatedDate: 1700000000000, SequenceNumber: 7,
		MessageId: uuid.NewV4(), PayloadType: uint32(message.Output), Payload: make([]byte, *size),
	}
	frame, err := m.SerializeClientMessage(logger)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	parse := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m message.ClientMessage
			if err := m.DeserializeClientMessage(logger, frame); err != nil {
				b.Fatal(err)
			}
			if err := m.Validate(); err != nil { // where it checks the digest, as its receiver does
				b.Fatal(err)
			}
		}
	})
	write := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.SerializeClientMessage(logger); err != nil {
				b.Fatal(err)
			}
		}
	})
	err = json.NewEncoder(os.Stdout).Encode(result{
		perOperation(parse), perOperation(write), parse.AllocsPerOp(), write.AllocsPerOp(),
	})
	if err != nil {
		os.Exit(1)
	}
}

func perOperation(r testing.BenchmarkResult) float64 {
	return float64(r.T.Nanoseconds()) / float64(r.N)
}
