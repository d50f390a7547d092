package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const (
	pickerTime      = 10 * time.Minute // for the whole choice
	pickerRows      = 40               // machines shown at once, on the highest terminal
	pickerMinRows   = 5
	defaultOSUser   = "ec2-user"
	statusInterrupt = 130 // what a shell gives for Ctrl-C
)

// picker is the conversation in which somebody at a terminal chooses one of the machines that they may connect to.
type picker struct {
	conn     *conn
	proof    *proof
	foyer    *foyer
	keys     *keyReader
	term     *term.Terminal
	machines []*authz.Instance
	shown    []*authz.Instance // what a number means now
}

// pick lets the person choose a machine and makes the session one on that machine.
func (c *conn) pick(outer ssh.Conn, f *foyer, p *proof) {
	r, ok := c.choose(f, p)
	if !ok {
		return
	}
	v := c.newVisit(*r, modeInspected, newRef())
	c.srv.record(v.event(EventTargetAllowed))
	up := openUpstream(v)
	up.login(r.osUser)
	var err error = errFault // unless the stay ends by itself
	defer func() { v.end(err) }()
	err = v.join(f.leg(outer), up)
}

// choose has that conversation, within a bounded time. Where it leads nowhere the session has been ended.
func (c *conn) choose(f *foyer, p *proof) (*route, bool) {
	ctx, cancel := context.WithTimeout(c.ctx, pickerTime)
	defer cancel()
	stop := context.AfterFunc(ctx, f.leave)
	defer stop()
	listing, listed := context.WithTimeout(ctx, builtinTime)
	machines, err := c.reachable(listing, p)
	listed()
	switch {
	case err != nil:
		f.give(reply{stderr: c.text(err) + "\n", status: statusFailed})
		return nil, false
	case len(machines) == 0:
		f.give(reply{stderr: noMachine(nil), status: statusFailed})
		return nil, false
	}
	keys := &keyReader{typed: f.typed, out: f.stream}
	d := &picker{conn: c, proof: p, foyer: f, keys: keys, term: term.NewTerminal(keys, ""), machines: machines}
	defer d.followWindow()()
	r, err := d.converse()
	if err != nil {
		_, _ = io.WriteString(f.stream, "\r\n")
		f.exit(keys.status())
		return nil, false
	}
	return r, stop() // else time was up just now
}

// followWindow keeps the conversation as wide as the window until the returned function is called. It has a goroutine of its own, because the terminal repaints
// at once and that may have to wait for the client, for whom the reader of its requests must never wait.
func (d *picker) followWindow() (done func()) {
	d.fit()
	over := make(chan struct{})
	var following sync.WaitGroup
	following.Go(func() {
		for {
			select {
			case <-d.foyer.resizes:
				d.fit()
			case <-over:
				return
			case <-d.foyer.left:
				return
			}
		}
	})
	return func() { close(over); following.Wait() }
}

// fit takes over the size of the window. Without one the terminal is 80 by 24.
func (d *picker) fit() {
	if columns, rows, _ := d.foyer.size(); columns > 0 && rows > 0 {
		_ = d.term.SetSize(columns, rows)
	}
}

// converse asks until there is a way to a machine. The error is io.EOF when the person has had enough, or that of the connection.
func (d *picker) converse() (*route, error) {
	d.say("hello " + d.proof.identity.Person + ", where to? A number, a name, or a part of one; USER@NAME for another user; Ctrl-D leaves.")
	d.show(d.machines)
	for {
		line, err := d.ask("machine: ", d.complete)
		if err != nil {
			return nil, err
		}
		osUser, text := splitUser(line)
		machine := d.find(text)
		if machine == nil {
			continue
		}
		r, err := d.enter(machine, osUser)
		if err != nil {
			return nil, err
		}
		if r != nil {
			return r, nil
		}
	}
}

// splitUser takes an OS user off the front of what was typed.
func splitUser(line string) (osUser, text string) {
	line = strings.TrimSpace(line)
	if at := strings.LastIndexByte(line, '@'); at >= 0 {
		return strings.TrimSpace(line[:at]), strings.TrimSpace(line[at+1:])
	}
	return "", line
}

// find gives the machine that was meant. Where that is not one, it shows what there is and gives nil.
func (d *picker) find(text string) *authz.Instance {
	if number, err := strconv.Atoi(text); err == nil && number >= 1 && number <= len(d.shown) {
		return d.shown[number-1]
	}
	if text == "" {
		if len(d.shown) == 1 {
			return d.shown[0]
		}
		d.show(d.machines)
		return nil
	}
	exact := func(m *authz.Instance) bool { return strings.EqualFold(m.ID, text) || strings.EqualFold(m.Name, text) }
	if same := slices.Collect(filtered(d.machines, exact)); len(same) == 1 { // web-1 is not web-10
		return same[0]
	}
	found := d.conn.srv.matching(d.machines, strings.Fields(text))
	switch len(found) {
	case 0:
		d.say(strings.TrimSpace(noMachine([]string{text})))
	case 1:
		return found[0]
	default:
		d.show(found)
	}
	return nil
}

func filtered(machines []*authz.Instance, keep func(*authz.Instance) bool) func(func(*authz.Instance) bool) {
	return func(yield func(*authz.Instance) bool) {
		for _, m := range machines {
			if keep(m) && !yield(m) {
				return
			}
		}
	}
}

