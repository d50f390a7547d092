package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// progressAfter is when somebody who waits is told what for.
const progressAfter = 2 * time.Second

// connectOptions say what to reach and with what.
type connectOptions struct {
	osUser, target string
	port           int
	remoteHost     string // behind the target; empty for the target itself
	key            string
	noPush         bool
	payload        int
	rate           int
	discover       int
	alive          keepAlive
}

func newConnectCommand() *cobra.Command {
	o := connectOptions{}
	aws := &laptop{}
	cmd := &cobra.Command{
		Use:   "connect [USER@]TARGET[:PORT]",
		Short: "Be a ProxyCommand: relay standard input and output to a port of an instance",
		Long: `connect reaches an instance with this machine's own AWS credentials (environment, profile, SSO): no gateway, no AWS CLI, no plugin. It pushes a public key for
60 seconds (EC2 Instance Connect), opens a Session Manager session and relays bytes; SSH stays end to end.

The key is --key, else the first RSA or Ed25519 key of the SSH agent, else ~/.ssh/id_ed25519.pub or ~/.ssh/id_rsa.pub. Instance Connect takes no other kinds.
With --remote-host the connection goes on to the port of a host that the instance reaches, and no key is pushed.
Nothing but the relayed bytes is written to standard output.`,
		Example: `  # ~/.ssh/config
  Host i-* mi-*
      ProxyCommand ssm-ssh-gateway connect %r@%h:%p

  # a host behind an instance
  Host db-host
      ProxyCommand ssm-ssh-gateway connect --remote-host db.internal web-1:%p`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(o.parse(args[0]), o.check()); err != nil {
				return &exitError{Code: exitUsage, Err: err}
			}
			return connect(cmd.Context(), aws, o, stdio{cmd.InOrStdin(), cmd.OutOrStdout()}, cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.key, "key", "", "public key file to push")
	flags.BoolVar(&o.noPush, "no-push", false, "push no key: the instance knows yours already")
	flags.StringVar(&o.remoteHost, "remote-host", "", "connect to the port of this host, behind the instance")
	flags.StringVar(&o.osUser, "os-user", "", "user of the instance to push the key for (default: the USER before TARGET)")
	aws.flags(flags)
	flags.IntVar(&o.payload, "max-payload", 0, "bytes per message towards the instance (default 1024, as AWS's own client)")
	flags.IntVar(&o.rate, "message-rate", 0, "messages a second, acknowledgements included (default 900; the service cuts sessions that stay above about 1000)")
	flags.IntVar(&o.discover, "discover-payload", 0, "try larger messages towards the instance, up to this many bytes (default off; 16384 is a good value)")
	o.alive.flag(flags)
	return cmd
}

// parse reads [user@]target[:port], as ssh's %r@%h:%p gives it.
func (o *connectOptions) parse(text string) error {
	o.port = 22
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		if o.osUser == "" {
			o.osUser = text[:at]
		}
		text = text[at+1:]
	}
	if host, port, err := net.SplitHostPort(text); err == nil {
		number, err := strconv.Atoi(port)
		if err != nil || number < 1 || number > 65535 {
			return fmt.Errorf("%q is no port", port)
		}
		text, o.port = host, number
	}
	if text == "" {
		return errors.New("no target given; write USER@i-0123456789abcdef0")
	}
	o.target = text
	return nil
}

// check refuses numbers that mean nothing.
func (o *connectOptions) check() error {
	if min(o.payload, o.rate, o.discover) < 0 {
		return errors.New("--max-payload, --message-rate and --discover-payload may not be negative")
	}
	return nil
}

// stdio is standard input and output as one thing to relay.
type stdio struct {
	in  io.Reader
	out io.Writer
}

// connect opens the way and relays until the instance ends it or ctx does.
func connect(ctx context.Context, aws *laptop, o connectOptions, local stdio, stderr io.Writer) error {
	oneProcessor()
	ctx, cancel := untilHangup(ctx)
	defer cancel()
	cloud, err := aws.open(ctx)
	if err != nil {
		return failedSession(err)
	}
	defer func() { _ = cloud.Close() }()
	waiting := time.AfterFunc(progressAfter, func() { _, _ = fmt.Fprintf(stderr, "ssm-ssh-gateway: connecting to %s…\n", o.target) })
	defer waiting.Stop()
	session, err := o.open(ctx, cloud)
	if err != nil {
		return failedSession(o.portWords(err))
	}
	waiting.Stop()
	aws.hush()
	if o.speaksFirst() {
		session = awaitGreeting(session)
	}
	if err := relay(ctx, session, local, readAhead(max(o.payload, o.discover), o.rate)); err != nil {
		return failedSession(o.portWords(err))
	}
	return nil
}

// speaksFirst says that it is an SSH server we go to.
func (o *connectOptions) speaksFirst() bool { return o.port == 22 }

