package authz

import (
	cedar "github.com/cedar-policy/cedar-go"
)

// facts are the entities of one question: the person, the machine and the actions, made when Cedar asks for them.
type facts struct {
	user, instance cedar.EntityUID
	req            Request
}

func newFacts(req Request) *facts {
	return &facts{
		user:     cedar.NewEntityUID(typeUser, cedar.String(req.Identity.Person)),
		instance: cedar.NewEntityUID(typeInstance, cedar.String(req.Instance.ID)),
		req:      req,
	}
}

// Get gives one entity; groups and accounts are names only and need none. It is cedar's EntityGetter.
func (f *facts) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch uid.Type {
	case typeAction:
		e, ok := actionEntities[uid]
		return e, ok
	case typeUser:
		if uid == f.user {
			return f.userEntity(), true
		}
	case typeInstance:
		if uid == f.instance {
			return f.instanceEntity(), true
		}
	}
	return cedar.Entity{}, false
}

func (f *facts) userEntity() cedar.Entity {
	id := f.req.Identity
	groups := make([]cedar.EntityUID, 0, len(id.Groups))
	for _, g := range id.Groups {
		groups = append(groups, cedar.NewEntityUID(typeGroup, cedar.String(g)))
	}
	return cedar.Entity{
		UID:     f.user,
		Parents: cedar.NewEntityUIDSet(groups...),
		Attributes: cedar.NewRecord(cedar.RecordMap{
			"login":      cedar.String(id.Person),
			"authMethod": cedar.String(id.Method),
		}),
	}
}

func (f *facts) instanceEntity() cedar.Entity {
	i := f.req.Instance
	tags := make(cedar.RecordMap, len(i.Tags))
	for k, v := range i.Tags {
		tags[cedar.String(k)] = cedar.String(v)
	}
	return cedar.Entity{
		UID:     f.instance,
		Parents: cedar.NewEntityUIDSet(cedar.NewEntityUID(typeAccount, cedar.String(i.Account))),
		Attributes: cedar.NewRecord(cedar.RecordMap{
			"region":   cedar.String(i.Region),
			"platform": cedar.String(i.Platform),
			"name":     cedar.String(i.Name),
		}),
		Tags: cedar.NewRecord(tags),
	}
}
