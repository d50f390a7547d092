package awsemu

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The read-only operations of SSM.

const maxDescribe = 50 // a page of DescribeInstanceInformation, SSM API reference

// epoch is a time as the JSON services write it, in seconds.
type epoch time.Time

// MarshalJSON gives seconds with milliseconds.
func (e epoch) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(e).UnixMilli())/1000, 'f', 3, 64), nil
}

type describeSessionsRequest struct {
	State      string // Active or History
	MaxResults int
	NextToken  string
	Filters    []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
}

type ssmSession struct {
	SessionID    string `json:"SessionId"`
	Target       string
	Status       Status
	StartDate    epoch
	EndDate      *epoch `json:",omitempty"`
	DocumentName string
	Owner        string
	Reason       string `json:",omitempty"`
}

type describeSessionsResponse struct {
	Sessions  []ssmSession
	NextToken string `json:",omitempty"`
}

func (s *Server) describeSessions(c *call) (any, error) {
	var ask describeSessionsRequest
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	c.note("State", ask.State)
	if ask.State != "Active" && ask.State != "History" {
		return nil, badRequest("ValidationException", "State must be Active or History.")
	}
	if err := s.authorize(c.who, c.iamAction(), resource{arn: "*"}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	var all []*session
	for _, ses := range s.sessions {
		all = append(all, ses)
	}
	s.mu.Unlock()
	var found []ssmSession
	for _, ses := range all {
		d, over := ses.describe()
		ok, err := ask.passes(d)
		if err != nil {
			return nil, err
		}
		if ok && ses.target.account == c.who.account && ses.target.region == c.region && over == (ask.State == "History") {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b ssmSession) int {
		return cmp.Or(time.Time(b.StartDate).Compare(time.Time(a.StartDate)), strings.Compare(a.SessionID, b.SessionID))
	})
	page, next, err := paged(found, ask.MaxResults, 200, ask.NextToken)
	return describeSessionsResponse{Sessions: page, NextToken: next}, err
}

// passes joins the filters with AND. Those by time do not exist here.
func (ask *describeSessionsRequest) passes(d ssmSession) (bool, error) {
	have := map[string]string{"Target": d.Target, "Owner": d.Owner, "Status": string(d.Status), "SessionId": d.SessionID}
	for _, f := range ask.Filters {
		value, known := have[f.Key]
		if !known {
			return false, badRequest("InvalidFilterKey", "The filter key %s is not valid.", f.Key)
		}
		if value != f.Value {
			return false, nil
		}
	}
	return true, nil
}

func (ses *session) describe() (d ssmSession, over bool) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	d = ssmSession{
		SessionID: ses.id, Target: ses.target.id, Status: ses.status, StartDate: epoch(ses.start), DocumentName: ses.document.Name,
		Owner: ses.owner.arn, Reason: ses.reason,
	}
	if ses.over() {
		end := epoch(ses.end)
		d.EndDate = &end
	}
	return d, ses.over()
}

// paged cuts a list into pages. The token is the offset.
func paged[T any](all []T, size, limit int, tokenText string) (page []T, next string, err error) {
	if size <= 0 || size > limit {
		size = limit
	}
	offset := 0
	if tokenText != "" {
		number, ok := strings.CutPrefix(tokenText, pageMark)
		if offset, err = strconv.Atoi(number); !ok || err != nil || offset < 0 || offset > len(all) {
			return nil, "", badRequest("InvalidNextToken", "The specified token is not valid.")
		}
	}
	end := min(offset+size, len(all))
	if end < len(all) {
		next = pageMark + strconv.Itoa(end)
	}
	return all[offset:end], next, nil
}

type instanceInformation struct {
	InstanceID       string `json:"InstanceId"`
	PingStatus       string
	LastPingDateTime epoch
	AgentVersion     string `json:",omitempty"`
	PlatformType     string
	PlatformName     string
	ResourceType     string // EC2Instance or ManagedInstance
	Name             string `json:",omitempty"` // of managed nodes
	ComputerName     string `json:",omitempty"`
	IPAddress        string `json:",omitempty"`
	tags             map[string]string
}

type describeInformationRequest struct {
	MaxResults int
	NextToken  string
	Filters    []struct {
		Key    string
		Values []string
	}
}

type describeInformationResponse struct {
	InstanceInformationList []instanceInformation
	NextToken               string `json:",omitempty"`
}

