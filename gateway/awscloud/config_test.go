package awscloud

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// TestFaults: everything that is wrong is told at once.
func TestFaults(t *testing.T) {
	_, err := New(t.Context(), Config{
		Region: "Ireland", SessionDuration: time.Minute, StartRate: Rate{PerSecond: 5, Burst: -1},
		Accounts: []Account{
			{ID: "1234"},
			{ID: prodID, Alias: "my.prod", Regions: []string{"eu"}},
			{ID: prodID, Alias: "eu-west-1", SSHDocument: "no spaces please"},
			{ID: devID, Alias: "Dev", InventoryRole: prodRole},
			{ID: "777788889999", Alias: "dev"},
		},
		Aliases: map[string]string{"a": "B", "b": "web", "c": "169.254.169.254"},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`"Ireland" is not a region`, "session duration 1m0s", "burst -1", `"1234": the id`, `alias "my.prod"`, `"eu" is not a region`,
		`"` + prodID + `" is there twice`, `"eu-west-1" reads as a region`, `"no spaces please" is not the name of a document`, `"dev" is there twice`, `alias "a" leads to the alias "B"`,
		`alias "c": bad_target_name`, `inventory role "` + prodRole + `" is not the ARN of a role in that account`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s\nin %v", want, err)
		}
	}
}

func TestTooManyPlaces(t *testing.T) {
	var accounts []Account
	for i := range maxPlaces + 1 {
		accounts = append(accounts, Account{ID: fmt.Sprintf("%012d", i)})
	}
	if _, err := New(t.Context(), Config{Accounts: accounts, LoadConfig: staticConfig("http://127.0.0.1:1", "a", "b")}); err == nil {
		t.Error("accepted")
	}
}

// TestNothingPrinted: neither credentials nor external ids show, however a value is printed.
func TestNothingPrinted(t *testing.T) {
	const secret = "HIDDEN"
	cfg := Config{Accounts: []Account{{ID: prodID, ExternalID: secret}}, LoadConfig: staticConfig("http://127.0.0.1:1", "AKIDEXAMPLE", secret)}
	c := cloudAt(t, "", cfg)
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	for _, value := range []any{cfg, &cfg, cfg.Accounts[0], cfg.Accounts, c} {
		fmt.Fprintf(&out, "%v %+v %#v %s\n", value, value, value, value)
		log.Info("value", "value", value)
	}
	if strings.Contains(out.String(), secret) {
		t.Errorf("printed: %s", out.String())
	}
}

// cleanEnvironment leaves nothing of the machine's own AWS configuration, and gives the directory of the shared files.
func cleanEnvironment(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", dir)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "credentials"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDefaultChain: profiles with a role behind them, endpoints by service and in general, all without any configuration of ours.
func TestDefaultChain(t *testing.T) {
	server := world(t)
	dir := cleanEnvironment(t)
	write(t, filepath.Join(dir, "credentials"), "[gateway]\naws_access_key_id = AKIAEMULATORGATEWAY0\naws_secret_access_key = secret\n")
	write(t, filepath.Join(dir, "config"), "[profile gateway]\nregion = eu-west-1\n[profile laptop]\nregion = us-east-1\nrole_arn = "+prodRole+
		"\nsource_profile = gateway\nrole_session_name = carol\n")
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	for _, service := range []string{"STS", "EC2", "EC2_INSTANCE_CONNECT", "SSM"} {
		t.Setenv("AWS_ENDPOINT_URL_"+service, server.URL())
	}
	c, err := New(t.Context(), Config{Profile: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	caller, err := c.CallerIdentity(t.Context())
	if err != nil || caller.ARN != "arn:aws:sts::"+prodID+":assumed-role/ssh-people/carol" {
		t.Errorf("got %+v, %v", caller, err)
	}
	other := &authz.Instance{ID: otherID, Region: "us-east-1", Account: prodID, State: stateRunning}
	if err := c.PushKey(t.Context(), authz.Role{}, other, "ec2-user", testKey(t)); err != nil {
		t.Errorf("with ambient credentials: %v", err)
	}
	// The people's role may not describe; what it is refused is told as the ambient identity's.
	_, err = c.Resolve(t.Context(), otherID)
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonAccessDenied, Subject: otherID, Action: actionDescribeInstances})
}

// TestCABundle: the client that all people share still trusts what AWS_CA_BUNDLE says, and nothing else.
func TestCABundle(t *testing.T) {
	dir := cleanEnvironment(t)
	bundle := filepath.Join(dir, "ca.pem")
	server := worldOf(t, awsemu.Config{TLS: true, CAFile: bundle})
	t.Setenv("AWS_ENDPOINT_URL", server.URL())
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEMULATORGATEWAY0")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	identify := func() error {
		c, err := New(t.Context(), Config{Region: "eu-west-1", MaxAttempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, err = c.CallerIdentity(t.Context())
		return err
	}
	wantRefusal(t, identify(), authz.Refusal{Reason: authz.ReasonCloud, Action: "sts:GetCallerIdentity", Detail: "the certificate of AWS's endpoint is not trusted"})
	t.Setenv("AWS_CA_BUNDLE", bundle)
	if err := identify(); err != nil {
		t.Error(err)
	}
}

// TestAmbientRegions: ambient credentials search their own region, and any other that is named.
func TestAmbientRegions(t *testing.T) {
	server := world(t)
	c := cloudAt(t, server.URL(), Config{LoadConfig: staticConfig(server.URL(), "AKIAEMULATORGATEWAY0", "secret")})
	if got := mustResolve(t, c, "web"); got.ID != webID || got.Account != prodID {
		t.Errorf("got %+v", got)
	}
	if got := mustResolve(t, c, otherID+".us-east-1."+prodID); got.ID != otherID {
		t.Errorf("got %+v", got)
	}
	for _, name := range []string{otherID, otherID + ".us-east-1." + devID} {
		_, err := c.Resolve(t.Context(), name)
		wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonUnknownTarget, Subject: name})
	}
}

