package awscloud

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const nodeID = "mi-0123456789abcdef0"

func describeAnswer(next string, instances ...string) string {
	items := ""
	for _, i := range instances {
		items += "<item>" + i + "</item>"
	}
	return `<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet><item><ownerId>` + prodID +
		`</ownerId><instancesSet>` + items + `</instancesSet></item></reservationSet><nextToken>` + next + `</nextToken></DescribeInstancesResponse>`
}

// TestPages: the machine may be on the last page, and the filter goes with every one.
func TestPages(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("DescribeInstances", http.StatusOK, describeAnswer("more"))
	fake.answer("DescribeInstances", http.StatusOK, describeAnswer("and more", "<instanceId>"+otherID+"</instanceId>"))
	fake.answer("DescribeInstances", http.StatusOK, describeAnswer("", "<instanceId>"+webID+"</instanceId>"))
	c := cloudAt(t, fake.URL, Config{})
	if got := mustResolve(t, c, webID); got.Account != prodID {
		t.Errorf("got %+v", got)
	}
	asked := fake.bodies("DescribeInstances")
	if len(asked) != 3 || !strings.Contains(asked[2], "NextToken=and+more") || !strings.Contains(asked[2], "Filter.1.Name=instance-id") {
		t.Errorf("asked %q", asked)
	}
}

// TestWiderFilters: EC2 is asked for more than the name, and what it gives is checked again.
func TestWiderFilters(t *testing.T) {
	tagged := func(id, key, value string) string {
		return "<instanceId>" + id + "</instanceId><tagSet><item><key>" + key + "</key><value>" + value + "</value></item></tagSet>"
	}
	for _, test := range []struct{ name, filter, good, bad string }{
		{"web-1", "Filter.1.Name=tag%3AName&Filter.1.Value.1=%3F%3F%3F-1", tagged(webID, "Name", "Web-1"), tagged(otherID, "Name", "wob-1")},
		{"env:prod", "Filter.1.Name=tag-key&Filter.1.Value.1=%3F%3F%3F", tagged(webID, "Env", "Prod"), tagged(otherID, "Env", "prode")},
		{
			"2001:db8:0::5", "Filter.1.Name=network-interface.ipv6-addresses.ipv6-address&Filter.1.Value.1=2001%3Adb8%3A%3A5",
			"<instanceId>" + webID + "</instanceId><networkInterfaceSet><item><ipv6AddressesSet><item><ipv6Address>2001:db8::5</ipv6Address></item></ipv6AddressesSet></item></networkInterfaceSet>",
			"<instanceId>" + otherID + "</instanceId>",
		},
	} {
		fake := newFakeAWS(t)
		fake.answer("DescribeInstances", http.StatusOK, describeAnswer("", test.bad, test.good))
		fake.answer("DescribeInstanceInformation", http.StatusOK, `{"InstanceInformationList":[]}`)
		c := cloudAt(t, fake.URL, Config{})
		if got, err := c.Resolve(t.Context(), test.name); err != nil || got.ID != webID {
			t.Errorf("%s: got %+v, %v", test.name, got, err)
		}
		if asked := fake.bodies("DescribeInstances"); !strings.Contains(asked[0], test.filter) {
			t.Errorf("%s: asked %s", test.name, asked[0])
		}
	}
}

const nodeAnswer = `{"InstanceInformationList":[{"InstanceId":"` + nodeID + `","Name":"rack7","IPAddress":"192.168.1.7","PlatformName":"Debian GNU/Linux","PingStatus":"Online"},
	{"InstanceId":"` + webID + `"}]}`

