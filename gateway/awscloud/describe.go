package awscloud

import (
	"context"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const (
	actionDescribeInstances = "ec2:DescribeInstances"

	stateRunning      = "running"
	stateShuttingDown = "shutting-down"
	stateTerminated   = "terminated"

	inventorySession = "ssm-ssh-gateway" // session name of inventory roles: nobody's person
	pageSize         = 1000              // DescribeInstances' largest
	maxPages         = 100
	tagName          = "Name"
)

// inventory gives the clients for Describe calls in a place: the account's inventory role, or own credentials.
func (c *Cloud) inventory(p place) (*clients, error) {
	role := authz.Role{}
	if p.account.InventoryRole != "" {
		role = authz.Role{ARN: p.account.InventoryRole, SessionName: inventorySession, ExternalID: p.account.ExternalID}
	}
	return c.clientsFor(p.account, role, p.region, "")
}

// describe lists the EC2 instances of a place that pass EC2's filters and keep.
func (c *Cloud) describe(ctx context.Context, p place, filters []ec2types.Filter, keep func(*ec2types.Instance) bool) ([]*authz.Instance, error) {
	client, err := c.inventory(p)
	if err != nil {
		return nil, err
	}
	var found []*authz.Instance
	in := &ec2.DescribeInstancesInput{Filters: filters, MaxResults: aws.Int32(pageSize)}
	for range maxPages {
		out, err := invoke(ctx, c, client.call(actionDescribeInstances, retrySafe), func(ctx context.Context) (*ec2.DescribeInstancesOutput, error) {
			return client.ec2.DescribeInstances(ctx, in)
		})
		if err != nil {
			return nil, err
		}
		for _, reservation := range out.Reservations {
			if owner := aws.ToString(reservation.OwnerId); !p.account.ambient && owner != p.account.ID {
				c.log.ErrorContext(ctx, "credentials for one account show another's machines: check inventory_role", "account", p.account.ID, "owner", owner)
				continue
			}
			for i := range reservation.Instances {
				if keep(&reservation.Instances[i]) {
					found = append(found, newInstance(p.region, aws.ToString(reservation.OwnerId), &reservation.Instances[i]))
				}
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return found, nil
		}
		in.NextToken = out.NextToken
	}
	return nil, &authz.Refusal{Reason: authz.ReasonCloud, Action: actionDescribeInstances, Detail: "more than 100000 machines in " + p.region}
}

func newInstance(region, owner string, from *ec2types.Instance) *authz.Instance {
	i := &authz.Instance{
		ID: aws.ToString(from.InstanceId), Partition: partitionOf(region), Account: owner, Region: region,
		Platform: aws.ToString(from.PlatformDetails), PrivateIP: aws.ToString(from.PrivateIpAddress), PrivateDNS: aws.ToString(from.PrivateDnsName),
		Tags: make(map[string]string, len(from.Tags)),
	}
	if from.State != nil {
		i.State = string(from.State.Name)
	}
	if from.Placement != nil {
		i.Zone = aws.ToString(from.Placement.AvailabilityZone)
	}
	if from.LaunchTime != nil {
		i.LaunchTime = from.LaunchTime.In(time.UTC)
	}
	for _, tag := range from.Tags {
		i.Tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	i.Name = i.Tags[tagName]
	return i
}

// query is how EC2 is asked for a target, and how its answer is checked: filters may be wider than the name, never what is kept.
type query struct {
	filters []ec2types.Filter
	keep    func(*ec2types.Instance) bool
}

func only(name, value string) []ec2types.Filter {
	return []ec2types.Filter{{Name: aws.String(name), Values: []string{value}}}
}

// query asks EC2 for a target of any form but formManaged.
func (t *target) query() query {
	switch t.form {
	case formInstance:
		return query{only("instance-id", t.base), func(i *ec2types.Instance) bool { return aws.ToString(i.InstanceId) == t.base }}
	case formAddress: // the first address of each machine, which is the one that authz.Instance shows
		if address, err := netip.ParseAddr(t.base); err == nil && address.Is6() {
			return query{only("network-interface.ipv6-addresses.ipv6-address", t.base), alive(func(i *ec2types.Instance) bool { return hasIPv6(i, address) })}
		}
		return query{only("private-ip-address", t.base), alive(func(i *ec2types.Instance) bool { return aws.ToString(i.PrivateIpAddress) == t.base })}
	case formDNS:
		return query{only("private-dns-name", t.base), alive(func(i *ec2types.Instance) bool { return strings.EqualFold(aws.ToString(i.PrivateDnsName), t.base) })}
	case formTag: // the key's own case may be lost, and there is no filter on values alone
		return query{only("tag-key", anyCase(t.key)), alive(func(i *ec2types.Instance) bool { return hasTag(i, t.key, t.base) })}
	default:
		return query{only("tag:"+tagName, anyCase(t.base)), alive(func(i *ec2types.Instance) bool { return hasTag(i, tagName, t.base) })}
	}
}

// anyCase is the EC2 filter pattern that matches a text in any case. Case must not matter, because OpenSSH lowers the case of a host name before a
// jump host sees it; filters do know case, and of wildcards only * and ?.
func anyCase(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) {
			return '?'
		}
		return r
	}, text)
}

// alive leaves out machines that are gone: their names may be in use again.
func alive(keep func(*ec2types.Instance) bool) func(*ec2types.Instance) bool {
	return func(i *ec2types.Instance) bool {
		gone := i.State != nil && (i.State.Name == stateTerminated || i.State.Name == stateShuttingDown)
		return !gone && keep(i)
	}
}

func hasTag(i *ec2types.Instance, key, value string) bool {
	for _, tag := range i.Tags {
		if strings.EqualFold(aws.ToString(tag.Key), key) && strings.EqualFold(aws.ToString(tag.Value), value) {
			return true
		}
	}
	return false
}

// hasIPv6 compares addresses and not their spelling.
func hasIPv6(i *ec2types.Instance, address netip.Addr) bool {
	for _, nic := range i.NetworkInterfaces {
		for _, a := range nic.Ipv6Addresses {
			if have, err := netip.ParseAddr(aws.ToString(a.Ipv6Address)); err == nil && have == address {
				return true
			}
		}
	}
	return false
}
