package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Session types, which name the plugin that runs them.
const (
	typeShell          = "Standard_Stream"
	typePort           = "Port"
	typeInteractive    = "InteractiveCommands"
	typeNonInteractive = "NonInteractiveCommands"

	localPortForwarding = "LocalPortForwarding"
)

// shellTask is the payload of interactive_shell, whatever the session's type (SPEC.md §13.3).
type shellTask struct {
	Content string // JSON of shellContent
	TaskID  string `json:"TaskId"`
}

type shellContent struct {
	DocumentName    string
	DocumentContent document
	SessionID       string `json:"SessionId"`
	Parameters      map[string]string
	RunAsUser       string
	SessionOwner    string
}

// document is a Session document (SPEC.md §13.3). Time limits in its inputs are the service's affair.
type document struct {
	SchemaVersion string          `json:"schemaVersion"`
	SessionType   string          `json:"sessionType"`
	Inputs        json.RawMessage `json:"inputs"`
	Parameters    map[string]struct {
		Default        string `json:"default"`
		AllowedPattern string `json:"allowedPattern"`
	} `json:"parameters"`
	Properties json.RawMessage `json:"properties"`
}

type inputs struct {
	KMSKeyID     string `json:"kmsKeyId"`
	ShellProfile struct {
		Linux string `json:"linux"`
	} `json:"shellProfile"`
}

// sessionStart is what a session is to do.
type sessionStart struct {
	id         string
	kind       string
	inputs     inputs
	properties json.RawMessage
}

// announced is what the handshake tells the client about the session.
func (s *sessionStart) announced() json.RawMessage {
	if s.kind != typePort || len(s.properties) == 0 {
		return json.RawMessage("null")
	}
	return s.properties
}

var errNoSessionID = errors.New("no session id")

// parseStart reads the payload of interactive_shell: defaults, patterns, then "{{ name }}" replaced in properties and inputs.
// The id is returned also when the rest cannot be used.
func parseStart(payload []byte) (sessionStart, error) {
	var task shellTask
	if err := json.Unmarshal(payload, &task); err != nil {
		return sessionStart{}, fmt.Errorf("read task: %w", err)
	}
	var content shellContent
	if err := json.Unmarshal([]byte(task.Content), &content); err != nil {
		return sessionStart{}, fmt.Errorf("read task content: %w", err)
	}
	start := sessionStart{id: content.SessionID, kind: content.DocumentContent.SessionType}
	if start.id == "" {
		return start, errNoSessionID
	}
	doc := content.DocumentContent
	if doc.SchemaVersion != schemaVersion {
		return start, fmt.Errorf("document with unsupported schema version %q", doc.SchemaVersion)
	}
	values, err := doc.values(content.Parameters)
	if err != nil {
		return start, err
	}
	start.properties = substitute(doc.Properties, values)
	if raw := substitute(doc.Inputs, values); len(raw) > 0 {
		if err := json.Unmarshal(raw, &start.inputs); err != nil {
			return start, fmt.Errorf("read inputs: %w", err)
		}
	}
	return start, nil
}

// values are the parameters with defaults filled in. A pattern need only match somewhere, as in the real agent.
func (d *document) values(given map[string]string) (map[string]string, error) {
	values := map[string]string{}
	for name, parameter := range d.Parameters {
		value, ok := given[name]
		if !ok {
			value = parameter.Default
		}
		if parameter.AllowedPattern != "" {
			pattern, err := regexp.Compile(parameter.AllowedPattern)
			if err != nil {
				return nil, fmt.Errorf("parameter %s: %w", name, err)
			}
			if !pattern.MatchString(value) {
				return nil, fmt.Errorf("parameter %s does not match %s", name, parameter.AllowedPattern)
			}
		}
		values[name] = value
	}
	return values, nil
}

var reference = regexp.MustCompile(`\{\{\s*([A-Za-z0-9_.-]+)\s*\}\}`)

// substitute replaces references inside the strings of a JSON text; a value with quotes stays inside its string.
func substitute(raw json.RawMessage, values map[string]string) json.RawMessage {
	return reference.ReplaceAllFunc(raw, func(found []byte) []byte {
		value, ok := values[string(reference.FindSubmatch(found)[1])]
		if !ok {
			return found
		}
		text, err := json.Marshal(value)
		if err != nil {
			return found
		}
		return text[1 : len(text)-1] // without its quotes
	})
}

// portProperties are the properties of a Port session. AWS's documents have numbers as strings; custom ones may not.
type portProperties struct {
	Port flexibleNumber `json:"portNumber"`
	Type string         `json:"type"`
	Host string         `json:"host"`
}

type flexibleNumber int

// UnmarshalJSON accepts 22 and "22".
func (n *flexibleNumber) UnmarshalJSON(text []byte) error {
	value, err := strconv.Atoi(strings.Trim(string(text), `"`))
	if err != nil || value < 0 || value > 65535 {
		return fmt.Errorf("%s is not a port number", text)
	}
	*n = flexibleNumber(value)
	return nil
}
