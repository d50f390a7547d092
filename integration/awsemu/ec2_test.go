package awsemu_test

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

func TestDescribeInstancesFilters(t *testing.T) {
	s := start(t)
	client := ec2Client(gateway(t, s))
	for _, test := range []struct {
		filter string
		values []string
		want   []string
	}{
		{"instance-id", []string{webID}, []string{webID}},
		{"tag:Name", []string{"web"}, []string{webID}},
		{"tag:Name", []string{"w*", "d?"}, []string{webID, dbID}},
		{"tag:team", []string{"shop"}, []string{webID, stoppedID}},
		{"tag:nothing", []string{"*"}, nil},
		{"tag-key", []string{"team"}, []string{webID, dbID, stoppedID}},
		{"tag-value", []string{"data"}, []string{dbID}},
		{"private-ip-address", []string{"10.0.0.2"}, []string{dbID}},
		{"private-dns-name", []string{"ip-10-0-0-1.eu-central-1.compute.internal"}, []string{webID}},
		{"instance-state-name", []string{"running"}, []string{webID, dbID}},
	} {
		t.Run(test.filter+"="+strings.Join(test.values, ","), func(t *testing.T) {
			out, err := client.DescribeInstances(deadline(t), &ec2.DescribeInstancesInput{
				Filters: []ec2types.Filter{{Name: aws.String(test.filter), Values: test.values}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := instanceIDs(out); !slices.Equal(got, test.want) {
				t.Errorf("found %v, want %v", got, test.want)
			}
		})
	}
}

func instanceIDs(out *ec2.DescribeInstancesOutput) []string {
	var ids []string
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			ids = append(ids, *i.InstanceId)
		}
	}
	return ids
}

func TestDescribeInstancesPages(t *testing.T) {
	s := start(t)
	for n := range 12 {
		id := "i-00000000000000" + string("abcdef012345"[n]) + "00"
		if err := s.AddInstance(account, awsemu.Instance{ID: id, Region: region}); err != nil {
			t.Fatal(err)
		}
	}
	pages := ec2.NewDescribeInstancesPaginator(ec2Client(gateway(t, s)), &ec2.DescribeInstancesInput{MaxResults: aws.Int32(6)})
	var sizes []int
	seen := map[string]bool{}
	for pages.HasMorePages() {
		out, err := pages.NextPage(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		ids := instanceIDs(out)
		sizes = append(sizes, len(ids))
		for _, id := range ids {
			seen[id] = true
		}
	}
	if !slices.Equal(sizes, []int{6, 6, 3}) || len(seen) != 15 {
		t.Errorf("pages of %v instances, %d different ones; want 6, 6, 3 and 15", sizes, len(seen))
	}
}

func TestEC2Refusals(t *testing.T) {
	s := start(t)
	client := ec2Client(gateway(t, s))
	describe := func(in *ec2.DescribeInstancesInput) error {
		_, err := client.DescribeInstances(deadline(t), in)
		return err
	}
	wantCode(t, describe(&ec2.DescribeInstancesInput{InstanceIds: []string{"i-0fffffffffffffff0"}}), "InvalidInstanceID.NotFound", "i-0fffffffffffffff0")
	wantCode(t, describe(&ec2.DescribeInstancesInput{InstanceIds: []string{"web"}}), "InvalidInstanceID.Malformed", "web")
	wantCode(t, describe(&ec2.DescribeInstancesInput{MaxResults: aws.Int32(4)}), "InvalidParameterValue", "maxResults")
	wantCode(t, describe(&ec2.DescribeInstancesInput{NextToken: aws.String("x")}), "InvalidNextToken")
	wantCode(t, describe(&ec2.DescribeInstancesInput{Filters: []ec2types.Filter{{Name: aws.String("flavor"), Values: []string{"red"}}}}), "InvalidParameterValue", "flavor")
	_, err := ec2Client(sdk(t, s, nobodyKey, nobodySecret, "")).DescribeInstances(deadline(t), nil)
	wantCode(t, err, "UnauthorizedOperation", "user/nobody", "ec2:DescribeInstances")
}

func TestConsoleOutputIsEncodedText(t *testing.T) {
	s := start(t)
	out, err := ec2Client(person(t, s, "alice", "shop")).GetConsoleOutput(deadline(t), &ec2.GetConsoleOutputInput{InstanceId: aws.String(webID)})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := base64.StdEncoding.DecodeString(*out.Output); err != nil || string(text) != "booting\nready\n" {
		t.Errorf("console output decodes to %q, %v", text, err)
	}
}

func TestRegionsAreThoseWithMachines(t *testing.T) {
	s := start(t)
	if err := s.AddInstance(account, awsemu.Instance{ID: "i-0000000000000000a", Region: "us-west-2"}); err != nil {
		t.Fatal(err)
	}
	out, err := ec2Client(gateway(t, s)).DescribeRegions(deadline(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range out.Regions {
		names = append(names, *r.RegionName)
	}
	if !slices.Equal(names, []string{region, "us-west-2"}) {
		t.Errorf("regions %v", names)
	}
}
