package awscloud

import (
	"context"
	"errors"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// TestResolveByDNS: records lead to a machine, once, and only where no account knows the name.
func TestResolveByDNS(t *testing.T) {
	records := map[string][]string{
		"_ssm-ssh-gateway.web.example.com.": {"v=spf1 -all", "ssm-target=" + webID + ".eu-west-1.prod"},
		"web.example.com.":                  {"ssm-target=" + devWeb},
		"dev.example.com.":                  {" ssm-target=WEB.dev "},
		"db.1.":                             {"ssm-target=" + webID},
		"both.example.com.":                 {"ssm-target=" + webID, "ssm-target=" + devWeb},
		"address.example.com.":              {"ssm-target=10.1.0.5"},
		"host.example.com.":                 {"ssm-target=ip-10-1-0-5"},
		"chain.example.com.":                {"ssm-target=dev.example.com"},
		"alias.example.com.":                {"ssm-target=bastion"},
		"bad.example.com.":                  {"ssm-target=" + webID + "; rm"},
		"other.example.com.":                {"something=else"},
	}
	asked := map[string]int{}
	c := cloudIn(t, world(t), Config{Aliases: map[string]string{"bastion": "web.dev"}, LookupTXT: func(_ context.Context, name string) ([]string, error) {
		asked[name]++
		if found := records[name]; found != nil {
			return found, nil
		}
		return nil, errors.New("no such host")
	}})
	for name, want := range map[string]string{"web.example.com": webID, "Web.Example.COM": webID, "dev.example.com": devWeb, "db.1": dbID} {
		if got, err := c.Resolve(t.Context(), name); err != nil || got.ID != want {
			t.Errorf("%s: got %+v, %v; want %s", name, got, err, want)
		}
	}
	for name, want := range map[string]authz.Reason{
		"both.example.com": authz.ReasonAmbiguousTarget, "address.example.com": authz.ReasonUnknownTarget, "host.example.com": authz.ReasonUnknownTarget,
		"chain.example.com": authz.ReasonUnknownTarget, "alias.example.com": authz.ReasonUnknownTarget, "bad.example.com": authz.ReasonUnknownTarget,
		"other.example.com": authz.ReasonUnknownTarget, "nodots": authz.ReasonUnknownTarget, "web.example.com.prod": authz.ReasonUnknownTarget,
	} {
		_, err := c.Resolve(t.Context(), name)
		var refusal *authz.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != want || refusal.Subject != name {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	for name, want := range map[string]int{"db.1.": 0, "_ssm-ssh-gateway.db.1.": 0, "nodots.": 0, "web.example.com.": 0, "_ssm-ssh-gateway.web.example.com.": 1, "web.example.com.prod.": 0} {
		if asked[name] != want {
			t.Errorf("DNS was asked %d times for %s, want %d", asked[name], name, want)
		}
	}
}
