package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
)

// maxProfilesAtOnce bounds the profiles that are asked side by side.
const maxProfilesAtOnce = 8

// lsOptions say where to look.
type lsOptions struct {
	profiles, regions []string
	asJSON            bool
}

// listedMachine is a line of ls, and its JSON.
type listedMachine struct {
	ID           string            `json:"id"`
	Name         string            `json:"name"`
	State        string            `json:"state"` // empty for hybrid nodes
	Ping         string            `json:"ping"`  // Online, ConnectionLost, Inactive; empty when no agent is known
	AgentVersion string            `json:"agentVersion"`
	Platform     string            `json:"platform"`
	Region       string            `json:"region"`
	Account      string            `json:"account"`
	Profile      string            `json:"profile,omitempty"`
	PrivateIP    string            `json:"privateIp"`
	Tags         map[string]string `json:"tags"`
}

func newLsCommand() *cobra.Command {
	o := lsOptions{}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List instances and hybrid nodes, and whether their agent is there",
		Long: `ls lists what this machine's own AWS credentials can see: EC2 instances that are not gone and hybrid nodes, with the state of their SSM agents. Only those
whose AGENT is Online can be reached. Several profiles and regions are asked at once. What does not answer is told on standard error, and the exit
status is 1 then, though the rest is listed.`,
		Example: `  ssm-ssh-gateway ls
  ssm-ssh-gateway ls --profile prod --profile dev --region eu-west-1 --region us-east-1
  ssm-ssh-gateway ls --json | jq -r '.[] | select(.ping == "Online") | .id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			machines, faults := listMachines(cmd.Context(), o)
			return errors.Join(printMachines(cmd.OutOrStdout(), machines, o.asJSON), listFaults(cmd.ErrOrStderr(), faults))
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.profiles, "profile", nil, "AWS profile; may be repeated (default: the environment's)")
	flags.StringSliceVar(&o.regions, "region", nil, "AWS region; may be repeated (default: the environment's or the profile's)")
	flags.BoolVar(&o.asJSON, "json", false, "print a JSON array")
	return cmd
}

// listMachines asks every profile about every region. Profiles may lead to the same account: a machine is listed once.
func listMachines(ctx context.Context, o lsOptions) (machines []listedMachine, faults []error) {
	profiles := o.profiles
	if len(profiles) == 0 {
		profiles = []string{""}
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(maxProfilesAtOnce)
	for _, profile := range profiles {
		group.Go(func() error {
			here, missing := listProfile(ctx, profile, o.regions)
			mu.Lock()
			defer mu.Unlock()
			machines, faults = append(machines, here...), append(faults, missing...)
			return nil
		})
	}
	_ = group.Wait() // faults are collected beside
	slices.SortFunc(machines, func(a, b listedMachine) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Region, b.Region), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Profile, b.Profile))
	})
	machines = slices.CompactFunc(machines, func(a, b listedMachine) bool { return a.Account == b.Account && a.Region == b.Region && a.ID == b.ID })
	return machines, faults
}

func listProfile(ctx context.Context, profile string, regions []string) (machines []listedMachine, faults []error) {
	about := func(region string, err error) error {
		if profile != "" {
			region = strings.TrimSuffix("profile "+profile+" "+region, " ")
		}
		return fmt.Errorf("%s: %w", cmp.Or(region, "AWS"), inWords(err))
	}
	aws := &laptop{profile: profile, regions: regions}
	if len(regions) > 0 {
		aws.region = regions[0]
	}
	cloud, err := aws.open(ctx)
	if err != nil {
		return nil, []error{about("", err)}
	}
	defer func() { _ = cloud.Close() }()
	found, missing := cloud.Inventory(ctx)
	for _, m := range missing {
		faults = append(faults, about(m.Region, m.Err))
	}
	for i := range found {
		machines = append(machines, newListed(&found[i], profile))
	}
	return machines, faults
}

func newListed(from *awscloud.Listed, profile string) listedMachine {
	return listedMachine{
		ID: from.ID, Name: from.Name, State: from.State, Ping: from.Ping, AgentVersion: from.AgentVersion, Platform: cmp.Or(from.OS, from.Platform),
		Region: from.Region, Account: from.Account, Profile: profile, PrivateIP: from.PrivateIP, Tags: from.Tags,
	}
}

// printMachines writes a table, or JSON.
func printMachines(out io.Writer, machines []listedMachine, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(append([]listedMachine{}, machines...)) // an empty array, not null
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tNAME\tSTATE\tAGENT\tPLATFORM\tREGION\tACCOUNT")
	for i := range machines {
		m := &machines[i]
		fields := []string{m.ID, m.Name, m.State, m.Ping, m.Platform, m.Region, m.Account}
		for i, field := range fields {
			fields[i] = cmp.Or(printable(field), "-")
		}
		_, _ = fmt.Fprintln(table, strings.Join(fields, "\t"))
	}
	return table.Flush()
}

// printable keeps what others have written into a tag from moving the cursor, or the columns.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// listFaults tells what is missing from the list.
func listFaults(stderr io.Writer, faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	told := map[string]bool{} // two calls may fail in the same way
	for _, err := range faults {
		if text := err.Error(); !told[text] {
			told[text] = true
			_, _ = fmt.Fprintf(stderr, "ssm-ssh-gateway: %s\n", text)
		}
	}
	return &exitError{Code: exitFailure}
}
