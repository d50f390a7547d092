package awsemu_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

const motoAccount = "123456789012"

// startMoto runs moto, an emulator of AWS written by others, on a free port, and gives its URL.
func startMoto(t *testing.T) string {
	t.Helper()
	python := cmp.Or(os.Getenv("MOTO_PYTHON"), "python3")
	ctx, stop := context.WithTimeout(t.Context(), 10*testkit.Patience) // Python takes its time on a busy machine, and moto has to live as long as the test
	if err := exec.CommandContext(ctx, python, "-c", "import moto.server").Run(); err != nil {
		stop()
		t.Skipf("moto is not installed for %s; testdata/requirements.txt says how", python)
	}
	cmd := exec.CommandContext(ctx, python, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		stop()
		t.Fatal(err)
	}
	drained := make(chan struct{})
	urls := make(chan string, 1)
	go func() {
		defer close(drained)
		defer close(urls)
		running := regexp.MustCompile(`Running on (http://\S+)`)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if m := running.FindStringSubmatch(lines.Text()); m != nil {
				urls <- m[1]
				break
			}
		}
		_, _ = io.Copy(io.Discard, stderr) // until moto is stopped
	}()
	t.Cleanup(func() {
		stop()
		<-drained
		_ = cmd.Wait() // it was killed
	})
	select {
	case url, ok := <-urls:
		if !ok {
			t.Fatal("moto ended without saying where it runs")
		}
		return url
	case <-ctx.Done():
		t.Fatal("moto does not say where it runs")
	}
	return ""
}

