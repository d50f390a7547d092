package lab

import (
	"embed"
	"fmt"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// The account of the lab. The number is the one AWS's documentation uses for examples.
const (
	AccountID    = "111122223333"
	AccountAlias = "lab"
	Region       = "us-east-1"
)

// MainInstance is the machine that everything works on.
const MainInstance = "i-0123456789abcdef0"

// Machines on which one thing each does not work, by the id that has it.
const (
	StoppedInstance   = "i-0aaaaaaaaaaaaaaa1"
	OfflineInstance   = "i-0aaaaaaaaaaaaaaa2" // running, no agent
	TwinInstance      = "i-0aaaaaaaaaaaaaaa3" // shares its Name with OtherTwinInstance
	OtherTwinInstance = "i-0aaaaaaaaaaaaaaa4"
	NoConnectInstance = "i-0aaaaaaaaaaaaaaa5" // no Instance Connect: pushed keys never arrive; alice's own key is known there
	NoSSHDInstance    = "i-0aaaaaaaaaaaaaaa6" // nothing listens on port 22
	OtherTeamInstance = "i-0aaaaaaaaaaaaaaa7" // IAM keeps the lab's people out
	ForbiddenInstance = "i-0aaaaaaaaaaaaaaa8" // the gateway's policy keeps them out
	SpareInstance     = "i-0aaaaaaaaaaaaaaa9" // running, no agent; for a test that brings its own (Attach)
)

// Machines outside EC2, which Instance Connect does not know.
const (
	HybridNode   = "mi-0123456789abcdef0" // trusts the gateway's user CA; dave's own key is known there
	StrangerNode = "mi-0123456789abcdef1" // neither
)

// machine is one instance of the world and what is behind it.
type machine struct {
	id, name  string
	tags      map[string]string
	state     awsemu.State
	agent     bool // an agent is attached
	sshd      bool // something answers on port 22
	noConnect bool
	real      bool   // the system's sshd, where that is wanted
	trustsCA  bool   // of the gateway, for users
	knows     string // the person whose key lets in
}

var machines = []machine{
	{id: MainInstance, name: "web-1", tags: map[string]string{"Env": "dev"}, agent: true, sshd: true, real: true},
	{id: StoppedInstance, name: "stopped-1", state: awsemu.StateStopped},
	{id: OfflineInstance, name: "offline-1"},
	{id: TwinInstance, name: "twin"},
	{id: OtherTwinInstance, name: "twin"},
	{id: NoConnectInstance, name: "no-connect-1", agent: true, sshd: true, noConnect: true, real: true, knows: "alice"},
	{id: NoSSHDInstance, name: "no-sshd-1", agent: true},
	{id: OtherTeamInstance, name: "other-team-1", tags: map[string]string{"ssh-team": "red"}, agent: true},
	{id: ForbiddenInstance, name: "forbidden-1", tags: map[string]string{"Quarantine": "yes"}, agent: true},
	{id: SpareInstance, name: "spare-1"},
}

var nodes = []machine{
	{id: HybridNode, name: "rack-1", agent: true, sshd: true, real: true, trustsCA: true, knows: "dave"},
	{id: StrangerNode, name: "rack-2", agent: true, sshd: true},
}

//go:embed policies/*.json
var policyFiles embed.FS

// policyOf reads one of the embedded IAM policies. gateway and person are those of docs/aws.md with the lab's account filled in; extras is what its later sections
// add to a person's, and a user of whom the machines know nothing.
func policyOf(name string) (awsemu.Policy, error) {
	text, err := policyFiles.ReadFile("policies/" + name + ".json")
	if err != nil {
		return awsemu.Policy{}, err
	}
	return awsemu.ParsePolicy(string(text))
}

// credential is a static access key of the emulated world. It opens nothing anywhere else.
type credential struct{ user, id, secret string }

var (
	gatewayCredential  = credential{"ssm-ssh-gateway", "AKIAEMULATORGATEWAY0", "not-a-secret-gateway"}
	instanceCredential = credential{"instance-profile", "AKIAEMULATORAGENT000", "not-a-secret-agent"}
)

// laptopCredential is what a person's own laptop has, for `connect`.
func laptopCredential(person string) credential {
	return credential{"laptop-" + person, "AKIAEMULATORLAPTOP" + fmt.Sprintf("%02d", len(person)), "not-a-secret-laptop-" + person}
}

func (c credential) environ() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + c.id, "AWS_SECRET_ACCESS_KEY=" + c.secret, "AWS_SESSION_TOKEN="}
}

// account builds the emulated account: users, one role per person that only the gateway may assume and only for that person, and the machines.
func account() (awsemu.Account, error) {
	built := awsemu.Account{ID: AccountID, Keys: keys(), Documents: documents()}
	users := []struct {
		credential
		policy string
	}{{gatewayCredential, "gateway"}, {instanceCredential, "instance"}, {laptopCredential("alice"), "laptop"}}
	for _, u := range users {
		policy, err := policyOf(u.policy)
		if err != nil {
			return built, err
		}
		built.Users = append(built.Users, awsemu.User{Name: u.user, AccessKeyID: u.id, SecretAccessKey: u.secret, Policy: policy})
	}
	permissions, err := policyOf("person")
	if err != nil {
		return built, err
	}
	extras, err := policyOf("extras")
	if err != nil {
		return built, err
	}
	permissions.Statement = append(permissions.Statement, extras.Statement...)
	for _, person := range peopleWithRoles {
		trust, err := awsemu.ParsePolicy(fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
			"Principal": {"AWS": "arn:aws:iam::%s:user/%s"}, "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
			"Condition": {"StringEquals": {"sts:SourceIdentity": %q}}}]}`, AccountID, gatewayCredential.user, person))
		if err != nil {
			return built, err
		}
		built.Roles = append(built.Roles, awsemu.Role{Name: person, Path: "/ssh-gw-user/", Trust: trust, Policy: permissions})
	}
	for i, m := range nodes {
		built.Nodes = append(built.Nodes, awsemu.Node{
			ID: m.id, Region: Region, Name: m.name, IP: fmt.Sprintf("192.168.1.%d", 5+i), Tags: map[string]string{"Name": m.name, "ssh-team": "blue"},
		})
	}
	for i, m := range machines {
		built.Instances = append(built.Instances, m.describe(i))
	}
	return built, nil
}

// describe gives a machine as EC2 knows it.
func (m machine) describe(index int) awsemu.Instance {
	tags := map[string]string{"Name": m.name, "ssh-team": "blue"}
	for key, value := range m.tags {
		tags[key] = value
	}
	ip := fmt.Sprintf("10.0.0.%d", 10+index)
	return awsemu.Instance{
		ID: m.id, Region: Region, Tags: tags, State: m.state, PrivateIP: ip, PrivateDNS: fmt.Sprintf("ip-10-0-0-%d.ec2.internal", 10+index),
		NoInstanceConnect: m.noConnect,
	}
}
