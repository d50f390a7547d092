package awsemu

import (
	"encoding/xml"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of AssumeRole (STS API reference, AssumeRole).
const (
	minSession        = 15 * time.Minute
	defaultSession    = time.Hour
	maxChained        = time.Hour
	maxSessionTags    = 50
	maxSessionPolicy  = 2048
	maxTemporaryCreds = 20_000
)

var (
	sessionNamePattern = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	tagPattern         = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)
)

// assumption is what AssumeRole was asked for.
type assumption struct {
	roleARN        string
	sessionName    string
	sourceIdentity string
	externalID     string
	duration       time.Duration
	tags           map[string]string
	transitive     []string
	policy         *Policy
}

type assumeRoleResponse struct {
	XMLName        xml.Name  `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleResponse"`
	AccessKeyID    string    `xml:"AssumeRoleResult>Credentials>AccessKeyId"`
	SecretKey      string    `xml:"AssumeRoleResult>Credentials>SecretAccessKey"`
	SessionToken   string    `xml:"AssumeRoleResult>Credentials>SessionToken"`
	Expiration     time.Time `xml:"AssumeRoleResult>Credentials>Expiration"`
	AssumedRoleID  string    `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
	AssumedRoleARN string    `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
	PackedPolicy   int       `xml:"AssumeRoleResult>PackedPolicySize,omitempty"`
	SourceIdentity string    `xml:"AssumeRoleResult>SourceIdentity,omitempty"`
	RequestID      string    `xml:"ResponseMetadata>RequestId"`
}

func (s *Server) assumeRole(c *call) (any, error) {
	ask, err := readAssumption(c)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	role := s.roles[ask.roleARN]
	s.mu.Unlock()
	if err := s.authorizeAssumption(c, role, ask); err != nil {
		return nil, err
	}
	if err := ask.limitDuration(c.who, role); err != nil {
		return nil, err
	}
	who := s.issue(c.who, role, ask)
	response := &assumeRoleResponse{
		AccessKeyID: who.accessKey, SecretKey: who.secret, SessionToken: who.token, Expiration: who.expires.UTC().Truncate(time.Second),
		AssumedRoleID: who.userID, AssumedRoleARN: who.arn, SourceIdentity: who.sourceIdentity, RequestID: c.id,
	}
	if ask.policy != nil || len(ask.tags) > 0 {
		response.PackedPolicy = 1 + len(c.form.Get("Policy"))*100/maxSessionPolicy
	}
	return response, nil
}

// readAssumption reads and checks the parameters.
func readAssumption(c *call) (*assumption, error) {
	ask := &assumption{
		roleARN: c.form.Get("RoleArn"), sessionName: c.form.Get("RoleSessionName"), sourceIdentity: c.form.Get("SourceIdentity"),
		externalID: c.form.Get("ExternalId"), duration: defaultSession, tags: map[string]string{},
	}
	c.note("RoleArn", ask.roleARN)
	c.note("RoleSessionName", ask.sessionName)
	c.note("SourceIdentity", ask.sourceIdentity)
	c.note("DurationSeconds", c.form.Get("DurationSeconds"))
	if !sessionNamePattern.MatchString(ask.sessionName) {
		return nil, constraint(ask.sessionName, "roleSessionName", `[\w+=,.@-]*`)
	}
	if ask.sourceIdentity != "" && (!sessionNamePattern.MatchString(ask.sourceIdentity) || strings.HasPrefix(ask.sourceIdentity, "aws:")) {
		return nil, constraint(ask.sourceIdentity, "sourceIdentity", `[\w+=,.@-]*`)
	}
	if text := c.form.Get("DurationSeconds"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || time.Duration(seconds)*time.Second < minSession {
			return nil, constraint(text, "durationSeconds", "Member must have value greater than or equal to 900")
		}
		ask.duration = time.Duration(seconds) * time.Second
	}
	if text := c.form.Get("Policy"); text != "" {
		c.note("Policy", text)
		if len(text) > maxSessionPolicy {
			return nil, badRequest("PackedPolicyTooLarge", "Packed size of session policy is too large")
		}
		policy, err := ParsePolicy(text)
		if err != nil {
			return nil, badRequest("MalformedPolicyDocument", "%v", err)
		}
		ask.policy = &policy
	}
	return ask, ask.readTags(c)
}

func (ask *assumption) readTags(c *call) error {
	for i := 1; ; i++ {
		prefix := fmt.Sprintf("Tags.member.%d.", i)
		key, value := c.form.Get(prefix+"Key"), c.form.Get(prefix+"Value")
		if key == "" {
			break
		}
		if i > maxSessionTags || len(key) > 128 || len(value) > 256 || !tagPattern.MatchString(key) || !tagPattern.MatchString(value) {
			return constraint(key, "tags", "a valid session tag")
		}
		ask.tags[key] = value
		c.note("Tag."+key, value)
	}
	for i := 1; c.form.Has(fmt.Sprintf("TransitiveTagKeys.member.%d", i)); i++ {
		ask.transitive = append(ask.transitive, c.form.Get(fmt.Sprintf("TransitiveTagKeys.member.%d", i)))
	}
	return nil
}

