package awsemu_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// TestPolicyVerdicts has IAM's rules one by one: deny beats allow, silence denies, conditions join with AND, values with OR.
func TestPolicyVerdicts(t *testing.T) {
	for _, test := range []struct {
		name      string
		statement string
		context   map[string][]string
		want      string
	}{
		{"plain allow", `"Effect":"Allow","Action":"*","Resource":"*"`, nil, "allow"},
		{"action in other case", `"Effect":"Allow","Action":"SSM:startsession","Resource":"*"`, nil, "allow"},
		{"other action", `"Effect":"Allow","Action":"ssm:Describe*","Resource":"*"`, nil, "silent"},
		{"question mark", `"Effect":"Allow","Action":"ssm:StartSessio?","Resource":"*"`, nil, "allow"},
		{"NotAction names it", `"Effect":"Allow","NotAction":"ssm:*","Resource":"*"`, nil, "silent"},
		{"NotAction names others", `"Effect":"Allow","NotAction":"ec2:*","Resource":"*"`, nil, "allow"},
		{"resource pattern", `"Effect":"Allow","Action":"*","Resource":"arn:aws:ec2:*:*:instance/*"`, nil, "allow"},
		{"other resource", `"Effect":"Allow","Action":"*","Resource":"arn:aws:ec2:*:*:volume/*"`, nil, "silent"},
		{"no resource", `"Effect":"Allow","Action":"*"`, nil, "silent"},
		{"deny", `"Effect":"Deny","Action":"*","Resource":"*"`, nil, "deny"},
		{"one of several values", when(`"StringEquals":{"ec2:osuser":["a","b"]}`), has("ec2:osuser", "b"), "allow"},
		{"none of the values", when(`"StringEquals":{"ec2:osuser":["a","b"]}`), has("ec2:osuser", "c"), "silent"},
		{"key in other case", when(`"StringEquals":{"EC2:OSUser":"a"}`), has("ec2:osuser", "a"), "allow"},
		{"missing key", when(`"StringEquals":{"ec2:osuser":"a"}`), nil, "silent"},
		{"missing key, IfExists", when(`"StringEqualsIfExists":{"ec2:osuser":"a"}`), nil, "allow"},
		{"wrong key, IfExists", when(`"StringEqualsIfExists":{"ec2:osuser":"a"}`), has("ec2:osuser", "b"), "silent"},
		{"not equal", when(`"StringNotEquals":{"ec2:osuser":["root","admin"]}`), has("ec2:osuser", "a"), "allow"},
		{"not equal, but is", when(`"StringNotEquals":{"ec2:osuser":["root","admin"]}`), has("ec2:osuser", "root"), "silent"},
		{"not equal, missing key", when(`"StringNotEquals":{"ec2:osuser":"root"}`), nil, "allow"},
		{"like", when(`"StringLike":{"aws:userid":"*:alice"}`), has("aws:userid", "AROA:alice"), "allow"},
		{"case matters", when(`"StringEquals":{"ec2:osuser":"A"}`), has("ec2:osuser", "a"), "silent"},
		{"case ignored", when(`"StringEqualsIgnoreCase":{"ec2:osuser":"A"}`), has("ec2:osuser", "a"), "allow"},
		{"bool", when(`"Bool":{"ssm:SessionDocumentAccessCheck":true}`), has("ssm:sessiondocumentaccesscheck", "true"), "allow"},
		{"present", when(`"Null":{"aws:sourceidentity":"false"}`), has("aws:sourceidentity", "a"), "allow"},
		{"present, but is not", when(`"Null":{"aws:sourceidentity":"false"}`), nil, "silent"},
		{"all values", when(`"ForAllValues:StringEquals":{"aws:TagKeys":["a","b"]}`), has("aws:tagkeys", "a", "b"), "allow"},
		{"all values, one is not", when(`"ForAllValues:StringEquals":{"aws:TagKeys":["a","b"]}`), has("aws:tagkeys", "a", "c"), "silent"},
		{"all of no values", when(`"ForAllValues:StringEquals":{"aws:TagKeys":["a","b"]}`), nil, "allow"},
		{"any value", when(`"ForAnyValue:StringEquals":{"aws:TagKeys":["a","b"]}`), has("aws:tagkeys", "c", "b"), "allow"},
		{"two keys, one fails", when(`"StringEquals":{"a:x":"1","a:y":"2"}`), map[string][]string{"a:x": {"1"}, "a:y": {"3"}}, "silent"},
		{"variable", when(`"StringEquals":{"a:x":"${aws:PrincipalTag/team}-1"}`), map[string][]string{"a:x": {"shop-1"}, "aws:principaltag/team": {"shop"}}, "allow"},
		{"variable without value", when(`"StringEquals":{"a:x":"${aws:PrincipalTag/team}"}`), has("a:x", ""), "silent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := awsemu.ParsePolicy(`{"Statement":{` + test.statement + `}}`)
			if err != nil {
				t.Fatal(err)
			}
			if got := awsemu.Verdict(p, "ssm:StartSession", "arn:aws:ec2:eu-central-1:111122223333:instance/"+webID, test.context); got != test.want {
				t.Errorf("verdict %s, want %s", got, test.want)
			}
		})
	}
}

