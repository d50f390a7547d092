package awscloud

import (
	"testing"

	"go.uber.org/goleak"
)

// The janitor of golang-lru's expirable caches cannot be stopped; nothing else may be left over.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/hashicorp/golang-lru/v2/expirable.NewLRU[...].func1"))
}
