package main

import (
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// TestByes moves some MiB each way, in real time, while the service says goodbye every other second.
func TestByes(t *testing.T) {
	w, err := newWorld()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	machine, err := w.newMachine(0)
	if err != nil {
		t.Fatal(err)
	}
	s := schedule{
		seed: 1, kind: basicPort, up: 4 << 20, down: 4 << 20, streams: 1, peerTimeout: time.Minute, quirks: agent.Quirks{Fast: true},
		faults: awsemu.Faults{ByeEvery: awsemu.Duration(2 * time.Second)},
	}
	if err := newPlay(w, machine, s).run(t.Context()); err != nil {
		t.Error(err)
	}
	resumes := 0
	for _, c := range w.aws.Calls() {
		if c.Action == "ResumeSession" {
			resumes++
		}
	}
	if resumes < 2 {
		t.Errorf("%d resumes: the transfer was over too soon to prove anything", resumes)
	}
}