func TestNoCredentials(t *testing.T) {
	cleanEnvironment(t)
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	c, err := New(t.Context(), Config{Region: "eu-west-1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = c.Resolve(t.Context(), webID)
	wantRefusal(t, err, authz.Refusal{
		Reason: authz.ReasonCredentials, Subject: webID, Action: "credentials", Detail: "none in the environment, in a profile, or from instance metadata",
	})
}

// TestNoProfile: profiles that are not there, or lead nowhere, are told of in words.
func TestNoProfile(t *testing.T) {
	cleanEnvironment(t)
	file := filepath.Join(t.TempDir(), "config")
	text := "[profile people]\nrole_arn = arn:aws:iam::111122223333:role/x\nsource_profile = empty\n[profile empty]\nregion = eu-west-1\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	for profile, want := range map[string]string{"nobody": "there is no profile nobody", "people": "profile empty, from which arn:aws:iam::111122223333:role/x is to be assumed, has no credentials"} {
		_, err := New(t.Context(), Config{Region: "eu-west-1", Profile: profile})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("profile %s: %v", profile, err)
		}
	}
}

func TestNoRegion(t *testing.T) {
	cleanEnvironment(t)
	if _, err := New(t.Context(), Config{}); err == nil || !strings.Contains(err.Error(), "no AWS region") {
		t.Errorf("got %v", err)
	}
}

// TestFIPS: the switch reaches the services' endpoints in every partition it exists in.
func TestFIPS(t *testing.T) {
	cleanEnvironment(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	c, err := New(t.Context(), Config{Region: "us-gov-west-1", UseFIPS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	client, _, err := c.clientsOn(person("arn:aws-us-gov:iam::"+prodID+":role/x", "alice", nil), &authz.Instance{ID: webID, Region: "us-gov-west-1", Account: prodID}, "")
	if err != nil {
		t.Fatal(err)
	}
	if options := client.ssm.Options(); options.EndpointOptions.UseFIPSEndpoint == 0 || options.Region != "us-gov-west-1" {
		t.Errorf("ssm: FIPS %v in %s", options.EndpointOptions.UseFIPSEndpoint, options.Region)
	}
}

// TestPartitions: an account in another partition has its own profile and asks the STS of its own region.
func TestPartitions(t *testing.T) {
	load := func(ctx context.Context, profile string) (aws.Config, error) {
		return staticConfig("http://127.0.0.1:1", "AKID"+profile, "x")(ctx, profile)
	}
	c := cloudAt(t, "", Config{Accounts: []Account{{ID: prodID}, {ID: devID, Profile: "china", Regions: []string{"cn-north-1"}}}, LoadConfig: load})
	for id, want := range map[string]string{prodID: "AKID eu-west-1", devID: "AKIDchina cn-north-1"} {
		a, err := c.accountOf(&authz.Instance{Account: id})
		if err != nil {
			t.Fatal(err)
		}
		credentials, err := a.base.Credentials.Retrieve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := credentials.AccessKeyID + " " + a.home; got != want {
			t.Errorf("account %s: got %s, want %s", id, got, want)
		}
	}
	if _, err := c.accountOf(&authz.Instance{Account: "999999999999"}); err == nil {
		t.Error("an account that is not configured is known")
	}
}
