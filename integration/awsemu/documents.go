package awsemu

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Document is a session document. Content is its JSON.
type Document struct {
	Name    string
	Region  string // of the account's own documents
	Content string

	parsed documentContent
}

// documentContent is what the service itself reads of a document; the agent gets the whole text.
type documentContent struct {
	SchemaVersion string                        `json:"schemaVersion"`
	SessionType   string                        `json:"sessionType"`
	Inputs        documentInputs                `json:"inputs"`
	Parameters    map[string]*documentParameter `json:"parameters"`
}

// documentInputs has the two timers that the service enforces, in minutes, as text.
type documentInputs struct {
	IdleSessionTimeout string `json:"idleSessionTimeout"`
	MaxSessionDuration string `json:"maxSessionDuration"`
}

type documentParameter struct {
	Type           string   `json:"type"`
	Default        *string  `json:"default"`
	AllowedPattern string   `json:"allowedPattern"`
	AllowedValues  []string `json:"allowedValues"`
	MinChars       *int     `json:"minChars"`
	MaxChars       *int     `json:"maxChars"`
}

const (
	defaultDocument = "SSM-SessionManagerRunShell"
	defaultIdle     = 20 * time.Minute

	portPattern     = `^([1-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`
	portZeroPattern = `^([0-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`
	// hostPattern is ours; what AWS's document has is not known.
	hostPattern = `^[^,$^&();"|<>` + "`" + `\s]{3,}$`

	portParameter      = `"portNumber":{"type":"String","description":"port of the machine","default":"%s","allowedPattern":"` + portPattern + `"}`
	localPortParameter = `"localPortNumber":{"type":"String","description":"port of the client","default":"0","allowedPattern":"` + portZeroPattern + `"}`
	commandProperties  = `{"linux":{"commands":"{{ command }}","runAsElevated":false},"windows":{"commands":"{{ command }}","runAsElevated":false},` +
		`"macos":{"commands":"{{ command }}","runAsElevated":false}}`
	commandParameter = `"command":{"type":"String","description":"command to run"}`
)

// builtinDocuments are those every account has.
var builtinDocuments = []Document{
	mustDocument(defaultDocument, `{"schemaVersion":"1.0","description":"shell","sessionType":"Standard_Stream","inputs":{"s3BucketName":"",`+
		`"s3KeyPrefix":"","s3EncryptionEnabled":true,"cloudWatchLogGroupName":"","cloudWatchEncryptionEnabled":true,"idleSessionTimeout":"20",`+
		`"maxSessionDuration":"","kmsKeyId":"","runAsEnabled":false,"runAsDefaultUser":"","shellProfile":{"windows":"","linux":""}}}`),
	mustDocument("AWS-StartSSHSession", portDocument(fmt.Sprintf(portParameter, "22"), `"portNumber":"{{ portNumber }}"`)),
	mustDocument("AWS-StartPortForwardingSession", portDocument(fmt.Sprintf(portParameter, "80")+","+localPortParameter,
		`"portNumber":"{{ portNumber }}","type":"LocalPortForwarding","localPortNumber":"{{ localPortNumber }}"`)),
	mustDocument("AWS-StartPortForwardingSessionToRemoteHost", portDocument(
		fmt.Sprintf(portParameter, "80")+","+localPortParameter+`,"host":{"type":"String","description":"host behind the machine","allowedPattern":`+
			quote(hostPattern)+`}`,
		`"portNumber":"{{ portNumber }}","type":"LocalPortForwarding","localPortNumber":"{{ localPortNumber }}","host":"{{ host }}"`)),
	mustDocument("AWS-StartInteractiveCommand", `{"schemaVersion":"1.0","description":"command on a terminal","sessionType":"InteractiveCommands",`+
		`"parameters":{`+commandParameter+`},"properties":`+commandProperties+`}`),
	mustDocument("AWS-StartNonInteractiveCommand", `{"schemaVersion":"1.0","description":"command","sessionType":"NonInteractiveCommands",`+
		`"parameters":{`+commandParameter+`},"properties":`+commandProperties+`}`),
}

func portDocument(parameters, properties string) string {
	return `{"schemaVersion":"1.0","description":"port","sessionType":"Port","parameters":{` + parameters + `},"properties":{` + properties + `}}`
}

