package main

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestALogThatIsMovedAwayGoesOnUnderItsName(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be moved there")
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	log, err := openAppendFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if _, err := log.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("2") // rotated, and nobody has said so yet
	if err := log.reopen(); err != nil {
		t.Fatal(err)
	}
	write("3")
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path + ".1": "12", path: "3"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v; want %q", filepath.Base(name), got, err, want)
		}
	}
	if _, err := openAppendFile(filepath.Join(path, "below-a-file")); err == nil {
		t.Error("a path that cannot be is opened")
	}
}
