package awscloud

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const (
	actionDescribeManaged = "ssm:DescribeInstanceInformation"
	actionListTags        = "ssm:ListTagsForResource"
	managedPageSize       = 50 // DescribeInstanceInformation's largest
	managedPrefix         = "mi-"
	tagReaders            = 4
)

// filterBy is one filter of DescribeInstanceInformation; several must all pass.
func filterBy(key, value string) ssmtypes.InstanceInformationStringFilter {
	return ssmtypes.InstanceInformationStringFilter{Key: aws.String(key), Values: []string{value}}
}

// managed lists the hybrid nodes (mi-…) of a place that pass the filters, with their tags: policy may depend on them, so a node whose tags
// cannot be read is not given at all.
func (c *Cloud) managed(ctx context.Context, p place, filters ...ssmtypes.InstanceInformationStringFilter) ([]*authz.Instance, error) {
	known, err := c.information(ctx, p, filters...)
	if err != nil {
		return nil, err
	}
	known = slices.DeleteFunc(known, func(i ssmtypes.InstanceInformation) bool {
		return !strings.HasPrefix(aws.ToString(i.InstanceId), managedPrefix)
	})
	if len(known) == 0 {
		return nil, nil
	}
	owner, err := c.ownerOf(ctx, p.account)
	if err != nil {
		return nil, err
	}
	var found []*authz.Instance
	for i := range known {
		found = append(found, newManaged(p.region, owner, &known[i]))
	}
	client, err := c.inventory(p)
	if err != nil {
		return nil, err
	}
	if err := c.readTags(ctx, client, found); err != nil {
		return nil, err
	}
	return found, nil
}

// managedNamed lists the hybrid nodes with a Name tag, which has to be in lower case: OpenSSH lowers the case of host names, and Systems Manager's filters know
// case and no wildcards. Who may not ask Systems Manager knows no hybrid nodes; that must not keep anybody from EC2's machines.
func (c *Cloud) managedNamed(ctx context.Context, p place, name string) ([]*authz.Instance, error) {
	found, err := c.managed(ctx, p, filterBy("tag:"+tagName, name)) // tag filters go with no others
	var refusal *authz.Refusal
	if errors.As(err, &refusal) && refusal.Reason == authz.ReasonAccessDenied {
		c.log.DebugContext(ctx, "hybrid nodes are not looked for", "account", p.account.ID, "region", p.region, "err", err)
		return nil, nil
	}
	return found, err
}

// information gives what Systems Manager knows of the machines of a place that pass the filters, EC2 instances and hybrid nodes alike.
func (c *Cloud) information(ctx context.Context, p place, filters ...ssmtypes.InstanceInformationStringFilter) ([]ssmtypes.InstanceInformation, error) {
	client, err := c.inventory(p)
	if err != nil {
		return nil, err
	}
	var known []ssmtypes.InstanceInformation
	in := &ssm.DescribeInstanceInformationInput{Filters: filters, MaxResults: aws.Int32(managedPageSize)}
	for range maxPages {
		out, err := invoke(ctx, c, client.call(actionDescribeManaged, retrySafe), func(ctx context.Context) (*ssm.DescribeInstanceInformationOutput, error) {
			return client.ssm.DescribeInstanceInformation(ctx, in)
		})
		if err != nil {
			return nil, err
		}
		known = append(known, out.InstanceInformationList...)
		if aws.ToString(out.NextToken) == "" {
			return known, nil
		}
		in.NextToken = out.NextToken
	}
	return nil, &authz.Refusal{Reason: authz.ReasonCloud, Action: actionDescribeManaged, Detail: "more than 5000 managed nodes in " + p.region}
}

func newManaged(region, owner string, from *ssmtypes.InstanceInformation) *authz.Instance {
	return &authz.Instance{
		ID: aws.ToString(from.InstanceId), Partition: partitionOf(region), Account: owner, Region: region,
		Name: aws.ToString(from.Name), Platform: aws.ToString(from.PlatformName), PrivateIP: aws.ToString(from.IPAddress), Tags: map[string]string{},
	}
}

func (c *Cloud) readTags(ctx context.Context, client *clients, nodes []*authz.Instance) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tagReaders)
	for _, node := range nodes {
		group.Go(func() error {
			out, err := invoke(ctx, c, client.call(actionListTags, retrySafe), func(ctx context.Context) (*ssm.ListTagsForResourceOutput, error) {
				return client.ssm.ListTagsForResource(ctx, &ssm.ListTagsForResourceInput{
					ResourceId: aws.String(node.ID), ResourceType: ssmtypes.ResourceTypeForTaggingManagedInstance,
				})
			})
			if err != nil {
				return err
			}
			for _, tag := range out.TagList {
				node.Tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
			}
			if name := node.Tags[tagName]; name != "" {
				node.Name = name
			}
			return nil
		})
	}
	return group.Wait()
}

// ownerOf names the account, which SSM does not tell; for ambient credentials STS does.
func (c *Cloud) ownerOf(ctx context.Context, a *account) (string, error) {
	if !a.ambient {
		return a.ID, nil
	}
	a.ownerMu.Lock()
	defer a.ownerMu.Unlock()
	if a.owner == "" {
		caller, err := c.callerIdentity(ctx, a)
		if err != nil {
			return "", err
		}
		a.owner = caller.Account
	}
	return a.owner, nil
}
