package authz

import (
	"fmt"
	"slices"
	"time"

	cedar "github.com/cedar-policy/cedar-go"
)

// readAnnotations turns a policy's annotations into what Decide gives back. Annotations mean nothing to Cedar, so one with a slip in it would be
// silence where somebody wanted recording: every unknown name, value, and annotation on the wrong effect is a problem.
func readAnnotations(policy *cedar.Policy) (*rule, []string) {
	r := &rule{policy: policy, permit: policy.Effect() == cedar.Permit}
	var problems []string
	for key, value := range policy.Annotations() {
		if problem := r.annotate(string(key), string(value)); problem != "" {
			problems = append(problems, problem)
		}
	}
	if r.obligations.Record && r.obligations.Mode == ModePassthrough {
		problems = append(problems, `@record("required") and @mode("passthrough") exclude each other: bytes alone cannot be recorded`)
	}
	slices.Sort(problems)
	return r, problems
}

// annotate takes in one annotation and gives what is wrong with it, or "".
func (r *rule) annotate(key, value string) string {
	set, known := obligationSetters[key]
	switch {
	case key == "id":
		return ""
	case key == "message" && r.permit:
		return "@message is for forbid policies: it is told to the person who is refused"
	case key == "message":
		r.message = value
		return ""
	case !known:
		return fmt.Sprintf("unknown annotation @%s", key)
	case !r.permit:
		return fmt.Sprintf("@%s is for permit policies: a forbid has nothing to oblige", key)
	}
	return set(r, value)
}

// obligationSetters has the annotations of permits; each gives what is wrong with the value, or "".
var obligationSetters = map[string]func(r *rule, value string) string{
	"role": func(r *rule, value string) string {
		if !validRoleARN(value) {
			return fmt.Sprintf("@role %q is not the ARN of an IAM role", value)
		}
		r.obligations.Role = value
		return ""
	},
	"max_session": func(r *rule, value string) string {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Sprintf(`@max_session %q is not a duration such as "4h" or "30m"`, value)
		}
		r.obligations.MaxSession = d
		return ""
	},
	"record": func(r *rule, value string) string {
		if value != "required" {
			return fmt.Sprintf(`@record %q: the only value is "required"`, value)
		}
		r.obligations.Record = true
		return ""
	},
	"inner_auth": func(r *rule, value string) string {
		switch value {
		case "key":
			r.obligations.InnerAuth = InnerAuthKey
		case "connection":
			r.obligations.InnerAuth = InnerAuthConnection
		default:
			return fmt.Sprintf(`@inner_auth %q is neither "key" nor "connection"`, value)
		}
		return ""
	},
	"mode": func(r *rule, value string) string {
		switch value {
		case "inspected":
			r.obligations.Mode = ModeInspected
		case "passthrough":
			r.obligations.Mode = ModePassthrough
		default:
			return fmt.Sprintf(`@mode %q is neither "inspected" nor "passthrough"`, value)
		}
		return ""
	},
	"login": func(r *rule, value string) string {
		switch way := Login(value); way {
		case LoginInstanceConnect, LoginCertificate, LoginAgent:
			r.obligations.Login = way
		default:
			return fmt.Sprintf(`@login %q is neither "instance-connect" nor "certificate" nor "agent"`, value)
		}
		return ""
	},
	"sshd": func(r *rule, value string) string {
		if value != "none" {
			return fmt.Sprintf(`@sshd %q: the only value is "none"`, value)
		}
		r.obligations.NoSSHD = true
		return ""
	},
}
