package awscloud

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Listed is a machine with what Systems Manager knows of its agent.
type Listed struct {
	*authz.Instance
	// Ping is Online, ConnectionLost or Inactive; empty when no agent has registered, or nobody may ask.
	Ping string
	// AgentVersion is four numbers; empty like Ping.
	AgentVersion string
	// OS is the name the agent gives, e.g. "Amazon Linux"; empty like Ping.
	OS string
}

// Missing is a part of a list that could not be had.
type Missing struct {
	Region string
	Err    error
}

// Inventory asks all configured accounts and regions anew for the machines that are not gone: EC2 instances and hybrid nodes, whatever their agents do,
// sorted by name and then by place. What could not be asked is missing: the machines of a region, or what is told of their agents.
func (c *Cloud) Inventory(ctx context.Context) (machines []Listed, missing []Missing) {
	ctx, end, ok := c.bound(ctx, c.cfg.ResolveTimeout)
	if !ok {
		return nil, []Missing{{Err: &authz.Refusal{Reason: authz.ReasonShuttingDown}}}
	}
	defer end()
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(searchWidth)
	for _, p := range c.placesFor(&target{}) {
		group.Go(func() error {
			here, faults := c.inventoryOf(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			machines = append(machines, here...)
			for _, err := range faults {
				missing = append(missing, Missing{p.region, err})
			}
			return nil
		})
	}
	_ = group.Wait() // faults are collected beside
	slices.SortFunc(machines, func(a, b Listed) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Place(), b.Place())) })
	return machines, missing
}

// inventoryOf joins what EC2 and what Systems Manager know of one place.
func (c *Cloud) inventoryOf(ctx context.Context, p place) (machines []Listed, faults []error) {
	instances, err := c.describe(ctx, p, nil, alive(func(*ec2types.Instance) bool { return true }))
	if err != nil {
		faults = append(faults, err)
	}
	known, err := c.information(ctx, p)
	if err != nil {
		faults = append(faults, err)
	}
	agents := make(map[string]*ssmtypes.InstanceInformation, len(known))
	for i := range known {
		id := aws.ToString(known[i].InstanceId)
		agents[id] = &known[i]
		if strings.HasPrefix(id, managedPrefix) {
			owner, err := c.ownerOf(ctx, p.account)
			if err != nil {
				faults = append(faults, err)
			}
			instances = append(instances, newManaged(p.region, owner, &known[i]))
		}
	}
	for _, on := range instances {
		listed := Listed{Instance: on}
		if agent := agents[on.ID]; agent != nil {
			listed.Ping, listed.AgentVersion, listed.OS = string(agent.PingStatus), aws.ToString(agent.AgentVersion), aws.ToString(agent.PlatformName)
		}
		machines = append(machines, listed)
	}
	return machines, faults
}
