package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// fileConfig is the configuration file. Every key is documented in config.example.toml, which a test compares with this struct.
// Paths are relative to the directory of the file.
type fileConfig struct {
	Listen     []string `toml:"listen"`
	StateDir   string   `toml:"state_dir"`
	HostKeys   []string `toml:"host_keys"`
	HostCAKey  string   `toml:"host_ca_key"`
	UserCAKey  string   `toml:"user_ca_key"`
	AuditLog   string   `toml:"audit_log"`
	LogFormat  string   `toml:"log_format"`
	LogLevel   string   `toml:"log_level"`
	Policies   []string `toml:"policies"`
	Revoked    []string `toml:"revoked_keys"`
	Ciphers    []string `toml:"ciphers"`
	SSHPorts   []int    `toml:"ssh_ports"`
	PublicName string   `toml:"public_name"`
	OSUser     string   `toml:"passthrough_os_user"`

	MetricsListen string `toml:"metrics_listen"`
	MetricsPublic bool   `toml:"metrics_public"`

	AWS      awsConfig         `toml:"aws"`
	Session  sessionConfig     `toml:"session"`
	Targets  targetsConfig     `toml:"targets"`
	Limits   limitsConfig      `toml:"limits"`
	Accounts []accountConfig   `toml:"account"`
	People   []personConfig    `toml:"person"`
	Groups   []groupConfig     `toml:"group"`
	UserCAs  []userCAConfig    `toml:"user_ca"`
	Aliases  map[string]string `toml:"aliases"`
}

// awsConfig is how AWS is reached. Credentials come from the SDK's default chain: environment, profile, SSO, container or instance role.
type awsConfig struct {
	Profile     string   `toml:"profile"`
	Region      string   `toml:"region"`
	Regions     []string `toml:"regions"`
	AmbientRole bool     `toml:"ambient_credentials"`
	WholeRole   bool     `toml:"whole_role"`
	StartRate   float64  `toml:"start_sessions_per_second"`
	StartBurst  int      `toml:"start_sessions_burst"`
	PushRate    float64  `toml:"push_keys_per_second"`
	PushBurst   int      `toml:"push_keys_burst"`
	MaxQueue    duration `toml:"max_queue"`
	DNSTXT      bool     `toml:"dns_txt"`
	FIPS        bool     `toml:"fips"`
	DualStack   bool     `toml:"dual_stack"`
}

// sessionConfig tunes the Session Manager data channel.
type sessionConfig struct {
	MaxPayload  int      `toml:"max_payload"`
	Discover    int      `toml:"discover_payload"`
	MessageRate int      `toml:"message_rate"`
	ResumeFor   duration `toml:"resume_for"`
	// ProgressAfter is the gateway's own default when zero.
	ProgressAfter duration `toml:"progress_after"`
	// KeepWarm has a default that is not zero, and a zero that means something.
	KeepWarm *duration `toml:"keep_warm"`
	// EarlyAnswers are given unless said otherwise.
	EarlyAnswers *bool `toml:"sftp_early_answers"`
}

// Bounds of session.keep_warm.
const (
	defaultKeepWarm = time.Minute
	longestKeepWarm = 15 * time.Minute
)

func (s sessionConfig) keepWarm() time.Duration {
	if s.KeepWarm == nil {
		return defaultKeepWarm
	}
	return s.KeepWarm.Duration
}

// noEarlyAnswers reports whether they were said otherwise.
func (s sessionConfig) noEarlyAnswers() bool { return s.EarlyAnswers != nil && !*s.EarlyAnswers }

// targetsConfig is how the instances' own host keys are believed, and how to log in where Instance Connect does not lead in.
type targetsConfig struct {
	HostKeys       string   `toml:"host_keys"`
	TrustedHostCA  []string `toml:"trusted_host_ca"`
	ForwardedAgent bool     `toml:"forwarded_agent"`
	SessionShell   bool     `toml:"session_manager_shell"`
	SessionUser    string   `toml:"session_manager_user"`
}

// limitsConfig is every limit a site may want to move. A zero or missing value means the default.
type limitsConfig struct {
	MaxStartups            startups `toml:"max_startups"`
	MaxStartupsPerSource   int      `toml:"max_startups_per_source"`
	MaxConnections         int      `toml:"max_connections"`
	MaxPerPerson           int      `toml:"max_connections_per_person"`
	MaxMachines            int      `toml:"max_machines_per_connection"`
	MaxChannels            int      `toml:"max_channels_per_connection"`
	MaxLanes               int      `toml:"max_lanes_per_connection"`
	MaxLanesPerFile        int      `toml:"max_lanes_per_file"`
	MaxLanesPerPerson      int      `toml:"max_lanes_per_person"`
	MaxLanesPerMachine     int      `toml:"max_lanes_per_machine"`
	MaxWarm                int      `toml:"max_warm_sessions"`
	LaneIdle               duration `toml:"lane_idle"`
	AuthTries              int      `toml:"auth_tries"`
	LoginGrace             duration `toml:"login_grace"`
	ConnectTimeout         duration `toml:"connect_timeout"`
	Keepalive              duration `toml:"keepalive"`
	KeepaliveCount         int      `toml:"keepalive_count"`
	DrainTimeout           duration `toml:"drain_timeout"`
	MaxCertificateValidity duration `toml:"max_certificate_validity"`
	CutExpired             bool     `toml:"cut_expired"`
}

