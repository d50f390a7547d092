package authz

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

var (
	// personPattern is that of RoleSessionName and SourceIdentity (STS API reference, AssumeRole): \w is ASCII there as here.
	personPattern = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	groupPattern  = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)
	// rolePattern is the ARN of an IAM role in any partition; the name at the end has IAM's letters, the path before it may have more.
	rolePattern = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/([\x21-\x7e]{1,510}/)?[\w+=,.@-]{1,64}$`)
	// tagPattern is that of session tag keys and values (STS API reference, Tag).
	tagPattern = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)
)

// maxTags is how many session tags STS takes.
const maxTags = 50

func validRoleARN(arn string) bool { return rolePattern.MatchString(arn) }

// builder fills a Directory and keeps what is wrong with its configuration.
type builder struct {
	d        *Directory
	findings []error
}

func newBuilder(cfg DirectoryConfig) *builder {
	d := &Directory{
		people: map[string]*Person{}, groups: map[string]*Group{}, byPrincipal: map[string]*Person{},
		keys: map[string]*ownedKey{}, authorities: map[string][]*authority{},
		externalIDs: maps.Clone(cfg.ExternalIDs), ambient: cfg.AmbientCredentials,
		minRSABits: cfg.MinRSABits, maxCertValid: cfg.MaxCertificateValidity,
		revoked: revocations{hashes: map[[32]byte]bool{}},
	}
	if d.minRSABits == 0 {
		d.minRSABits = minRSABits
	}
	return &builder{d: d}
}

func (b *builder) report(findings ...*Finding) {
	for _, f := range findings {
		b.findings = append(b.findings, f)
	}
}

func (b *builder) find(path, format string, args ...any) {
	b.report(&Finding{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (b *builder) groups(groups []Group) {
	for i := range groups {
		g, path := groups[i], fmt.Sprintf("group[%d]", i)
		g.Roles, g.Tags = maps.Clone(g.Roles), maps.Clone(g.Tags)
		switch {
		case !groupPattern.MatchString(g.Name):
			b.find(path+".name", "group name %q: 1 to 64 letters, digits and _+=,.@-", clip(g.Name))
		case b.d.groups[g.Name] != nil:
			b.find(path+".name", "group %q is there twice", g.Name)
		}
		b.roles(path, g.Role, g.Roles)
		b.tags(path, g.Tags)
		if b.d.groups[g.Name] == nil { // the first of a name, so that one mistake is one finding
			b.d.groups[g.Name] = &g
		}
	}
}

func (b *builder) people(people []Person) {
	for i := range people {
		p, path := people[i], fmt.Sprintf("person[%d]", i)
		p.Roles, p.Tags = maps.Clone(p.Roles), maps.Clone(p.Tags)
		p.Groups, p.Principals = slices.Clone(p.Groups), slices.Clone(p.Principals)
		switch {
		case !personPattern.MatchString(p.Name):
			b.find(path+".name", "name %q: 2 to 64 letters, digits and _+=,.@- (it becomes the role session name)", clip(p.Name))
		case b.d.people[p.Name] != nil:
			b.find(path+".name", "person %q is there twice", p.Name)
		}
		b.roles(path, p.Role, p.Roles)
		b.tags(path, p.Tags)
		b.membership(path, &p)
		b.principals(path, &p)
		for j, text := range p.Keys {
			b.personKeys(fmt.Sprintf("%s.keys[%d]", path, j), text, &p)
		}
		if b.d.people[p.Name] == nil {
			b.d.people[p.Name] = &p
		}
	}
}

// membership checks that a person's groups exist, and agree about tags: which value would STS get?
func (b *builder) membership(path string, p *Person) {
	from := map[string]string{} // lower-case tag key to the group that set it
	for i, name := range p.Groups {
		at := fmt.Sprintf("%s.groups[%d]", path, i)
		g := b.d.groups[name]
		if g == nil || slices.Contains(p.Groups[:i], name) {
			b.find(at, "no group %q is configured, or it is there twice", clip(name))
			continue
		}
		for key, value := range g.Tags {
			if hasFold(p.Tags, key) {
				continue
			}
			other := from[strings.ToLower(key)]
			if other != "" && b.d.groups[other].Tags[key] != value {
				b.find(at, "groups %q and %q set tag %q differently", other, name, key)
			}
			from[strings.ToLower(key)] = name
		}
	}
	if len(from)+len(p.Tags) > maxTags {
		b.find(path, "%d session tags, more than the %d that STS takes", len(from)+len(p.Tags), maxTags)
	}
}

func (b *builder) principals(path string, p *Person) {
	for i, principal := range p.Principals {
		at := fmt.Sprintf("%s.principals[%d]", path, i)
		other := b.d.byPrincipal[principal]
		switch {
		case principal == "":
			b.find(at, "an empty principal")
		case other != nil && other.Name != p.Name:
			b.find(at, "principal %q is %s's already", clip(principal), other.Name)
		}
		b.d.byPrincipal[principal] = p
	}
}

// personKeys takes in a person's lines. One key, one person: who else would it be?
func (b *builder) personKeys(path, text string, p *Person) {
	lines, findings := parseKeyLines(path, text, b.d.minRSABits)
	b.report(findings...)
	if len(lines)+len(findings) == 0 {
		b.find(path, "no key in it")
	}
	for _, line := range lines {
		blob := string(line.key.Marshal())
		if line.certAuthority {
			if line.principals == nil && len(p.Principals) == 0 {
				b.find(path, "a certificate authority for %s needs principals=, or principals of the person", p.Name)
			}
			b.d.authorities[blob] = append(b.d.authorities[blob], &authority{line, p})
			continue
		}
		if line.principals != nil {
			b.find(path, "principals= has a meaning only with cert-authority")
		}
		if owned := b.d.keys[blob]; owned != nil {
			b.find(path, "key %s is %s's already", ssh.FingerprintSHA256(line.key), owned.person.Name)
			continue
		}
		b.d.keys[blob] = &ownedKey{line, p}
	}
}

// userCA takes in authorities for everybody. In their own list, the word cert-authority goes without saying.
func (b *builder) userCA(path, text string) {
	lines, findings := parseAuthorityLines(path, text, b.d.minRSABits)
	b.report(findings...)
	if len(lines)+len(findings) == 0 {
		b.find(path, "no key in it")
	}
	for _, line := range lines {
		blob := string(line.key.Marshal())
		b.d.authorities[blob] = append(b.d.authorities[blob], &authority{line, nil})
	}
}

func (b *builder) roles(path, role string, roles map[string]string) {
	if role != "" && !validRoleARN(role) {
		b.find(path+".role", "%q is not the ARN of an IAM role", clip(role))
	}
	for _, account := range slices.Sorted(maps.Keys(roles)) {
		if !validRoleARN(roles[account]) {
			b.find(path+".roles."+account, "%q is not the ARN of an IAM role", clip(roles[account]))
		}
	}
}

// tags checks what STS would refuse at the first login otherwise (STS API reference, AssumeRole, Tags).
func (b *builder) tags(path string, tags map[string]string) {
	seen := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		at, value := path+".tags."+key, tags[key]
		switch {
		case key == "" || len([]rune(key)) > 128 || len([]rune(value)) > 256 || !tagPattern.MatchString(key) || !tagPattern.MatchString(value):
			b.find(at, "not a session tag: keys have 1 to 128 characters, values up to 256, of letters, digits, blanks and _.:/=+-@")
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			b.find(at, "tag keys beginning with aws: are AWS's own")
		case seen[strings.ToLower(key)]:
			b.find(at, "STS takes tag keys for equal that differ in case only")
		}
		seen[strings.ToLower(key)] = true
	}
}

// hasFold looks a tag key up as STS compares them.
func hasFold(tags map[string]string, key string) bool {
	for k := range tags {
		if strings.EqualFold(k, key) {
			return true
		}
	}
	return false
}
