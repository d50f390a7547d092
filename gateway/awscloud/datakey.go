package awscloud

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// generateDataKey asks KMS, as the person, for the key of an encrypted session. The encryption context names session and machine, so that IAM can hold
// the permission to them, and KMS gives the agent the key for no other.
func (s *heldSession) generateDataKey(ctx context.Context, keyID string, encryptionContext map[string]string) (ssmproto.DataKey, error) {
	out, err := invoke(ctx, s.cloud, s.client.call(actionDataKey, retrySafe), func(ctx context.Context) (*kms.GenerateDataKeyOutput, error) {
		return s.client.kms.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
			KeyId: aws.String(keyID), NumberOfBytes: aws.Int32(ssmproto.DataKeySize), EncryptionContext: encryptionContext,
		})
	})
	if err != nil {
		return ssmproto.DataKey{}, aboutKey(err, keyID)
	}
	return ssmproto.NewDataKey(out.Plaintext, out.CiphertextBlob), nil
}

// aboutKey names the key in a refusal: whoever can help is the one who administers it.
func aboutKey(err error, keyID string) error {
	var refusal *authz.Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	named := *refusal
	if named.Detail == "" {
		named.Detail = "KMS key"
	}
	named.Detail += ": " + keyID
	return &named
}
