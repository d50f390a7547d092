package awsemu

import (
	"strings"
	"time"
)

// Account is one AWS account of the emulated world.
type Account struct {
	ID        string // twelve digits
	Users     []User
	Roles     []Role
	Instances []Instance
	Nodes     []Node
	Documents []Document
	Keys      []Key
}

// User is an IAM user with one static access key.
type User struct {
	Name            string
	AccessKeyID     string // 16 to 128 characters; by convention AKIAEMULATOR…
	SecretAccessKey string
	Policy          Policy
}

// Role is an IAM role. Trust says who may assume it and with what (sts:AssumeRole, sts:TagSession, sts:SetSourceIdentity), Policy what it may do then.
type Role struct {
	Name       string
	Path       string // "/" when empty; begins and ends with a slash
	Trust      Policy
	Policy     Policy
	MaxSession time.Duration // 1 hour when zero, at most 12
}

// Instance is an EC2 instance.
type Instance struct {
	ID         string // i-…
	Region     string
	Zone       string // Region + "a" when empty
	Tags       map[string]string
	State      State  // StateRunning when empty
	Platform   string // PlatformDetails; "Linux/UNIX" when empty
	PrivateIP  string
	PrivateDNS string
	PublicIP   string
	LaunchTime time.Time // the start of the emulator when zero
	Console    string    // what GetConsoleOutput tells, not yet encoded
	// NoInstanceConnect is a machine without the Instance Connect package: keys can be pushed, and are never shown to its sshd.
	NoInstanceConnect bool
}

// Node is a machine outside EC2, managed by SSM.
type Node struct {
	ID       string // mi-…
	Region   string
	Name     string // computer name
	IP       string
	Tags     map[string]string
	Platform string // Linux when empty; Linux, Windows or MacOS
}

// Key is a symmetric KMS key.
type Key struct {
	ID     string // the last part of the ARN
	Region string
	Alias  string // with the prefix alias/; may be empty
}

// State is the name of an instance state as EC2 spells it.
type State string

// The states of an instance.
const (
	StatePending      State = "pending"
	StateRunning      State = "running"
	StateShuttingDown State = "shutting-down"
	StateTerminated   State = "terminated"
	StateStopping     State = "stopping"
	StateStopped      State = "stopped"
)

// code is the number EC2 gives beside the name (InstanceState in the EC2 API reference).
func (s State) code() int {
	switch s {
	case StatePending:
		return 0
	case StateRunning:
		return 16
	case StateShuttingDown:
		return 32
	case StateTerminated:
		return 48
	case StateStopping:
		return 64
	default:
		return 80
	}
}

// partition gives the ARN partition of a region.
func partition(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	default:
		return "aws"
	}
}

// target is what a session may go to: an instance or a node, with what policies want to know of it.
type target struct {
	id      string
	account string
	region  string
	arn     string
	tags    map[string]string
	state   State // StateRunning for nodes
}

func (r Role) path() string {
	if r.Path == "" {
		return "/"
	}
	return r.Path
}
