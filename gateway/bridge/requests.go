package bridge

import (
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// requestQueue stands between the library, whose read loop for the whole connection stops when sixteen requests of one stream are not taken, and the
// handling of requests, which waits for the other leg. Requests are handled one by one in the order they came, because replies carry no number. The
// goroutine that handles them exists only while there are some.
type requestQueue struct {
	limit  int
	handle func(*ssh.Request)
	spawn  func(func())

	mu      sync.Mutex
	waiting []*ssh.Request
	idle    chan struct{} // closed when the one who works has nothing left; nil when nobody works
}

// add takes a request in without waiting. It reports false when too many wait already.
func (q *requestQueue) add(req *ssh.Request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= q.limit {
		return false
	}
	q.waiting = append(q.waiting, req)
	if q.idle == nil {
		q.idle = make(chan struct{})
		q.spawn(q.work)
	}
	return true
}

func (q *requestQueue) work() {
	panicked := true
	defer func() {
		if panicked { // the bridge ends; nobody may wait for this queue
			q.mu.Lock()
			defer q.mu.Unlock()
			q.endWork()
		}
	}()
	for req := q.next(); req != nil; req = q.next() {
		q.handle(req)
	}
	panicked = false
}

// next gives the first request that waits, or nil when work is over.
func (q *requestQueue) next() *ssh.Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.endWork()
		return nil
	}
	req := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	return req
}

// endWork lets the next add begin anew. The caller holds mu.
func (q *requestQueue) endWork() {
	close(q.idle)
	q.idle, q.waiting = nil, nil
}

// pending is closed when everything that was added has been handled and answered; it is nil when that is so already.
func (q *requestQueue) pending() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.idle
}

// settle waits until everything that was added has been handled and answered.
func (q *requestQueue) settle() { await(q.pending()) }

// await waits for a channel to be closed that may be nil for what need not be waited for.
func await(over <-chan struct{}) {
	if over != nil {
		<-over
	}
}

func (b *bridge) newQueue(handle func(*ssh.Request)) *requestQueue {
	return &requestQueue{limit: b.cfg.Limits.Queued, handle: handle, spawn: b.spawn}
}

// enqueue adds to a queue; a peer that overfills it loses its connection, for dropping one request would misplace every later reply.
func (b *bridge) enqueue(q *requestQueue, req *ssh.Request) {
	if !q.add(req) {
		b.end(errTooManyReqs)
	}
}

// intake is what one leg opens and asks.
type intake struct {
	Leg
	bridge *bridge
	from   side
	via    *lane           // nil for the client's
	asked  *requestQueue   // its global requests
	stop   <-chan struct{} // when closed, somebody else serves the leg from now on; nil: never
}

// intakeOf is what the client opens and asks, where via is nil, or the machine on a lane. What it starts is one of group.
func (b *bridge) intakeOf(l Leg, via *lane, group *sync.WaitGroup) *intake {
	in := &intake{Leg: l, bridge: b, from: fromClient, asked: b.newQueue(b.globalFromClient)}
	if via != nil {
		in.from, in.via, in.stop, in.asked = fromTarget, via, via.lent, b.newQueue(b.globalFromTarget)
	}
	in.asked.spawn = func(task func()) { b.spawnIn(group, task) }
	return in
}

// dispatch takes in what one leg opens and asks, until the leg ends or is somebody else's to serve. It never waits for anybody. One goroutine serves both streams,
// because their order counts: a server handles an open after the requests before it, so that `ssh -R …` with ExitOnForwardFailure ends before its command has
// run. And no-more-sessions counts from where it stands.
func (in *intake) dispatch() {
	defer in.asked.settle()
	chans, reqs := in.Chans, in.Reqs
	for chans != nil || reqs != nil {
		select {
		case <-in.stop:
			return
		case nc, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			in.bridge.sign(in.via)
			promised := in.catchUp(reqs)
			in.bridge.admit(nc, in.from, in.via, in.asked.pending())
			if promised {
				in.closeDoor(chans)
			}
		case req, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			if in.take(req) {
				in.closeDoor(chans)
			}
		}
	}
}