func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // text is a constant
	}
	return string(b)
}

func mustDocument(name, content string) Document {
	d := Document{Name: name, Content: content}
	if err := d.parse(); err != nil {
		panic(err) // content is a constant
	}
	return d
}

func (d *Document) parse() error {
	if err := json.Unmarshal([]byte(d.Content), &d.parsed); err != nil {
		return fmt.Errorf("document %s: %w", d.Name, err)
	}
	if d.parsed.SchemaVersion != "1.0" {
		return fmt.Errorf("document %s: schema version is %q, not 1.0", d.Name, d.parsed.SchemaVersion)
	}
	for name, p := range d.parsed.Parameters {
		if _, err := regexp.Compile(p.AllowedPattern); err != nil {
			return fmt.Errorf("document %s: parameter %s: %w", d.Name, name, err)
		}
	}
	return nil
}

func (s *Server) addDocuments(a Account) error {
	for _, d := range a.Documents {
		if err := d.parse(); err != nil {
			return err
		}
		key := documentKey(a.ID, d.Region, d.Name)
		if d.Region == "" || s.documents[key] != nil {
			return fmt.Errorf("document %s has no region, or exists twice", d.Name)
		}
		s.documents[key] = &d
	}
	return nil
}

// documentKey indexes documents; those of AWS have neither account nor region.
func documentKey(account, region, name string) string { return account + "/" + region + "/" + name }

// document finds a document by name or ARN, the account's own before AWS's, and its ARN for policies. It is nil when there is none.
func (s *Server) document(account, region, name string) (*Document, string) {
	if i := strings.LastIndex(name, "document/"); i >= 0 {
		name = name[i+len("document/"):]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.documents[documentKey(account, region, name)]
	owner := account
	if d == nil {
		d = s.documents[documentKey("", "", name)]
		if strings.HasPrefix(name, "AWS-") {
			owner = ""
		}
	}
	return d, "arn:" + partition(region) + ":ssm:" + region + ":" + owner + ":document/" + name
}

// bind checks the given parameters against the document and adds the defaults, as the service does before it asks the agent.
func (d *Document) bind(given map[string][]string) (map[string]string, error) {
	values := map[string]string{}
	for name, list := range given {
		p := d.parsed.Parameters[name]
		if p == nil {
			return nil, badRequest("InvalidParameters", "Parameter %s is not defined in document %s.", name, d.Name)
		}
		value := strings.Join(list, ",")
		if err := p.check(name, value); err != nil {
			return nil, err
		}
		values[name] = value
	}
	for name, p := range d.parsed.Parameters {
		if _, ok := values[name]; ok {
			continue
		}
		if p.Default == nil {
			return nil, badRequest("InvalidParameters", "Parameter %s of document %s has no value and no default.", name, d.Name)
		}
		values[name] = *p.Default
	}
	return values, nil
}

func (p *documentParameter) check(name, value string) error {
	n := utf8.RuneCountInString(value)
	switch {
	case p.AllowedPattern != "" && !regexp.MustCompile(p.AllowedPattern).MatchString(value):
		return badRequest("InvalidParameters", "Parameter %s has value %s, which does not match pattern %s.", name, value, p.AllowedPattern)
	case len(p.AllowedValues) > 0 && !slices.Contains(p.AllowedValues, value):
		return badRequest("InvalidParameters", "Parameter %s has value %s, which is not among the allowed values.", name, value)
	case p.MinChars != nil && n < *p.MinChars, p.MaxChars != nil && n > *p.MaxChars:
		return badRequest("InvalidParameters", "Parameter %s is %d characters long, which is not allowed.", name, n)
	}
	return nil
}

// timers gives idle timeout and maximum duration; no maximum is zero.
func (d *Document) timers() (idle, longest time.Duration) {
	idle = minutes(d.parsed.Inputs.IdleSessionTimeout, 60)
	if idle == 0 {
		idle = defaultIdle
	}
	return idle, minutes(d.parsed.Inputs.MaxSessionDuration, 1440)
}

// minutes reads a timer of a document: 1 to limit minutes as text. Anything else counts as not set.
func minutes(text string, limit int) time.Duration {
	var n int
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil || n < 1 || n > limit {
		return 0
	}
	return time.Duration(n) * time.Minute
}
