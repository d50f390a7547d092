package main

import (
	"bufio"
	"strings"
	"testing"
)

// Each stream is what go test -json of Go 1.26 printed, cut to the lines that matter.
func TestTally(t *testing.T) {
	const pkg = module + "/a"
	for _, c := range []struct {
		name   string
		events []string
		ok     bool
		want   []string // in this order
		absent string
	}{
		{
			name: "a passing package",
			events: []string{
				`{"Action":"output","Package":"` + pkg + `","Test":"TestA","Output":"noise\n"}`,
				`{"Action":"pass","Package":"` + pkg + `","Test":"TestA","Elapsed":0}`,
				`{"Action":"pass","Package":"` + pkg + `","Elapsed":0.004}`,
			},
			ok: true, want: []string{"ok    ./a", "1 passed, 0 failed, 0 skipped"}, absent: "noise",
		},
		{
			name: "a skipped test is named with its reason",
			events: []string{
				`{"Action":"pass","Package":"` + pkg + `","Test":"TestA"}`,
				`{"Action":"output","Package":"` + pkg + `","Test":"TestB","Output":"=== RUN   TestB\n"}`,
				`{"Action":"output","Package":"` + pkg + `","Test":"TestB","Output":"    b_test.go:7: no sshd here: install it\n"}`,
				`{"Action":"output","Package":"` + pkg + `","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}`,
				`{"Action":"skip","Package":"` + pkg + `","Test":"TestB","Elapsed":0}`,
			},
			ok: true, want: []string{"Skipped:", "  ./a TestB: no sshd here: install it", "1 passed, 0 failed, 1 skipped"},
		},
		{
			name: "a failing test shows all it printed, once",
			events: []string{
				`{"Action":"output","Package":"` + pkg + `","Test":"TestA","Output":"    a_test.go:3: 1 is not 2\n"}`,
				`{"Action":"fail","Package":"` + pkg + `","Test":"TestA"}`,
				`{"Action":"fail","Package":"` + pkg + `"}`,
			},
			want: []string{"a_test.go:3: 1 is not 2", "FAIL  ./a", "Failed:", "  ./a TestA", "0 passed, 1 failed, 0 skipped"},
		},
		{
			name: "a parent does not repeat its child",
			events: []string{
				`{"Action":"output","Package":"` + pkg + `","Test":"TestA/b","Output":"    a_test.go:3: wrong\n"}`,
				`{"Action":"fail","Package":"` + pkg + `","Test":"TestA/b"}`,
				`{"Action":"output","Package":"` + pkg + `","Test":"TestA","Output":"--- FAIL: TestA (0.00s)\n"}`,
				`{"Action":"fail","Package":"` + pkg + `","Test":"TestA"}`,
				`{"Action":"fail","Package":"` + pkg + `"}`,
			},
			want: []string{"a_test.go:3: wrong", "  ./a TestA/b", "0 passed, 2 failed, 0 skipped"}, absent: "--- FAIL: TestA (",
		},
		{
			name: "a package that does not build is a failure of its own",
			events: []string{
				`{"ImportPath":"` + pkg + `","Action":"build-output","Output":"a.go:3: undefined: x\n"}`,
				`{"ImportPath":"` + pkg + `","Action":"build-fail"}`,
				`{"Action":"fail","Package":"` + pkg + `","FailedBuild":"` + pkg + `"}`,
			},
			want: []string{"undefined: x", "  ./a\n", "0 passed, 1 failed, 0 skipped"},
		},
		{
			name: "a package that leaks after its tests passed has failed",
			events: []string{
				`{"Action":"pass","Package":"` + pkg + `","Test":"TestA"}`,
				`{"Action":"output","Package":"` + pkg + `","Output":"goleak: found unexpected goroutines\n"}`,
				`{"Action":"fail","Package":"` + pkg + `"}`,
			},
			want: []string{"goleak: found", "1 passed, 1 failed, 0 skipped"},
		},
		{
			name: "a test that never ended tells what it printed",
			events: []string{
				`{"Action":"output","Package":"` + pkg + `","Test":"TestA","Output":"waiting for the agent\n"}`,
				`{"Action":"output","Package":"` + pkg + `","Output":"panic: test timed out after 1s\n"}`,
				`{"Action":"fail","Package":"` + pkg + `"}`,
			},
			want: []string{"panic: test timed out", "waiting for the agent", "0 passed, 1 failed, 0 skipped"},
		},
		{
			name:   "nothing ran",
			events: []string{`{"Action":"skip","Package":"` + pkg + `"}`, `go: a line that is no event`},
			want:   []string{"-     ./a", "no event", "0 passed, 0 failed, 0 skipped"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			tally := newTally(&out)
			if err := tally.readAll(bufio.NewReader(strings.NewReader(strings.Join(c.events, "\n")))); err != nil {
				t.Fatal(err)
			}
			if ok := tally.report(); ok != c.ok {
				t.Errorf("report says %v, want %v", ok, c.ok)
			}
			rest := out.String()
			for _, want := range c.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("%q is not in, or not in order in:\n%s", want, out.String())
				}
				rest = after
			}
			if c.absent != "" && strings.Contains(out.String(), c.absent) {
				t.Errorf("%q should not be shown:\n%s", c.absent, out.String())
			}
		})
	}
}
