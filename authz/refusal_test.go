package authz

import (
	"errors"
	"fmt"
	"testing"
)

func TestRefusalText(t *testing.T) {
	cause := errors.New("api: throttled")
	full := &Refusal{
		Reason: ReasonAmbiguousTarget, Subject: "web", Action: "ec2:DescribeInstances", Role: roleA, Detail: "two", Candidates: []string{"i-1", "i-2"}, Cause: cause,
	}
	want := "ambiguous_target subject=web action=ec2:DescribeInstances role=" + roleA + " detail=two candidates=i-1,i-2: api: throttled"
	if got := full.Error(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (&Refusal{Reason: ReasonRevoked}).Error(); got != "revoked" {
		t.Errorf("%q", got)
	}
	if !errors.Is(full, cause) {
		t.Error("the cause is lost")
	}
}

func TestInstancePlace(t *testing.T) {
	ec2, node := &Instance{ID: longID, Account: "111122223333", Region: "eu-west-1"}, &Instance{ID: nodeID}
	if ec2.IsManagedNode() || !node.IsManagedNode() || ec2.Place() != "111122223333/eu-west-1/"+longID {
		t.Errorf("%+v %+v", ec2, node)
	}
}

func TestFindingsWithinAnyError(t *testing.T) {
	a, b := &Finding{Path: "a", Message: "x"}, &Finding{Path: "b", Line: 2, Message: "y"}
	err := fmt.Errorf("load: %w", errors.Join(a, errors.New("other"), fmt.Errorf("in b: %w", b)))
	if got := Findings(err); len(got) != 2 || got[0] != a || got[1] != b || b.Error() != "b:2: y" {
		t.Errorf("%v", got)
	}
	if Findings(nil) != nil || Findings(errors.New("x")) != nil {
		t.Error("findings out of nothing")
	}
}
