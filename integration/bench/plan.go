package main

import (
	"regexp"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// plan is how much is measured.
type plan struct {
	quick    bool
	only     *regexp.Regexp // matched against "name condition"; everything when empty
	ways     *regexp.Regexp // which ways in take part in transfers, beside plain ssh and the plugin
	profiles string         // a directory for profiles of the transfers; none when empty
	listOnly bool
	gateway  string // a program that is there already, instead of one built from the tree

	enters    []variant           // gateways whose logins are timed
	typists   map[string][]string // routes on which keys are timed beside the gateway's, by condition
	logins    int                 // rounds of logins
	transfers int                 // rounds of transfers
	slow      int                 // MiB for ways that move about 1 MB/s
	spread    map[int]int         // MiB for ways with several such lanes, by their number: so much that the start of the lanes is not the result
	fast      int                 // MiB for ways that nothing limits
	files     map[string]int      // how many small files, by condition
	copied    map[string]int      // how many of them by sftp and scp, which wait for each
	others    map[string]int      // how many of them by programs that not everybody has
	parallel  []manyAtOnce        // files in one SFTP stream, many at a time
	keys      time.Duration       // how long keystrokes are timed, each time
	turns     int                 // rounds of typing
	raw       int                 // MiB through a bare WebSocket
	idle      int                 // sessions left open to weigh one
	sessions  int                 // logins at once
	benchtime string              // for testing.Benchmark
}

var fullPlan = plan{
	ways: regexp.MustCompile(""), enters: []variant{inspected, passthrough},
	typists: map[string][]string{awsLike.name: {plainName, connectName, pluginName}, free.name: {plainName, connectName, pluginName}},
	logins:  5, transfers: 2, slow: 8, spread: map[int]int{2: 16, 4: 64, 8: 256}, fast: 32, keys: 5 * time.Second, turns: 3, raw: 64, idle: 100, sessions: 200, benchtime: "300ms",
	files: map[string]int{awsLike.name: 2000, free.name: 2000}, copied: map[string]int{awsLike.name: 2000, free.name: 2000},
	others:   map[string]int{awsLike.name: 200, free.name: 2000},
	parallel: []manyAtOnce{{2000, 4 << 10, 128}, {200, 100 << 10, 32}},
}

// quickPlan has every row that has a goal, and what is needed to read those: what else there is takes too long for three minutes.
var quickPlan = plan{
	quick: true, ways: regexp.MustCompile("^(connect|inspected16k|lanes1|lanes8)$"), enters: []variant{inspected},
	logins: 2, transfers: 1, slow: 2, spread: map[int]int{2: 4, 4: 16, 8: 56}, fast: 16, keys: 1500 * time.Millisecond, turns: 3, raw: 16, idle: 20, sessions: 40, benchtime: "100ms",
	files: map[string]int{awsLike.name: 200, free.name: 200}, copied: map[string]int{awsLike.name: 50, free.name: 100},
	parallel: []manyAtOnce{{1000, 4 << 10, 128}, {100, 100 << 10, 32}},
}

// condition is the world in which something is measured.
type condition struct {
	name string
	// rtt is the round trip from the client's side (laptop, gateway) to the instance: half of it each way on the data channels, and on plain ssh.
	rtt time.Duration
	// call is how long an AWS call takes to answer; start is the same for StartSession.
	call, start time.Duration
	// rate is how many messages per second one WebSocket may send for long; none when zero.
	rate int
	// fast switches the agent's pause of 1 ms per KiB off.
	fast bool
	// messageRate is what our side is told to send at most, per second; its default when zero.
	messageRate int
}

// awsLike is what a client on AWS meets. free takes every limit away that is not in the programs themselves; the agent keeps its other habits, except
// that it notes a message before it sends it: with no delay at all, acknowledgements overtake the note, and it would send the same message for ever.
var (
	awsLike = condition{name: "AWS-like", rtt: 30 * time.Millisecond, call: 30 * time.Millisecond, start: 400 * time.Millisecond, rate: 1000}
	free    = condition{name: "free", fast: true, messageRate: -1}
)

// local is for what needs no lab.
var local = condition{name: "local"}

// labOptions builds the condition.
func (c condition) labOptions(embedded bool) lab.Options {
	options := lab.Options{Embedded: embedded}
	options.Emulator.Delay = c.rtt / 2
	if c.rtt == 0 {
		options.Emulator.Delay = -1
	}
	options.Emulator.Faults = awsemu.Faults{RateLimit: c.rate, StartLatency: awsemu.Duration(c.start), Latency: map[string]awsemu.Duration{}}
	for _, action := range []string{
		"sts:AssumeRole", "ec2:DescribeInstances", "ec2:GetConsoleOutput", "ec2-instance-connect:SendSSHPublicKey",
		"ssm:DescribeInstanceInformation", "ssm:ResumeSession", "ssm:TerminateSession",
	} {
		options.Emulator.Faults.Latency[action] = awsemu.Duration(c.call)
	}
	options.Agent.Quirks = agent.Quirks{Fast: c.fast, RecordBeforeSending: c.rtt == 0}
	return options
}
