package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// payloadSize is that of the agent's and the plugin's messages.
const payloadSize = 1024

// codecResult is what reading and writing one message costs; plugincodec prints the same.
type codecResult struct {
	ParseNs, AppendNs         float64
	ParseAllocs, AppendAllocs int64
}

// measureCodec times our codec and the plugin's on the same message of 1,024 bytes.
func measureCodec(ctx context.Context, b *bench, _ *world) ([]row, error) {
	testing.Init()
	if err := flag.Set("test.benchtime", b.benchtime); err != nil {
		return nil, err
	}
	ours, digest := ourCodec()
	theirs, err := pluginCodec(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("the plugin's codec: %w", err)
	}
	ratio := func(name string, own, incumbent float64, g goal) row {
		return row{Name: name, Value: own / incumbent, Goal: g, Detail: fmt.Sprintf("%s ns, plugin %s ns", number(own), number(incumbent))}
	}
	allocations := func(name string, own, incumbent int64) row {
		return row{Name: name, Value: float64(own), Unit: "allocs", Goal: atMost(0), Detail: fmt.Sprintf("plugin %d", incumbent)}
	}
	return []row{
		ratio("codec, read a message: ours ÷ plugin", ours.ParseNs, theirs.ParseNs, atMost(0.1)),
		ratio("codec, write a message: ours ÷ plugin", ours.AppendNs, theirs.AppendNs, atMost(0.1)),
		ratio("codec, SHA-256 of the payload alone ÷ plugin's read", digest, theirs.ParseNs, goal{}),
		ratio("codec, SHA-256 of the payload alone ÷ plugin's write", digest, theirs.AppendNs, goal{}),
		allocations("codec, allocations to read a message", ours.ParseAllocs, theirs.ParseAllocs),
		allocations("codec, allocations to write a message", ours.AppendAllocs, theirs.AppendAllocs),
	}, nil
}

// ourCodec times ssmproto, and what no codec can avoid: the digest of the payload, which is part of every message.
func ourCodec() (result codecResult, digest float64) {
	m := ssmproto.Message{
		Type: ssmproto.OutputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: 7, PayloadType: ssmproto.PayloadOutput,
		ID: ssmproto.NewUUID(), Payload: make([]byte, payloadSize),
	}
	frame := m.Append(nil)
	parse := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ssmproto.Parse(frame); err != nil {
				b.Fatal(err)
			}
		}
	})
	buf := make([]byte, 0, len(frame))
	write := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = m.Append(buf[:0])
		}
	})
	sum := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			sha256.Sum256(m.Payload)
		}
	})
	return codecResult{perOperation(parse), perOperation(write), parse.AllocsPerOp(), write.AllocsPerOp()}, perOperation(sum)
}

func perOperation(r testing.BenchmarkResult) float64 {
	return float64(r.T.Nanoseconds()) / float64(r.N)
}

// pluginCodec runs plugincodec in the plugin's module, so that nothing of it is in ours.
func pluginCodec(ctx context.Context, b *bench) (result codecResult, err error) {
	cmd := exec.CommandContext(ctx, "go", "run", filepath.Join(b.programs.root, "integration", "bench", "plugincodec", "main.go"),
		"-payload", fmt.Sprint(payloadSize), "-test.benchtime", b.benchtime)
	cmd.Dir = filepath.Join(b.programs.root, "integration", "referee", "plugin")
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	dieWithParent(cmd)
	killGroup(cmd)
	text, err := output(cmd)
	if err == nil {
		err = json.Unmarshal(text, &result)
	}
	return result, err
}