func (s *Server) describeInstanceInformation(c *call) (any, error) {
	var ask describeInformationRequest
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	if err := s.authorize(c.who, c.iamAction(), resource{arn: "*"}); err != nil {
		return nil, err
	}
	var found []instanceInformation
	for _, info := range s.managed(c.who.account, c.region) {
		ok, err := ask.passes(&info)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, info)
		}
	}
	page, next, err := paged(found, ask.MaxResults, maxDescribe, ask.NextToken)
	return describeInformationResponse{InstanceInformationList: page, NextToken: next}, err
}

// passes joins the filters with AND. Only those that programs here use exist.
func (ask *describeInformationRequest) passes(info *instanceInformation) (bool, error) {
	for _, f := range ask.Filters {
		var have string
		switch {
		case f.Key == "InstanceIds":
			have = info.InstanceID
		case f.Key == "PingStatus":
			have = info.PingStatus
		case f.Key == "PlatformTypes":
			have = info.PlatformType
		case f.Key == "ResourceType":
			have = info.ResourceType
		case strings.HasPrefix(f.Key, "tag:"):
			have = info.tags[strings.TrimPrefix(f.Key, "tag:")]
		default:
			return false, badRequest("InvalidFilterKey", "The filter key %s is not valid.", f.Key)
		}
		if !slices.Contains(f.Values, have) {
			return false, nil
		}
	}
	return true, nil
}

// managed gives all nodes, and those instances whose agent is there.
func (s *Server) managed(account, region string) []instanceInformation {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []instanceInformation
	for id, i := range s.instances {
		if a := s.agents[id]; a != nil && i.account == account && i.Region == region {
			all = append(all, instanceInformation{
				InstanceID: id, PingStatus: "Online", AgentVersion: a.version, ResourceType: "EC2Instance",
				PlatformType: platformType(i.Platform), PlatformName: i.Platform, IPAddress: i.PrivateIP, ComputerName: i.PrivateDNS, tags: i.Tags, LastPingDateTime: epoch(s.now()),
			})
		}
	}
	for id, n := range s.nodes {
		if n.account == account && n.Region == region {
			info := instanceInformation{
				InstanceID: id, PingStatus: "ConnectionLost", PlatformType: platformType(n.Platform), PlatformName: n.Platform,
				ResourceType: "ManagedInstance", Name: n.Name, ComputerName: n.Name, IPAddress: n.IP, tags: n.Tags, LastPingDateTime: epoch(s.now()),
			}
			if a := s.agents[id]; a != nil {
				info.PingStatus, info.AgentVersion = "Online", a.version
			}
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b instanceInformation) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	return all
}

func platformType(details string) string {
	switch {
	case strings.Contains(details, "Windows"):
		return "Windows"
	case strings.Contains(details, "Mac"):
		return "MacOS"
	default:
		return "Linux"
	}
}

func (s *Server) getConnectionStatus(c *call) (any, error) {
	var ask struct{ Target string }
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	c.note("Target", ask.Target)
	t, exists := s.target(c.who.account, c.region, ask.Target)
	if err := s.authorize(c.who, c.iamAction(), tagged(t.arn, t.tags, "ssm:resourceTag/", "aws:ResourceTag/")); err != nil {
		return nil, err
	}
	status := "notconnected"
	if exists && s.AgentConnected(ask.Target) {
		status = "connected"
	}
	return map[string]string{"Target": ask.Target, "Status": status}, nil
}

func (s *Server) getDocument(c *call) (any, error) {
	var ask struct{ Name, DocumentVersion, DocumentFormat string }
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	c.note("Name", ask.Name)
	d, arn := s.document(c.who.account, c.region, ask.Name)
	if err := s.authorize(c.who, c.iamAction(), resource{arn: arn}); err != nil {
		return nil, err
	}
	if d == nil {
		return nil, badRequest("InvalidDocument", "Document with name %s does not exist.", ask.Name)
	}
	if ask.DocumentFormat != "" && ask.DocumentFormat != "JSON" {
		return nil, badRequest("ValidationException", "Document format %s is not available.", ask.DocumentFormat)
	}
	return struct {
		Name, DocumentVersion, Status, Content, DocumentType, DocumentFormat string
	}{d.Name, "1", "Active", d.Content, "Session", "JSON"}, nil
}
