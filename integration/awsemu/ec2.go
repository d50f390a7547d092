package awsemu

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Paging limits of DescribeInstances (EC2 API reference).
const (
	minPage  = 5
	maxPage  = 1000
	pageMark = "emulator-page-" // begins a NextToken
)

type describeInstancesResponse struct {
	XMLName      xml.Name         `xml:"http://ec2.amazonaws.com/doc/2016-11-15/ DescribeInstancesResponse"`
	RequestID    string           `xml:"requestId"`
	Reservations []ec2Reservation `xml:"reservationSet>item"`
	NextToken    string           `xml:"nextToken,omitempty"`
}

type ec2Reservation struct {
	ID        string        `xml:"reservationId"`
	OwnerID   string        `xml:"ownerId"`
	Instances []ec2Instance `xml:"instancesSet>item"`
}

type ec2Instance struct {
	ID              string    `xml:"instanceId"`
	StateCode       int       `xml:"instanceState>code"`
	StateName       string    `xml:"instanceState>name"`
	PrivateDNS      string    `xml:"privateDnsName"`
	LaunchTime      time.Time `xml:"launchTime"`
	Zone            string    `xml:"placement>availabilityZone"`
	Tenancy         string    `xml:"placement>tenancy"`
	Platform        string    `xml:"platform,omitempty"` // windows, or absent
	PlatformDetails string    `xml:"platformDetails"`
	PrivateIP       string    `xml:"privateIpAddress,omitempty"`
	PublicIP        string    `xml:"ipAddress,omitempty"`
	InstanceType    string    `xml:"instanceType"`
	Architecture    string    `xml:"architecture"`
	Hypervisor      string    `xml:"hypervisor"`
	RootDeviceType  string    `xml:"rootDeviceType"`
	Virtualization  string    `xml:"virtualizationType"`
	Tags            []ec2Tag  `xml:"tagSet>item"`
}

type ec2Tag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

func (s *Server) describeInstances(c *call) (any, error) {
	ids := formList(c, "InstanceId")
	c.note("InstanceId", strings.Join(ids, ","))
	if err := s.authorize(c.who, c.iamAction(), resource{arn: "*"}); err != nil {
		return nil, err
	}
	filters, err := readFilters(c)
	if err != nil {
		return nil, err
	}
	offset, size, err := readPage(c, ids)
	if err != nil {
		return nil, err
	}
	all := s.instancesOf(c.who.account, c.region)
	if err := checkIDs(all, ids); err != nil {
		return nil, err
	}
	var found []*instance
	for _, i := range all {
		if (len(ids) == 0 || slices.Contains(ids, i.ID)) && i.passes(filters) {
			found = append(found, i)
		}
	}
	response := &describeInstancesResponse{RequestID: c.id}
	end := min(offset+size, len(found))
	for _, i := range found[min(offset, end):end] {
		response.Reservations = append(response.Reservations, i.reservation())
	}
	if end < len(found) {
		response.NextToken = pageMark + strconv.Itoa(end)
	}
	return response, nil
}