// take queues a global request. It reports whether this is the client's promise to open no more sessions.
func (in *intake) take(req *ssh.Request) (promise bool) {
	in.bridge.sign(in.via)
	in.bridge.enqueue(in.asked, req)
	return req.Type == noMoreSessions && in.from == fromClient
}

// catchUp takes the requests that came before an open just received: the library has put them into reqs already. Those that came right behind it may be
// among them, which does no harm but to a promise: the caller keeps that after the open.
func (in *intake) catchUp(reqs <-chan *ssh.Request) (promised bool) {
	for {
		select {
		case req, ok := <-reqs:
			if !ok {
				return promised
			}
			promised = in.take(req) || promised
		default:
			return promised
		}
	}
}

// sign counts a sign of life of the lane, or of the client when via is nil.
func (b *bridge) sign(via *lane) {
	if via == nil {
		b.heard.Add(1)
		return
	}
	via.heard.Add(1)
}

// noMoreSessions is a client's promise, so that somebody who takes over its connection cannot open a shell (OpenSSH PROTOCOL §2.2).
const noMoreSessions = "no-more-sessions@openssh.com"

// closeDoor keeps noMoreSessions. Opens that the client sent before its promise are already in chans: they are let in first.
func (in *intake) closeDoor(chans <-chan ssh.NewChannel) {
	b := in.bridge
	for {
		select {
		case nc, ok := <-chans:
			if ok {
				b.admit(nc, fromClient, nil, in.asked.pending())
				continue
			}
		default:
		}
		if !b.doorClosed() { // it may promise twice
			close(b.noMoreSessions)
		}
		return
	}
}

// doorClosed reports whether the client has made its promise. It is asked when a session is taken in, not later.
func (b *bridge) doorClosed() bool { return closedAlready(b.noMoreSessions) }

// clientGlobals is the catalog of global requests a client may make. Whatever is not here is answered at this hop with a failure, which is what a
// keepalive (keepalive@openssh.com, keepalive@lag.net) wants to hear, and the truth about the rest. hostkeys-prove-00@openssh.com is among the rest: the
// gateway announces no keys, so there is nothing to prove.
var clientGlobals = map[string]func(*bridge, *ssh.Request){
	"tcpip-forward":                          (*bridge).startForward,
	"streamlocal-forward@openssh.com":        (*bridge).startForward,
	"cancel-tcpip-forward":                   (*bridge).cancelForward,
	"cancel-streamlocal-forward@openssh.com": (*bridge).cancelForward,
	noMoreSessions:                           (*bridge).acknowledge, // ours to keep: the machine's sshd is not told, later lanes may need sessions
}

func (b *bridge) globalFromClient(req *ssh.Request) {
	if handle, known := clientGlobals[req.Type]; known {
		handle(b, req)
		return
	}
	_ = req.Reply(false, nil)
}

// globalFromTarget answers at this hop. hostkeys-00@openssh.com must not reach the client: it would write the machine's keys into known_hosts under the
// gateway's name, and ask us to prove keys we do not have. It wants no reply, and gets none.
func (b *bridge) globalFromTarget(req *ssh.Request) { _ = req.Reply(false, nil) }

// acknowledge answers the promise once it is kept: what the client opens when it has the answer must not be taken for something that came before.
func (b *bridge) acknowledge(req *ssh.Request) {
	select {
	case <-b.noMoreSessions:
	case <-b.ctx.Done():
	}
	_ = req.Reply(true, nil)
}

// requestHandler treats one channel request. It must answer it exactly once if an answer is wanted.
type requestHandler func(c *channel, req *ssh.Request)

