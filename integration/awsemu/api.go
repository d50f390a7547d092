package awsemu

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Services, as the credential scope of a signature names them.
const (
	serviceSSM        = "ssm"
	serviceEC2        = "ec2"
	serviceEC2Connect = "ec2-instance-connect"
	serviceSTS        = "sts"
	serviceKMS        = "kms"
	serviceMessages   = "ssmmessages"
)

const maxRequestBody = 1 << 20

// jsonTargets are the prefixes of X-Amz-Target of the JSON 1.1 services.
var jsonTargets = map[string]string{
	"AmazonSSM":                    serviceSSM,
	"AWSEC2InstanceConnectService": serviceEC2Connect,
	"TrentService":                 serviceKMS,
}

// operation answers one call. The result is marshaled as the service's protocol wants it: JSON, or XML of a struct.
type operation func(*Server, *call) (any, error)

// operations is all there is. What is not in it is an unknown operation, as it would be for a misspelled name.
var operations = map[string]map[string]operation{
	serviceSTS: {"AssumeRole": (*Server).assumeRole, "GetCallerIdentity": (*Server).getCallerIdentity},
	serviceEC2: {
		"DescribeInstances": (*Server).describeInstances, "GetConsoleOutput": (*Server).getConsoleOutput, "DescribeRegions": (*Server).describeRegions,
	},
	serviceEC2Connect: {"SendSSHPublicKey": (*Server).sendSSHPublicKey},
	serviceSSM: {
		"StartSession": (*Server).startSession, "ResumeSession": (*Server).resumeSession, "TerminateSession": (*Server).terminateSession,
		"DescribeSessions": (*Server).describeSessions, "DescribeInstanceInformation": (*Server).describeInstanceInformation,
		"GetConnectionStatus": (*Server).getConnectionStatus, "GetDocument": (*Server).getDocument, "ListTagsForResource": (*Server).listTagsForResource,
		"UpdateInstanceInformation": (*Server).agentNoise, "ListInstanceAssociations": (*Server).agentNoise, "ListAssociations": (*Server).agentNoise,
	},
	serviceKMS: {"GenerateDataKey": (*Server).generateDataKey, "Decrypt": (*Server).decrypt},
}

// call is one API call of a proven principal.
type call struct {
	http    *http.Request
	id      string // request id
	service string
	action  string
	region  string
	who     *principal
	body    []byte
	form    url.Values
	params  map[string]string // for the call log
}

// iamAction is the action as policies name it.
func (c *call) iamAction() string { return c.service + ":" + c.action }

// note keeps a parameter for the call log.
func (c *call) note(name, value string) {
	if value != "" {
		c.params[name] = value
	}
}

// decode reads the JSON body.
func (c *call) decode(into any) error {
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, into); err != nil {
		return badRequest("SerializationException", "%v", err)
	}
	return nil
}

// serveAPI takes a call of any service through its stages: read, find, verify, spoil, answer, log.
func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return
	}
	c := &call{http: r, id: newUUID().String(), params: map[string]string{}}
	w.Header().Set("X-Amzn-Requestid", c.id)
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	result, err := s.answer(w, c)
	if err != nil {
		wire := wireError(c.service, err)
		s.calls.add(s.now(), c, wire.code)
		writeError(w, c.service, c.id, wire)
		return
	}
	s.calls.add(s.now(), c, "") // before the answer: who has that finds the call in the log
	if c.service == serviceEC2 || c.service == serviceSTS {
		writeXML(w, http.StatusOK, result)
	} else {
		writeJSON(w, http.StatusOK, result)
	}
}

func (s *Server) answer(w http.ResponseWriter, c *call) (any, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, c.http.Body, maxRequestBody))
	if err != nil {
		return nil, badRequest("RequestEntityTooLarge", "reading the request: %v", err)
	}
	c.body = body
	c.find()
	sig, err := parseSignature(c.http)
	if err != nil {
		return nil, err
	}
	if c.service == "" {
		c.service = sig.service
	}
	c.region = sig.region
	if c.who, err = s.verify(c.http, sig, body); err != nil {
		return nil, err
	}
	if sig.service != c.service {
		return nil, badRequest(codeBadSignature, "Credential should be scoped to correct service: '%s'.", c.service)
	}
	op := operations[c.service][c.action]
	if op == nil {
		return nil, badRequest(codeUnknownAction, "The action %s is not valid for this web service.", c.action)
	}
	if err := s.faults.spoilCall(c); err != nil {
		return nil, err
	}
	return op(s, c)
}

// find tells service and action from the request itself: the JSON services have a target, the query services differ by API version.
func (c *call) find() {
	if prefix, action, ok := strings.Cut(c.http.Header.Get("X-Amz-Target"), "."); ok {
		c.service, c.action = jsonTargets[prefix], action
		return
	}
	form, err := url.ParseQuery(string(c.body))
	if err != nil {
		return
	}
	c.form, c.action = form, form.Get("Action")
	switch form.Get("Version") {
	case "2016-11-15":
		c.service = serviceEC2
	case "2011-06-15":
		c.service = serviceSTS
	}
}

// wait stops for d, or until the caller goes away.
func (c *call) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.http.Context().Done():
	}
}

// agentNoise answers the calls that AWS's agent makes beside sessions; an empty answer suffices (SPEC.md §13.6).
func (s *Server) agentNoise(*call) (any, error) { return struct{}{}, nil }
