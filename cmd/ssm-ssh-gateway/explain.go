package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
)

// actions is everything a policy is asked about, in the order people think of it.
var actions = []authz.Action{
	authz.ActionConnect, authz.ActionShell, authz.ActionExec, authz.ActionSFTP, authz.ActionForwardLocal, authz.ActionForwardRemote,
	authz.ActionAgentForward, authz.ActionX11, authz.ActionCertificateLogin, authz.ActionAgentLogin, authz.ActionSessionShell,
}

// explanation is what explain has to say. With --json this is what it prints.
type explanation struct {
	Person   string     `json:"person"`
	Groups   []string   `json:"groups,omitempty"`
	Target   string     `json:"target"`
	Instance string     `json:"instance"`
	Name     string     `json:"name,omitempty"`
	State    string     `json:"state,omitempty"`
	OSUser   string     `json:"os_user"`
	Role     string     `json:"role"`
	Terms    []string   `json:"terms,omitempty"` // annotations of the policies that permit connect, but for @role
	Verdicts []*verdict `json:"verdicts"`
}

type verdict struct {
	Action   authz.Action `json:"action"`
	Allowed  bool         `json:"allowed"`
	Reason   authz.Reason `json:"reason,omitempty"`
	Policies []string     `json:"policies,omitempty"`
	Message  string       `json:"message,omitempty"`
}

func newExplainCommand() *cobra.Command {
	var configPath, osUser, destination string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain PERSON TARGET",
		Short: "Say what a person may do on a target, and why",
		Long: `explain finds the target as the gateway would (Describe calls, with the gateway's own credentials) and asks the policy every question that a session could raise.
Nothing is started: no role is assumed, no session opened, no key pushed. What IAM says to the person's role shows only when they try.
The exit status is 1 when the person may not connect.`,
		Example: `  ssm-ssh-gateway explain --config config.toml alice i-0123456789abcdef0
  ssm-ssh-gateway explain --config config.toml alice web-1.prod --os-user ubuntu --destination db.internal:5432`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			question := explainQuestion{person: args[0], target: args[1], osUser: osUser, destination: destination}
			found, err := explain(cmd.Context(), configPath, question)
			if err != nil {
				return err
			}
			return found.print(cmd.OutOrStdout(), asJSON)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&configPath, "config", "c", "", "configuration file")
	flags.StringVar(&osUser, "os-user", "ec2-user", "user on the target")
	flags.StringVar(&destination, "destination", "localhost:80", "host:port that the forward questions are about")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

type explainQuestion struct{ person, target, osUser, destination string }

func explain(ctx context.Context, configPath string, q explainQuestion) (*explanation, error) {
	cfg, findings := loadConfig(configPath)
	if len(findings) > 0 {
		return nil, findingsError(findings)
	}
	rules, findings := judge(cfg)
	if len(findings) > 0 {
		return nil, findingsError(findings)
	}
	host, port, err := splitDestination(q.destination)
	if err != nil {
		return nil, err
	}
	who, err := rules.directory.Hypothetical(q.person, netip.AddrPort{})
	if err != nil {
		return nil, fmt.Errorf("nobody is called %q; there are: %s", q.person, strings.Join(rules.directory.People(), ", "))
	}
	cloud, err := awscloud.New(ctx, cloudConfig(cfg, slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = cloud.Close() }()
	on, err := cloud.Resolve(ctx, q.target)
	if err != nil {
		return nil, inWords(err)
	}
	found := &explanation{Person: who.Person, Groups: who.Groups, Target: q.target, Instance: on.Place(), Name: on.Name, State: on.State, OSUser: q.osUser}
	for _, action := range actions {
		request := authz.Request{Identity: who, Instance: on, OSUser: q.osUser, Action: action, Now: time.Now()}
		if action == authz.ActionForwardLocal || action == authz.ActionForwardRemote {
			request.DestHost, request.DestPort = host, port
		}
		d := rules.policy.Decide(request)
		found.Verdicts = append(found.Verdicts, verdictOf(action, d))
		if action == authz.ActionConnect {
			found.Role, found.Terms = roleInWords(rules.directory, who, on, cfg, d.Obligations.Role), termsInWords(d.Obligations)
		}
	}
	return found, nil
}

// verdictOf is what the gateway makes of a decision: it does not record, so that a policy which demands that refuses.
func verdictOf(action authz.Action, d authz.Decision) *verdict {
	if d.Allow && d.Obligations.Record {
		return &verdict{Action: action, Reason: authz.ReasonNotPermitted, Policies: d.Policies, Message: "policy demands a recording, and this gateway does not record"}
	}
	return &verdict{action, d.Allow, d.Reason, d.Policies, d.Message}
}

// termsInWords spells obligations as the annotations that policies have.
func termsInWords(o authz.Obligations) []string {
	var terms []string
	for _, term := range []struct {
		name, value string
	}{{"mode", string(o.Mode)}, {"login", string(o.Login)}, {"inner_auth", string(o.InnerAuth)}} {
		if term.value != "" {
			terms = append(terms, fmt.Sprintf("@%s(%q)", term.name, term.value))
		}
	}
	if o.MaxSession > 0 {
		terms = append(terms, fmt.Sprintf("@max_session(%q)", o.MaxSession))
	}
	if o.NoSSHD {
		terms = append(terms, `@sshd("none")`)
	}
	return terms
}

// roleInWords is the role that would be assumed, or why none. demanded is the one that policy names, if it does.
func roleInWords(directory *authz.Directory, who *authz.Identity, on *authz.Instance, cfg *loadedConfig, demanded string) string {
	if demanded != "" {
		return demanded + ", by policy"
	}
	alias := ""
	for _, account := range cfg.Accounts {
		if account.ID == on.Account {
			alias = account.Alias
		}
	}
	role, err := directory.RoleFor(who, alias, on.Account)
	var refusal *authz.Refusal
	switch {
	case errors.As(err, &refusal):
		return "none: " + refusal.Detail
	case err != nil:
		return "none: " + err.Error()
	case role.ARN == "":
		return "the gateway's own credentials"
	}
	return role.ARN
}

func (e *explanation) print(out io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(e); err != nil {
			return err
		}
	} else if err := e.printTable(out); err != nil {
		return err
	}
	if !e.Verdicts[0].Allowed {
		return &exitError{Code: exitFailure}
	}
	return nil
}

func (e *explanation) printTable(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, row := range [][2]string{
		{"person", strings.TrimSpace(e.Person + " " + strings.Join(e.Groups, " "))},
		{"target", strings.TrimSpace(e.Instance + " " + e.Name + " " + e.State)},
		{"OS user", e.OSUser},
		{"role", e.Role},
		{"terms", strings.Join(e.Terms, " ")},
	} {
		if row[1] != "" {
			_, _ = fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
		}
	}
	_, _ = fmt.Fprintln(table)
	for _, v := range e.Verdicts {
		answer, why := "no", string(v.Reason)
		if v.Allowed {
			answer, why = "yes", ""
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", v.Action, answer, strings.Join(nonEmpty(why, strings.Join(v.Policies, ","), v.Message), "  "))
	}
	return table.Flush()
}

func nonEmpty(texts ...string) []string {
	var present []string
	for _, text := range texts {
		if text != "" {
			present = append(present, text)
		}
	}
	return present
}
