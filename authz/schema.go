package authz

import (
	_ "embed"
	"fmt"
	"sync"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

//go:embed schema.cedarschema
var schemaText []byte

// validator is the strict validator for our schema. cedar-go keeps validation in x/exp, which may change with any release: nothing else in the
// program touches it, and go.mod pins the release.
var validator = sync.OnceValues(func() (*validate.Validator, error) {
	var s schema.Schema
	s.SetFilename("schema.cedarschema")
	if err := s.UnmarshalCedar(schemaText); err != nil {
		return nil, fmt.Errorf("parse the policy schema: %w", err)
	}
	resolved, err := s.Resolve()
	if err != nil {
		return nil, fmt.Errorf("resolve the policy schema: %w", err)
	}
	return validate.New(resolved, validate.WithStrict()), nil
})

// The entity types of the schema.
const (
	typeUser     cedar.EntityType = "User"
	typeGroup    cedar.EntityType = "Group"
	typeInstance cedar.EntityType = "Instance"
	typeAccount  cedar.EntityType = "Account"
	typeAction   cedar.EntityType = "Action"
)

// actionGroups mirrors the action hierarchy of the schema for evaluation, which works on entities and never reads the schema; a test holds the two
// together. Connect is a part of "session" and not of "tunnel", so that forbidding tunnels leaves the machine reachable.
var actionGroups = map[Action]string{
	ActionConnect:       "session",
	ActionShell:         "session",
	ActionExec:          "session",
	ActionSFTP:          "session",
	ActionForwardLocal:  "tunnel",
	ActionForwardRemote: "tunnel",
	ActionAgentForward:  "tunnel",
	ActionX11:           "tunnel",

	ActionCertificateLogin: "fallback",
	ActionAgentLogin:       "fallback",
	ActionSessionShell:     "fallback",
}

// actionEntities is actionGroups as Cedar entities.
var actionEntities = func() map[cedar.EntityUID]cedar.Entity {
	m := make(map[cedar.EntityUID]cedar.Entity, len(actionGroups))
	for action, group := range actionGroups {
		uid := cedar.NewEntityUID(typeAction, cedar.String(action))
		m[uid] = cedar.Entity{UID: uid, Parents: cedar.NewEntityUIDSet(cedar.NewEntityUID(typeAction, cedar.String(group)))}
	}
	return m
}()
