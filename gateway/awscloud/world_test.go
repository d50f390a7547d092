package awscloud

import (
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// The world of these tests: the gateway is a user of prod and may do nothing but describe and assume roles; dev is another account, seen through
// an inventory role; people have one role per account.
const (
	prodID = "111122223333"
	devID  = "444455556666"

	gatewayUser = "arn:aws:iam::" + prodID + ":user/gateway"
	prodRole    = "arn:aws:iam::" + prodID + ":role/ssh-people"
	devRole     = "arn:aws:iam::" + devID + ":role/ssh-people"
	devView     = "arn:aws:iam::" + devID + ":role/inventory"

	webID   = "i-00000000000000001"
	dbID    = "i-00000000000000002"
	goneID  = "i-00000000000000003"
	otherID = "i-00000000000000004"
	devWeb  = "i-00000000000000005"
	nobody  = "i-0000000000000dead"
)

func world(t *testing.T) *awsemu.Server {
	t.Helper()
	return worldOf(t, awsemu.Config{})
}

// worldOf is world with settings of the emulator.
func worldOf(t *testing.T, cfg awsemu.Config) *awsemu.Server {
	t.Helper()
	people := awsemu.Allow([]string{"ssm:*", "ec2-instance-connect:*", "ec2:GetConsoleOutput"}, "*")
	cfg.Accounts = []awsemu.Account{
		{
			ID: prodID,
			Users: []awsemu.User{
				{Name: "gateway", AccessKeyID: "AKIAEMULATORGATEWAY0", SecretAccessKey: "secret", Policy: awsemu.Allow(
					[]string{"sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity", "ec2:Describe*", "ssm:Describe*"}, "*")},
				{Name: "machine", AccessKeyID: "AKIAEMULATORAGENT000", SecretAccessKey: "secret", Policy: awsemu.Allow([]string{"ssmmessages:*", "ssm:Update*"}, "*")},
			},
			Roles: []awsemu.Role{{Name: "ssh-people", Trust: awsemu.Trust(gatewayUser), Policy: people}},
			Instances: []awsemu.Instance{
				{ID: webID, Region: "eu-west-1", Tags: map[string]string{"Name": "Web", "Env": "Prod"}, PrivateIP: "10.0.0.5", PrivateDNS: "ip-10-0-0-5.eu-west-1.compute.internal"},
				{ID: dbID, Region: "us-east-1", Tags: map[string]string{"Name": "db.1", "Env": "prod"}, PrivateIP: "10.1.0.5", State: awsemu.StateStopped},
				{ID: goneID, Region: "us-east-1", Tags: map[string]string{"Name": "db.1"}, State: awsemu.StateTerminated},
				{ID: otherID, Region: "us-east-1", Tags: map[string]string{"Name": "Wob"}},
			},
		},
		{
			ID: devID,
			Roles: []awsemu.Role{
				{Name: "ssh-people", Trust: awsemu.Trust(gatewayUser), Policy: people},
				{Name: "inventory", Trust: awsemu.Trust(gatewayUser), Policy: awsemu.Allow([]string{"ec2:Describe*", "ssm:Describe*"}, "*")},
			},
			Instances: []awsemu.Instance{
				{ID: devWeb, Region: "eu-west-1", Tags: map[string]string{"Name": "web"}, PrivateIP: "10.0.0.5", Console: "boot\nlogin:"},
			},
		},
	}
	server, err := awsemu.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// cloudIn is the gateway's Cloud in that world; cfg may hold settings beside the accounts.
func cloudIn(t *testing.T, server *awsemu.Server, cfg Config) *Cloud {
	t.Helper()
	cfg.Accounts = []Account{
		{Alias: "prod", ID: prodID, Regions: []string{"eu-west-1", "us-east-1"}},
		{Alias: "dev", ID: devID, Regions: []string{"eu-west-1"}, InventoryRole: devView},
	}
	cfg.LoadConfig = staticConfig(server.URL(), "AKIAEMULATORGATEWAY0", "secret")
	return cloudAt(t, server.URL(), cfg)
}

func person(role, name string, tags map[string]string) authz.Role {
	return authz.Role{ARN: role, SessionName: name, SourceIdentity: name, Tags: tags}
}

func mustResolve(t *testing.T, c *Cloud, name string) *authz.Instance {
	t.Helper()
	i, err := c.Resolve(t.Context(), name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return i
}

// rolesAssumed counts the AssumeRole calls for one role so far. Those for the inventory's are another matter: a search that has ended may leave one under way.
func rolesAssumed(server *awsemu.Server, role string) (n int) {
	for _, call := range callsOf(server, "AssumeRole") {
		if call.Params["RoleArn"] == role {
			n++
		}
	}
	return n
}

// callsOf gives the calls of one action so far.
func callsOf(server *awsemu.Server, action string) []awsemu.Call {
	var found []awsemu.Call
	for _, call := range server.Calls() {
		if call.Action == action {
			found = append(found, call)
		}
	}
	return found
}
