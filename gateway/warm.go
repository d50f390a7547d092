package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// warmKey is all in which the next connection must not differ from the one that left a link: who, proven how, as whom, where, as which role, by which decision
// of the policy.
type warmKey struct {
	person, proof  string
	place          string // authz.Instance.Place
	port           int
	osUser         string
	role, decision string
	grants         string // of the key or certificate: two certificates of one person may leave different things
}

// warmKey gives the key of a route whose OS user is known.
func (r *route) warmKey() warmKey {
	return warmKey{
		person: r.identity.Person, proof: proofID(r.identity), place: r.target.Place(), port: r.port, osUser: r.osUser,
		role: roleID(r.role), decision: fmt.Sprintf("%q %+v", r.policies, r.obligations), grants: fmt.Sprintf("%+v", r.identity.Grants),
	}
}

// proofID names what a person proved: the key, or of a certificate, which may be a new one every few minutes, the authority and the principals.
func proofID(id *authz.Identity) string {
	if cert := id.Certificate; cert != nil {
		return fmt.Sprintf("%s %s %q", id.Method, cert.CA, cert.Principals)
	}
	return fmt.Sprintf("%s %s", id.Method, id.Fingerprint)
}

// roleID tells roles apart in everything that STS is asked for.
func roleID(role authz.Role) string {
	text, err := json.Marshal(role)
	if err != nil { // unreachable: strings and a map of strings
		panic(err)
	}
	return string(text)
}

const (
	// warmAnswer is how long a machine may take to give a sign of life before the link is given up. Nothing else is on the link: this is round trips alone.
	warmAnswer = time.Second
	// warmRecent is how old such a sign may be: the time between the beginning of a login and the OS user's name in it.
	warmRecent = 2 * time.Second
)

// warmLinks holds links whose client has gone, for the next connection of the same person to the same machine as the same user: one for each such key. While
// it holds one it serves its streams and refuses whatever the machine opens. A held link occupies a seat among the lanes, and is the first to go where these
// are short.
type warmLinks struct {
	most     int
	seats    *laneSeats
	patience time.Duration // for a sign of life
	log      *slog.Logger

	mu     sync.Mutex
	closed bool
	epoch  int // counts calls of drop
	held   map[warmKey]*warmLink
	tasks  sync.WaitGroup
}

// warmLink is one that is held.
type warmLink struct {
	*link
	key   warmKey
	until time.Time
	out   chan struct{} // closed when it is held no more
	idle  chan struct{} // closed when its streams are served here no more

	// wanted says that somebody else serves the streams from now on, else the link is over. Set before out is closed.
	wanted bool

	// Guarded by warmLinks.mu.
	asked time.Time
	alive chan error // gets the answer to the last question
}

func newWarmLinks(most int, seats *laneSeats, log *slog.Logger) *warmLinks {
	return &warmLinks{most: most, seats: seats, patience: warmAnswer, log: log, held: map[warmKey]*warmLink{}}
}

// now gives the epoch. A link may be offered only in the epoch in which its stay began: what drop ends must not come in behind it.
func (w *warmLinks) now() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.epoch
}

// offer hands a link over, to be held until someone takes it, but not longer than until. Where the answer is no, it stays the caller's.
func (w *warmLinks) offer(key warmKey, epoch int, l *link, until time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || epoch != w.epoch || !time.Now().Before(until) || closedAlready(l.Gone) {
		return false
	}
	if before := w.held[key]; before != nil {
		w.release(before)
	} else if len(w.held) >= w.most {
		w.release(w.oldest(func(warmKey) bool { return true }))
	}
	if !l.seated() {
		if err := w.seats.take(key.person, key.place); err != nil {
			return false
		}
		l.occupy(func() { w.seats.give(key.person, key.place) })
	}
	h := &warmLink{link: l, key: key, until: until, out: make(chan struct{}), idle: make(chan struct{})}
	w.held[key] = h
	w.tasks.Go(func() { w.serve(h) })
	return true
}

// promising reports whether a link to a machine waits for a person, as whichever user, and has those that do give a sign of life, so that it is there when
// the user is known.
func (w *warmLinks) promising(person, place string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := false
	for key, h := range w.held {
		if key.person == person && key.place == place {
			found = true
			w.ask(h)
		}
	}
	return found
}

// take gives the link that waits for key, if its machine still answers. The caller serves its streams from then on.
func (w *warmLinks) take(ctx context.Context, key warmKey) *link {
	w.mu.Lock()
	h := w.held[key]
	if h == nil {
		w.mu.Unlock()
		return nil
	}
	delete(w.held, key)
	w.ask(h)
	w.mu.Unlock()

	alive := h.answers(ctx, w.patience)
	w.mu.Lock()
	w.end(h, alive)
	w.mu.Unlock()
	if !alive {
		w.log.Info("a warm session did not answer, a new one is started", "session", h.facts.sessionID)
		return nil
	}
	<-h.idle
	h.vacate()
	return h.link
}

// yield gives up a link of the person or to the machine, the oldest first, for the sake of a lane. It reports whether there was one.
func (w *warmLinks) yield(person, place string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.oldest(func(key warmKey) bool { return key.person == person || key.place == place })
	if h == nil {
		return false
	}
	w.release(h)
	return true
}

// drop gives up all links, and begins another epoch.
func (w *warmLinks) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.epoch++
	for _, h := range w.held {
		w.release(h)
	}
}

