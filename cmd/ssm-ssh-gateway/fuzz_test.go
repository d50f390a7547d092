package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzPluginArguments reads what the AWS command line hands to its plugin: no text makes it fail in any other way than in words, and in none is the token.
func FuzzPluginArguments(f *testing.F) {
	f.Add(`{"SessionId":"me-0123456789abcdef0","StreamUrl":"wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/me?role=publish_subscribe","TokenValue":"AAEAAf"}`,
		`{"Target": "i-0123456789abcdef0", "DocumentName": "AWS-StartSSHSession", "Parameters": {"portNumber": ["22"]}}`)
	f.Add(`{"TokenValue": 5}`, ``)
	f.Add(`null`, `null`)
	f.Add(`{"SessionId":"a","StreamUrl":"b","TokenValue":"\ud800"}`, `{"Target":["i-0"]}`)
	f.Add(`no JSON`, `{`)
	f.Fuzz(func(t *testing.T, response, request string) {
		call := readPluginArgs([]string{"{}", "eu-west-1", startOperation, "", request, "http://127.0.0.1"})
		call.response = response // not through the arguments, where it may be the name of a variable
		started, err := call.started()
		if token := started.Token.Reveal(); len(token) > 8 && (err != nil && strings.Contains(err.Error(), token) || strings.Contains(fmt.Sprintf("%v %+v", started, started), token) &&
			!strings.Contains(started.SessionID+started.StreamURL+started.Target+started.Region+"Target Region SessionID StreamURL Token[redacted]", token)) {
			t.Errorf("the token can be read: %v, %+v", err, started)
		}
	})
}

// FuzzConfig decodes and checks a configuration. Whatever is wrong with it is a finding, at a place within the text.
func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.bad.toml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(files, filepath.Join("..", "..", "config.example.toml")) {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("person = [{ name = 'a', keys = [ 1 ] }]\n[[person]]\n")
	f.Add("limits.max_startups = '1:2:3'\naws = { max_queue = '-1s' }")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, findings := decodeConfig("fuzz.toml", []byte(text))
		if cfg != nil {
			findings = append(findings, checkValues(cfg)...)
		}
		lines := strings.Count(text, "\n") + 1
		for _, found := range findings {
			if found.Line < 0 || found.Line > lines || found.Message == "" || !strings.HasPrefix(found.String(), "fuzz.toml:") {
				t.Errorf("%q in a text of %d lines", found, lines)
			}
		}
	})
}

// FuzzArguments reads the small languages of the command line: what is accepted is complete, and an address to listen on is one.
func FuzzArguments(f *testing.F) {
	for _, text := range []string{
		"ec2-user@i-0123456789abcdef0:22", "web-1", "a@b@c:65535", "[fd00::1]:22", "x:0", "command=echo a=b", "=", "8080:localhost:80",
		"*:5432:db.internal:5432", "/tmp/a.sock:[::1]:80", "127.0.0.1:0:127.0.0.2:1", "[::1]:5432:[fd00::1]:80", "1:[:1", "::::",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var target connectOptions
		if err := target.parse(text); err == nil && (target.target == "" || target.port < 1 || target.port > 65535) {
			t.Errorf("%q leads to %q port %d", text, target.target, target.port)
		}
		if parameters, err := parseParameters([]string{text}); err == nil {
			for name, values := range parameters {
				if name == "" || name+"="+values[0] != text {
					t.Errorf("%q became %q and %q", text, name, values)
				}
			}
		}
		spec, err := parseForward(text)
		if err != nil || spec.network != "tcp" {
			return
		}
		_, port, err := net.SplitHostPort(spec.address)
		if err != nil {
			t.Fatalf("%q listens on %q: %v", text, spec.address, err)
		}
		if _, err := parsePort(port, 0); err != nil || spec.port < 1 || spec.port > 65535 {
			t.Errorf("%q leads from %q to port %d", text, port, spec.port)
		}
	})
}
