package archtest

import (
	"slices"
	"strings"
	"testing"
)

const (
	awsSDK   = "github.com/aws"
	xSSH     = "golang.org/x/crypto/ssh"
	glSSH    = "github.com/gliderlabs/ssh"
	ourShips = "cmd/ssm-ssh-gateway"
)

// arrow forbids packages to lean on others. Tests are free: they may look from anywhere.
type arrow struct {
	from    []string // directories of the module, with all below them
	but     []string // except these of them
	not     []string // import paths, with all below them
	except  []string // import paths that are allowed after all, with all below them
	exactly []string // and these, without what is below
	deep    bool     // also through other packages; otherwise only imports of their own count
	why     string
}

func ours(dirs ...string) []string {
	var paths []string
	for _, dir := range dirs {
		paths = append(paths, module+"/"+dir)
	}
	return paths
}

var arrows = []arrow{
	{
		from: []string{"gateway", "authz", "hostkeys", "ssmproto", "integration", "cmd", "internal"}, but: []string{"gateway/awscloud", "integration/agent", "integration/chaos"},
		not: []string{awsSDK},
		why: "everything that knows the AWS SDK is gateway/awscloud, where its errors become ours; a second importer would translate them its own way",
	},
	{
		from: []string{"integration/agent"}, not: []string{awsSDK},
		except: []string{awsSDK + "/aws-sdk-go-v2/aws/signer/v4"}, exactly: []string{awsSDK + "/aws-sdk-go-v2/aws"},
		why: "the agent signs as AWS's own does, with AWS's signer, and calls no API",
	},
	{
		from: []string{"integration/chaos"}, not: []string{awsSDK},
		except: []string{awsSDK + "/aws-sdk-go-v2/credentials", awsSDK + "/aws-sdk-go-v2/service/ssm"}, exactly: []string{awsSDK + "/aws-sdk-go-v2/aws"},
		why: "chaos starts sessions of every document as any client may, without the adapter's retries between it and the trouble it makes",
	},
	{
		from: []string{"ssmproto"}, not: []string{xSSH, glSSH, awsSDK}, deep: true,
		why: "ssmproto turns a grant into a net.Conn for whoever imports it: it knows neither SSH nor the AWS SDK",
	},
	{
		from: []string{"ssmproto"}, not: []string{module}, except: ours("ssmproto"), deep: true,
		why: "ssmproto is a library of its own",
	},
	{
		from: []string{"authz"}, not: []string{"net/http", "os/exec", awsSDK},
		why: "authz judges and does no I/O",
	},
	{
		from: []string{"authz"}, not: []string{module}, except: ours("authz"), deep: true,
		why: "authz is the vocabulary: everybody speaks it, it knows nobody",
	},
	{
		from: []string{"hostkeys"}, not: append(ours("gateway", "ssmproto", "integration", "cmd"), awsSDK, glSSH), deep: true,
		why: "hostkeys knows keys and nothing of where they are used; the cloud reaches it as a function",
	},
	{
		from: []string{"gateway/awscloud"}, not: ours("gateway", "hostkeys", "integration", "cmd"), except: ours("gateway/awscloud"), deep: true,
		why: "the adapter satisfies gateway.Cloud without importing it: the consumer declares the interface",
	},
	{
		from: []string{"gateway/bridge"}, not: []string{module}, except: ours("gateway/bridge", "gateway/stripe", "authz"), deep: true,
		why: "the bridge joins SSH connections and asks who judges: whose they are and where they lead is not its business",
	},
	{
		from: []string{"gateway", "authz", "hostkeys", "ssmproto"}, not: ours("integration", "cmd", "internal"), deep: true,
		why: "the product does not lean on the world it is tested in",
	},
	{
		from: []string{"cmd"}, not: ours("integration"), except: ours("integration/lab"),
		why: "the demo is the lab, and nothing else of the test world is shipped on its own account",
	},
	{
		from: []string{"integration/awsemu", "integration/agent"}, not: []string{module},
		except: append(ours("ssmproto"), ours("integration/awsemu", "integration/agent")...), deep: true,
		why: "the far side of Session Manager shares the message codec with us and no more, so that both ends cannot share one mistake",
	},
	{
		from: []string{"integration/awsemu"}, not: ours("integration/agent"),
		why: "service and agent meet on the wire only, so that AWS's own agent could attach",
	},
	{
		from: []string{"integration/agent"}, not: ours("integration/awsemu"),
		why: "agent and service meet on the wire only, so that the agent could attach to AWS",
	},
	{
		from: []string{"integration"}, not: ours("cmd", "internal"), deep: true,
		why: "the lab starts the server, not the program around it",
	},
	{
		from: []string{ourShips}, not: []string{"testing", "go.uber.org/goleak", "pgregory.net/rapid", "github.com/google/go-cmp"}, deep: true,
		why: "a test library in the shipped binary adds its flags and its weight",
	},
	{
		from: []string{"gateway", "authz", "hostkeys", "ssmproto", "integration", "cmd"}, not: []string{"text/template"},
		why: "a call of its Execute defeats dead-code removal for the AWS SDK; what it would write here, fmt can",
	},
	{
		from: []string{ourShips}, not: []string{"html/template", "net/http/pprof", "expvar"}, deep: true,
		why: "html/template alone defeats dead-code removal for the AWS SDK (about 3 MB); pprof and expvar register themselves on the default mux",
	},
}

