package awsemu_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// resume asks for a new token and dials the old address, as the plugin does.
func (k *talk) resume(t *testing.T, as aws.Config) {
	t.Helper()
	out, err := ssmClient(as).ResumeSession(deadline(t), &ssm.ResumeSessionInput{SessionId: aws.String(k.id)})
	if err != nil {
		t.Fatal(err)
	}
	k.client = dial(t, k.url, *out.TokenValue)
}

// TestResumeDeliversWhatCameMeanwhile cuts each side in turn while the other goes on sending.
func TestResumeDeliversWhatCameMeanwhile(t *testing.T) {
	s := start(t)
	alice := person(t, s, "alice", "shop")
	talk := startTalk(t, s, alice)
	if err := s.Cut(talk.id, awsemu.SideClient); err != nil {
		t.Fatal(err)
	}
	waitInfo(t, s, talk.id, func(i awsemu.SessionInfo) bool { return i.Status == awsemu.StatusDisconnected })
	sent := talk.agent.send(ssmproto.OutputStreamData, 5, "while you were away")
	talk.resume(t, alice)
	if got, err := talk.client.raw(); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("after resuming the client receives %q, %v", got, err)
	}

	if err := s.Cut(talk.id, awsemu.SideAgent); err != nil {
		t.Fatal(err)
	}
	waitInfo(t, s, talk.id, func(i awsemu.SessionInfo) bool { return !i.AgentOnline })
	sent = talk.client.send(ssmproto.InputStreamData, 6, "are you there")
	talk.agent = talk.control.join(talk.id)
	if got, err := talk.agent.raw(); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("after reconnecting the agent receives %q, %v", got, err)
	}
}

// TestAbsentSideHasABoundedQueue sends more than is kept for a client that is away.
func TestAbsentSideHasABoundedQueue(t *testing.T) {
	s := start(t)
	alice := person(t, s, "alice", "shop")
	talk := startTalk(t, s, alice)
	if err := s.Cut(talk.id, awsemu.SideClient); err != nil {
		t.Fatal(err)
	}
	waitInfo(t, s, talk.id, func(i awsemu.SessionInfo) bool { return !i.ClientOnline })
	const sent, kept = 1200, 1000
	for i := range int64(sent) {
		talk.agent.send(ssmproto.OutputStreamData, i, "x")
	}
	talk.agent.barrier()
	talk.resume(t, alice)
	for i := range int64(kept) {
		if m := talk.client.receive(); m.SequenceNumber != i {
			t.Fatalf("message %d arrives as number %d", m.SequenceNumber, i)
		}
	}
	if got := info(t, s, talk.id).ToClient.Overflowed; got != sent-kept {
		t.Errorf("counted %d messages that were not kept, want %d", got, sent-kept)
	}
}

func TestNewerConnectionReplacesTheOlder(t *testing.T) {
	s := start(t)
	alice := person(t, s, "alice", "shop")
	talk := startTalk(t, s, alice)
	old := talk.client
	talk.resume(t, alice)
	if err := old.ended(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("the older connection ends with %v", err)
	}
	talk.agent.send(ssmproto.OutputStreamData, 0, "x")
	talk.client.expect(ssmproto.OutputStreamData)
	if got := info(t, s, talk.id).Status; got != awsemu.StatusConnected {
		t.Errorf("the session is %s", got)
	}
}

func TestTokensWorkOnceAndForOneSession(t *testing.T) {
	s := start(t)
	alice := person(t, s, "alice", "shop")
	first := startTalk(t, s, alice)
	out, err := ssmClient(alice).ResumeSession(deadline(t), &ssm.ResumeSessionInput{SessionId: aws.String(first.id)})
	if err != nil {
		t.Fatal(err)
	}
	dial(t, first.url, *out.TokenValue)
	if err := first.client.ended(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) { // the token has been used
		t.Errorf("the older connection ends with %v", err)
	}
	for name, url := range map[string]string{"used twice": first.url, "for another session": strings.Replace(first.url, first.id, "alice-0", 1)} {
		token := *out.TokenValue
		if name == "for another session" {
			fresh, err := ssmClient(alice).ResumeSession(deadline(t), &ssm.ResumeSessionInput{SessionId: aws.String(first.id)})
			if err != nil {
				t.Fatal(err)
			}
			token = *fresh.TokenValue
		}
		if err := dial(t, url, token).ended(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			t.Errorf("a token %s ends in %v", name, err)
		}
	}
}

