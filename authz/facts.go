package authz

import (
	cedar "github.com/cedar-policy/cedar-go"
)

// facts are the entities of one question: the person, the machine and the actions. Cedar asks for the same ones again for every policy, so they are
// made once, when first asked for.
type facts struct {
	req            Request
	user, instance cedar.Entity
	haveUser       bool
	haveInstance   bool
}

func newFacts(req Request) *facts {
	return &facts{
		req:      req,
		user:     cedar.Entity{UID: cedar.NewEntityUID(typeUser, cedar.String(req.Identity.Person))},
		instance: cedar.Entity{UID: cedar.NewEntityUID(typeInstance, cedar.String(req.Instance.ID))},
	}
}

// Get gives one entity; groups and accounts are names only and need none. It is cedar's EntityGetter.
func (f *facts) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch uid.Type {
	case typeAction:
		e, ok := actionEntities[uid]
		return e, ok
	case typeUser:
		if uid == f.user.UID {
			return *f.userEntity(), true
		}
	case typeInstance:
		if uid == f.instance.UID {
			return *f.instanceEntity(), true
		}
	}
	return cedar.Entity{}, false
}

func (f *facts) userEntity() *cedar.Entity {
	if f.haveUser {
		return &f.user
	}
	id := f.req.Identity
	groups := make([]cedar.EntityUID, 0, len(id.Groups))
	for _, g := range id.Groups {
		groups = append(groups, cedar.NewEntityUID(typeGroup, cedar.String(g)))
	}
	f.haveUser = true
	f.user.Parents = cedar.NewEntityUIDSet(groups...)
	f.user.Attributes = cedar.NewRecord(cedar.RecordMap{
		"login":      cedar.String(id.Person),
		"authMethod": cedar.String(id.Method),
	})
	return &f.user
}

func (f *facts) instanceEntity() *cedar.Entity {
	if f.haveInstance {
		return &f.instance
	}
	i := f.req.Instance
	tags := make(cedar.RecordMap, len(i.Tags))
	for k, v := range i.Tags {
		tags[cedar.String(k)] = cedar.String(v)
	}
	f.haveInstance = true
	f.instance.Parents = cedar.NewEntityUIDSet(cedar.NewEntityUID(typeAccount, cedar.String(i.Account)))
	f.instance.Attributes = cedar.NewRecord(cedar.RecordMap{
		"region":   cedar.String(i.Region),
		"platform": cedar.String(i.Platform),
		"name":     cedar.String(i.Name),
	})
	f.instance.Tags = cedar.NewRecord(tags)
	return &f.instance
}