// enter asks for the OS user, where none was typed, and then the policy. No route and no error: the person has been told why not.
func (d *picker) enter(machine *authz.Instance, osUser string) (*route, error) {
	r := route{identity: d.proof.identity, proven: d.proof.at, named: machine.ID, target: machine, port: sshPort}
	for osUser == "" {
		likely := d.likelyUser(r)
		typed, err := d.ask(fmt.Sprintf("user on %s [%s]: ", orElse(machine.Name, machine.ID), likely), nil)
		if err != nil {
			return nil, err
		}
		if osUser = strings.TrimSpace(typed); osUser == "" {
			osUser = likely
		}
	}
	entered, err := d.conn.enterAs(r, osUser)
	if err != nil {
		e := d.conn.event(EventTargetRefused)
		who(&e, r.identity)
		e.Target, e.Instance, e.Port, e.OSUser = r.named, machine.Place(), r.port, printable(osUser, auditTextLimit)
		withCause(&e, err)
		d.conn.srv.record(e)
		d.say(d.conn.text(err))
		return nil, nil //nolint:nilnil // told and not to be told again
	}
	return entered, nil
}

// enterAs fixes the OS user of a way to a machine and asks the policy with it.
func (c *conn) enterAs(r route, osUser string) (*route, error) {
	osUser, err := authz.ParseOSUser(osUser)
	if err != nil {
		return nil, err
	}
	entered, err := c.srv.enter(c.srv.rules.Load(), r.withUser(osUser))
	if err != nil {
		return nil, err
	}
	if entered.obligations.Mode == authz.ModePassthrough {
		return nil, &authz.Refusal{
			Reason: authz.ReasonUnsupportedTarget, Subject: r.named,
			Detail: "policy allows passthrough only, which needs the jump: ssh -J " + osUser + "@GATEWAY " + osUser + "@" + r.named,
		}
	}
	return entered, nil
}

// likelyUser is the OS user to offer: the one of Amazon's images, unless policy lets the person in as whom they logged in here, and not as that.
func (d *picker) likelyUser(r route) string {
	for _, osUser := range []string{defaultOSUser, d.proof.user} {
		if _, err := d.conn.enterAs(r, osUser); err == nil {
			return osUser
		}
	}
	return defaultOSUser
}

// show lists machines with the numbers to choose them by, as many as the window holds.
func (d *picker) show(machines []*authz.Instance) {
	_, rows, _ := d.foyer.size()
	most := pickerRows
	if rows > 0 {
		most = min(max(rows-4, pickerMinRows), pickerRows)
	}
	d.shown = machines[:min(len(machines), most)]
	d.say(strings.TrimSuffix(table(len(d.shown), func(i int) []string {
		return append([]string{fmt.Sprintf("%4d ", i+1)}, d.conn.srv.describe(d.shown[i])...)
	}), "\n"))
	if hidden := len(machines) - len(d.shown); hidden > 0 {
		d.say(fmt.Sprintf("      … and %d more: type a part of the name", hidden))
	}
}

// complete extends a name at the press of Tab, as far as the names that begin like it agree. It runs under the terminal's lock.
func (d *picker) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' || pos != len(line) {
		return "", 0, false
	}
	start := strings.LastIndexByte(line, '@') + 1
	typed := line[start:]
	if typed == "" {
		return "", 0, false
	}
	var common string
	first := true
	for _, m := range d.machines {
		for _, name := range []string{m.Name, m.ID} {
			if !isPlain(name) || len(name) < len(typed) || !strings.EqualFold(name[:len(typed)], typed) {
				continue
			}
			if first {
				common, first = name, false
			}
			common = commonPrefix(common, name)
		}
	}
	if len(common) <= len(typed) {
		return "", 0, false
	}
	return line[:start] + common, start + len(common), true
}

// commonPrefix compares in any case and gives a's spelling.
func commonPrefix(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && strings.EqualFold(a[n:n+1], b[n:n+1]) {
		n++
	}
	return a[:n]
}

// ask reads a line.
func (d *picker) ask(prompt string, complete func(string, int, rune) (string, int, bool)) (string, error) {
	d.term.AutoCompleteCallback = complete
	d.term.SetPrompt(prompt)
	return d.term.ReadLine()
}

// say writes a line. What cannot be written ends the conversation at the next reading.
func (d *picker) say(line string) { _, _ = io.WriteString(d.term, line+"\n") }

// keyReader gives the terminal one byte at a time: what it would read beyond the end of a line it would keep, and it belongs to the machine.
type keyReader struct {
	typed *bufio.Reader
	out   io.Writer
	last  byte
}

// Read reads one byte.
func (k *keyReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	next, err := k.typed.ReadByte()
	if err != nil {
		return 0, err
	}
	k.last, b[0] = next, next
	return 1, nil
}

// Write writes to the client's terminal.
func (k *keyReader) Write(b []byte) (int, error) { return k.out.Write(b) }

// status is how the session ends when the conversation does: Ctrl-C is told from an end in good order.
func (k *keyReader) status() uint32 {
	const interrupt = 3
	if k.last == interrupt {
		return statusInterrupt
	}
	return 0
}
