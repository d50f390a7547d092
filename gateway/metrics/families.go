package metrics

// prefix begins every name but those that all Go programs share.
const prefix = "ssm_ssh_gateway_"

// The kinds of the exposition format.
const (
	counter = "counter"
	gauge   = "gauge"
)

// family is one metric with all its labels.
type family struct {
	kind, help string
	labels     []string
}

// families is every metric there is, by name without prefix. Units are seconds and bytes.
var families = map[string]family{
	"build_info":        {gauge, "1, with the version of the program.", []string{"version", "goversion"}},
	"connections_total": {counter, "Connections accepted.", nil},
	"connections_dropped_total": {
		counter, "Connections dropped at once because too many had not logged in (limits.max_startups, limits.max_startups_per_source).", nil,
	},
	"connections_unauthenticated": {gauge, "Connections that have not logged in yet.", nil},
	"connections_active":          {gauge, "Connections that have logged in.", nil},
	"machines_active":             {gauge, "Stays on machines: jumps, direct logins and ports.", nil},
	"draining":                    {gauge, "1 while the gateway stops.", nil},
	"logins_total":                {counter, "Logins to the gateway that succeeded.", nil},
	"login_refusals_total":        {counter, "Connections that ended without a login, by reason.", []string{"reason"}},
	"target_refusals_total":       {counter, "Machines refused to somebody who had logged in, by reason.", []string{"reason"}},
	"action_refusals_total":       {counter, "Channels and forwards refused by policy, by reason.", []string{"reason"}},
	"upstreams_total":             {counter, "Logins to the sshd of a machine that succeeded.", nil},
	"upstream_failures_total":     {counter, "Ways to a machine that could not be opened, by reason.", []string{"reason"}},
	"channels_total":              {counter, "SSH channels opened, by type.", []string{"type"}},
	"channel_bytes_total":         {counter, "Payload of SSH channels that have closed: in is from the client.", []string{"direction"}},
	"aws_calls_total":             {counter, "Calls to AWS with all their attempts, by action and result.", []string{"action", "result"}},
	"aws_attempts_total":          {counter, "Attempts of calls to AWS, by action.", []string{"action"}},
	"aws_call_seconds_total":      {counter, "Time that calls to AWS took, waiting between attempts included, by action.", []string{"action"}},

	"lanes_total":             {counter, "Session Manager sessions opened for people.", nil},
	"lanes_active":            {gauge, "Session Manager sessions that are open.", nil},
	"lanes_resuming":          {gauge, "Of these, sessions whose connection is lost and being resumed.", nil},
	"ssm_unacked_bytes":       {gauge, "Payload that is queued or under way to agents, over all lanes.", nil},
	"ssm_unacked_bytes_worst": {gauge, "The same, of the lane that has most.", nil},
	"ssm_round_trip_seconds":  {gauge, "Time from a message to the agent's acknowledgement, smoothed: of the median lane and of the worst.", []string{"lane"}},
	"ssm_retransmits_total":   {counter, "Messages sent again.", nil},
	"ssm_resumes_total":       {counter, "Connections to the service that replaced a lost one.", nil},
	"ssm_messages_total":      {counter, "Messages of data channels, acknowledgements and repeats included: in is from the agent.", []string{"direction"}},
	"ssm_bytes_total":         {counter, "Payload of data channels, each byte once: in is from the agent.", []string{"direction"}},
}

// shared are the metrics that dashboards for Go programs expect, under the names they expect.
var shared = map[string]family{
	"go_goroutines":                {gauge, "Number of goroutines that currently exist.", nil},
	"go_memstats_heap_alloc_bytes": {gauge, "Bytes of heap objects.", nil},
}
