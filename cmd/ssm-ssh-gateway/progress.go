package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
)

// tellWait shows the person behind a call to AWS why it takes long.
func tellWait(ctx context.Context, w awscloud.Wait) { gateway.Tell(ctx, waitLine(w)) }

// waitLine words a wait: our own queue has places, AWS's throttling has none.
func waitLine(w awscloud.Wait) string {
	about := max(w.Delay.Round(time.Second), time.Second)
	if w.Throttled {
		return fmt.Sprintf("AWS asks for fewer calls of %s in %s, trying again in about %s", w.Action, w.Region, about)
	}
	return fmt.Sprintf("place %d in the queue for %s in %s, about %s", w.Place, w.Action, w.Region, about)
}