// checkIDs refuses a call that names a machine which does not exist, as EC2 does for the whole call.
func checkIDs(all []*instance, ids []string) error {
	var missing []string
	for _, id := range ids {
		if !instancePattern.MatchString(id) {
			return badRequest("InvalidInstanceID.Malformed", "Invalid id: \"%s\"", id)
		}
		if !slices.ContainsFunc(all, func(i *instance) bool { return i.ID == id }) {
			missing = append(missing, id)
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return badRequest("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", missing[0])
	default:
		return badRequest("InvalidInstanceID.NotFound", "The instance IDs '%s' do not exist", strings.Join(missing, ", "))
	}
}

func readPage(c *call, ids []string) (offset, size int, err error) {
	size = maxPage
	if text := c.form.Get("MaxResults"); text != "" {
		if len(ids) > 0 {
			return 0, 0, badRequest("InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults")
		}
		size, err = strconv.Atoi(text)
		if err != nil || size < minPage || size > maxPage {
			return 0, 0, badRequest("InvalidParameterValue", "Value ( %s ) for parameter maxResults is invalid. Expecting a value between %d and %d.",
				text, minPage, maxPage)
		}
	}
	if text := c.form.Get("NextToken"); text != "" {
		number, ok := strings.CutPrefix(text, pageMark)
		if offset, err = strconv.Atoi(number); !ok || err != nil || offset < 0 {
			return 0, 0, badRequest("InvalidNextToken", "The token '%s' is invalid", text)
		}
	}
	return offset, size, nil
}

func (i *instance) reservation() ec2Reservation {
	out := ec2Instance{
		ID: i.ID, StateCode: i.State.code(), StateName: string(i.State), PrivateDNS: i.PrivateDNS, LaunchTime: i.LaunchTime.UTC().Truncate(time.Second),
		Zone: i.Zone, Tenancy: "default", PlatformDetails: i.Platform, PrivateIP: i.PrivateIP, PublicIP: i.PublicIP,
		InstanceType: "t3.micro", Architecture: "x86_64", Hypervisor: "xen", RootDeviceType: "ebs", Virtualization: "hvm",
	}
	if strings.Contains(i.Platform, "Windows") {
		out.Platform = "windows"
	}
	for _, k := range slices.Sorted(maps.Keys(i.Tags)) {
		out.Tags = append(out.Tags, ec2Tag{Key: k, Value: i.Tags[k]})
	}
	return ec2Reservation{ID: "r-" + strings.TrimPrefix(i.ID, "i-"), OwnerID: i.account, Instances: []ec2Instance{out}}
}

// formList reads Name.1, Name.2, ….
func formList(c *call, name string) []string {
	var list []string
	for n := 1; ; n++ {
		key := fmt.Sprintf("%s.%d", name, n)
		if !c.form.Has(key) {
			return list
		}
		list = append(list, c.form.Get(key))
	}
}

type consoleOutputResponse struct {
	XMLName   xml.Name   `xml:"http://ec2.amazonaws.com/doc/2016-11-15/ GetConsoleOutputResponse"`
	RequestID string     `xml:"requestId"`
	ID        string     `xml:"instanceId"`
	Timestamp *time.Time `xml:"timestamp"`
	Output    string     `xml:"output,omitempty"`
}

func (s *Server) getConsoleOutput(c *call) (any, error) {
	id := c.form.Get("InstanceId")
	c.note("InstanceId", id)
	t, _ := s.target(c.who.account, c.region, id)
	if err := s.authorize(c.who, c.iamAction(), tagged(t.arn, t.tags, "ec2:ResourceTag/", "aws:ResourceTag/")); err != nil {
		return nil, err
	}
	all := s.instancesOf(c.who.account, c.region)
	if err := checkIDs(all, []string{id}); err != nil {
		return nil, err
	}
	response := &consoleOutputResponse{RequestID: c.id, ID: id}
	for _, i := range all {
		if i.ID == id && i.Console != "" {
			at := i.LaunchTime.UTC().Truncate(time.Second)
			response.Timestamp, response.Output = &at, base64.StdEncoding.EncodeToString([]byte(i.Console))
		}
	}
	return response, nil
}

type describeRegionsResponse struct {
	XMLName   xml.Name    `xml:"http://ec2.amazonaws.com/doc/2016-11-15/ DescribeRegionsResponse"`
	RequestID string      `xml:"requestId"`
	Regions   []ec2Region `xml:"regionInfo>item"`
}

type ec2Region struct {
	Name     string `xml:"regionName"`
	Endpoint string `xml:"regionEndpoint"`
	OptIn    string `xml:"optInStatus"`
}

// describeRegions gives the regions in which the account has something, which is all the regions there are.
func (s *Server) describeRegions(c *call) (any, error) {
	if err := s.authorize(c.who, c.iamAction(), resource{arn: "*"}); err != nil {
		return nil, err
	}
	names := map[string]bool{c.region: true}
	s.mu.Lock()
	for _, i := range s.instances {
		if i.account == c.who.account {
			names[i.Region] = true
		}
	}
	for _, n := range s.nodes {
		if n.account == c.who.account {
			names[n.Region] = true
		}
	}
	s.mu.Unlock()
	response := &describeRegionsResponse{RequestID: c.id}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		response.Regions = append(response.Regions, ec2Region{Name: name, Endpoint: "ec2." + name + ".amazonaws.com", OptIn: "opt-in-not-required"})
	}
	return response, nil
}
