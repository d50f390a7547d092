package awscloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Session documents that AWS provides in every region.
const (
	defaultSSHDocument   = "AWS-StartSSHSession"
	defaultPortDocument  = "AWS-StartPortForwardingSession"
	defaultPortParameter = "portNumber"
)

// Bounds of ours.
const (
	resolveCacheSize = 4096
	maxPlaces        = 512 // accounts × regions that one bare name may be looked for in
)

// Config says which accounts there are and how hard to ask. The zero Config is the ambient account: the SDK's default chain (environment, profile,
// SSO, web identity, container, instance metadata) and its region.
type Config struct {
	// Region overrides the region of the environment or profile.
	Region string
	// Regions are searched in the ambient account, when Accounts is empty. Empty means Region.
	Regions []string
	// Profile names a profile of the shared configuration files. Empty means AWS_PROFILE or "default".
	Profile string
	// Accounts are searched for machines. Empty means the ambient account.
	Accounts []Account
	// Aliases map a name (no suffixes, any case) to a target as a person could type it. An alias does not lead to another alias.
	Aliases map[string]string

	// LookupTXT asks DNS for the machine that a host name means, where no account knows the name: net.Resolver.LookupTXT, called with an absolute name. Who
	// writes the records decides which of their machines people reach by such a name. nil: DNS is not asked.
	LookupTXT func(ctx context.Context, name string) ([]string, error)

	// UseFIPS asks for FIPS endpoints, also for the data channel. AWS_USE_FIPS_ENDPOINT does the same.
	UseFIPS bool
	// UseDualStack asks for endpoints that speak IPv6 too.
	UseDualStack bool

	// SSMEndpoint replaces the URL of Systems Manager, and of nothing else. Empty means AWS's own, or what environment and profile say.
	SSMEndpoint string
	// MFACode asks a person for the code of their MFA device, for a profile with an mfa_serial. It may block; answers are used once. nil means that such
	// a profile cannot be used.
	MFACode func() (string, error)

	// WholeRole leaves out the session policy. By default each role session is narrowed to the one machine and its two documents, so that leaked credentials
	// open nothing else; the price is one AssumeRole per person and machine instead of one per person, and room in STS's packed size of tags and policy.
	WholeRole bool
	// SessionDuration of assumed roles. 0 means 1 h, which is also the most a chained role may have.
	SessionDuration time.Duration

	// StartRate limits ssm:StartSession per account and region. Zero means 5 per second, burst 20: AWS publishes no number. With N replicas give each one Nth.
	StartRate Rate
	// PushRate limits ec2-instance-connect:SendSSHPublicKey per account and region. Zero means 10 per second, burst 20.
	PushRate Rate
	// MaxQueue is how long a call may wait for its turn under these rates. 0 means 30 s. A context that ends earlier comes first.
	MaxQueue time.Duration

	// CallTimeout limits one attempt of one AWS call. 0 means 15 s.
	CallTimeout time.Duration
	// MaxAttempts limits tries when AWS throttles. 0 means 6.
	MaxAttempts int
	// ResolveTimeout limits what several may wait for together, with all attempts: a look-up of a name over all places, an AssumeRole. 0 means 20 s.
	ResolveTimeout time.Duration
	// PositiveTTL is how long a running machine is remembered. 0 means 60 s.
	PositiveTTL time.Duration
	// NegativeTTL is how long "no such machine", "several" and "not running" are remembered. 0 means 10 s.
	NegativeTTL time.Duration

	// OnWait is told when a call has to wait, with the context of the call. It must not block.
	OnWait func(context.Context, Wait)
	// OnCall is told of every finished AWS call, for metrics. It must not block.
	OnCall func(Call)
	// Logger takes what no person is told. nil means none.
	Logger *slog.Logger
	// LoadConfig replaces the SDK's default chain; for tests and embedders. profile is empty for the default.
	LoadConfig func(ctx context.Context, profile string) (aws.Config, error)
}

// Account is one AWS account with machines in it.
type Account struct {
	// Alias is what people type as a suffix, e.g. "prod". No dots. Optional.
	Alias string
	// ID is the account's number, twelve digits. Required.
	ID string
	// Regions to search. Empty means Config.Region.
	Regions []string
	// Profile is the source of credentials for this account, needed where one chain cannot serve all (another partition). Empty means Config.Profile.
	Profile string
	// InventoryRole is assumed for Describe calls. Empty means that the gateway's own credentials see this account.
	InventoryRole string
	// ExternalID is presented when assuming InventoryRole, and people's roles that bring none of their own.
	ExternalID string
	// SSHDocument opens port 22. Empty means AWS-StartSSHSession. A name, or the ARN of a shared document.
	SSHDocument string
	// PortDocument opens any other port. Empty means AWS-StartPortForwardingSession.
	PortDocument string
	// PortParameter is what both documents call the port. Empty means portNumber.
	PortParameter string
	// SSHFixedPort says that SSHDocument takes no port: it leads to sshd by itself.
	SSHFixedPort bool
}

// Rate is a token bucket.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Wait tells of a call that has to wait for its turn, or for AWS to recover from throttling.
type Wait struct {
	Action    string // e.g. ssm:StartSession
	Account   string
	Region    string
	Delay     time.Duration
	Place     int  // in the queue, 1 is next; 0 when it was AWS that throttled
	Throttled bool // AWS asked us to slow down
}

