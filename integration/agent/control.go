package agent

import (
	"context"
	"encoding/json"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Reconnecting the control channel (SPEC.md §13.5).
const (
	controlJitter  = 2500 * time.Millisecond // before the first try after a loss
	controlFirst   = 5 * time.Second         // to 10 s, doubling
	controlLongest = 40 * time.Minute
	eagerFirst     = 100 * time.Millisecond
	eagerLongest   = time.Second

	completeTries = 3 // SPEC.md §13.4
	completeWait  = time.Second
)

// keepControl holds the control channel until ctx ends. Running sessions do not notice that it is gone.
func (a *Agent) keepControl(ctx context.Context) {
	first, longest, settle := controlFirst, controlLongest, controlJitter
	if a.cfg.Quirks.EagerControl {
		first, longest, settle = eagerFirst, eagerLongest, 0
	}
	delay := jitter(first)
	for ctx.Err() == nil {
		s, err := a.gateway.openControl(ctx)
		if err == nil {
			a.useControl(s)
			a.setReady()
			err = a.readControl(ctx, s)
			a.useControl(nil)
			delay = jitter(first)
			if settle > 0 && !sleep(ctx, upTo(settle)) {
				return
			}
			a.log.Debug("control channel lost", "err", err)
			continue
		}
		a.log.Debug("control channel", "err", err)
		if !sleep(ctx, delay+upTo(delay/2)) {
			return
		}
		delay = min(2*delay, longest)
	}
}

func (a *Agent) useControl(s *socket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.control = s
}

func (a *Agent) readControl(ctx context.Context, s *socket) error {
	stop := s.closeWith(ctx)
	defer s.close()
	defer stop()
	for {
		frame, err := s.read()
		if err != nil {
			return err
		}
		m, err := parseFrame(frame, a.cfg.Quirks.CheckDigest)
		if err != nil {
			a.log.Debug("control message dropped", "err", err)
			continue
		}
		a.receiveControl(ctx, m)
	}
}

func (a *Agent) receiveControl(ctx context.Context, m ssmproto.Message) {
	switch m.Type {
	case ssmproto.InteractiveShell:
		a.begin(ctx, m.Payload)
	case ssmproto.ChannelClosed:
		var closed struct {
			SessionID string `json:"SessionId"`
		}
		if err := json.Unmarshal(m.Payload, &closed); err == nil {
			a.end(closed.SessionID)
		}
	case ssmproto.AgentTaskAcknowledge:
		a.taskAcknowledged(m.Payload)
	default:
		a.log.Debug("control message ignored", "type", string(m.Type))
	}
}

// taskComplete is how the agent tells the service that a session has ended (SPEC.md §13.4).
type taskComplete struct {
	SchemaVersion    int
	TaskID           string `json:"TaskId"`
	Topic            ssmproto.MessageType
	FinalTaskStatus  string
	IsRoutingFailure bool
	AwsAccountID     string `json:"AwsAccountId"`
	InstanceID       string `json:"InstanceId"`
	Output           string
	S3Bucket         string
	S3URLSuffix      string `json:"S3UrlSuffix"`
	CwlGroup         string
	CwlStream        string
	RetryNumber      int
}

// completeTask reports the end of a session. A failure is reported twice, by the plugin and by the document it belongs to.
func (a *Agent) completeTask(ctx context.Context, id string, failure error) {
	report := taskComplete{
		SchemaVersion: 1, TaskID: id, Topic: ssmproto.AgentTaskComplete, FinalTaskStatus: "Success", InstanceID: a.cfg.InstanceID,
	}
	if failure == nil {
		a.report(ctx, report)
		return
	}
	report.FinalTaskStatus, report.Output = "Failed", failure.Error()
	a.report(ctx, report)
	a.report(ctx, report)
}

// report sends until the service acknowledges, three times in all and a second apart.
func (a *Agent) report(ctx context.Context, report taskComplete) {
	body, err := json.Marshal(report)
	if err != nil {
		a.log.Debug("encode completion", "err", err)
		return
	}
	m := ssmproto.Message{Type: ssmproto.AgentTaskComplete, SchemaVersion: 1, Created: time.Now(), ID: newID(), Payload: body}
	noted := make(chan struct{})
	a.mu.Lock()
	a.pending[m.ID] = noted
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.pending, m.ID)
	}()
	for range completeTries {
		a.mu.Lock()
		s := a.control
		a.mu.Unlock()
		if s != nil {
			if err := s.send(&m); err != nil {
				a.log.Debug("send completion", "session", report.TaskID, "err", err)
			}
		}
		limit := time.NewTimer(completeWait)
		select {
		case <-noted:
			limit.Stop()
			return
		case <-ctx.Done():
			limit.Stop()
			return
		case <-limit.C:
		}
	}
	a.log.Debug("completion not acknowledged", "session", report.TaskID)
}

func (a *Agent) taskAcknowledged(payload []byte) {
	var ack struct {
		MessageID string `json:"MessageId"`
	}
	if err := json.Unmarshal(payload, &ack); err != nil {
		a.log.Debug("task acknowledgement dropped", "err", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, noted := range a.pending {
		if id.String() == ack.MessageID {
			delete(a.pending, id)
			close(noted)
		}
	}
}
