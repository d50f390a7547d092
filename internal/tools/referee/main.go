// Command referee builds AWS's session-manager-plugin for the tests and prints where it is.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/referee"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	program, err := referee.Build(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "referee:", err)
		os.Exit(1)
	}
	fmt.Println(program)
}
