package authz

import (
	"strings"
	"time"
)

// Instance is a machine that can be reached: an EC2 instance (i-…) or a managed node (mi-…). It is a fact read from AWS once, at resolution,
// and never changes afterwards: what was judged is what is reached.
type Instance struct {
	ID         string // i-… or mi-…
	Partition  string // aws, aws-cn, aws-us-gov, …
	Account    string // twelve digits
	Region     string
	Zone       string            // availability zone, may be empty
	Name       string            // Name tag, may be empty
	State      string            // pending, running, stopping, stopped, …; empty for managed nodes
	Platform   string            // "Linux/UNIX", "Windows", …
	PrivateIP  string            // may be empty
	PrivateDNS string            // may be empty
	LaunchTime time.Time         // zero for managed nodes
	Tags       map[string]string // never modified after resolution
}

// IsManagedNode reports whether the machine is a hybrid node, which EC2 and Instance Connect do not know.
func (i *Instance) IsManagedNode() bool { return strings.HasPrefix(i.ID, "mi-") }

// Place names the machine across accounts: account/region/id. Instance ids are not reused, so it identifies the machine for pins and logs.
func (i *Instance) Place() string { return i.Account + "/" + i.Region + "/" + i.ID }
