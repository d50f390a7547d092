package awsemu

import (
	"slices"
	"strings"
)

// operators are the condition operators that are understood, without the suffix IfExists and the prefixes ForAllValues: and ForAnyValue:.
// Each compares one value of the request with one of the policy; the negated ones are listed in negated.
var operators = map[string]func(have, want string) bool{
	"StringEquals":              func(have, want string) bool { return have == want },
	"StringNotEquals":           func(have, want string) bool { return have == want },
	"StringEqualsIgnoreCase":    strings.EqualFold,
	"StringNotEqualsIgnoreCase": strings.EqualFold,
	"StringLike":                func(have, want string) bool { return wildcard(want, have) },
	"StringNotLike":             func(have, want string) bool { return wildcard(want, have) },
	"ArnEquals":                 func(have, want string) bool { return wildcard(want, have) },
	"ArnLike":                   func(have, want string) bool { return wildcard(want, have) },
	"ArnNotLike":                func(have, want string) bool { return wildcard(want, have) },
	"Bool":                      strings.EqualFold,
	"Null":                      strings.EqualFold,
}

func baseOperator(operator string) string {
	operator = strings.TrimPrefix(strings.TrimPrefix(operator, "ForAllValues:"), "ForAnyValue:")
	return strings.TrimSuffix(operator, "IfExists")
}

// conditionsHold joins all operators and all keys with AND, the values of one key with OR (IAM user guide, "Condition operators").
func (s *Statement) conditionsHold(context map[string][]string) bool {
	for operator, keys := range s.Condition {
		for key, want := range keys {
			expanded := make([]string, len(want))
			for i, w := range want {
				expanded[i] = expand(w, context)
			}
			have, present := context[strings.ToLower(key)]
			if !holds(operator, have, present, expanded) {
				return false
			}
		}
	}
	return true
}

func holds(operator string, have []string, present bool, want []string) bool {
	base := baseOperator(operator)
	if base == "Null" {
		return slices.Contains(want, map[bool]string{true: "false", false: "true"}[present])
	}
	negated := strings.Contains(base, "Not")
	all := strings.HasPrefix(operator, "ForAllValues:")
	if !present {
		return all || negated || strings.HasSuffix(operator, "IfExists")
	}
	matches := func(value string) bool {
		return negated != slices.ContainsFunc(want, func(w string) bool { return operators[base](value, w) })
	}
	if all {
		return !slices.ContainsFunc(have, func(v string) bool { return !matches(v) })
	}
	return slices.ContainsFunc(have, matches)
}

// expand replaces policy variables such as ${aws:PrincipalTag/team}. A variable without value leaves the text as it is, which matches nothing.
func expand(pattern string, context map[string][]string) string {
	for rest := 0; ; {
		start := strings.Index(pattern[rest:], "${")
		if start < 0 {
			return pattern
		}
		start += rest
		end := strings.IndexByte(pattern[start:], '}')
		if end < 0 {
			return pattern
		}
		end += start
		values := context[strings.ToLower(pattern[start+2:end])]
		if len(values) == 0 {
			rest = end
			continue
		}
		pattern = pattern[:start] + values[0] + pattern[end+1:]
		rest = start + len(values[0])
	}
}
