package authz

import (
	"fmt"
	"slices"
)

// RoleFor says which role to assume for a person in an account: the person's own for that account, else the person's own, else what the groups
// say. Groups that say different things are refused, not ranked. With no role at all the answer is the zero Role where AmbientCredentials is
// set, else a *Refusal with ReasonNoRole. An account may be known by alias, id or both; roles may be written under either.
func (d *Directory) RoleFor(id *Identity, accountAlias, accountID string) (Role, error) {
	p := d.people[id.Person]
	if p == nil {
		return Role{}, noRole(id, accountAlias, accountID, "the person is no longer configured")
	}
	arn, ok := pickRole(p.Role, p.Roles, accountAlias, accountID)
	if !ok {
		return Role{}, noRole(id, accountAlias, accountID, "the account's alias and id are mapped to different roles")
	}
	if arn == "" {
		var found string
		var err error
		if found, err = d.groupRole(id, p, accountAlias, accountID); err != nil {
			return Role{}, err
		}
		arn = found
	}
	if arn != "" {
		return d.Assume(id, arn, accountAlias, accountID), nil
	}
	if d.ambient {
		return Role{}, nil
	}
	return Role{}, noRole(id, accountAlias, accountID, "")
}

// Assume makes a Role of an ARN for a person: the mapped one, or one that a policy's @role names. Session name and source identity are the person's
// name, so that CloudTrail shows the human.
func (d *Directory) Assume(id *Identity, arn, accountAlias, accountID string) Role {
	external := d.externalIDs[accountID]
	if external == "" {
		external = d.externalIDs[accountAlias]
	}
	return Role{ARN: arn, SessionName: id.Person, SourceIdentity: id.Person, ExternalID: external, Tags: id.Tags}
}

// groupRole asks the person's groups, which must agree.
func (d *Directory) groupRole(id *Identity, p *Person, alias, account string) (string, error) {
	groups := slices.Clone(p.Groups)
	slices.Sort(groups)
	arn, from := "", ""
	for _, name := range groups {
		g := d.groups[name]
		one, ok := pickRole(g.Role, g.Roles, alias, account)
		if !ok {
			return "", noRole(id, alias, account, fmt.Sprintf("group %s maps the account's alias and id to different roles", name))
		}
		if one != "" && arn != "" && one != arn {
			return "", noRole(id, alias, account, fmt.Sprintf("groups %s and %s map to different roles", from, name))
		}
		if one != "" {
			arn, from = one, name
		}
	}
	return arn, nil
}

// pickRole gives the role for an account, else the general one; ok is false when alias and id disagree.
func pickRole(general string, byAccount map[string]string, alias, id string) (arn string, ok bool) {
	byAlias, byID := "", ""
	if alias != "" {
		byAlias = byAccount[alias]
	}
	if id != "" {
		byID = byAccount[id]
	}
	switch {
	case byAlias != "" && byID != "" && byAlias != byID:
		return "", false
	case byID != "":
		return byID, true
	case byAlias != "":
		return byAlias, true
	}
	return general, true
}

// tags merges what groups and person say; NewDirectory saw to it that groups do not contradict each other.
func (d *Directory) tags(p *Person) map[string]string {
	merged := map[string]string{}
	for _, name := range p.Groups {
		for key, value := range d.groups[name].Tags {
			if !hasFold(p.Tags, key) {
				merged[key] = value
			}
		}
	}
	for key, value := range p.Tags {
		merged[key] = value
	}
	return merged
}

func noRole(id *Identity, alias, account, detail string) error {
	where := alias
	if where == "" {
		where = account
	}
	if detail == "" {
		detail = "no role is configured for " + id.Person
	}
	return &Refusal{Reason: ReasonNoRole, Subject: where, Detail: detail}
}
