package main

import (
	"errors"
	"math"
	"slices"
	"testing"
)

// Each copy of ours is compared with the incumbent's by the same program; where either has failed there is no row.
func TestFileRows(t *testing.T) {
	copyBy := func(way manyFiles, name string, seconds float64) *fileCopy {
		return &fileCopy{way: way, master: &master{route: &route{name: name}}, seconds: seconds, cost: seconds / 10}
	}
	rsync, sftp, lftp := manyFiles{title: "up, rsync", at: "rsync", streams: true}, manyFiles{title: "up, sftp", at: "sftp"}, manyFiles{title: "up, lftp", at: "lftp", needs: "lftp"}
	copies := []*fileCopy{
		copyBy(rsync, pluginName, 10), copyBy(rsync, "files-rsync", 5), copyBy(rsync, discovered.name, 2),
		copyBy(sftp, pluginName, 8), copyBy(sftp, "files-sftp", 1),
		copyBy(lftp, pluginName, 6), copyBy(lftp, "files-lftp", 2),
	}
	errs := make([]error, len(copies))
	rows := fileRows(awsLike, copies, errs, 20)
	want := []float64{2, 0.5, 5, 0.2, 8, 0.125, 3, 1. / 3}
	for i, r := range rows {
		if i >= len(want) || math.Abs(r.Value-want[i]) > 1e-9 {
			t.Errorf("row %d: %+v", i, r)
		}
	}
	if len(rows) != len(want) || rows[0].Goal != atLeast(2) || rows[6].Goal != (goal{}) || fileRows(free, copies, errs, 20)[4].Goal != atLeast(3) {
		t.Errorf("rows or goals differ: %+v", rows)
	}
	errs[3], errs[6] = errDiffers, errors.New("no lftp here") // the incumbent's sftp, our lftp
	if rows := fileRows(awsLike, copies, errs, 20); len(rows) != 4 {
		t.Errorf("after failures: %+v", rows)
	}
}

// A quick run leaves out what has no goal, but not when asked for it.
func TestQuickLeavesOut(t *testing.T) {
	named := func(args ...string) bool {
		p, _, err := parse(args)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc((&bench{plan: p}).wanted(awsLike), func(m measure) bool { return m.name == "payload" })
	}
	if !named() || named("-quick") || !named("-quick", "-only", "payload") {
		t.Error("payload is measured when it should not be, or the other way round")
	}
	p, _, err := parse([]string{"-quick"})
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{connectName, inspected16.name, laneVariants[0].name, laneVariants[len(laneVariants)-1].name} {
		if !p.ways.MatchString(way) {
			t.Errorf("%s has a goal, and a quick run leaves it out", way)
		}
	}
	if p.ways.MatchString(passthrough.name) {
		t.Error("passthrough has no goal, and a quick run has it")
	}
}
