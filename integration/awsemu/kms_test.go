package awsemu_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
)

func TestDataKeysNeedTheirContext(t *testing.T) {
	s := start(t)
	alice := kmsClient(person(t, s, "alice", "shop"))
	encryption := map[string]string{"aws:ssm:SessionId": "alice-1", "aws:ssm:TargetId": webID}
	made, err := alice.GenerateDataKey(deadline(t), &kms.GenerateDataKeyInput{
		KeyId: aws.String("alias/sessions"), NumberOfBytes: aws.Int32(64), EncryptionContext: encryption,
	})
	if err != nil || len(made.Plaintext) != 64 {
		t.Fatalf("data key %+v, %v", made, err)
	}
	out, err := alice.Decrypt(deadline(t), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: encryption})
	if err != nil || !bytes.Equal(out.Plaintext, made.Plaintext) || *out.KeyId != *made.KeyId {
		t.Errorf("decrypted to something else: %v", err)
	}
	_, err = alice.Decrypt(deadline(t), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: map[string]string{"aws:ssm:SessionId": "alice-2"}})
	var invalid *kmstypes.InvalidCiphertextException
	if !errors.As(err, &invalid) {
		t.Errorf("a data key opens in another context: %v", err)
	}
	_, err = alice.GenerateDataKey(deadline(t), &kms.GenerateDataKeyInput{KeyId: aws.String("alias/none"), KeySpec: kmstypes.DataKeySpecAes256})
	wantCode(t, err, "NotFoundException", "alias/none")
	_, err = kmsClient(gateway(t, s)).GenerateDataKey(deadline(t), &kms.GenerateDataKeyInput{KeyId: aws.String("alias/sessions"), KeySpec: kmstypes.DataKeySpecAes256})
	wantCode(t, err, "AccessDeniedException", "kms:GenerateDataKey", "user/gateway")
}
