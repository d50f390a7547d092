package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Versions that decide how a port session is served (SPEC.md §5.4).
var (
	muxClientSince   = parseVersion("1.1.70.0") // this one included
	muxAgentAfter    = parseVersion("3.0.196.0")
	noKeepAliveAfter = parseVersion("1.2.331.0")
)

// deniedAddresses may not be forwarded to: instance metadata, DNS, time and credentials of AWS (SPEC.md §7.5).
var deniedAddresses = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("169.254.169.253"), netip.MustParseAddr("fd00:ec2::253"),
	netip.MustParseAddr("169.254.169.123"), netip.MustParseAddr("fd00:ec2::123"),
	netip.MustParseAddr("169.254.169.250"), netip.MustParseAddr("169.254.169.251"),
	netip.MustParseAddr("fd00:ec2::240"),
}

var (
	errMissingAddress = errors.New("missing address")
	errRefused        = errors.New("connection refused")
)

const localhost = "localhost"

// destination is where a port session leads. Names are resolved once, when the session starts.
type destination struct {
	agent *Agent
	host  string
	port  int
	hosts []string // what to try, in order: "localhost", or the addresses of host
}

func (s *session) newPortPlugin() (plugin, error) {
	var properties portProperties
	if err := json.Unmarshal(s.start.properties, &properties); err != nil {
		return nil, fmt.Errorf("unable to read port properties: %w", err)
	}
	if properties.Port == 0 {
		return nil, errors.New("port number is required")
	}
	to := &destination{agent: s.agent, host: properties.Host, port: int(properties.Port)}
	forwarding := properties.Type == localPortForwarding
	ownVersion := parseVersion(s.agent.cfg.AgentVersion)
	if forwarding && !muxClientSince.newerThan(s.client) && ownVersion.newerThan(muxAgentAfter) {
		return &muxPort{session: s, to: to, keepAlive: !s.client.newerThan(noKeepAliveAfter)}, nil
	}
	return &basicPort{session: s, to: to, redials: forwarding, redialled: make(chan struct{}, 1)}, nil
}

// resolve finds the addresses of the host, once. Forbidden ones end the session; a name without address fails later, at each connection.
func (d *destination) resolve(ctx context.Context) error {
	if d.host == "" || d.host == localhost {
		d.hosts = []string{localhost}
		return nil
	}
	found, err := d.agent.cfg.Lookup(ctx, d.host)
	if err != nil {
		d.agent.log.Debug("resolve", "host", d.host, "err", err)
	}
	for _, addr := range found {
		for _, denied := range deniedAddresses {
			if addr.Unmap() == denied {
				return wording(fmt.Sprintf("Forwarding to IP address %s is forbidden.", d.host))
			}
		}
		d.hosts = append(d.hosts, addr.Unmap().String())
	}
	return nil
}

// dial tries the addresses in order. It has no limit of its own but the system's and ctx (SPEC.md §7.2).
func (d *destination) dial(ctx context.Context) (net.Conn, error) {
	err := errMissingAddress
	for _, host := range d.hosts {
		addr := d.agent.cfg.PortMap(host, d.port)
		if addr == "" {
			err = errRefused
			continue
		}
		var dialer net.Dialer
		conn, dialErr := dialer.DialContext(ctx, "tcp", addr)
		if dialErr == nil {
			return conn, nil
		}
		err = dialErr
	}
	return nil, fmt.Errorf("unable to connect to specified port: %w", err)
}

func systemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func joinHostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// pump reads from the destination and sends what it reads, one message for each read, until the destination or ctx ends.
func (s *session) pump(ctx context.Context, from interface{ Read([]byte) (int, error) }, kind ssmproto.PayloadType) error {
	buffer := make([]byte, s.agent.cfg.Quirks.readSize())
	var pace pace
	for {
		if !s.channel.whilePaused(ctx) {
			return context.Cause(ctx)
		}
		n, err := from.Read(buffer)
		pace.begin()
		s.channel.send(kind, buffer[:n])
		if err != nil {
			return err
		}
		if !s.agent.cfg.Quirks.Fast {
			pace.wait()
		}
	}
}
