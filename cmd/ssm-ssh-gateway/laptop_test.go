package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestReadMFA(t *testing.T) {
	var prompt strings.Builder
	code, err := readMFA(&prompt, func() ([]byte, error) { return []byte(" 123456\r"), nil })
	if code != "123456" || err != nil || prompt.String() != "MFA code: \n" {
		t.Errorf("%q, %v, asked %q", code, err, prompt.String())
	}
	if _, err := readMFA(io.Discard, func() ([]byte, error) { return nil, io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a terminal that is gone: %v", err)
	}
}

// TestAskHushed: a session that owns the terminal is not interrupted by a question.
func TestAskHushed(t *testing.T) {
	if _, err := (&laptop{}).askMFA(); !errors.Is(err, errNoTerminal) {
		t.Errorf("%v", err)
	}
}
