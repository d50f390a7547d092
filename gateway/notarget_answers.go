package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

func help(p *proof) string {
	return "hello " + p.identity.Person + `. This is a gateway to machines, it has no shell of its own.

  ssh -J GATEWAY ec2-user@i-0123456789abcdef0     a shell on a machine
  ssh ec2-user@i-0123456789abcdef0@GATEWAY        the same, for clients without -J
  ssh -N -L 5432:i-0123456789abcdef0:5432 GATEWAY a port of a machine
  ssh GATEWAY                                     choose a machine from a list
  ssh GATEWAY ls [--json] [FILTER]                the machines you may connect to
  ssh GATEWAY whoami [--json]                     who you are here
  ssh GATEWAY sessions [--json]                   where you are now
`
}

// personView is whoami as JSON.
type personView struct {
	Person      string           `json:"person"`
	Method      string           `json:"method"`
	KeyType     string           `json:"key_type"`
	Fingerprint string           `json:"fingerprint"`
	Groups      []string         `json:"groups"`
	Source      string           `json:"source,omitempty"`
	Certificate *certificateView `json:"certificate,omitempty"`
}

// certificateView is the certificate of the login.
type certificateView struct {
	KeyID       string     `json:"key_id"`
	Serial      uint64     `json:"serial"`
	CA          string     `json:"ca"`
	Principals  []string   `json:"principals"`
	ValidBefore *time.Time `json:"valid_before,omitempty"` // none: forever
}

// whoami tells a person what the gateway knows of them.
func whoami(id *authz.Identity, asJSON bool) reply {
	if asJSON {
		return jsonReply(viewOf(id))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  by      %s %s\n", id.Person, id.Method, id.Fingerprint)
	if len(id.Groups) > 0 {
		fmt.Fprintf(&b, "  groups  %s\n", strings.Join(id.Groups, ", "))
	}
	if id.Source.IsValid() {
		fmt.Fprintf(&b, "  from    %s\n", id.Source)
	}
	return reply{stdout: b.String()}
}

func viewOf(id *authz.Identity) personView {
	view := personView{Person: id.Person, Method: string(id.Method), KeyType: id.KeyType, Fingerprint: id.Fingerprint, Groups: append([]string{}, id.Groups...)}
	if id.Source.IsValid() {
		view.Source = id.Source.String()
	}
	if cert := id.Certificate; cert != nil {
		view.Certificate = &certificateView{KeyID: cert.KeyID, Serial: cert.Serial, CA: cert.CA, Principals: append([]string{}, cert.Principals...)}
		if !cert.ValidBefore.IsZero() {
			until := cert.ValidBefore.UTC()
			view.Certificate.ValidBefore = &until
		}
	}
	return view
}

// machineView is one machine of ls as JSON.
type machineView struct {
	ID           string `json:"id"`
	Name         string `json:"name,omitempty"`
	State        string `json:"state,omitempty"` // none for hybrid nodes
	Region       string `json:"region"`
	Account      string `json:"account"`
	AccountAlias string `json:"account_alias,omitempty"`
	Platform     string `json:"platform,omitempty"`
	PrivateIP    string `json:"private_ip,omitempty"`
	PrivateDNS   string `json:"private_dns,omitempty"`
}

// list tells which machines the person may connect to, of those that match all words of the filter.
func (c *conn) list(ctx context.Context, p *proof, filter []string, asJSON bool) reply {
	machines, err := c.reachable(ctx, p)
	if err != nil {
		return reply{stderr: c.text(err) + "\n", status: statusFailed}
	}
	machines = c.srv.matching(machines, filter)
	if asJSON {
		views := make([]machineView, 0, len(machines))
		for _, m := range machines {
			views = append(views, machineView{
				ID: m.ID, Name: m.Name, State: m.State, Region: m.Region, Account: m.Account, AccountAlias: c.srv.cfg.AccountAliases[m.Account],
				Platform: m.Platform, PrivateIP: m.PrivateIP, PrivateDNS: m.PrivateDNS,
			})
		}
		return jsonReply(views)
	}
	if len(machines) == 0 {
		return reply{stderr: noMachine(filter)}
	}
	return reply{stdout: table(len(machines), func(i int) []string { return c.srv.describe(machines[i]) })}
}

func noMachine(filter []string) string {
	if len(filter) > 0 {
		return "no machine that you may connect to matches " + printable(strings.Join(filter, " "), 100) + "\n"
	}
	return "no machine that you may connect to\n"
}

// describe gives what a list tells of a machine, printable: the id comes first, for scripts.
func (s *Server) describe(m *authz.Instance) []string {
	return []string{m.ID, orElse(m.Name, "-"), orElse(m.State, "-"), m.Region, orElse(s.cfg.AccountAliases[m.Account], m.Account)}
}

// matching gives the machines in which each of the words occurs, in any case.
func (s *Server) matching(machines []*authz.Instance, words []string) []*authz.Instance {
	var found []*authz.Instance
	for _, m := range machines {
		text := strings.ToLower(strings.Join([]string{
			m.ID, m.Name, m.State, m.Region, m.Account, s.cfg.AccountAliases[m.Account], m.PrivateIP, m.PrivateDNS, m.Platform,
		}, "\n"))
		matches := true
		for _, word := range words {
			matches = matches && strings.Contains(text, strings.ToLower(word))
		}
		if matches {
			found = append(found, m)
		}
	}
	return found
}

// reachable gives the machines that policy lets the person connect to and a role is there for; of what it does not, they are not told.
func (c *conn) reachable(ctx context.Context, p *proof) ([]*authz.Instance, error) {
	lister, ok := c.srv.cfg.Cloud.(Lister)
	if !ok {
		return nil, &authz.Refusal{Reason: authz.ReasonUnsupportedTarget, Subject: "the list of machines", Detail: "this gateway does not list them"}
	}
	all, err := lister.List(ctx)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = &authz.Refusal{Reason: authz.ReasonTimeout, Action: "listing the machines", Cause: err}
		}
		return nil, err
	}
	now := c.srv.rules.Load()
	var machines []*authz.Instance
	for _, machine := range all {
		if _, err := c.srv.enter(now, route{identity: p.identity, named: machine.ID, target: machine}); err == nil {
			machines = append(machines, machine)
		}
	}
	return machines, nil
}

// table lays n rows out in columns.
func table(n int, row func(i int) []string) string {
	var text bytes.Buffer
	columns := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	for i := range n {
		_, _ = fmt.Fprintln(columns, strings.Join(row(i), "\t"))
	}
	_ = columns.Flush() // into memory
	return text.String()
}

// jsonReply is a value as JSON, in which names cannot play with a terminal: what is not printable is escaped, beyond what JSON demands.
func jsonReply(value any) reply {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil { // only for values that no JSON can hold, and there are none here
		return reply{stderr: sentence(errFault, "") + "\n", status: statusFailed}
	}
	var b strings.Builder
	for _, r := range string(text) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return reply{stdout: b.String() + "\n"}
}
