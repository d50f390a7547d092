package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// TestLs reads the table: a machine with an agent, one whose agent is away, one that is stopped.
func TestLs(t *testing.T) {
	laptopLab(t)
	got := runHere(t, nil, "ls")
	for _, want := range []string{
		`(?m)^ID +NAME +STATE +AGENT +PLATFORM +REGION +ACCOUNT$`,
		`(?m)^` + lab.MainInstance + ` +web-1 +running +Online +Linux/UNIX +` + lab.Region + ` +` + lab.AccountID + `$`,
		`(?m)^` + lab.OtherTwinInstance + ` +twin +running +- `,
		`(?m)^` + lab.StoppedInstance + ` +stopped-1 +stopped +- `,
	} {
		if got.code != 0 || !regexp.MustCompile(want).MatchString(got.stdout) {
			t.Errorf("no line %q in: %s", want, got)
		}
	}
}

// TestLsProfiles has two profiles see the same account in two regions, and one that does not work.
func TestLsProfiles(t *testing.T) {
	laptopLab(t)
	var text strings.Builder
	for _, profile := range []string{"one", "two"} {
		fmt.Fprintf(&text, "[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", profile, os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"))
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	got := runHere(t, nil, "ls", "--json", "--profile", "one,two", "--profile", "three", "--region", "eu-west-1", "--region", lab.Region)
	var machines []listedMachine
	if err := json.Unmarshal([]byte(got.stdout), &machines); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	seen := map[string]int{}
	for _, m := range machines {
		seen[m.ID]++
	}
	if seen[lab.MainInstance] != 1 {
		t.Errorf("%s is there %d times", lab.MainInstance, seen[lab.MainInstance])
	}
	if got.code != exitFailure || !strings.Contains(got.stderr, "profile three: ") {
		t.Errorf("nothing of the profile that does not exist: exit status %d, %s", got.code, got.stderr)
	}
}

// TestLsDenied names the profile, the region and the action that IAM does not allow, and lists what is left.
func TestLsDenied(t *testing.T) {
	l := laptopLab(t)
	if err := l.AWS.SetFaults(awsemu.Scope{}, awsemu.Faults{Deny: map[string]string{"ssm:DescribeInstanceInformation": "no"}}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.AWS.SetFaults(awsemu.Scope{}, awsemu.Faults{}); err != nil {
			t.Error(err)
		}
	}()
	got := runHere(t, nil, "ls")
	if got.code != exitFailure || !strings.Contains(got.stdout, lab.MainInstance) ||
		!strings.Contains(got.stderr, lab.Region+": ") || !strings.Contains(got.stderr, "ssm:DescribeInstanceInformation") {
		t.Errorf("%s", got)
	}
}

// TestLsEmpty prints an array even when there is nothing in it.
func TestLsEmpty(t *testing.T) {
	laptopLab(t)
	if got := runHere(t, nil, "ls", "--json", "--region", "eu-west-1"); got != (result{stdout: "[]\n"}) {
		t.Errorf("%s", got)
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[2J\tb\u009bc é"); got != "a?[2J?b?c é" {
		t.Errorf("%q", got)
	}
}