// close is drop, and lets nothing in any more. wait waits until everything has ended.
func (w *warmLinks) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.drop()
}

func (w *warmLinks) wait() { w.tasks.Wait() }

// oldest gives the link among those chosen that would be given up first anyway; nil where none is chosen. The caller holds mu.
func (w *warmLinks) oldest(chosen func(warmKey) bool) *warmLink {
	var first *warmLink
	for key, h := range w.held {
		if chosen(key) && (first == nil || h.until.Before(first.until)) {
			first = h
		}
	}
	return first
}

// release ends a held link. The caller holds mu.
func (w *warmLinks) release(h *warmLink) {
	delete(w.held, h.key)
	w.end(h, false)
}

// end tells who serves a link that is no longer in the table what becomes of it. The caller holds mu.
func (w *warmLinks) end(h *warmLink, wanted bool) {
	if h.wanted = wanted; !wanted {
		h.vacate()
	}
	close(h.out)
}

// expire takes a link out of the table, if nobody else has. Then it is over.
func (w *warmLinks) expire(h *warmLink) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[h.key] == h {
		w.release(h)
	}
}

// serve keeps a link until it is held no more, and ends it then if nobody wants it.
func (w *warmLinks) serve(h *warmLink) {
	defer close(h.idle)
	limit := time.AfterFunc(time.Until(h.until), func() { w.expire(h) })
	defer limit.Stop()
	chans, reqs, gone := h.Chans, h.Reqs, h.Gone
	for {
		select {
		case nc, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			_ = nc.Reject(ssh.Prohibited, "nobody is connected")
		case req, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			_ = req.Reply(false, nil)
		case <-gone:
			gone = nil
			w.expire(h)
		case <-h.out:
			if !h.wanted {
				w.log.Debug("a warm session is ended", "session", h.facts.sessionID)
				h.discard()
			}
			return
		}
	}
}

// ask has a machine give a sign of life, unless it has been asked just now. The caller holds mu.
func (w *warmLinks) ask(h *warmLink) {
	if h.alive != nil && time.Since(h.asked) < warmRecent {
		return
	}
	alive := make(chan error, 1)
	h.alive, h.asked = alive, time.Now()
	w.tasks.Go(func() { // ends with the answer or the connection
		_, _, err := h.Conn.SendRequest(bridge.KeepAliveRequest, true, nil)
		alive <- err
	})
}

// answers waits for the sign of life.
func (h *warmLink) answers(ctx context.Context, patience time.Duration) bool {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case err := <-h.alive:
		return err == nil
	case <-h.Gone:
	case <-limit.C:
	case <-ctx.Done():
	}
	return false
}

// keep leaves a link of this stay for the person's next one.
func (v *visit) keep(l *link) {
	srv, r := v.conn.srv, v.current()
	until := time.Now().Add(srv.cfg.KeepWarm)
	if end := v.over(); !end.IsZero() && end.Before(until) {
		until = end
	}
	if cert := r.identity.Certificate; cert != nil && !cert.ValidBefore.IsZero() && cert.ValidBefore.Before(until) {
		until = cert.ValidBefore
	}
	// What an agent's keys opened was for the person at hand, and behind a shell of Session Manager there is no SSH connection.
	mayWait := cutCause(v.ctx, nil) == nil && !v.shell.Load() && l.facts.offer.way != authz.LoginAgent
	if !mayWait || !srv.warm.offer(r.warmKey(), v.epoch, l, until) {
		l.discard()
		return
	}
	v.log.Debug("the session waits for the next connection", "session", l.facts.sessionID, "until", until)
}

// reuse gives the link that an earlier stay of the same person has left, if it may still serve: the policy has been asked as for any stay, the role must still be
// to be had, and the machine's host key still be believed. Where it may not, a new session tells the person why not.
func (u *upstream) reuse(ctx context.Context) *link {
	defer u.visit.stage(stepReuse, time.Now())
	r := u.visit.current()
	found := u.srv.warm.take(ctx, r.warmKey())
	if found == nil {
		return nil
	}
	if err := u.mayStillServe(ctx, &r, found); err != nil {
		u.visit.log.Info("a warm session may serve no more", "session", found.facts.sessionID, "error", err)
		u.tasks.Go(found.discard)
		return nil
	}
	u.visit.settleWay(found.facts.offer.way)
	_ = u.banner.hear(found.facts.banner) // cannot fail: it is what fitted before
	u.banner.end()
	u.srv.record(u.linkEvent(EventUpstreamReused, found))
	u.visit.log.Info("a session of the last connection serves again", "session", found.facts.sessionID, "os_user", r.osUser)
	return found
}

func (u *upstream) mayStillServe(ctx context.Context, r *route, l *link) error {
	if checker, ok := u.srv.cfg.Cloud.(RoleChecker); ok {
		if err := checker.CheckRole(ctx, r.role, r.target); err != nil {
			return fmt.Errorf("assume the role again: %w", err)
		}
	}
	if l.facts.offer.way == authz.LoginCertificate {
		if err := u.visit.Permit(authz.ActionCertificateLogin, "", 0); err != nil {
			return err
		}
	}
	if _, err := u.believe(ctx, *r, l.facts.hostKey, u.consoleOf(r)); err != nil {
		return fmt.Errorf("believe the host key again: %w", err)
	}
	return nil
}
