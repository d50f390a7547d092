package awsemu

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// instance and node are the model with the account they belong to.
type instance struct {
	Instance
	account string
}

type node struct {
	Node
	account string
}

var (
	accountPattern  = regexp.MustCompile(`^[0-9]{12}$`)
	instancePattern = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)
	nodePattern     = regexp.MustCompile(`^mi-[0-9a-f]{17}$`)
)

// populate checks and indexes the accounts. An error in the model is the caller's, and is found here rather than in a strange answer later.
func (s *Server) populate(accounts []Account) error {
	for _, d := range builtinDocuments {
		s.documents[documentKey("", "", d.Name)] = &d
	}
	for _, a := range accounts {
		if !accountPattern.MatchString(a.ID) {
			return fmt.Errorf("awsemu: account id %q is not twelve digits", a.ID)
		}
		for _, add := range []func(Account) error{s.addUsers, s.addRoles, s.addMachines, s.addDocuments, s.addKMSKeys} {
			if err := add(a); err != nil {
				return fmt.Errorf("awsemu: account %s: %w", a.ID, err)
			}
		}
	}
	return nil
}

func (s *Server) addUsers(a Account) error {
	for _, u := range a.Users {
		arn := "arn:aws:iam::" + a.ID + ":user/" + u.Name
		if u.AccessKeyID == "" || u.SecretAccessKey == "" || u.Name == "" {
			return fmt.Errorf("user %q lacks a name, an access key or its secret", u.Name)
		}
		if s.keys[u.AccessKeyID] != nil || s.users[arn] != nil {
			return fmt.Errorf("user %s or access key %s exists twice", u.Name, u.AccessKeyID)
		}
		s.users[arn] = &u
		s.keys[u.AccessKeyID] = &principal{
			arn: arn, account: a.ID, userID: stableID("AIDA", arn), name: u.Name,
			credential: credential{accessKey: u.AccessKeyID, secret: u.SecretAccessKey},
		}
	}
	return nil
}

func (s *Server) addRoles(a Account) error {
	for _, r := range a.Roles {
		arn := "arn:aws:iam::" + a.ID + ":role" + r.path() + r.Name
		if s.roles[arn] != nil {
			return fmt.Errorf("role %s exists twice", r.Name)
		}
		s.roles[arn] = &r
	}
	return nil
}

func (s *Server) addMachines(a Account) error {
	for _, i := range a.Instances {
		if err := s.addInstance(a.ID, i); err != nil {
			return err
		}
	}
	for _, n := range a.Nodes {
		if !nodePattern.MatchString(n.ID) || n.Region == "" || s.nodes[n.ID] != nil {
			return fmt.Errorf("node %q has a wrong id, no region, or exists twice", n.ID)
		}
		s.nodes[n.ID] = &node{Node: n, account: a.ID}
	}
	return nil
}

func (s *Server) addInstance(account string, i Instance) error {
	if !instancePattern.MatchString(i.ID) || i.Region == "" || s.instances[i.ID] != nil {
		return fmt.Errorf("instance %q has a wrong id, no region, or exists twice", i.ID)
	}
	if i.Zone == "" {
		i.Zone = i.Region + "a"
	}
	if i.State == "" {
		i.State = StateRunning
	}
	if i.Platform == "" {
		i.Platform = "Linux/UNIX"
	}
	if i.LaunchTime.IsZero() {
		i.LaunchTime = s.start
	}
	i.Tags = maps.Clone(i.Tags)
	s.instances[i.ID] = &instance{Instance: i, account: account}
	return nil
}

// AddInstance adds a machine to an account while the emulator runs.
func (s *Server) AddInstance(account string, i Instance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.addInstance(account, i); err != nil {
		return fmt.Errorf("awsemu: %w", err)
	}
	return nil
}

// UpdateInstance changes a machine while the emulator runs: its state, tags, console text, addresses. Id and Region stay what they are.
func (s *Server) UpdateInstance(id string, change func(*Instance)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[id]
	if i == nil {
		return fmt.Errorf("awsemu: no instance %s", id)
	}
	changed := i.Instance
	changed.Tags = maps.Clone(i.Tags)
	change(&changed)
	changed.ID, changed.Region = i.ID, i.Region
	s.instances[id] = &instance{Instance: changed, account: i.account}
	return nil
}

// SetRolePolicy replaces what a role may do, for sessions that exist as well.
func (s *Server) SetRolePolicy(arn string, policy Policy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.roles[arn]
	if old == nil {
		return fmt.Errorf("awsemu: no role %s", arn)
	}
	changed := *old
	changed.Policy = policy
	s.roles[arn] = &changed
	return nil
}

// principalOf finds who an access key belongs to.
func (s *Server) principalOf(accessKey string) *principal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[accessKey]
}

// instancesOf gives the machines of an account and region by id.
func (s *Server) instancesOf(account, region string) []*instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*instance
	for _, i := range s.instances {
		if i.account == account && i.Region == region {
			found = append(found, i)
		}
	}
	slices.SortFunc(found, func(a, b *instance) int { return strings.Compare(a.ID, b.ID) })
	return found
}

// target finds a machine by id in an account and region. ok tells whether it exists; without it the ARN is still right, for policies.
func (s *Server) target(account, region, id string) (t target, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t = target{id: id, account: account, region: region, state: StateRunning}
	if strings.HasPrefix(id, "mi-") {
		t.arn = "arn:" + partition(region) + ":ssm:" + region + ":" + account + ":managed-instance/" + id
		n := s.nodes[id]
		if n == nil || n.account != account || n.Region != region {
			return t, false
		}
		t.tags = n.Tags
		return t, true
	}
	t.arn = "arn:" + partition(region) + ":ec2:" + region + ":" + account + ":instance/" + id
	i := s.instances[id]
	if i == nil || i.account != account || i.Region != region {
		return t, false
	}
	t.tags, t.state = i.Tags, i.State
	return t, true
}