// portWords tells which port it is that nothing answers on.
func (o *connectOptions) portWords(err error) error {
	if !errors.Is(err, ssmproto.ErrConnectToPort) && !errors.Is(err, errNoGreeting) {
		return err
	}
	return &authz.Refusal{Reason: authz.ReasonPortRefused, Subject: cmp.Or(o.remoteHost, o.target), Action: "port " + strconv.Itoa(o.port), Cause: err}
}

// oneProcessor keeps a program that carries a single session, at a bounded number of messages a second, on one processor: a second one would spend more time on
// being woken and put to sleep than on the bytes. The environment variable GOMAXPROCS comes first.
func oneProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// open resolves the target, and at the same time pushes the key and opens the session.
func (o *connectOptions) open(ctx context.Context, cloud *awscloud.Cloud) (net.Conn, error) {
	on, err := cloud.Resolve(ctx, o.target)
	if err != nil {
		return nil, err
	}
	var key ssh.PublicKey
	if !o.noPush && o.osUser != "" && o.remoteHost == "" && !on.IsManagedNode() {
		if key, err = o.publicKey(); err != nil {
			return nil, err
		}
	}
	var session net.Conn
	group, ctx := errgroup.WithContext(ctx)
	if key != nil {
		group.Go(func() error { return cloud.PushKey(ctx, authz.Role{}, on, o.osUser, key) })
	}
	group.Go(func() error {
		grant, err := o.start(ctx, cloud, on)
		if err != nil {
			return err
		}
		// The session outlives the group's context, which ends with Wait.
		session, err = ssmproto.DialPort(ctx, grant, o.alive.of(ssmproto.Options{
			WaitForPeer: o.speaksFirst(), MaxPayload: o.payload, DiscoverPayload: o.discover, MessageRate: o.rate,
		}))
		return err
	})
	if err := group.Wait(); err != nil {
		if session != nil {
			_ = session.Close()
		}
		return nil, err
	}
	return session, nil
}

// start opens a session to the port of the instance, or of the host behind it.
func (o *connectOptions) start(ctx context.Context, cloud *awscloud.Cloud, on *authz.Instance) (ssmproto.Grant, error) {
	if o.remoteHost == "" {
		return cloud.StartPort(ctx, authz.Role{}, on, o.port, "ssm-ssh-gateway connect")
	}
	return cloud.StartSession(ctx, authz.Role{}, on, awscloud.Purpose{
		Document: awscloud.RemoteHostDocument, Reason: "ssm-ssh-gateway connect",
		Parameters: map[string][]string{"host": {o.remoteHost}, "portNumber": {strconv.Itoa(o.port)}},
	})
}

var errNoKey = errors.New("no RSA or Ed25519 public key found to push: make one with ssh-keygen -t ed25519, or name one with --key")

// publicKey finds the key that ssh is going to use, as well as one can without being told.
func (o *connectOptions) publicKey() (ssh.PublicKey, error) {
	if o.key != "" {
		return readPublicKey(o.key)
	}
	if key := firstAgentKey(); key != nil {
		return key, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, errNoKey
	}
	for _, name := range []string{"id_ed25519.pub", "id_rsa.pub"} {
		if key, err := readPublicKey(filepath.Join(home, ".ssh", name)); err == nil {
			return key, nil
		}
	}
	return nil, errNoKey
}

func readPublicKey(path string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s holds no public key (%w); name the file that ends in .pub", path, err)
	}
	if !pushable(key) {
		return nil, fmt.Errorf("%s is of type %s, and Instance Connect takes RSA and Ed25519 only", path, key.Type())
	}
	return key, nil
}

// firstAgentKey asks the SSH agent, if there is one.
func firstAgentKey() ssh.PublicKey {
	conn, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK")) //nolint:gosec // the agent that the user's environment names
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(progressAfter))
	keys, err := agent.NewClient(conn).List()
	if err != nil {
		return nil
	}
	for _, key := range keys {
		if pushable(key) {
			return key
		}
	}
	return nil
}

// pushable tells the kinds of key that the instance's side of Instance Connect reads.
func pushable(key ssh.PublicKey) bool {
	return key.Type() == ssh.KeyAlgoED25519 || key.Type() == ssh.KeyAlgoRSA
}

// relay copies both ways. The end of the instance's output is the end; the end of input is not: answers may still be on their way, and ssh ends its
// ProxyCommand when it is done. But an ssh that was killed cannot: then nobody reads our output any more, and where that cannot be seen, silence after the end of
// input is the end, too. ctx ends it at once, politely towards AWS. No more than ahead bytes of input are read before the session takes them.
func relay(ctx context.Context, session net.Conn, local stdio, ahead int) error {
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	output := &lingering{Conn: session}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		if err := copyShallow(session, local.in, ahead); err != nil {
			_ = session.Close()
		}
		output.begin()
		if awaitUnread(local.out, ended) {
			_ = session.Close()
		}
	}()
	_, err := io.Copy(local.out, output)
	closing := session.Close()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	return closing
}