// complete reports the end of a session as the agent does.
func (m *machine) complete(id, status, output string) {
	m.t.Helper()
	message := ssmproto.Message{
		Type: ssmproto.AgentTaskComplete, SchemaVersion: 1, Created: time.Now(), ID: ssmproto.UUID{9},
		Payload: fmt.Appendf(nil, `{"SchemaVersion":1,"TaskId":%q,"Topic":"agent_task_complete","FinalTaskStatus":%q,"Output":%q}`, id, status, output),
	}
	if err := m.ws.WriteMessage(websocket.BinaryMessage, message.Append(nil)); err != nil {
		m.t.Fatal(err)
	}
	var ack struct{ MessageId, TaskId string }
	if err := json.Unmarshal(m.expect(ssmproto.AgentTaskAcknowledge).Payload, &ack); err != nil {
		m.t.Fatal(err)
	}
	if ack.TaskId != id || ack.MessageId != message.ID.String() {
		m.t.Errorf("acknowledged %+v, want task %s and message %s", ack, id, message.ID)
	}
}

// TestAgentEndsSessionAfterItsOutput pins that the tail arrives before channel_closed, and that a second report is acknowledged too.
func TestAgentEndsSessionAfterItsOutput(t *testing.T) {
	for _, test := range []struct {
		status, output string
		want           awsemu.Status
		text           string
	}{
		{"Success", "ignored", awsemu.StatusTerminated, `"Output":""`},
		{"Failed", "document process failed", awsemu.StatusFailed, `"Output":"document process failed"`},
	} {
		s := start(t, func(c *config) { c.Delay = 20 * time.Millisecond })
		talk := startTalk(t, s, person(t, s, "alice", "shop"))
		talk.agent.send(ssmproto.OutputStreamData, 0, "tail")
		talk.agent.barrier()
		talk.control.complete(talk.id, test.status, test.output)
		talk.control.complete(talk.id, test.status, test.output)
		talk.client.expect(ssmproto.OutputStreamData)
		if closed := talk.client.expect(ssmproto.ChannelClosed); !strings.Contains(string(closed.Payload), test.text) {
			t.Errorf("channel_closed says %s, want %s", closed.Payload, test.text)
		}
		if err := talk.client.ended(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("the client's WebSocket ends with %v", err)
		}
		if got := info(t, s, talk.id).Status; got != test.want {
			t.Errorf("the session is %s, want %s", got, test.want)
		}
	}
}

// TestAgentCannotEndSessionsOfOthers has one machine report the session of another.
func TestAgentCannotEndSessionsOfOthers(t *testing.T) {
	s := start(t)
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	attachAgent(t, s, nodeID).complete(talk.id, "Failed", "not mine")
	if got := info(t, s, talk.id).Status; got != awsemu.StatusConnected {
		t.Errorf("the session is %s", got)
	}
}

func TestLateSideHearsThatItIsOver(t *testing.T) {
	s := start(t)
	control := attachAgent(t, s, webID)
	out, err := ssmClient(person(t, s, "alice", "shop")).StartSession(deadline(t), &ssm.StartSessionInput{
		Target: aws.String(webID), DocumentName: aws.String("AWS-StartSSHSession"),
	})
	if err != nil {
		t.Fatal(err)
	}
	control.invited()
	s.End(*out.SessionId, "too late")
	control.expect(ssmproto.ChannelClosed) // without a data channel the control channel tells the agent
	if closed := dial(t, *out.StreamUrl, *out.TokenValue).expect(ssmproto.ChannelClosed); !strings.Contains(string(closed.Payload), "too late") {
		t.Errorf("channel_closed says %s", closed.Payload)
	}
	response, err := postChannel(deadline(t), s, "data-channel", *out.SessionId)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); response.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "Session is already terminated") {
		t.Errorf("the agent's data channel is refused with %d %s, %v", response.StatusCode, text, err)
	}
}

// TestEndWhileTheClientConnects: a session that ends just then tells the client, on one way or the other.
func TestEndWhileTheClientConnects(t *testing.T) {
	s := start(t)
	attachAgent(t, s, webID)
	alice := ssmClient(person(t, s, "alice", "shop"))
	for range 50 {
		out, err := alice.StartSession(deadline(t), &ssm.StartSessionInput{Target: aws.String(webID), DocumentName: aws.String("AWS-StartSSHSession")})
		if err != nil {
			t.Fatal(err)
		}
		ctx := deadline(t)
		online := func(i awsemu.SessionInfo) bool { return i.ID == *out.SessionId && i.ClientOnline }
		var ending sync.WaitGroup
		ending.Go(func() {
			for ctx.Err() == nil && !slices.ContainsFunc(s.Sessions(), online) {
				runtime.Gosched()
			}
			s.End(*out.SessionId, "")
		})
		dial(t, *out.StreamUrl, *out.TokenValue).expect(ssmproto.ChannelClosed)
		ending.Wait()
	}
}

