package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
)

var errDiffers = errors.New("what came back is not what was sent")

// sameContent holds every transfer to its purpose: a fast one that spoils a byte is no result.
func sameContent(sent, received string) error {
	a, err := os.ReadFile(sent)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(received)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("%s: %w (%d bytes, %d bytes)", sent, errDiffers, len(a), len(b))
	}
	return nil
}
