package awsemu

import (
	"cmp"
	"slices"
)

type ssmTag struct{ Key, Value string }

// listTagsForResource tells the tags of a managed node, which DescribeInstanceInformation leaves out.
func (s *Server) listTagsForResource(c *call) (any, error) {
	var ask struct {
		ResourceType string
		ResourceID   string `json:"ResourceId"`
	}
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	c.note("ResourceType", ask.ResourceType)
	c.note("ResourceId", ask.ResourceID)
	if ask.ResourceType != "ManagedInstance" {
		return nil, badRequest("InvalidResourceType", "The emulator has tags of managed instances only.")
	}
	t, exists := s.target(c.who.account, c.region, ask.ResourceID)
	if err := s.authorize(c.who, c.iamAction(), tagged(t.arn, t.tags, "ssm:resourceTag/", "aws:ResourceTag/")); err != nil {
		return nil, err
	}
	if !exists {
		return nil, badRequest("InvalidResourceId", "The resource ID is not valid. Verify that you entered the correct ID and try again.")
	}
	tags := []ssmTag{}
	for key, value := range t.tags {
		tags = append(tags, ssmTag{key, value})
	}
	slices.SortFunc(tags, func(a, b ssmTag) int { return cmp.Compare(a.Key, b.Key) })
	return map[string]any{"TagList": tags}, nil
}