func TestAgentThatDoesNotComeFailsTheSession(t *testing.T) {
	s := start(t, func(c *config) { c.AgentWait = 10 * time.Millisecond })
	attachAgent(t, s, webID)
	out, err := ssmClient(person(t, s, "alice", "shop")).StartSession(deadline(t), &ssm.StartSessionInput{
		Target: aws.String(webID), DocumentName: aws.String("AWS-StartSSHSession"),
	})
	if err != nil {
		t.Fatal(err)
	}
	dial(t, *out.StreamUrl, *out.TokenValue).expect(ssmproto.ChannelClosed)
	if got := info(t, s, *out.SessionId).Status; got != awsemu.StatusFailed {
		t.Errorf("the session is %s", got)
	}
}

func TestUnknownMachineGetsNoControlChannel(t *testing.T) {
	s := start(t)
	response, err := postChannel(deadline(t), s, "control-channel", "i-0fffffffffffffff0")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); response.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "<AccessDeniedException>") {
		t.Errorf("refused with %d %s, %v", response.StatusCode, text, err)
	}
}

// TestTargetSettlesBeforeItCounts waits for an agent that needs a moment.
func TestTargetSettlesBeforeItCounts(t *testing.T) {
	s := start(t, func(c *config) { c.AgentSettle = 30 * time.Millisecond })
	before := time.Now()
	attachAgent(t, s, webID)
	if took := time.Since(before); took < 30*time.Millisecond {
		t.Errorf("the agent counts as connected after %v", took)
	}
}

// TestPingIsAnsweredInKind is what AWS's agent dies without (SPEC.md §2.3).
func TestPingIsAnsweredInKind(t *testing.T) {
	s := start(t)
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	for name, p := range map[string]*peer{"client": talk.client, "agent": talk.agent, "control": talk.control.peer} {
		var got string
		p.ws.SetPongHandler(func(text string) error {
			got = text
			return errPong
		})
		if err := p.ws.WriteControl(websocket.PingMessage, []byte("keepalive"), time.Now().Add(10*time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := p.ended(); got != "keepalive" {
			t.Errorf("the ping of the %s was answered with %q, %v", name, got, err)
		}
	}
}

// TestServiceKeepsItsMessagesToItself sends what only the service may hear.
func TestServiceKeepsItsMessagesToItself(t *testing.T) {
	s := start(t)
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	talk.agent.send(ssmproto.AgentSessionState, 0, `{"SchemaVersion":1,"SessionState":"Connected"}`)
	talk.agent.send(ssmproto.InputStreamData, 0, "not the agent's to send")
	talk.agent.send("something_new", 0, "x")
	if err := talk.agent.ws.WriteMessage(websocket.BinaryMessage, []byte("short")); err != nil {
		t.Fatal(err)
	}
	talk.agent.send(ssmproto.OutputStreamData, 1, "x")
	if m := talk.client.receive(); m.Type != ssmproto.OutputStreamData || m.SequenceNumber != 1 {
		t.Errorf("the client receives %s %d", m.Type, m.SequenceNumber)
	}
}

// TestTimersOfTheDocument runs a session of two timers in virtual time; the bubble has no network, which timers do not need.
func TestTimersOfTheDocument(t *testing.T) {
	for _, test := range []struct {
		name, inputs string
		after        time.Duration
	}{
		{"idle by default", `{}`, 20 * time.Minute},
		{"idle", `{"idleSessionTimeout":"3"}`, 3 * time.Minute},
		{"longest", `{"maxSessionDuration":"2"}`, 2 * time.Minute},
		{"nonsense counts as not set", `{"idleSessionTimeout":"61","maxSessionDuration":"soon"}`, 20 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends, _ := awsemu.SessionEnd(t.Context(), `{"schemaVersion":"1.0","sessionType":"Port","inputs":`+test.inputs+`}`)
				before := time.Now()
				<-ends
				if got := time.Since(before); got != test.after {
					t.Errorf("ended after %v, want %v", got, test.after)
				}
			})
		})
	}
}

// TestTrafficPostponesTheIdleTimer has traffic once, two minutes into a session that may be silent for three.
func TestTrafficPostponesTheIdleTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends, touch := awsemu.SessionEnd(t.Context(), `{"schemaVersion":"1.0","sessionType":"Port","inputs":{"idleSessionTimeout":"3"}}`)
		before := time.Now()
		time.AfterFunc(2*time.Minute, touch)
		<-ends
		if got := time.Since(before); got != 5*time.Minute {
			t.Errorf("ended after %v, want 5 minutes", got)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	s, err := awsemu.Start(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	dialer := websocket.Dialer{}
	mute, _, err := dialer.DialContext(deadline(t), talk.url, nil) // upgraded, and never says who it is
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*peer{"client": talk.client, "agent": talk.agent, "control": talk.control.peer} {
		if err := p.ended(); err == nil {
			t.Errorf("the %s is still connected", name)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}
