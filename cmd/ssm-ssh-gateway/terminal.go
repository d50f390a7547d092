package main

import (
	"context"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// defaultSize is announced where output goes to no terminal: programs that cut lines should cut few.
var defaultSize = ssmproto.Size{Cols: 300, Rows: 100}

// terminalOf gives the terminal behind a stream, if that is what it is.
func terminalOf(stream any) (*os.File, bool) {
	file, ok := stream.(*os.File)
	return file, ok && term.IsTerminal(int(file.Fd()))
}

// makeRaw has every key reach the program as it is typed, until restore. For anything but a terminal nothing happens.
func makeRaw(in io.Reader) (restore func(), err error) {
	file, ok := terminalOf(in)
	if !ok {
		return func() {}, nil
	}
	before, err := term.MakeRaw(int(file.Fd()))
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(int(file.Fd()), before) }, nil
}

// sizeOf measures the terminal behind out.
func sizeOf(out io.Writer) ssmproto.Size {
	file, ok := terminalOf(out)
	if !ok {
		return defaultSize
	}
	cols, rows, err := term.GetSize(int(file.Fd()))
	if err != nil || cols <= 0 || rows <= 0 {
		return defaultSize
	}
	return ssmproto.Size{Cols: uint32(cols), Rows: uint32(rows)}
}

// followSize tells size now and whenever it is another one, until ctx ends or telling fails.
func followSize(ctx context.Context, out io.Writer, tell func(ssmproto.Size) error) {
	hints, stop := resizeHints()
	defer stop()
	var last ssmproto.Size
	for {
		if now := sizeOf(out); now != last {
			if tell(now) != nil {
				return
			}
			last = now
		}
		select {
		case <-hints:
		case <-ctx.Done():
			return
		}
	}
}
