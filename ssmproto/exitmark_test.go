package ssmproto

import (
	"bytes"
	"io"
	"os/exec"
	"strconv"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// TestExitMark cuts output, the line and the status anywhere: the output passes whole, the status is read.
func TestExitMark(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var got bytes.Buffer
		mark := NewExitMark(&got)
		pieces := rapid.SliceOf(rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Custom(func(t *rapid.T) []byte {
			return mark.line[:rapid.IntRange(0, len(mark.line)-1).Draw(t, "part of the line")]
		}))).Draw(t, "output")
		output := bytes.Join(pieces, nil)
		if bytes.Contains(output, mark.line) {
			t.Skip("parts that make up the line")
		}
		want, told := rapid.IntRange(0, 255).Draw(t, "status"), rapid.Bool().Draw(t, "told")
		stream := output
		if told {
			stream = append(append(bytes.Clone(output), mark.line...), strconv.Itoa(want)+rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end")...)
		}
		for rest := stream; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			if _, err := mark.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := mark.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), output) {
			t.Errorf("passed %q of %q", got.Bytes(), output)
		}
		if code, known := mark.Code(); known != told || told && code != want {
			t.Errorf("status %d (%v), want %d (%v)", code, known, want, told)
		}
	})
}

// TestExitMarkInShell has a real shell run what is sent to instances.
func TestExitMarkInShell(t *testing.T) {
	for command, want := range map[string]int{
		"true": 0, "exit 9": 9, `echo "a 'b' \\c $0" >/dev/null; false`: 1, "kill -9 $$": 137, "# nothing": 0,
	} {
		var out bytes.Buffer
		mark := NewExitMark(&out)
		for _, wrap := range []func(string) string{mark.Wrap, mark.WrapTerminal} {
			mark.seen, mark.digits = false, nil
			wrapped := wrap(command)
			text, err := exec.Command("sh", "-c", wrapped).Output()
			if err != nil {
				t.Fatalf("%s: %v", wrapped, err)
			}
			if _, err := io.Copy(mark, iotest.OneByteReader(bytes.NewReader(text))); err != nil {
				t.Fatal(err)
			}
			if code, known := mark.Code(); !known || code != want {
				t.Errorf("%s: status %d (%v), want %d", command, code, known, want)
			}
			if out.Len() > 0 {
				t.Errorf("%s: %q is left of the lines", command, out.String())
				out.Reset()
			}
		}
	}
}
