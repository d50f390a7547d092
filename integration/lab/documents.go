package lab

import (
	"fmt"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// Session documents of the lab's account whose sessions are encrypted.
const (
	EncryptedShell   = "Lab-EncryptedShell"
	EncryptedCommand = "Lab-EncryptedCommand" // keeps standard error apart and tells the exit status
	// LockedCommand is encrypted with a key that IAM keeps people from.
	LockedCommand = "Lab-LockedCommand"
)

// Keys of those documents.
const (
	sessionKey = "11111111-2222-3333-4444-555555555555"
	lockedKey  = "99999999-8888-7777-6666-555555555555"
)

func keys() []awsemu.Key {
	return []awsemu.Key{{ID: sessionKey, Region: Region, Alias: "alias/lab-sessions"}, {ID: lockedKey, Region: Region, Alias: "alias/lab-locked"}}
}

func documents() []awsemu.Document {
	return []awsemu.Document{
		{Name: EncryptedShell, Region: Region, Content: `{"schemaVersion":"1.0","sessionType":"Standard_Stream","inputs":{"kmsKeyId":"alias/lab-sessions"}}`},
		{Name: EncryptedCommand, Region: Region, Content: encryptedCommand("alias/lab-sessions")},
		{Name: LockedCommand, Region: Region, Content: encryptedCommand("alias/lab-locked")},
	}
}

// encryptedCommand is a document that runs its parameter command, on whatever system the lab runs on.
func encryptedCommand(key string) string {
	const properties = `{"commands":"{{ command }}","separateOutputStream":true}`
	return fmt.Sprintf(`{"schemaVersion":"1.0","sessionType":"NonInteractiveCommands","inputs":{"kmsKeyId":%q},"parameters":{"command":{"type":"String"}},`+
		`"properties":{"linux":%[2]s,"macos":%[2]s,"windows":%[2]s}}`, key, properties)
}