func TestArrows(t *testing.T) {
	tree := load(t)
	for _, rule := range arrows {
		name := strings.ReplaceAll(strings.Join(rule.from, ",")+" not "+strings.Join(rule.not, ","), module, ".")
		t.Run(name, func(t *testing.T) {
			for _, p := range tree.below(t, rule.from...) {
				if anyWithin(p.ImportPath, ours(rule.but...)) {
					continue
				}
				for _, bad := range rule.broken(p) {
					t.Errorf("%s leans on %s%s, but %s", p.short(), bad, tree.chain(p, bad), rule.why)
				}
			}
		})
	}
}

// broken gives what the package imports against the rule.
func (a arrow) broken(p *pkg) []string {
	imports := p.Imports
	if a.deep {
		imports = p.Deps
	}
	var bad []string
	for _, path := range imports {
		if anyWithin(path, a.not) && !anyWithin(path, a.except) && !slices.Contains(a.exactly, path) {
			bad = append(bad, path)
		}
	}
	return bad
}

// chain tells through which packages p comes to depend on target, shortest way, as " (through a, b)".
func (tr *tree) chain(p *pkg, target string) string {
	came := map[string]string{p.ImportPath: ""}
	for queue := []string{p.ImportPath}; len(queue) > 0; queue = queue[1:] {
		at := tr.all[queue[0]]
		if at == nil {
			continue
		}
		for _, next := range at.Imports {
			if _, seen := came[next]; seen {
				continue
			}
			came[next] = at.ImportPath
			if next != target {
				queue = append(queue, next)
				continue
			}
			var through []string
			for by := at.ImportPath; by != p.ImportPath; by = came[by] {
				through = append(through, by)
			}
			if len(through) == 0 {
				return ""
			}
			slices.Reverse(through)
			return " (through " + strings.Join(through, ", ") + ")"
		}
	}
	return ""
}

// The message of a broken rule is only ever read when something is wrong, so it is tried here.
func TestChainNamesTheWay(t *testing.T) {
	tree := &tree{all: map[string]*pkg{
		"a": {ImportPath: "a", Imports: []string{"b", "c"}, Deps: []string{"b", "c", "d"}},
		"b": {ImportPath: "b", Imports: []string{"d"}}, "c": {ImportPath: "c"}, "d": {ImportPath: "d"},
	}}
	if got := tree.chain(tree.all["a"], "d"); got != " (through b)" {
		t.Errorf("chain to d: %q", got)
	}
	if got := tree.chain(tree.all["a"], "b"); got != "" {
		t.Errorf("chain to a direct import: %q", got)
	}
	rule := arrow{not: []string{"d"}}
	if bad := rule.broken(tree.all["a"]); len(bad) != 0 {
		t.Errorf("a shallow rule looked deep: %v", bad)
	}
	rule.deep = true
	if bad := rule.broken(tree.all["a"]); !slices.Equal(bad, []string{"d"}) {
		t.Errorf("a deep rule found %v", bad)
	}
}
