package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// oneByOne is a gateway that keeps no session for the next connection: each login is a whole one.
var oneByOne = variant{name: "onebyone", keepWarm: "0s"}

// measureCrowd logs in many times at once, through a gateway with room for all and straight to the machine's sshd, by the same program, and compares each
// median with that of one at a time. Everybody shares the processors: clients, gateway, AWS, agent and a few processes of sshd for each.
func measureCrowd(ctx context.Context, b *bench, w *world) ([]row, error) {
	g, err := w.gateway(ctx, oneByOne)
	if err != nil {
		return nil, err
	}
	through, err := w.jumpClient(g)
	if err != nil {
		return nil, err
	}
	straight, err := w.plainClient()
	if err != nil {
		return nil, err
	}
	direct, err := together(ctx, b, w, straight)
	if err != nil {
		return nil, err
	}
	before := readClock(g)
	jumped, err := together(ctx, b, w, through)
	if err != nil {
		return nil, err
	}
	name := func(what string) string { return fmt.Sprintf("%d logins at once: %s", b.sessions, what) }
	return []row{
		{Name: name("share that answers true"), Value: jumped.share(b.sessions), Goal: atLeast(1), Detail: jumped.told(b.sessions)},
		{Name: name("median ÷ one alone"), Value: jumped.slowdown(), Goal: atMost(5), Detail: jumped.medians()},
		{Name: name("plain ssh, share that answers true"), Value: direct.share(b.sessions), Detail: direct.told(b.sessions)},
		{Name: name("plain ssh, median ÷ one alone"), Value: direct.slowdown(), Detail: direct.medians()},
		{
			Name: name("median, gateway ÷ plain ssh"), Value: jumped.crowd.median() / direct.crowd.median(),
			Detail: fmt.Sprintf("alone %.1f", jumped.alone.median()/direct.alone.median()),
		},
		readClock(g).since(before, name("the gateway's processor time per login"), jumped, len(jumped.alone)+b.sessions),
	}, nil
}

// clock is the gateway's processor clock at one moment.
type clock struct {
	used time.Duration
	err  error // where it cannot be read
}

func readClock(g *gatewayProcess) clock {
	used, err := processorTime(g.cmd.Process.Pid)
	return clock{used, err}
}

// since is the row of what a gathering has cost.
func (c clock) since(before clock, name string, g *gathering, logins int) row {
	spent := (c.used - before.used).Seconds()
	return row{
		Name: name, Value: spent * 1000 / float64(logins), Unit: "ms", Err: errors.Join(before.err, c.err),
		Detail: fmt.Sprintf("%.1f s for all, while %.1f s passed", spent, g.took.Seconds()),
	}
}

// runner logs in, runs true and leaves.
type runner interface {
	runTrue(ctx context.Context) error
}

// gathering is how one crowd fared.
type gathering struct {
	alone, crowd samples
	failures     []error
	took         time.Duration
}

// together has a crowd log in, after some who came alone.
func together(ctx context.Context, b *bench, w *world, r runner) (*gathering, error) {
	if err := w.pusher.letIn(ctx); err != nil {
		return nil, err
	}
	g := &gathering{}
	for range max(b.logins, 5) {
		took, err := timedLogin(ctx, r)
		if err != nil {
			return nil, err
		}
		g.alone.add(took)
	}
	if err := w.pusher.letIn(ctx); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	began := time.Now()
	for range b.sessions {
		all.Go(func() {
			took, err := timedLogin(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				g.failures = append(g.failures, err)
				return
			}
			g.crowd.add(took)
		})
	}
	all.Wait()
	g.took = time.Since(began)
	return g, nil
}

func timedLogin(ctx context.Context, r runner) (time.Duration, error) {
	began := time.Now()
	err := r.runTrue(ctx)
	return time.Since(began), err
}

func (g *gathering) share(of int) float64 { return float64(len(g.crowd)) / float64(of) }

func (g *gathering) slowdown() float64 { return g.crowd.median() / g.alone.median() }

func (g *gathering) medians() string {
	return fmt.Sprintf("%.2f s, alone %.2f s", g.crowd.median(), g.alone.median())
}

func (g *gathering) told(of int) string {
	told := fmt.Sprintf("%d of %d", len(g.crowd), of)
	if len(g.failures) > 0 {
		told += "; the first that failed: " + g.failures[0].Error()
	}
	return told
}

// plainClient is jumpClient's control: the same program, straight to the machine.
type plainClient struct {
	at     string
	config *ssh.ClientConfig
}

func (w *world) plainClient() (*plainClient, error) {
	pem, err := os.ReadFile(w.lab.UserKey(person))
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	believed, err := knownhosts.New(w.instanceKeys())
	if err != nil {
		return nil, err
	}
	return &plainClient{w.direct.Addr().String(), &ssh.ClientConfig{
		User: osUser, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, Timeout: loginLimit,
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			return believed(lab.MainInstance+":22", remote, key)
		},
	}}, nil
}

func (p *plainClient) runTrue(ctx context.Context) error {
	client, err := dialSSH(ctx, func() (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", p.at) }, p.at, p.config)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	err = runTrue(client)
	return errors.Join(err, ignoreClosed(client.Close()))
}