func when(condition string) string {
	return `"Effect":"Allow","Action":"*","Resource":"*","Condition":{` + condition + `}`
}

func has(key string, values ...string) map[string][]string { return map[string][]string{key: values} }

// TestDenyWinsInAnyOrder has both orders of a contradiction.
func TestDenyWinsInAnyOrder(t *testing.T) {
	const allow, deny = `{"Effect":"Allow","Action":"*","Resource":"*"}`, `{"Effect":"Deny","Action":"ssm:*","Resource":"*"}`
	for _, text := range []string{allow + "," + deny, deny + "," + allow} {
		p := awsemu.MustParsePolicy(`{"Statement":[` + text + `]}`)
		if got := awsemu.Verdict(p, "ssm:StartSession", "x", nil); got != "deny" {
			t.Errorf("%s gives %s", text, got)
		}
	}
}

// TestPolicyIsNotGuessed refuses what would be wider if it were ignored.
func TestPolicyIsNotGuessed(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":          `Allow`,
		"unknown element":   `{"Statement":{"Effect":"Allow","Action":"*","NotResource":"*"}}`,
		"unknown operator":  `{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}}}`,
		"effect":            `{"Statement":{"Effect":"allow","Action":"*","Resource":"*"}}`,
		"no action":         `{"Statement":{"Effect":"Allow","Resource":"*"}}`,
		"value not text":    `{"Statement":{"Effect":"Allow","Action":"*","Resource":{"a":"b"}}}`,
		"principal of what": `{"Statement":{"Effect":"Allow","Action":"*","Principal":7}}`,
	} {
		if p, err := awsemu.ParsePolicy(text); err == nil {
			t.Errorf("%s: parsed as %+v", name, p)
		}
	}
}

// TestWildcardLaws checks the matcher against its definition: a pattern of a value's pieces joined by stars matches that value.
func TestWildcardLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOfN(rapid.StringMatching(`[ab:/]{0,3}`), 1, 5).Draw(t, "pieces")
		gaps := rapid.SliceOfN(rapid.StringMatching(`[abc]{0,3}`), len(pieces), len(pieces)).Draw(t, "gaps")
		var value strings.Builder
		for i, p := range pieces {
			if i > 0 {
				value.WriteString(gaps[i])
			}
			value.WriteString(p)
		}
		allow := awsemu.Allow([]string{"*"}, strings.Join(pieces, "*"))
		if awsemu.Verdict(allow, "a:b", value.String(), nil) != "allow" {
			t.Fatalf("%q does not match %q", strings.Join(pieces, "*"), value.String())
		}
		if awsemu.Verdict(allow, "a:b", value.String()+"z", nil) == "allow" && !strings.HasSuffix(strings.Join(pieces, "*"), "*") {
			t.Fatalf("%q matches %q with something behind it", strings.Join(pieces, "*"), value.String())
		}
	})
}
