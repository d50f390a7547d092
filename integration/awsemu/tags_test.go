package awsemu_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
)

// TestListTagsForResource reads a node's tags, and is refused for a node that is not there.
func TestListTagsForResource(t *testing.T) {
	s := start(t)
	client := ssmClient(gateway(t, s))
	ask := func(id string) (*ssm.ListTagsForResourceOutput, error) {
		return client.ListTagsForResource(deadline(t), &ssm.ListTagsForResourceInput{
			ResourceType: ssmtypes.ResourceTypeForTaggingManagedInstance, ResourceId: aws.String(id),
		})
	}
	out, err := ask(nodeID)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.TagList) == 0 {
		t.Error("the node has tags, and none came back")
	}
	_, err = ask("mi-0fffffffffffffff0")
	wantCode(t, err, "InvalidResourceId")
}
