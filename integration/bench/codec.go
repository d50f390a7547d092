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

// codecRounds is how often the two take turns.
const codecRounds = 3

// measureCodec times our codec and the plugin's on the same message of 1,024 bytes, and what no codec can avoid: the digest of the payload.
func measureCodec(ctx context.Context, b *bench, _ *world) ([]row, error) {
	testing.Init()
	if err := flag.Set("test.benchtime", b.benchtime); err != nil {
		return nil, err
	}
	var ours, theirs codecSamples
	var digest samples
	for range codecRounds {
		ours.add(ourCodec())
		digest = append(digest, digestAlone())
		result, err := pluginCodec(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("the plugin's codec: %w", err)
		}
		theirs.add(result)
	}
	ratio := func(name string, own, incumbent samples, g goal) row {
		a, z := own.median(), incumbent.median()
		return row{Name: name, Value: a / z, Goal: g, Detail: fmt.Sprintf("%s ns, plugin %s ns", number(a), number(z))}
	}
	allocations := func(name string, own, incumbent int64) row {
		return row{Name: name, Value: float64(own), Unit: "allocs", Goal: atMost(0), Detail: fmt.Sprintf("plugin %d", incumbent)}
	}
	return []row{
		ratio("codec, read a message: ours ÷ plugin", ours.parse, theirs.parse, atMost(0.1)),
		ratio("codec, write a message: ours ÷ plugin", ours.write, theirs.write, atMost(0.1)),
		ratio("codec, SHA-256 of the payload alone ÷ plugin's read", digest, theirs.parse, goal{}),
		ratio("codec, SHA-256 of the payload alone ÷ plugin's write", digest, theirs.write, goal{}),
		allocations("codec, allocations to read a message", ours.last.ParseAllocs, theirs.last.ParseAllocs),
		allocations("codec, allocations to write a message", ours.last.AppendAllocs, theirs.last.AppendAllocs),
	}, nil
}

// codecSamples are the results of the rounds; allocations are the same in each.
type codecSamples struct {
	parse, write samples
	last         codecResult
}

func (s *codecSamples) add(r codecResult) {
	s.parse, s.write, s.last = append(s.parse, r.ParseNs), append(s.write, r.AppendNs), r
}

func ourCodec() codecResult {
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
	return codecResult{perOperation(parse), perOperation(write), parse.AllocsPerOp(), write.AllocsPerOp()}
}

func digestAlone() float64 {
	payload := make([]byte, payloadSize)
	return perOperation(testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			sha256.Sum256(payload)
		}
	}))
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
