package agent

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzDocument reads a session document with a parameter of any name and value, as the service hands them to the agent. A value goes where its name
// stands and cannot end the string that it stands in.
func FuzzDocument(f *testing.F) {
	f.Add(`{"schemaVersion":"1.0","sessionType":"Port","parameters":{"portNumber":{"default":"22","allowedPattern":"^[0-9]+$"}},"properties":{"portNumber":"{{ portNumber }}"}}`, "portNumber", "80")
	f.Add(`{"schemaVersion":"1.0","sessionType":"InteractiveCommands","parameters":{"command":{"type":"String"}},"properties":{"linux":{"commands":"{{ command }}"}}}`, "command", `x", "runAsElevated": true, "y": "`)
	f.Add(`{"schemaVersion":"1.0","inputs":{"kmsKeyId":"{{key}}"},"parameters":{"key":{"allowedPattern":"("}}}`, "key", "\\")
	f.Add(`{"schemaVersion":"2.2"}`, "", "")
	f.Add(`[]`, "a", "{{ a }}")
	f.Fuzz(func(t *testing.T, text, name, value string) {
		var doc map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &doc) != nil {
			return
		}
		content, err := json.Marshal(map[string]any{"SessionId": "s", "DocumentContent": doc, "Parameters": map[string]string{name: value}})
		if err != nil {
			t.Fatal(err)
		}
		payload, err := json.Marshal(map[string]string{"Content": string(content)})
		if err != nil {
			t.Fatal(err)
		}
		start, err := parseStart(payload)
		if err != nil {
			return
		}
		var before, after any
		if raw := doc["properties"]; len(raw) > 0 && json.Unmarshal(raw, &before) == nil {
			if err := json.Unmarshal(start.properties, &after); err != nil {
				t.Fatalf("%q made %s no JSON: %v", value, start.properties, err)
			}
			if had, has := strings.Count(shape(before), "["), strings.Count(shape(after), "["); had != has {
				t.Errorf("%q changed the structure of %s to %s", value, raw, start.properties)
			}
		}
	})
}

// shape is the structure of a JSON value without its strings: a bracket for each value.
func shape(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var b strings.Builder
		for _, inner := range v {
			b.WriteString(shape(inner))
		}
		return "[" + b.String() + "]"
	case []any:
		var b strings.Builder
		for _, inner := range v {
			b.WriteString(shape(inner))
		}
		return "[" + b.String() + "]"
	}
	return "[]"
}
