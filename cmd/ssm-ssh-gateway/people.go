package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// judgement is who there is and what they may do: what a reload replaces.
type judgement struct {
	directory *authz.Directory
	policy    *authz.Policy
}

// judge builds people and policy from a configuration and the files it names. All that is wrong comes back at once.
func judge(cfg *loadedConfig) (*judgement, []finding) {
	wanted, sources, findings := directoryConfig(cfg)
	directory, err := authz.NewDirectory(wanted)
	for _, f := range authz.Findings(err) {
		if file, named := sources[f.Path]; !named || file != "" { // what could not be read is no news as empty
			findings = append(findings, sources.locate(cfg, f))
		}
	}
	policy, policyFindings := loadPolicy(cfg)
	findings = append(findings, policyFindings...)
	if len(findings) > 0 {
		return nil, findings
	}
	for _, f := range authz.Findings(policy.CheckNames(directory)) {
		findings = append(findings, finding{File: f.Path, Line: f.Line, Col: max(f.Col, 1), Message: f.Message})
	}
	if len(findings) > 0 {
		return nil, findings
	}
	return &judgement{directory, policy}, nil
}

// textSources says which file the text behind a key path came from, where it is not the configuration itself; "" for one that could not be read.
type textSources map[string]string

// directoryConfig translates the configuration into authz's terms, reading the files it names.
func directoryConfig(cfg *loadedConfig) (authz.DirectoryConfig, textSources, []finding) {
	sources := textSources{}
	var findings []finding
	read := func(path, keyPath, name string) string {
		text, err := readTrusted(cfg.resolve(name))
		if err != nil {
			findings = append(findings, cfg.at(keyPath, "%s: %s", name, err))
			sources[path] = ""
			return ""
		}
		sources[path] = cfg.resolve(name)
		return string(text)
	}
	wanted := authz.DirectoryConfig{
		AmbientCredentials: cfg.AWS.AmbientRole, MaxCertificateValidity: cfg.Limits.MaxCertificateValidity.Duration, ExternalIDs: map[string]string{},
	}
	for i, p := range cfg.People {
		person := authz.Person{Name: p.Name, Keys: p.Keys, Principals: p.Principals, Groups: p.Groups, Role: p.Role, Roles: p.Roles, Tags: p.Tags}
		if p.KeysFile != "" {
			path := fmt.Sprintf("person[%d].keys[%d]", i, len(p.Keys))
			person.Keys = append(person.Keys[:len(person.Keys):len(person.Keys)], read(path, fmt.Sprintf("person[%d].keys_file", i), p.KeysFile))
		}
		wanted.People = append(wanted.People, person)
	}
	for _, g := range cfg.Groups {
		wanted.Groups = append(wanted.Groups, authz.Group{Name: g.Name, Role: g.Role, Roles: g.Roles, Tags: g.Tags})
	}
	for i, ca := range cfg.UserCAs {
		text := ca.Key
		if ca.KeyFile != "" {
			text = read(fmt.Sprintf("user_cas[%d]", i), fmt.Sprintf("user_ca[%d].key_file", i), ca.KeyFile)
		}
		wanted.UserCAs = append(wanted.UserCAs, text)
	}
	for i, name := range cfg.Revoked {
		path := fmt.Sprintf("revoked_keys[%d]", i)
		wanted.RevokedKeys = append(wanted.RevokedKeys, []byte(read(path, path, name)))
	}
	for _, account := range cfg.Accounts {
		if account.ExternalID != "" {
			wanted.ExternalIDs[account.ID] = account.ExternalID
		}
	}
	return wanted, sources, findings
}

var userCAPath = regexp.MustCompile(`^user_cas\[(\d+)\]`)

// locate turns what authz found into a place in a file: the file a text came from, or the configuration.
func (s textSources) locate(cfg *loadedConfig, f *authz.Finding) finding {
	if file, ok := s[f.Path]; ok {
		return finding{File: file, Line: f.Line, Col: max(f.Col, 1), Message: f.Message}
	}
	path := f.Path
	if match := userCAPath.FindStringSubmatch(path); match != nil {
		path = "user_ca[" + match[1] + "].key"
	}
	return cfg.at(path, "%s", f.Message)
}

// loadPolicy reads the Cedar files, or gives the built-in policy when there are none. Names may be patterns, so that a directory of policies is one line.
func loadPolicy(cfg *loadedConfig) (*authz.Policy, []finding) {
	if len(cfg.Policies) == 0 {
		return authz.BuiltinPolicy(), nil
	}
	var files []authz.PolicyFile
	var findings []finding
	for i, pattern := range cfg.Policies {
		path := "policies[" + strconv.Itoa(i) + "]"
		names, err := filepath.Glob(cfg.resolve(pattern))
		if err != nil || len(names) == 0 {
			findings = append(findings, cfg.at(path, "%s: no such file", pattern))
			continue
		}
		for _, name := range names {
			text, err := readTrusted(name)
			if err != nil {
				findings = append(findings, cfg.at(path, "%s: %s", name, err))
				continue
			}
			files = append(files, authz.PolicyFile{Name: name, Text: text})
		}
	}
	policy, err := authz.LoadPolicy(files)
	for _, f := range authz.Findings(err) {
		findings = append(findings, finding{File: f.Path, Line: f.Line, Col: max(f.Col, 1), Message: f.Message})
	}
	return policy, findings
}

// findingsError makes one error of many findings, a line each; nil of none.
func findingsError(findings []finding) error {
	errs := make([]error, 0, len(findings))
	for _, f := range findings {
		errs = append(errs, errors.New(f.String()))
	}
	if len(errs) == 0 {
		return nil
	}
	return &exitError{Code: exitUsage, Err: errors.Join(errs...)}
}
