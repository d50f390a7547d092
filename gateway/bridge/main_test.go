package bridge

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package when a goroutine outlives its bridge.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