// clientRequests is the catalog of requests on a session from the client (RFC 4254 §6, OpenSSH PROTOCOL). A name that is not here is relayed in its
// place: the machine's sshd answers.
var clientRequests = map[string]requestHandler{
	"pty-req":                    (*channel).askPTY,
	"env":                        (*channel).askEnv,
	"x11-req":                    (*channel).askX11,
	"auth-agent-req@openssh.com": (*channel).askAgent,
	"agent-req":                  (*channel).askAgent,
	"shell":                      (*channel).askProgram,
	"exec":                       (*channel).askProgram,
	"subsystem":                  (*channel).askProgram,
	"signal":                     (*channel).passSignal,
	"break":                      (*channel).passSignal,
	"window-change":              (*channel).passUp,
	"eow@openssh.com":            (*channel).passUp,
	"exit-status":                (*channel).answerHere, // only a server says these
	"exit-signal":                (*channel).answerHere,
}

// targetRequests is the same for the other direction.
var targetRequests = map[string]requestHandler{
	"exit-status": (*channel).passExit,
	"exit-signal": (*channel).passExit,
}

// hopRequests, on any channel and in both directions, ask about this hop and are answered here, with a failure, in their turn.
var hopRequests = map[string]requestHandler{
	// sshd's ClientAliveInterval sends it as a request on the first open channel, not as a global one.
	KeepAliveRequest: (*channel).answerHere,
	// PuTTY sizes its window by the time a failure takes to come back; any other answer breaks it.
	"winadj@putty.projects.tartarus.org": (*channel).answerHere,
}

// serveClient handles the client's requests until it has closed the channel.
func (c *channel) serveClient() {
	c.serve(c.client.reqs, nil, nil, c.asked)
	close(c.clientEnded)
	c.pressTarget()
}

// serveTarget handles the machine's requests until it has closed the channel.
func (c *channel) serveTarget() {
	for at := c.target(); ; at = c.target() {
		c.serve(at.reqs, at.left, at.berth.lane, c.bridge.newQueue(c.fromTarget))
		if c.stay(at) {
			close(c.targetEnded)
			return
		}
	}
}

// serve takes requests until there are no more, or until left is closed.
func (c *channel) serve(reqs <-chan *ssh.Request, left <-chan struct{}, via *lane, queue *requestQueue) {
	defer queue.settle()
	for {
		select {
		case req, ok := <-reqs:
			if !ok {
				return
			}
			c.bridge.sign(via)
			c.bridge.enqueue(queue, req)
		case <-left:
			return
		}
	}
}

func (c *channel) fromClient(req *ssh.Request) { c.treat(req, clientRequests, (*channel).passUp) }
func (c *channel) fromTarget(req *ssh.Request) { c.treat(req, targetRequests, (*channel).passDown) }

func (c *channel) treat(req *ssh.Request, catalog map[string]requestHandler, pass requestHandler) {
	if handle, known := hopRequests[req.Type]; known {
		handle(c, req)
		return
	}
	handle, known := catalog[req.Type]
	switch {
	case !known:
		pass(c, req)
	case !c.isSession():
		c.answerHere(req) // what is judged on sessions must not slip through on a forward
	default:
		handle(c, req)
	}
}

// passUp relays a request to the machine and the answer back.
func (c *channel) passUp(req *ssh.Request) {
	if relayRequest(c.target().ch, req) {
		c.prelude.note(req)
	}
}

// passDown relays a request to the client and the answer back.
func (c *channel) passDown(req *ssh.Request) { _ = relayRequest(c.client.ch, req) }

// answerHere is the failure that goes no further.
func (c *channel) answerHere(req *ssh.Request) { _ = req.Reply(false, nil) }

// relayRequest passes a request on as it came, also whether it wants an answer (Dropbear's exec does not). The limit of the wait is the life of the
// connection, which keepalives watch. It reports whether the request has been agreed to, or needs no answer.
func relayRequest(to ssh.Channel, req *ssh.Request) bool {
	ok, err := to.SendRequest(req.Type, req.WantReply, req.Payload)
	_ = req.Reply(ok && err == nil, nil)
	return err == nil && (ok || !req.WantReply)
}

// notGranted is the refusal for what the key or certificate itself does not allow.
func notGranted(subject string) error {
	return &authz.Refusal{Reason: authz.ReasonNotPermitted, Subject: subject, Detail: "the key or certificate does not allow it"}
}
