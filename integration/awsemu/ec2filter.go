package awsemu

import (
	"fmt"
	"slices"
	"strings"
)

// filter is one filter of DescribeInstances: any of its values, with * and ? (EC2 user guide, "Filter your resources").
type filter struct {
	name   string
	values []string
}

const maxFilters = 50

// filterFields are the filters on plain attributes.
var filterFields = map[string]func(*instance) string{
	"instance-id":         func(i *instance) string { return i.ID },
	"instance-state-name": func(i *instance) string { return string(i.State) },
	"instance-state-code": func(i *instance) string { return fmt.Sprint(i.State.code()) },
	"private-ip-address":  func(i *instance) string { return i.PrivateIP },
	"private-dns-name":    func(i *instance) string { return i.PrivateDNS },
	"ip-address":          func(i *instance) string { return i.PublicIP },
	"availability-zone":   func(i *instance) string { return i.Zone },
	"platform-details":    func(i *instance) string { return i.Platform },
	"owner-id":            func(i *instance) string { return i.account },
}

func readFilters(c *call) ([]filter, error) {
	var filters []filter
	for n := 1; ; n++ {
		name := c.form.Get(fmt.Sprintf("Filter.%d.Name", n))
		if name == "" {
			return filters, nil
		}
		f := filter{name: name, values: formList(c, fmt.Sprintf("Filter.%d.Value", n))}
		known := filterFields[name] != nil || strings.HasPrefix(name, "tag:") || name == "tag-key" || name == "tag-value"
		if !known || n > maxFilters {
			return nil, badRequest("InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		c.note("Filter."+name, strings.Join(f.values, ","))
		filters = append(filters, f)
	}
}

// passes joins the filters with AND.
func (i *instance) passes(filters []filter) bool {
	return !slices.ContainsFunc(filters, func(f filter) bool { return !f.matches(i) })
}

func (f filter) matches(i *instance) bool {
	switch {
	case strings.HasPrefix(f.name, "tag:"):
		value, ok := i.Tags[strings.TrimPrefix(f.name, "tag:")]
		return ok && f.any(value)
	case f.name == "tag-key":
		for key := range i.Tags {
			if f.any(key) {
				return true
			}
		}
		return false
	case f.name == "tag-value":
		for _, value := range i.Tags {
			if f.any(value) {
				return true
			}
		}
		return false
	default:
		return f.any(filterFields[f.name](i))
	}
}

func (f filter) any(value string) bool {
	return slices.ContainsFunc(f.values, func(pattern string) bool { return wildcard(pattern, value) })
}
