package awscloud

import (
	"fmt"
	"log/slog"

	"github.com/aws/smithy-go/logging"
)

// sdkLog takes the SDK's own remarks, which it would otherwise print to standard error in a form of its own, among the lines of a log that programs read.
type sdkLog struct{ log *slog.Logger }

// Logf implements logging.Logger.
func (l sdkLog) Logf(class logging.Classification, format string, values ...any) {
	say := l.log.Debug
	if class == logging.Warn {
		say = l.log.Warn
	}
	say("AWS SDK", "says", fmt.Sprintf(format, values...))
}
