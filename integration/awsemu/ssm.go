package awsemu

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const maxReason = 256 // characters, SSM API reference, StartSession

var documentPattern = regexp.MustCompile(`^[a-zA-Z0-9_\-.:/]{3,128}$`)

type startSessionRequest struct {
	Target       string
	DocumentName string
	Parameters   map[string][]string
	Reason       string
}

// sessionGrant is the answer of StartSession and ResumeSession. No token means that the session is over (SPEC.md §9.3).
type sessionGrant struct {
	SessionID  string `json:"SessionId"`
	StreamURL  string `json:"StreamUrl,omitempty"`
	TokenValue string `json:"TokenValue,omitempty"`
}

func (s *Server) startSession(c *call) (any, error) {
	var ask startSessionRequest
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	c.noteStart(&ask)
	if err := ask.check(); err != nil {
		return nil, err
	}
	t, exists := s.target(c.who.account, c.region, ask.Target)
	if err := s.authorizeStart(c, t, ask.DocumentName); err != nil {
		return nil, err
	}
	name := ask.DocumentName
	if name == "" {
		name = defaultDocument
	}
	d, _ := s.document(c.who.account, c.region, name)
	if d == nil {
		return nil, badRequest("InvalidDocument", "Document with name %s does not exist.", name)
	}
	values, err := d.bind(ask.Parameters)
	if err != nil {
		return nil, err
	}
	if !exists || t.state != StateRunning || s.agent(ask.Target) == nil {
		return nil, badRequest("TargetNotConnected", "%s is not connected.", ask.Target)
	}
	return s.openSession(c, t, d, values, ask.Reason)
}

// noteStart keeps for the log what CloudTrail shows.
func (c *call) noteStart(ask *startSessionRequest) {
	c.note("Target", ask.Target)
	c.note("DocumentName", ask.DocumentName)
	c.note("Reason", ask.Reason)
	for name, values := range ask.Parameters {
		c.note("Parameter."+name, strings.Join(values, ","))
	}
}

func (ask *startSessionRequest) check() error {
	switch {
	case len(ask.Target) < 1 || len(ask.Target) > 400:
		return badRequest("ValidationException", "Target must be 1 to 400 characters long.")
	case ask.DocumentName != "" && !documentPattern.MatchString(ask.DocumentName):
		return badRequest("ValidationException", "Value '%s' at 'documentName' failed to satisfy constraint: %s", ask.DocumentName, documentPattern)
	case len([]rune(ask.Reason)) > maxReason:
		return badRequest("ValidationException", "Reason must be at most %d characters long.", maxReason)
	}
	return nil
}

// authorizeStart asks for machine and document, each by itself. A caller who names no document is asked about the default one only where the policy
// checks ssm:SessionDocumentAccessCheck (Systems Manager user guide, "Start a session with a document by specifying the session documents in IAM policies").
func (s *Server) authorizeStart(c *call, t target, documentName string) error {
	const accessCheck = "ssm:SessionDocumentAccessCheck"
	machine := tagged(t.arn, t.tags, "ssm:resourceTag/", "aws:ResourceTag/")
	if documentName == "" && s.authorize(c.who, c.iamAction(), machine.with(accessCheck, "false")) == nil {
		return nil
	}
	if err := s.authorize(c.who, c.iamAction(), machine.with(accessCheck, "true")); err != nil {
		return err
	}
	if documentName == "" {
		documentName = defaultDocument
	}
	_, arn := s.document(c.who.account, c.region, documentName)
	return s.authorize(c.who, c.iamAction(), resource{arn: arn}.with(accessCheck, "true"))
}