// Call is one finished AWS call, with all its attempts.
type Call struct {
	Action   string
	Account  string
	Region   string
	Reason   authz.Reason // empty: success
	Attempts int
	Took     time.Duration
}

// String hides the external id, which some companies treat as a secret.
func (a Account) String() string { return "awscloud.Account{" + a.ID + " " + a.Alias + "}" }

// GoString hides the external id from %#v.
func (a Account) GoString() string { return a.String() }

// String hides what a replaced LoadConfig and external ids could show.
func (c Config) String() string {
	return fmt.Sprintf("awscloud.Config{region %q, profile %q, %d accounts}", c.Region, c.Profile, len(c.Accounts))
}

// GoString hides the same from %#v.
func (c Config) GoString() string { return c.String() }

// LogValue hides the same from slog.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

func (c Config) withDefaults() Config {
	setDefault(&c.SessionDuration, time.Hour)
	setDefault(&c.StartRate.PerSecond, 5)
	setDefault(&c.StartRate.Burst, 20)
	setDefault(&c.PushRate.PerSecond, 10)
	setDefault(&c.PushRate.Burst, 20)
	setDefault(&c.MaxQueue, 30*time.Second)
	setDefault(&c.CallTimeout, 15*time.Second)
	setDefault(&c.MaxAttempts, 6)
	setDefault(&c.ResolveTimeout, 20*time.Second)
	setDefault(&c.PositiveTTL, time.Minute)
	setDefault(&c.NegativeTTL, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnWait == nil {
		c.OnWait = func(context.Context, Wait) {}
	}
	if c.OnCall == nil {
		c.OnCall = func(Call) {}
	}
	return c
}

func (a Account) withDefaults() Account {
	setDefault(&a.SSHDocument, defaultSSHDocument)
	setDefault(&a.PortDocument, defaultPortDocument)
	setDefault(&a.PortParameter, defaultPortParameter)
	return a
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

var (
	accountIDPattern    = regexp.MustCompile(`^[0-9]{12}$`)
	accountAliasPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)
	regionPattern       = regexp.MustCompile(`^[a-z]{2,5}(-[a-z]+)+-[0-9]{1,2}$`)
	rolePattern         = regexp.MustCompile(`^arn:aws[a-z-]*:iam::([0-9]{12}):role/[\w+=,.@/-]+$`)
	documentPattern     = regexp.MustCompile(`^[a-zA-Z0-9_\-.:/]{3,128}$`) // StartSession's own pattern
)

// check finds everything that is wrong at once, and gives the aliases in the form they are looked up in.
func (c Config) check() (map[string]string, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if d := c.SessionDuration; d < 15*time.Minute || d > 12*time.Hour {
		fault("session duration %s is outside STS's 15m to 12h", d)
	}
	for _, rate := range []Rate{c.StartRate, c.PushRate} {
		if rate.PerSecond <= 0 || rate.Burst < 1 {
			fault("rate %v per second with burst %d lets nothing through", rate.PerSecond, rate.Burst)
		}
	}
	checkRegions(fault, "the default account", c.Regions)
	if !slices.Contains(c.Regions, c.Region) {
		checkRegions(fault, "the default account", []string{c.Region})
	}
	seen := map[string]bool{}
	for _, a := range c.Accounts {
		a.check(fault, seen)
	}
	aliases := make(map[string]string, len(c.Aliases))
	for name := range c.Aliases {
		aliases[strings.ToLower(name)] = c.Aliases[name]
	}
	for name, target := range aliases {
		if _, again := aliases[strings.ToLower(target)]; again {
			fault("alias %q leads to the alias %q", name, target)
		}
		if _, err := authz.ParseTarget(target); err != nil {
			fault("alias %q: %w", name, err)
		}
	}
	return aliases, errors.Join(faults...)
}

func (a Account) check(fault func(string, ...any), seen map[string]bool) {
	if !accountIDPattern.MatchString(a.ID) {
		fault("account %q: the id is not twelve digits", a.ID)
	}
	if a.Alias != "" && !accountAliasPattern.MatchString(a.Alias) {
		fault("account %s: alias %q has characters outside A-Z a-z 0-9 _ -", a.ID, a.Alias)
	}
	for _, label := range []string{a.ID, strings.ToLower(a.Alias)} {
		if label != "" && seen[label] {
			fault("account %q is there twice", label)
		}
		seen[label] = true
	}
	if regionPattern.MatchString(a.Alias) {
		fault("account %s: alias %q reads as a region", a.ID, a.Alias)
	}
	for _, document := range []string{a.SSHDocument, a.PortDocument} {
		if document != "" && !documentPattern.MatchString(document) {
			fault("account %s: %q is not the name of a document", a.ID, document)
		}
	}
	if role := rolePattern.FindStringSubmatch(a.InventoryRole); a.InventoryRole != "" && (role == nil || role[1] != a.ID) {
		fault("account %s: inventory role %q is not the ARN of a role in that account", a.ID, a.InventoryRole)
	}
	checkRegions(fault, "account "+a.ID, a.Regions)
}

func checkRegions(fault func(string, ...any), where string, regions []string) {
	for _, region := range regions {
		if region != "" && !regionPattern.MatchString(region) {
			fault("%s: %q is not a region", where, region)
		}
	}
}