// motoWorld makes two machines and a document in moto, and the same in an emulator, because moto chooses ids and times itself.
func motoWorld(t *testing.T, moto aws.Config) (*awsemu.Server, []string) {
	t.Helper()
	for name, ip := range map[string]string{"web": "172.31.0.10", "db": "172.31.0.11"} {
		if _, err := ec2Client(moto).RunInstances(deadline(t), &ec2.RunInstancesInput{
			MinCount: aws.Int32(1), MaxCount: aws.Int32(1), ImageId: aws.String("ami-1e749f67"), PrivateIpAddress: aws.String(ip),
			InstanceType: ec2types.InstanceTypeT3Micro,
			TagSpecifications: []ec2types.TagSpecification{{
				ResourceType: ec2types.ResourceTypeInstance, Tags: []ec2types.Tag{{Key: aws.String("Name"), Value: aws.String(name)}},
			}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ssmClient(moto).CreateDocument(deadline(t), &ssm.CreateDocumentInput{
		Name: aws.String("OwnPorts"), Content: aws.String(ownDocument), DocumentType: ssmtypes.DocumentTypeSession, DocumentFormat: ssmtypes.DocumentFormatJson,
	}); err != nil {
		t.Fatal(err)
	}
	out, err := ec2Client(moto).DescribeInstances(deadline(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	all := awsemu.Allow([]string{"*"}, "*")
	account := awsemu.Account{
		ID: motoAccount, Users: []awsemu.User{{Name: "moto", AccessKeyID: gatewayKey, SecretAccessKey: gatewaySecret, Policy: all}},
		Roles:     []awsemu.Role{{Name: "ssh", Path: "/people/", Trust: awsemu.Trust("*"), Policy: all}},
		Documents: []awsemu.Document{{Name: "OwnPorts", Region: region, Content: ownDocument}},
	}
	var ids []string
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			account.Instances = append(account.Instances, awsemu.Instance{
				ID: *i.InstanceId, Region: region, Zone: *i.Placement.AvailabilityZone, Tags: map[string]string{"Name": *i.Tags[0].Value},
				PrivateIP: *i.PrivateIpAddress, PrivateDNS: *i.PrivateDnsName, PublicIP: aws.ToString(i.PublicIpAddress), LaunchTime: *i.LaunchTime,
			})
			ids = append(ids, *i.InstanceId)
		}
	}
	return start(t, func(c *config) { c.Accounts = []awsemu.Account{account} }), ids
}

// facts is an answer as a list of paths and values; errors are code and message.
type facts map[string]string

func factsOf(answer any, err error) facts {
	f := facts{}
	var api smithy.APIError
	switch {
	case errors.As(err, &api):
		f["error code"], f["error message"] = api.ErrorCode(), api.ErrorMessage()
	case err != nil:
		f["error"] = err.Error()
	default:
		text, err := json.Marshal(answer)
		if err != nil {
			panic(err)
		}
		var tree any
		if err := json.Unmarshal(text, &tree); err != nil {
			panic(err)
		}
		f.add("", tree)
	}
	return f
}

func (f facts) add(path string, v any) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for k, child := range v {
			f.add(path+"."+k, child)
		}
	case []any:
		for _, child := range v { // the position means nothing in lists of one; longer ones are not compared
			f.add(path, child)
		}
	default:
		f[path] = fmt.Sprint(v)
	}
}

// difference is a place where moto and the emulator may differ, and why.
type difference struct {
	path   string // a prefix
	reason string
	absent bool // only where the emulator says nothing
}

// covers reports whether the two differ at path in the way that d explains.
func (d difference) covers(theirs, mine facts, path string) bool {
	moto, known := theirs[path]
	ours, said := mine[path]
	if d.absent {
		return !said
	}
	return known != said || moto != ours
}

const (
	random        = "made anew for each call"
	moreThanAsked = "EC2 tells far more of a machine than any program here reads"
	byName        = "moto knows no users and calls everybody moto; the emulator knows who signed"
	wording       = "moto words it differently; the code is what programs look at"
)

// TestAgainstMoto asks both the same and compares what the SDK makes of the answers. Each difference has a reason, and reasons without
// difference are faults of the table.
func TestAgainstMoto(t *testing.T) {
	moto := sdk(t, nil, gatewayKey, gatewaySecret, "")
	moto.BaseEndpoint = aws.String(startMoto(t))
	s, ids := motoWorld(t, moto)
	ours := gateway(t, s)
	key := ed25519Key(t)
	filtered := func(c aws.Config, name string, values ...string) (any, error) {
		return ec2Client(c).DescribeInstances(deadline(t), &ec2.DescribeInstancesInput{Filters: []ec2types.Filter{{Name: aws.String(name), Values: values}}})
	}
	machine := []difference{
		{".Reservations.", moreThanAsked, true},
		{".Reservations.ReservationId", random, false},
		{".Reservations.Instances.PlatformDetails", "moto does not have it; EC2 does since 2019", false},
	}
	for _, test := range []struct {
		name    string
		ask     func(aws.Config) (any, error)
		explain []difference
	}{
		{"GetCallerIdentity", func(c aws.Config) (any, error) { return stsClient(c).GetCallerIdentity(deadline(t), nil) }, []difference{
			{".Arn", byName, false}, {".UserId", byName, false},
		}},
		{"AssumeRole", func(c aws.Config) (any, error) {
			in := assumption("alice", "shop")
			in.RoleArn = aws.String("arn:aws:iam::" + motoAccount + ":role/people/ssh")
			return stsClient(c).AssumeRole(deadline(t), in)
		}, []difference{
			{".AssumedRoleUser.AssumedRoleId", random, false},
			{".Credentials.AccessKeyId", random, false},
			{".Credentials.SecretAccessKey", random, false},
			{".Credentials.SessionToken", random, false},
			{".Credentials.Expiration", "an hour from each call; moto gives microseconds, AWS does not", false},
			{".PackedPolicySize", "a share of a limit whose packing AWS does not tell", false},
			{".SourceIdentity", "moto does not know it, and it is why roles are assumed here", false},
		}},
		{"AssumeRole with a short duration", func(c aws.Config) (any, error) {
			in := assumption("alice", "shop")
			in.RoleArn, in.DurationSeconds = aws.String("arn:aws:iam::"+motoAccount+":role/people/ssh"), aws.Int32(1)
			return stsClient(c).AssumeRole(deadline(t), in)
		}, []difference{
			{"", "moto takes any duration; the API reference demands 900 seconds", false},
		}},
		{"DescribeInstances by id", func(c aws.Config) (any, error) {
			return ec2Client(c).DescribeInstances(deadline(t), &ec2.DescribeInstancesInput{InstanceIds: ids[:1]})
		}, machine},
		{"DescribeInstances by Name tag", func(c aws.Config) (any, error) { return filtered(c, "tag:Name", "we*") }, machine},
		{"DescribeInstances by address", func(c aws.Config) (any, error) { return filtered(c, "private-ip-address", "172.31.0.11") }, machine},
		{"DescribeInstances by state", func(c aws.Config) (any, error) { return filtered(c, "instance-state-name", "stopped") }, nil},
		{"DescribeInstances of none", func(c aws.Config) (any, error) {
			return ec2Client(c).DescribeInstances(deadline(t), &ec2.DescribeInstancesInput{InstanceIds: []string{"i-0fffffffffffffff0"}})
		}, nil},
		{"DescribeInstances of two of none", func(c aws.Config) (any, error) {
			return ec2Client(c).DescribeInstances(deadline(t), &ec2.DescribeInstancesInput{InstanceIds: []string{"i-0fffffffffffffff0", "i-0fffffffffffffff1"}})
		}, []difference{
			{"error message", "moto names one of the two; EC2 names all", false},
		}},
		{"GetConsoleOutput", func(c aws.Config) (any, error) {
			return ec2Client(c).GetConsoleOutput(deadline(t), &ec2.GetConsoleOutputInput{InstanceId: aws.String(ids[0])})
		}, []difference{
			{".Output", "moto's machines print a fixed text, ours what the model says", true}, {".Timestamp", "there is none without output", true},
		}},
		{"SendSSHPublicKey", func(c aws.Config) (any, error) {
			return connectClient(c).SendSSHPublicKey(deadline(t), &ec2instanceconnect.SendSSHPublicKeyInput{
				InstanceId: aws.String(ids[0]), InstanceOSUser: aws.String("ec2-user"), SSHPublicKey: aws.String(key),
			})
		}, []difference{
			{".RequestId", random, false},
		}},
		{"GetDocument", func(c aws.Config) (any, error) {
			return ssmClient(c).GetDocument(deadline(t), &ssm.GetDocumentInput{Name: aws.String("OwnPorts")})
		}, nil},
		{"GetDocument of none", func(c aws.Config) (any, error) {
			return ssmClient(c).GetDocument(deadline(t), &ssm.GetDocumentInput{Name: aws.String("Missing")})
		}, []difference{
			{"error message", wording, false},
		}},
		{"GenerateDataKey of none", func(c aws.Config) (any, error) {
			return kmsClient(c).GenerateDataKey(deadline(t), &kms.GenerateDataKeyInput{KeyId: aws.String("00000000-0000-4000-8000-00000000000f"), NumberOfBytes: aws.Int32(64)})
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			theirs, mine := factsOf(test.ask(moto)), factsOf(test.ask(ours))
			for _, d := range test.explain {
				used := false
				for _, path := range slices.Concat(keys(theirs), keys(mine)) {
					if strings.HasPrefix(path, d.path) && d.covers(theirs, mine, path) {
						delete(theirs, path)
						delete(mine, path)
						used = true
					}
				}
				if !used {
					t.Errorf("%s does not differ, although %s", d.path, d.reason)
				}
			}
			if diff := gocmp.Diff(theirs, mine); diff != "" {
				t.Errorf("the answers differ without explanation (-moto +ours):\n%s", diff)
			}
		})
	}
}

func keys(f facts) []string {
	var paths []string
	for path := range f {
		paths = append(paths, path)
	}
	return paths
}
