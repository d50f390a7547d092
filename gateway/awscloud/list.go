package awscloud

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const listingKey = "all"

// List gives the machines of all configured accounts and regions, sorted by name and then by place: EC2 instances that are not gone, and hybrid nodes whose
// agent is online. Places that do not answer are logged and left out; only if none answers is that an error. An answer is remembered for PositiveTTL.
func (c *Cloud) List(ctx context.Context) ([]*authz.Instance, error) {
	if known, ok := c.listing.get(listingKey); ok {
		return slices.Clone(known), nil
	}
	ctx, end, ok := c.bound(ctx, c.cfg.ResolveTimeout)
	if !ok {
		return nil, &authz.Refusal{Reason: authz.ReasonShuttingDown}
	}
	defer end()
	places := c.placesFor(&target{})
	var mu sync.Mutex
	var all []*authz.Instance
	var faults []error
	var group errgroup.Group
	group.SetLimit(searchWidth)
	for _, p := range places {
		group.Go(func() error {
			here, err := c.listPlace(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, here...)
			if err != nil {
				c.log.WarnContext(ctx, "a place is missing from the list", "account", p.account.ID, "region", p.region, "err", err)
				faults = append(faults, err)
			}
			return nil
		})
	}
	_ = group.Wait() // faults are collected beside
	if len(faults) == len(places) {
		return nil, translate(errors.Join(faults...), actionDescribeInstances, "")
	}
	slices.SortFunc(all, func(a, b *authz.Instance) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Place(), b.Place()))
	})
	if len(faults) == 0 {
		c.listing.add(listingKey, all)
	}
	return slices.Clone(all), nil
}

func (c *Cloud) listPlace(ctx context.Context, p place) ([]*authz.Instance, error) {
	all, err := c.describe(ctx, p, nil, alive(func(*ec2types.Instance) bool { return true }))
	if err != nil {
		return nil, err
	}
	nodes, err := c.managed(ctx, p, filterBy("ResourceType", "ManagedInstance"), filterBy("PingStatus", "Online"))
	if err != nil { // hybrid nodes are rare, and many inventory roles may not ask for them
		c.log.DebugContext(ctx, "hybrid nodes are missing from the list", "account", p.account.ID, "region", p.region, "err", err)
		return all, nil
	}
	return append(all, nodes...), nil
}