// accountConfig is one AWS account whose machines can be reached.
type accountConfig struct {
	Alias         string   `toml:"alias"`
	ID            string   `toml:"id"`
	Regions       []string `toml:"regions"`
	InventoryRole string   `toml:"inventory_role"`
	ExternalID    string   `toml:"external_id"`
	SSHDocument   string   `toml:"ssh_document"`
	PortDocument  string   `toml:"port_document"`
	PortParameter string   `toml:"port_parameter"`
	SSHFixedPort  bool     `toml:"ssh_fixed_port"`
	Profile       string   `toml:"profile"`
}

// personConfig is somebody who may log in.
type personConfig struct {
	Name       string            `toml:"name"`
	Keys       []string          `toml:"keys"`
	KeysFile   string            `toml:"keys_file"`
	Principals []string          `toml:"principals"`
	Groups     []string          `toml:"groups"`
	Role       string            `toml:"role"`
	Roles      map[string]string `toml:"roles"`
	Tags       map[string]string `toml:"tags"`
}

// groupConfig gives its members a role and tags.
type groupConfig struct {
	Name  string            `toml:"name"`
	Role  string            `toml:"role"`
	Roles map[string]string `toml:"roles"`
	Tags  map[string]string `toml:"tags"`
}

// userCAConfig is an authority whose user certificates are believed, one authorized_keys line each, options allowed.
type userCAConfig struct {
	Key     string `toml:"key"`
	KeyFile string `toml:"key_file"`
}

// duration is a time.Duration written as Go writes it: "30s", "1h30m".
type duration struct{ time.Duration }

// UnmarshalText reads a duration; negative ones are refused.
func (d *duration) UnmarshalText(text []byte) error {
	value, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration; write it like 30s, 5m or 1h30m", text)
	}
	if value < 0 {
		return fmt.Errorf("%q is negative", text)
	}
	d.Duration = value
	return nil
}

// startups is sshd's MaxStartups: begin:rate:full.
type startups struct{ Begin, Rate, Full int }

// UnmarshalText reads begin:rate:full, as sshd_config(5) has it.
func (s *startups) UnmarshalText(text []byte) error {
	if _, err := fmt.Sscanf(string(text), "%d:%d:%d", &s.Begin, &s.Rate, &s.Full); err != nil ||
		s.Begin < 1 || s.Rate < 1 || s.Rate > 100 || s.Full < s.Begin {
		return fmt.Errorf("%q is not begin:rate:full, such as 64:30:256", text)
	}
	return nil
}

// loadedConfig is a decoded file with what is needed to point at its parts.
type loadedConfig struct {
	fileConfig
	path      string
	positions positions
}

// loadConfig reads and decodes path. All that is wrong with its syntax and keys comes back at once, as findings.
func loadConfig(path string) (*loadedConfig, []finding) {
	text, err := readTrusted(path)
	if err != nil {
		return nil, []finding{{File: path, Message: err.Error()}}
	}
	return decodeConfig(path, text)
}

// decodeConfig decodes the text of a file.
func decodeConfig(path string, text []byte) (*loadedConfig, []finding) {
	cfg := &loadedConfig{path: path, positions: locate(text)}
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&cfg.fileConfig); err != nil {
		return nil, decodeFindings(path, err)
	}
	return cfg, nil
}

// decodeFindings spells out what go-toml found: every unknown key, or the first wrong value.
func decodeFindings(path string, err error) []finding {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		findings := make([]finding, 0, len(unknown.Errors))
		for i := range unknown.Errors {
			e := &unknown.Errors[i]
			line, col := e.Position()
			findings = append(findings, finding{File: path, Line: line, Col: col, Message: fmt.Sprintf("unknown key %q", keyPath(e.Key()))})
		}
		return findings
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, col := wrong.Position()
		return []finding{{File: path, Line: line, Col: col, Message: inTOMLWords(trimTOML(wrong.Error()))}}
	}
	return []finding{{File: path, Message: trimTOML(err.Error())}}
}

// resolve makes a path of the file relative to the file's directory.
func (c *loadedConfig) resolve(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(c.path), name)
}

// stateFile names a file that the program keeps for itself.
func (c *loadedConfig) stateFile(name string) string {
	return filepath.Join(c.resolve(c.StateDir), name)
}

// at makes a finding that points at a key path such as person[2].keys[0].
func (c *loadedConfig) at(path, format string, args ...any) finding {
	where := c.positions.find(path)
	return finding{File: c.path, Line: where.Line, Col: where.Column, Path: path, Message: fmt.Sprintf(format, args...)}
}
