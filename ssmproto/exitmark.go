package ssmproto

import (
	"bytes"
	"crypto/rand"
	"io"
	"strconv"
	"strings"
)

// maxExitDigits bounds what is read behind a mark: a status, and the end of the line as a terminal or a file has it.
const maxExitDigits = 8

// ExitMark tells the exit status of a command that runs under a session document that does not, such as AWS-StartNonInteractiveCommand: the command is wrapped in
// a shell that prints a line nobody can guess, and the status, behind the output. As a writer it passes the output on without that line. It is for one
// command on a machine that has sh, and for one goroutine.
type ExitMark struct {
	out  io.Writer
	line []byte // the line up to the status

	preface []byte // the first line, to be left out as well; nil when there is none, or none any more
	held    []byte // output that may be the beginning of the line
	digits  []byte // behind the line
	seen    bool
}

// NewExitMark makes the mark of a command whose output is to go to out.
func NewExitMark(out io.Writer) *ExitMark {
	return &ExitMark{out: out, line: []byte("ssm-ssh-gateway-" + rand.Text() + ":")}
}

// Wrap gives what to run in place of command: a shell that runs it and prints the line. An interrupt, which the agent sends to this shell alone, is passed on;
// a shell that waits for a foreground command would not. There is no backslash and no double quote in it that a document's substitution could mistake,
// but for those around one word.
func (m *ExitMark) Wrap(command string) string {
	script := `stop() { kill $!; }; trap stop INT; sh -c "$0" & wait $!; echo ` + string(m.line) + `$?`
	return "sh -c " + quoteShell(script) + " " + quoteShell(command)
}

// WrapTerminal is Wrap for a command on a terminal: it stays in the foreground, where the terminal interrupts it. A line comes first, because a
// session with a terminal begins with its first output (SPEC.md §5.1), and the command may have none for long.
func (m *ExitMark) WrapTerminal(command string) string {
	m.preface = bytes.TrimSuffix(m.line, []byte(":"))
	script := `trap : INT; echo ` + string(m.preface) + `; sh -c "$0"; echo ` + string(m.line) + `$?`
	return "sh -c " + quoteShell(script) + " " + quoteShell(command)
}

// quoteShell makes one word of text, for sh and for the agent's own splitting.
func quoteShell(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// Write passes output on, and holds back what may be the line.
func (m *ExitMark) Write(p []byte) (int, error) {
	if m.seen {
		m.digits = append(m.digits, p[:min(len(p), max(maxExitDigits-len(m.digits), 0))]...)
		return len(p), nil
	}
	m.held = append(m.held, p...)
	if !m.begun() {
		return len(p), nil
	}
	before, after, found := bytes.Cut(m.held, m.line)
	if found {
		m.seen = true
		m.digits = append(m.digits, after[:min(len(after), maxExitDigits)]...)
		m.held = nil
		return len(p), m.pass(before)
	}
	keep := overlap(m.held, m.line)
	ready := m.held[:len(m.held)-keep]
	if err := m.pass(ready); err != nil {
		return 0, err
	}
	m.held = append([]byte(nil), m.held[len(ready):]...)
	return len(p), nil
}

// begun drops the preface from what is held, and says whether it has come as far as that.
func (m *ExitMark) begun() bool {
	if m.preface == nil {
		return true
	}
	first, rest, whole := bytes.Cut(m.held, []byte("\n"))
	if !whole && len(first) <= len(m.preface)+len("\r") {
		return false
	}
	if bytes.Equal(bytes.TrimSuffix(first, []byte("\r")), m.preface) {
		m.held = rest
	}
	m.preface = nil
	return true
}

// overlap is how much of the end of text is a beginning of line.
func overlap(text, line []byte) int {
	for n := min(len(text), len(line)-1); n > 0; n-- {
		if bytes.Equal(text[len(text)-n:], line[:n]) {
			return n
		}
	}
	return 0
}

func (m *ExitMark) pass(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := m.out.Write(p)
	return err
}

// Flush passes on what was held back and turned out to be output.
func (m *ExitMark) Flush() error {
	held := m.held
	m.held = nil
	return m.pass(held)
}

// Code is the status, once the line has come.
func (m *ExitMark) Code() (int, bool) {
	if !m.seen {
		return 0, false
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(m.digits)))
	return code, err == nil
}
