package awscloud

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestMemory keeps values for their time and in their number. That it needs no goroutine shows in the bubble, which would not end with one.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory[int](2, time.Minute)
		want := func(key string, value int, there bool) {
			t.Helper()
			if got, ok := m.get(key); ok != there || got != value {
				t.Errorf("%s is %d, %t, not %d, %t", key, got, ok, value, there)
			}
		}
		m.add("a", 1)
		time.Sleep(time.Minute - time.Nanosecond)
		want("a", 1, true)
		time.Sleep(time.Nanosecond)
		want("a", 0, false)
		m.add("a", 2)
		m.add("b", 3)
		want("a", 2, true)
		m.add("c", 4) // b was used less lately than a
		want("b", 0, false)
		m.forgetAll(func(value int) bool { return value == 2 })
		want("a", 0, false)
		want("c", 4, true)
		m.forget("c")
		want("c", 0, false)
	})
}
