package bridge

import (
	"slices"
	"testing"
	"time"
)

// passage is one piece of data that passes a meter, after a pause.
type passage struct {
	after time.Duration
	from  side
	bytes int
}

// times repeats what passes.
func times(n int, what ...passage) []passage { return slices.Repeat(what, n) }

func TestMeterTellsBulkFromTalk(t *testing.T) {
	const piece = 32 << 10
	ask, answer := passage{time.Second, fromClient, 1}, passage{30 * time.Millisecond, fromTarget, 1}
	down := passage{time.Millisecond, fromTarget, piece}
	for name, test := range map[string]struct {
		passes []passage
		news   []traffic // all that was reported, one turn of a talk once
	}{
		"much at once":                   {times(bulkBytes/piece, down), []traffic{bulk}},
		"much more is no news":           {times(10*bulkBytes/piece, down), []traffic{bulk}},
		"both directions together":       {times(bulkBytes/piece/2, down, passage{0, fromClient, piece}), []traffic{bulk}},
		"a byte less":                    {append(times(bulkBytes/piece-1, down), passage{0, fromTarget, piece - 1}), nil},
		"a slow stream":                  {times(10*bulkBytes/piece, passage{bulkTime / 8, fromTarget, piece}), nil},
		"a slow stream after a fast one": {append(times(bulkBytes/piece, down), times(9, passage{bulkTime / 8, fromTarget, piece})...), []traffic{bulk, other}},
		"keys and echoes":                {times(talkTurns+1, ask, answer), []traffic{talk}},
		"one question less":              {times(talkTurns, ask, answer), nil},
		"questions in quick succession":  {times(10, passage{time.Millisecond, fromClient, 1}, passage{time.Millisecond, fromTarget, 1}), nil},
		"only questions":                 {times(20, ask), nil},
		"only answers":                   {times(20, passage{time.Second, fromTarget, 1}), nil},
		"questions with a long silence between them": {
			slices.Concat(times(talkTurns, ask, answer), []passage{{2 * talkSilence, fromClient, 1}, answer}), nil,
		},
		"talk, then a transfer, then talk again": {
			slices.Concat(times(talkTurns+1, ask, answer), times(bulkBytes/piece, down), []passage{{2 * bulkTime, fromClient, 1}, answer}, times(talkTurns+1, ask, answer)),
			[]traffic{talk, bulk, other, talk},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var m meter
			now := time.Unix(0, 0)
			var news []traffic
			for _, p := range test.passes {
				now = now.Add(p.after)
				is, fresh := m.add(p.bytes, p.from, now)
				if fresh && (len(news) == 0 || news[len(news)-1] != is) {
					news = append(news, is)
				}
			}
			if !slices.Equal(news, test.news) {
				t.Errorf("reported %v, want %v", news, test.news)
			}
		})
	}
}

func TestTrafficOfPrograms(t *testing.T) {
	for _, test := range []struct {
		run      Program
		terminal bool
		want     traffic
	}{
		{Program{Request: "shell"}, true, typing},
		{Program{Request: "exec", Command: "vim x"}, true, typing},
		{Program{Request: "shell"}, false, talk},
		{Program{Request: "exec", Command: "cat big"}, false, other},
		{Program{Request: "exec", Command: "git-upload-pack 'x'"}, false, other},
		{Program{Request: "exec", Command: "rsync --server -e.LsfxCIvu . x"}, false, bulk},
		{Program{Request: "exec", Command: "scp -t /tmp"}, false, bulk},
		{Program{Request: "exec", Command: "/usr/lib/openssh/sftp-server -e"}, false, bulk},
		{sftpSubsystem, false, bulk},
		{Program{Request: "subsystem", Command: "netconf"}, false, other},
	} {
		if got := trafficOfProgram(test.run, test.terminal); got != test.want {
			t.Errorf("%s %q, terminal %v: %v, want %v", test.run.Request, test.run.Command, test.terminal, got, test.want)
		}
	}
}