// TestManagedNode: hybrid nodes come from SSM, with the account that STS names and the tags that policy may ask for.
func TestManagedNode(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("DescribeInstanceInformation", http.StatusOK, nodeAnswer)
	fake.answer("ListTagsForResource", http.StatusOK, `{"TagList":[{"Key":"Name","Value":"Rack Seven"},{"Key":"Env","Value":"prod"}]}`)
	fake.answer("GetCallerIdentity", http.StatusOK, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Account>`+prodID+
		`</Account><Arn>a</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`)
	c := cloudAt(t, fake.URL, Config{})
	want := &authz.Instance{
		ID: nodeID, Partition: "aws", Account: prodID, Region: "eu-west-1", Name: "Rack Seven", Platform: "Debian GNU/Linux", PrivateIP: "192.168.1.7",
		Tags: map[string]string{"Name": "Rack Seven", "Env": "prod"},
	}
	if diff := cmp.Diff(want, mustResolve(t, c, nodeID)); diff != "" {
		t.Error(diff)
	}
	fake.answer("DescribeInstances", http.StatusOK, describeAnswer("", "<instanceId>"+webID+"</instanceId>"))
	all, err := c.List(t.Context())
	if err != nil || len(all) != 2 || all[0].ID != webID || all[1].ID != nodeID {
		t.Errorf("listed %+v, %v", all, err)
	}
}

// TestManagedNodeByName: a name may be an EC2 machine's, a hybrid node's or both; who may not ask for nodes still finds machines.
func TestManagedNodeByName(t *testing.T) {
	machine := "<instanceId>" + webID + "</instanceId><tagSet><item><key>Name</key><value>rack7</value></item></tagSet>"
	for _, test := range []struct {
		name    string
		ec2     string
		status  int
		nodes   string
		want    string
		refusal authz.Reason
	}{
		{"a node", describeAnswer(""), http.StatusOK, nodeAnswer, nodeID, ""},
		{"both", describeAnswer("", machine), http.StatusOK, nodeAnswer, "", authz.ReasonAmbiguousTarget},
		{"may not ask", describeAnswer("", machine), http.StatusBadRequest, jsonError("AccessDeniedException"), webID, ""},
		{"cannot ask", describeAnswer("", machine), http.StatusBadRequest, jsonError("ValidationException"), "", authz.ReasonCloud},
	} {
		fake := newFakeAWS(t)
		fake.answer("DescribeInstances", http.StatusOK, test.ec2)
		fake.answer("DescribeInstanceInformation", test.status, test.nodes)
		fake.answer("ListTagsForResource", http.StatusOK, `{"TagList":[{"Key":"Name","Value":"rack7"}]}`)
		got, err := cloudAt(t, fake.URL, Config{Accounts: []Account{{ID: prodID}}}).Resolve(t.Context(), "Rack7")
		var refusal *authz.Refusal
		if test.want != "" && (err != nil || got.ID != test.want) || test.want == "" && (!errors.As(err, &refusal) || refusal.Reason != test.refusal) {
			t.Errorf("%s: got %+v, %v", test.name, got, err)
		}
		if asked := fake.bodies("DescribeInstanceInformation"); !strings.Contains(asked[0], `{"Key":"tag:Name","Values":["rack7"]}`) {
			t.Errorf("%s: asked %s", test.name, asked[0])
		}
	}
}

// TestManagedNodeWithoutTags: a node whose tags cannot be read is not given, because a policy that forbids by tag would let it pass.
func TestManagedNodeWithoutTags(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("DescribeInstanceInformation", http.StatusOK, nodeAnswer)
	fake.answer("ListTagsForResource", http.StatusBadRequest, jsonError("AccessDeniedException"))
	c := cloudAt(t, fake.URL, Config{Accounts: []Account{{ID: prodID}}})
	_, err := c.Resolve(t.Context(), nodeID)
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonAccessDenied, Subject: nodeID, Action: actionListTags})
	fake.answer("DescribeInstances", http.StatusOK, describeAnswer("", "<instanceId>"+webID+"</instanceId>"))
	if all, err := c.List(t.Context()); err != nil || len(all) != 1 || all[0].ID != webID {
		t.Errorf("listed %+v, %v", all, err)
	}
}

func TestConsole(t *testing.T) {
	text := func(s string) string {
		return "<GetConsoleOutputResponse><output>" + base64.StdEncoding.EncodeToString([]byte(s)) + "</output></GetConsoleOutputResponse>"
	}
	type answer struct {
		status int
		body   string
	}
	for _, test := range []struct {
		name    string
		answers []answer
		want    string
		calls   int
		reason  authz.Reason
	}{
		{"buffered", []answer{{200, text("boot")}}, "boot", 1, ""},
		{"latest", []answer{{200, text("")}, {200, text("late")}}, "late", 2, ""},
		{"not Nitro", []answer{{200, text("")}, {400, ec2Error("UnsupportedOperation")}}, "", 2, ""},
		{"denied", []answer{{403, ec2Error("UnauthorizedOperation")}}, "", 1, authz.ReasonAccessDenied},
		{"not base64", []answer{{200, "<GetConsoleOutputResponse><output>%%</output></GetConsoleOutputResponse>"}}, "", 1, authz.ReasonCloud},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake := newFakeAWS(t)
			for _, a := range test.answers {
				fake.answer("GetConsoleOutput", a.status, a.body)
			}
			got, err := cloudAt(t, fake.URL, Config{}).ConsoleOutput(t.Context(), authz.Role{}, testInstance)
			if got != test.want || (err == nil) != (test.reason == "") {
				t.Errorf("got %q, %v", got, err)
			}
			if test.reason != "" {
				wantRefusal(t, err, authz.Refusal{Reason: test.reason, Action: actionConsoleOutput, Subject: testInstance.ID})
			}
			asked := fake.bodies("GetConsoleOutput")
			if len(asked) != test.calls || strings.Contains(asked[0], "Latest") || (test.calls == 2 && !strings.Contains(asked[1], "Latest=true")) {
				t.Errorf("asked %q", asked)
			}
		})
	}
	node := *testInstance
	node.ID = nodeID
	if got, err := cloudAt(t, "http://127.0.0.1:1", Config{}).ConsoleOutput(t.Context(), authz.Role{}, &node); got != "" || err != nil {
		t.Errorf("of a node: %q, %v", got, err)
	}
}
