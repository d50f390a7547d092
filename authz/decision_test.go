package authz

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"
)

func person(groups ...string) *Identity {
	return &Identity{
		Person: "alice", Groups: groups, Method: MethodPublicKey, KeyType: ssh.KeyAlgoED25519,
		Source: netip.MustParseAddrPort("10.1.2.3:4"), Grants: allGrants(),
	}
}

func machine(tags ...string) *Instance {
	i := &Instance{ID: longID, Account: "111122223333", Region: "eu-west-1", Platform: "Linux/UNIX", Name: "web-1", Tags: map[string]string{}}
	for n := 0; n+1 < len(tags); n += 2 {
		i.Tags[tags[n]] = tags[n+1]
	}
	return i
}

func ask(action Action, change func(*Request)) Request {
	r := Request{Identity: person("developers"), Instance: machine("Env", "dev"), OSUser: "ec2-user", Action: action, Now: testNow}
	if change != nil {
		change(&r)
	}
	return r
}

func TestDecideExample(t *testing.T) {
	p, err := LoadPolicy(readPolicies(t, "testdata/policies/example.good.cedar"))
	if err != nil {
		t.Fatal(err)
	}
	fido := person("oncall")
	fido.KeyType = ssh.KeyAlgoSKED25519
	oncall := func(r *Request) { r.Identity, r.Instance, r.Purpose = fido, machine("Env", "prod"), "INC-7" }
	pci := func(r *Request) { r.Instance, r.DestHost, r.DestPort = machine("Compliance", "pci"), "db", 5432 }
	no := Decision{Reason: ReasonNotPermitted}
	forbidden := Decision{
		Reason: ReasonNotPermitted, Policies: []string{"no-tunnels-into-pci"}, Message: "tunnels to PCI hosts are only for DBAs, to port 5432",
	}
	yes := func(id string, o Obligations) Decision {
		return Decision{Allow: true, Policies: []string{id}, Obligations: o}
	}
	incident := Obligations{Role: "arn:aws:iam::111122223333:role/gw-oncall", MaxSession: 4 * time.Hour, Record: true}
	for _, c := range []struct {
		name string
		req  Request
		want Decision
	}{
		{"shell on dev", ask(ActionShell, nil), yes("dev-boxes", Obligations{})},
		{"sftp on dev", ask(ActionSFTP, nil), yes("dev-boxes", Obligations{})},
		{"as root", ask(ActionShell, func(r *Request) { r.OSUser = "root" }), no},
		{"connect, OS user unknown", ask(ActionConnect, func(r *Request) { r.OSUser = "" }), yes("dev-boxes", Obligations{})},
		{"connect to prod, OS user unknown", ask(ActionConnect, func(r *Request) { r.OSUser, r.Instance = "", machine("Env", "prod") }), no},
		{"an untagged machine", ask(ActionShell, func(r *Request) { r.Instance = machine() }), no},
		{"another group", ask(ActionShell, func(r *Request) { r.Identity = person("sales") }), no},
		{"no tunnels for developers", ask(ActionForwardLocal, func(r *Request) { r.DestHost, r.DestPort = "db", 1 }), no},
		{"oncall", ask(ActionExec, oncall), yes("oncall-prod", incident)},
		{"oncall without a ticket", ask(ActionExec, func(r *Request) { oncall(r); r.Purpose = "" }), no},
		{"oncall without touch", ask(ActionExec, func(r *Request) { oncall(r); r.Identity = person("oncall") }), no},
		{"oncall elsewhere", ask(ActionExec, func(r *Request) { oncall(r); r.Instance.Account = "444455556666" }), no},
		{"tunnel into pci", ask(ActionForwardLocal, pci), forbidden},
		{"tunnel into pci for a dba", ask(ActionForwardLocal, func(r *Request) { pci(r); r.Identity = person("dba") }), yes("dba-tunnels", Obligations{})},
		{"other port for a dba", ask(ActionForwardLocal, func(r *Request) { pci(r); r.Identity = person("dba"); r.DestPort = 22 }), forbidden},
		{"socket for a dba", ask(ActionForwardLocal, func(r *Request) { pci(r); r.Identity = person("dba"); r.DestHost = "/run/db" }), forbidden},
		{"agent into pci", ask(ActionAgentForward, pci), forbidden},
	} {
		if got := p.Decide(c.req); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestDecideBuiltin(t *testing.T) {
	p := BuiltinPolicy()
	for action, group := range actionGroups {
		if group == "fallback" { // IAM does not fence these, so without a policy nobody has them
			if d := p.Decide(ask(action, nil)); d.Allow || d.Reason != ReasonNotPermitted {
				t.Errorf("%s: %+v", action, d)
			}
			continue
		}
		if d := p.Decide(ask(action, nil)); !d.Allow || !reflect.DeepEqual(d.Obligations, Obligations{}) || !slices.Equal(d.Policies, []string{"builtin-iam-decides"}) {
			t.Errorf("%s: %+v", action, d)
		}
	}
}

// What is missing or unknown is denied even under the policy that permits everything.
func TestDecideIncompleteRequests(t *testing.T) {
	for name, c := range map[string]struct {
		req  Request
		want Reason
	}{
		"zero":             {Request{}, ReasonNotPermitted},
		"no identity":      {ask(ActionShell, func(r *Request) { r.Identity = nil }), ReasonNotPermitted},
		"no instance":      {ask(ActionShell, func(r *Request) { r.Instance = nil }), ReasonNotPermitted},
		"no action":        {ask("", nil), ReasonNotPermitted},
		"an action group":  {ask("session", nil), ReasonNotPermitted},
		"unknown action":   {ask("reboot", nil), ReasonNotPermitted},
		"shell as nobody":  {ask(ActionShell, func(r *Request) { r.OSUser = "" }), ReasonBadOSUser},
		"listen as nobody": {ask(ActionForwardRemote, func(r *Request) { r.OSUser = "" }), ReasonBadOSUser},
	} {
		if d := BuiltinPolicy().Decide(c.req); d.Allow || d.Reason != c.want {
			t.Errorf("%s: %+v", name, d)
		}
	}
	empty := loadText(t, "")
	if d := empty.Decide(ask(ActionShell, nil)); d.Allow || d.Reason != ReasonNotPermitted {
		t.Errorf("no policies at all: %+v", d)
	}
}

// Cedar skips a policy that fails, a forbid too. Here it denies, with and without a known OS user.
func TestDecidePolicyError(t *testing.T) {
	p := loadText(t, `
@id("all") permit (principal, action, resource);
@id("overflow") forbid (principal, action, resource)
when { context has destPort && context.destPort * 9223372036854775807 > 7 && context.osUser == "root" };
@id("overflow-too") permit (principal, action == Action::"connect", resource)
when { resource.name == "boom" && 9223372036854775807 + 1 > 0 };
`)
	want := Decision{Reason: ReasonPolicyError, Policies: []string{"overflow"}}
	if d := p.Decide(ask(ActionForwardLocal, func(r *Request) { r.DestHost, r.DestPort = "db", 5432 })); !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, want %+v", d, want)
	}
	if d := p.Decide(ask(ActionShell, nil)); !d.Allow {
		t.Errorf("where nothing fails: %+v", d)
	}
	want = Decision{Reason: ReasonPolicyError, Policies: []string{"overflow-too"}}
	for _, osUser := range []string{"", "ec2-user"} {
		if d := p.Decide(ask(ActionConnect, func(r *Request) { r.OSUser, r.Instance.Name = osUser, "boom" })); !reflect.DeepEqual(d, want) {
			t.Errorf("OS user %q: %+v, want %+v", osUser, d, want)
		}
	}
}

func TestDecideObligations(t *testing.T) {
	permit := func(n int, annotations string) string {
		return fmt.Sprintf("@id(%q) %s permit (principal, action, resource);\n", fmt.Sprintf("p%d", n), annotations)
	}
	for _, c := range []struct {
		name, a, b string
		want       Obligations
		differ     string // what they contradict each other in
	}{
		{"record if any says so", `@record("required")`, ``, Obligations{Record: true}, ""},
		{"the shortest session", `@max_session("4h")`, `@max_session("30m")`, Obligations{MaxSession: 30 * time.Minute}, ""},
		{"a session limit beside none", `@max_session("4h")`, ``, Obligations{MaxSession: 4 * time.Hour}, ""},
		{"waiver said by both", `@inner_auth("connection")`, `@inner_auth("connection")`, Obligations{InnerAuth: InnerAuthConnection}, ""},
		{"waiver said by one", `@inner_auth("connection")`, ``, Obligations{}, ""},
		{"waiver contradicted", `@inner_auth("connection")`, `@inner_auth("key")`, Obligations{}, ""},
		{"passthrough said by both", `@mode("passthrough")`, `@mode("passthrough")`, Obligations{Mode: ModePassthrough}, ""},
		{"passthrough said by one", `@mode("passthrough")`, `@mode("inspected")`, Obligations{}, ""},
		{"passthrough beside recording", `@mode("passthrough")`, `@record("required") @mode("inspected")`, Obligations{Record: true}, ""},
		{"one role", `@role("` + roleA + `")`, ``, Obligations{Role: roleA}, ""},
		{"the same role", `@role("` + roleA + `")`, `@role("` + roleA + `")`, Obligations{Role: roleA}, ""},
		{"two roles", `@role("` + roleA + `")`, `@role("` + roleC + `")`, Obligations{}, "roles"},
		{"one login", `@login("certificate")`, ``, Obligations{Login: LoginCertificate}, ""},
		{"the same login", `@login("agent")`, `@login("agent")`, Obligations{Login: LoginAgent}, ""},
		{"two logins", `@login("agent")`, `@login("instance-connect")`, Obligations{}, "logins"},
		{"no sshd, says one", ``, `@sshd("none")`, Obligations{NoSSHD: true}, ""},
	} {
		for _, text := range []string{permit(1, c.a) + permit(2, c.b), permit(1, c.b) + permit(2, c.a)} {
			d := loadText(t, text).Decide(ask(ActionShell, nil))
			want := Decision{Allow: true, Policies: []string{"p1", "p2"}, Obligations: c.want}
			if c.differ != "" {
				want = Decision{Reason: ReasonPolicyError, Policies: []string{"p1", "p2"}, Message: `policies "p1" and "p2" name different ` + c.differ}
			}
			if !reflect.DeepEqual(d, want) {
				t.Errorf("%s: %+v\nwant %+v", c.name, d, want)
			}
		}
	}
}

func TestDecideMessages(t *testing.T) {
	p := loadText(t, `
@id("b") @message("not on Sundays") forbid (principal, action, resource);
@id("a") @message("ask Zoe") forbid (principal, action, resource);
@id("c") @message("ask Zoe") forbid (principal, action, resource);
@id("d") forbid (principal, action, resource);
@id("p") permit (principal, action, resource);
`)
	want := Decision{Reason: ReasonNotPermitted, Policies: []string{"a", "b", "c", "d"}, Message: "ask Zoe; not on Sundays"}
	if got := p.Decide(ask(ActionShell, nil)); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestDecideContext(t *testing.T) {
	for name, c := range map[string]struct {
		condition string
		change    func(*Request)
	}{
		"now":            {`context.now < datetime("2026-11-21T12:00:01Z") && context.now >= datetime("2026-11-21T12:00:00Z")`, nil},
		"source":         {`context.sourceIp == ip("10.1.2.3")`, nil},
		"mapped source":  {`context.sourceIp == ip("10.1.2.3")`, func(r *Request) { r.Identity.Source = netip.MustParseAddrPort("[::ffff:10.1.2.3]:1") }},
		"no source":      {`!context.sourceIp.isInRange(ip("10.0.0.0/8")) && !context.sourceIp.isLoopback()`, func(r *Request) { r.Identity.Source = netip.AddrPort{} }},
		"login":          {`principal.login == "alice" && principal.authMethod == "publickey" && principal == User::"alice"`, nil},
		"facts":          {`resource.region == "eu-west-1" && resource.platform like "Linux*" && resource.name == "web-1"`, nil},
		"machine":        {`resource == Instance::"` + longID + `" && resource in Account::"111122223333"`, nil},
		"no destination": {`!(context has destHost) && !(context has destPort) && !(context has reason)`, nil},
		"no touch":       {`!context.mfa`, nil},
	} {
		p := loadText(t, `@id("x") permit (principal, action, resource) when { `+c.condition+` };`)
		if d := p.Decide(ask(ActionShell, c.change)); !d.Allow {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestDecideGrants(t *testing.T) {
	open := ChannelGrants{PortForwarding: true, PermitOpen: []string{"db:5432", "*:443", "[fd12::1]:*"}, PermitListen: []string{"*:8080", "local*:9"}}
	for _, c := range []struct {
		name   string
		grants ChannelGrants
		action Action
		host   string
		port   int
		want   bool
	}{
		{"shell needs no grant", ChannelGrants{}, ActionShell, "", 0, true},
		{"connect needs no grant", ChannelGrants{}, ActionConnect, "", 0, true},
		{"forward without grant", ChannelGrants{}, ActionForwardLocal, "db", 5432, false},
		{"remote without grant", ChannelGrants{}, ActionForwardRemote, "", 8080, false},
		{"agent without grant", ChannelGrants{}, ActionAgentForward, "", 0, false},
		{"agent", ChannelGrants{AgentForwarding: true}, ActionAgentForward, "", 0, true},
		{"x11 without grant", ChannelGrants{}, ActionX11, "", 0, false},
		{"x11", ChannelGrants{X11Forwarding: true}, ActionX11, "", 0, true},
		{"anywhere", ChannelGrants{PortForwarding: true}, ActionForwardLocal, "/run/x", 0, true},
		{"listed", open, ActionForwardLocal, "db", 5432, true},
		{"other port", open, ActionForwardLocal, "db", 5433, false},
		{"other host", open, ActionForwardLocal, "db2", 5432, false},
		{"any host", open, ActionForwardLocal, "db2", 443, true},
		{"any port", open, ActionForwardLocal, "fd12::1", 7, true},
		{"a socket is no host:port", open, ActionForwardLocal, "/run/x", 0, false},
		{"listen", open, ActionForwardRemote, "0.0.0.0", 8080, true},
		{"listen by wildcard", open, ActionForwardRemote, "localhost", 9, true},
		{"listen elsewhere", open, ActionForwardRemote, "0.0.0.0", 9, false},
		{"listen on any port", open, ActionForwardRemote, "", 0, false},
	} {
		d := BuiltinPolicy().Decide(ask(c.action, func(r *Request) { r.Identity.Grants, r.DestHost, r.DestPort = c.grants, c.host, c.port }))
		if d.Allow != c.want || !c.want && (d.Reason != ReasonNotPermitted || d.Message == "") {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
}

// While the OS user is not known, what depends on the user is left open, and what may have to be strict is.
func TestDecideUserUnknown(t *testing.T) {
	root := ` when { context.osUser == "root" };` + "\n"
	permit := func(id, annotations string) string {
		return `@id("` + id + `") ` + annotations + ` permit (principal, action, resource)`
	}
	for _, c := range []struct {
		name, text string
		want       Obligations
	}{
		{"a role for one user", permit("a", `@role("`+roleA+`")`) + root, Obligations{RoleOpen: true}},
		{"a role for one user, another for all", permit("a", `@role("`+roleA+`")`) + root + permit("b", `@role("`+roleC+`")`) + ";", Obligations{Role: roleC, RoleOpen: true}},
		{"the same role", permit("a", `@role("`+roleA+`")`) + root + permit("b", `@role("`+roleA+`")`) + ";", Obligations{Role: roleA}},
		{"a limit for one user", permit("a", `@max_session("1m") @record("required")`) + root + permit("b", `@max_session("4h")`) + ";", Obligations{MaxSession: 4 * time.Hour}},
		{"a login for one user", permit("a", `@login("agent") @sshd("none")`) + root, Obligations{}},
		{"a waiver for one user", permit("a", `@inner_auth("connection")`) + root, Obligations{InnerAuth: InnerAuthConnection}},
		{"a waiver, but not for one user", permit("a", ``) + root + permit("b", `@inner_auth("connection") @mode("passthrough")`) + ";", Obligations{}},
		{"a forbid for one user", permit("a", ``) + ";" + `@id("f") forbid (principal, action, resource)` + root, Obligations{}},
	} {
		d := loadText(t, c.text).Decide(ask(ActionConnect, func(r *Request) { r.OSUser = "" }))
		if !d.Allow || !reflect.DeepEqual(d.Obligations, c.want) {
			t.Errorf("%s: %+v\nwant %+v", c.name, d, c.want)
		}
	}
	forbidAll := loadText(t, permit("a", "")+";"+`@id("f") forbid (principal, action, resource) unless { context.osUser == "x" && false };`)
	if d := forbidAll.Decide(ask(ActionConnect, func(r *Request) { r.OSUser = "x" })); d.Allow {
		t.Errorf("forbidden to all: %+v", d)
	}
	tunnel := loadText(t, permit("a", "")+` when { context.osUser == "" };`)
	if d := tunnel.Decide(ask(ActionForwardLocal, func(r *Request) { r.OSUser, r.DestHost, r.DestPort = "", "i-abc", 5432 })); !d.Allow {
		t.Errorf("a tunnel logs in as nobody: %+v", d)
	}
}

// Laws over random sets of policies: a matching forbid wins over any permit, more permits never lift an obligation but the default's, and the
// answer for an unknown OS user is yes wherever it is yes for some known one.
func TestDecideLaws(t *testing.T) {
	conditions := []string{
		`true`, `context.osUser == "root"`, `context.osUser != "root"`, `context.mfa`, `resource.hasTag("Env")`, `principal in Group::"developers"`,
		`resource.hasTag("Env") && context.osUser like "r*"`, `context.osUser == "root" || context.mfa`,
		`if context.osUser == "root" then context.mfa else resource.hasTag("Env")`,
	}
	rapid.Check(t, func(rt *rapid.T) {
		text, forbids := "", false
		for n := range rapid.IntRange(0, 6).Draw(rt, "policies") {
			effect := rapid.SampledFrom([]string{"permit", "permit", "forbid"}).Draw(rt, "effect")
			clause := rapid.SampledFrom([]string{"when", "unless"}).Draw(rt, "clause")
			condition := rapid.SampledFrom(conditions).Draw(rt, "condition")
			text += fmt.Sprintf("@id(\"p%d\") %s (principal, action, resource) %s { %s };\n", n, effect, clause, condition)
			forbids = forbids || effect == "forbid" && clause == "when" && condition == "true"
		}
		p := loadText(t, text)
		some := false
		for _, osUser := range []string{"root", "ec2-user"} {
			d := p.Decide(ask(ActionConnect, func(r *Request) { r.OSUser = osUser }))
			some = some || d.Allow
			if d.Allow && (forbids || d.Reason != "" || len(d.Policies) == 0) || !d.Allow && d.Reason == "" {
				rt.Fatalf("%s: %+v\n%s", osUser, d, text)
			}
		}
		open := p.Decide(ask(ActionConnect, func(r *Request) { r.OSUser = "" }))
		if some && !open.Allow || forbids && open.Allow {
			rt.Fatalf("some user may: %v, left open: %+v\n%s", some, open, text)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	p, err := LoadPolicy(readPolicies(b, "testdata/policies/example.good.cedar"))
	if err != nil {
		b.Fatal(err)
	}
	for name, req := range map[string]Request{
		"shell":   ask(ActionShell, nil),
		"connect": ask(ActionConnect, func(r *Request) { r.OSUser = "" }),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !p.Decide(req).Allow {
					b.Fatal("denied")
				}
			}
		})
	}
}