// openSession makes the session, tells the agent, and gives the client its way in.
func (s *Server) openSession(c *call, t target, d *Document, values map[string]string, reason string) (any, error) {
	faults := s.faults.lookup("", t.id)
	c.wait(time.Duration(faults.StartLatency))
	if !s.enter() {
		return nil, &apiError{code: codeInternal, message: "closing", status: 500}
	}
	defer s.wg.Done()
	ses := s.newSession(c, t, d, values, reason)
	s.mu.Lock()
	s.sessions[ses.id] = ses
	closed := s.closed
	s.mu.Unlock()
	if closed {
		ses.abandon()
	}
	c.note("SessionId", ses.id)
	grant := sessionGrant{
		SessionID: ses.id, StreamURL: s.streamURL(ses.id),
		TokenValue: s.issueToken(token{side: SideClient, session: ses.id}, faults.ExpireTokens),
	}
	if port, err := strconv.Atoi(values["portNumber"]); err == nil && slices.Contains(faults.RefusePorts, port) {
		ses.finish(StatusFailed, fmt.Sprintf("Connection to destination port %d failed.", port), false)
		return grant, nil
	}
	ses.mu.Lock()
	ses.invited = true
	ses.mu.Unlock()
	s.tellAgent(t.id, serviceFrame(ssmproto.InteractiveShell, ses.invitation()))
	s.announce()
	c.wait(time.Duration(faults.AnswerLatency))
	return grant, nil
}

// streamURL is on the secure listener when there is one, like URL.
func (s *Server) streamURL(id string) string {
	return "ws" + strings.TrimPrefix(s.URL(), "http") + "/v1/data-channel/" + url.PathEscape(id) + "?role=publish_subscribe"
}

// invitation is the payload of interactive_shell.
func (ses *session) invitation() []byte {
	content := mustJSON(struct {
		DocumentName    string
		DocumentContent json.RawMessage
		SessionID       string `json:"SessionId"`
		Parameters      map[string]string
		RunAsUser       string
		SessionOwner    string
	}{ses.document.Name, json.RawMessage(ses.document.Content), ses.id, ses.values, "", ses.owner.arn})
	return mustJSON(struct {
		Content       string
		TaskID        string `json:"TaskId"`
		Topic         string
		SchemaVersion int
	}{string(content), ses.id, string(ssmproto.InteractiveShell), 1})
}

type sessionRequest struct {
	SessionID string `json:"SessionId"`
}

// ownSession finds the session of a call and asks whether the caller may do this to it.
// Policies match its ARN, or its tags that name owner and target.
func (s *Server) ownSession(c *call) (*session, error) {
	var ask sessionRequest
	if err := c.decode(&ask); err != nil {
		return nil, err
	}
	c.note("SessionId", ask.SessionID)
	on := resource{arn: "arn:" + partition(c.region) + ":ssm:" + c.region + ":" + c.who.account + ":session/" + ask.SessionID}
	ses := s.session(ask.SessionID)
	if ses != nil && (ses.target.account != c.who.account || ses.target.region != c.region) {
		ses = nil
	}
	if ses != nil {
		tags := map[string]string{"aws:ssmmessages:session-id": ses.owner.userID, "aws:ssmmessages:target-id": ses.target.id}
		on = tagged(on.arn, tags, "ssm:resourceTag/", "aws:ResourceTag/")
	}
	return ses, s.authorize(c.who, c.iamAction(), on)
}

func (s *Server) resumeSession(c *call) (any, error) {
	ses, err := s.ownSession(c)
	if err != nil {
		return nil, err
	}
	if ses == nil {
		return nil, badRequest("DoesNotExistException", "Session %s does not exist.", c.params["SessionId"])
	}
	faults := ses.faults.Load()
	if s.faults.failResume(faults) {
		return nil, &apiError{code: codeInternal, message: "An error occurred on the server side.", status: 500}
	}
	if ses.isOver() {
		return sessionGrant{SessionID: ses.id}, nil
	}
	return sessionGrant{
		SessionID: ses.id, StreamURL: s.streamURL(ses.id),
		TokenValue: s.issueToken(token{side: SideClient, session: ses.id}, faults.ExpireTokens),
	}, nil
}

// terminateSession is happy with sessions that have ended or never were, as AWS is.
func (s *Server) terminateSession(c *call) (any, error) {
	ses, err := s.ownSession(c)
	if err != nil {
		return nil, err
	}
	if ses != nil {
		ses.finish(StatusTerminated, "", false)
	}
	return sessionGrant{SessionID: c.params["SessionId"]}, nil
}