func constraint(value, name, rule string) error {
	return badRequest("ValidationError", "1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: %s", value, name, rule)
}

// authorizeAssumption asks the caller's policy and the role's trust for all that is asked: assuming, tagging, naming the source.
// Real IAM lets trust alone decide where it names a principal of the same account; here both have to say yes, which is what other accounts need.
func (s *Server) authorizeAssumption(c *call, role *Role, ask *assumption) error {
	on := resource{arn: ask.roleARN, context: map[string][]string{"sts:rolesessionname": {ask.sessionName}}}
	if ask.externalID != "" {
		on.context["sts:externalid"] = []string{ask.externalID}
	}
	actions := []string{"sts:AssumeRole"}
	if ask.sourceIdentity != "" {
		on.context["sts:sourceidentity"] = []string{ask.sourceIdentity}
		actions = append(actions, "sts:SetSourceIdentity")
	}
	if len(ask.tags) > 0 {
		on.context["aws:tagkeys"] = slices.Collect(maps.Keys(ask.tags))
		for k, v := range ask.tags {
			on.context["aws:requesttag/"+strings.ToLower(k)] = []string{v}
		}
		actions = append(actions, "sts:TagSession")
	}
	for _, action := range actions {
		if err := s.authorize(c.who, action, on); err != nil {
			return err
		}
		q := question{action: action, resource: on.arn, context: c.who.context()}
		maps.Copy(q.context, on.context)
		if role == nil || role.Trust.trusts(q, c.who) != allowed {
			return accessDenied(c.who, action, ask.roleARN, "because no resource-based policy allows the "+action+" action")
		}
	}
	if c.who.sourceIdentity != "" && ask.sourceIdentity != "" && ask.sourceIdentity != c.who.sourceIdentity {
		return accessDenied(c.who, "sts:SetSourceIdentity", ask.roleARN, "because the source identity of a session cannot be changed")
	}
	return nil
}

// limitDuration applies the role's limit, and the hour that chained sessions have.
func (ask *assumption) limitDuration(who *principal, role *Role) error {
	limit := role.MaxSession
	if limit == 0 {
		limit = defaultSession
	}
	if ask.duration > limit {
		return badRequest("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	if who.isSession() && ask.duration > maxChained {
		return badRequest("ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	}
	return nil
}

// issue makes the credentials of a role session. Source identity and transitive tags of the caller go on.
func (s *Server) issue(caller *principal, role *Role, ask *assumption) *principal {
	account := strings.Split(ask.roleARN, ":")[4]
	who := &principal{
		arn:     "arn:aws:sts::" + account + ":assumed-role/" + role.Name + "/" + ask.sessionName,
		account: account, roleARN: ask.roleARN, name: ask.sessionName,
		userID:         stableID("AROA", ask.roleARN) + ":" + ask.sessionName,
		sourceIdentity: ask.sourceIdentity, tags: ask.tags, session: ask.policy,
		transitive: append(slices.Clone(caller.transitive), ask.transitive...),
		credential: credential{
			accessKey: "ASIAEMULATOR" + strings.ToUpper(randomHex(8)), secret: randomSecret(), token: randomSecret() + randomSecret(),
			expires: s.now().Add(ask.duration),
		},
	}
	if who.sourceIdentity == "" {
		who.sourceIdentity = caller.sourceIdentity
	}
	for _, key := range caller.transitive {
		who.tags[key] = caller.tags[key]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetExpired()
	s.keys[who.accessKey] = who
	return who
}

// forgetExpired keeps the number of temporary credentials bounded. Expired ones stay while there is room, for a better error.
func (s *Server) forgetExpired() {
	if len(s.keys) < maxTemporaryCreds {
		return
	}
	now := s.now()
	maps.DeleteFunc(s.keys, func(_ string, p *principal) bool { return !p.expires.IsZero() && now.After(p.expires) })
	for key, p := range s.keys {
		if len(s.keys) < maxTemporaryCreds {
			break
		}
		if p.isSession() {
			delete(s.keys, key)
		}
	}
}

// Expire makes all temporary credentials of a role session name expire now. It reports how many there were.
func (s *Server) Expire(sessionName string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key, p := range s.keys {
		if p.isSession() && p.name == sessionName {
			ended := *p
			ended.expires = s.now()
			s.keys[key] = &ended
			n++
		}
	}
	return n
}

type callerIdentityResponse struct {
	XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
	ARN       string   `xml:"GetCallerIdentityResult>Arn"`
	UserID    string   `xml:"GetCallerIdentityResult>UserId"`
	Account   string   `xml:"GetCallerIdentityResult>Account"`
	RequestID string   `xml:"ResponseMetadata>RequestId"`
}

// getCallerIdentity needs no permission (STS API reference).
func (s *Server) getCallerIdentity(c *call) (any, error) {
	return &callerIdentityResponse{ARN: c.who.arn, UserID: c.who.userID, Account: c.who.account, RequestID: c.id}, nil
}
